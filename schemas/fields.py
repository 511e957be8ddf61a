"""One column of a schema: its Arrow type, and everything about it that has to stand in exactly one place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyarrow as pa

Privacy = Literal["none", "pseudonymous", "personal"]

ID = pa.string()
DAY = pa.date32()
INSTANT = pa.timestamp("us")  # UTC
WH = pa.int64()
MINOR = pa.int64()
COUNT = pa.int32()
PPM = pa.int64()
FLAG = pa.bool_()
TEXT = pa.string()

PPM_LIMIT = 1_000_000
"""All of it, in parts per million."""


@dataclass(frozen=True)
class Column:
    """A column: name, Arrow type, meaning, unit, and the rules its values keep.

    `minimum`/`maximum` are inclusive bounds, `values` the closed set of a code column; both become
    expectations. `privacy` is `pseudonymous` for ids that a utility could resolve to a person.
    """

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""
    nullable: bool = False
    key: bool = False
    privacy: Privacy = "none"
    minimum: int | None = None
    maximum: int | None = None
    values: tuple[str, ...] = ()

    def field(self) -> pa.Field:
        """The Arrow field, with unit, meaning, key and privacy class as metadata."""
        metadata = {"meaning": self.meaning, "privacy": self.privacy}
        if self.unit:
            metadata["unit"] = self.unit
        if self.key:
            metadata["key"] = "true"
        return pa.field(self.name, self.type, nullable=self.nullable, metadata=metadata)


@dataclass(frozen=True)
class Relation:
    """A named set of columns: one inbound source or one mart."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    version: str = "1.0"

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema; name and version are its metadata."""
        return pa.schema(
            [column.field() for column in self.columns],
            metadata={"wattier.relation": self.name, "wattier.version": self.version},
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the key columns, in order."""
        return tuple(column.name for column in self.columns if column.key)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.name} has no column {name!r}; it has {[c.name for c in self.columns]}")
