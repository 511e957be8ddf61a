"""What tiers are made of, of a shard and service day: as columns of a block, and as it is written."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.checkpoints import CLOCK
from transforms.shards import Place, numpy
from transforms.storage import Entry

Int = npt.NDArray[np.int64]


def arrow(value: Any, kind: pa.DataType) -> pa.Array:
    """A column, masked where it is null."""
    mask = np.ma.getmaskarray(value) if np.ma.isMaskedArray(value) else None
    return pa.array(np.ma.getdata(value), mask=mask).cast(kind)


REGION = "region"
"""Column of text among tier inputs; empty where an account has none."""


def plain(column: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """A column's values, 0 where null, and which are null: None where none is."""
    if column.null_count == 0:
        return column.to_numpy(), None
    return column.fill_null(0).to_numpy(zero_copy_only=False), column.is_null().to_numpy(zero_copy_only=False)


class TierInputs:
    """What tiers of a day are made of, by slot. batch: as stored; slots: (m,) of those in the population, ascending."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.slots = numpy(batch.column("slot"), np.int64)
        self._plain: dict[str, tuple[Any, Any]] = {}

    def columns(self, slots: Int | None = None, *, clock: bool = False) -> dict[str, Any]:
        """Columns, masked where null, and where an account is not in the population; there the region is empty.

        slots: (k,) of some accounts; None: of all. clock: as they were on the day's clock, before anything of the day itself.
        """
        names = self.batch.schema.names
        of = {name: name + CLOCK if clock and name + CLOCK in names else name for name in names[1:]}
        found = {name: self._column(column) for name, column in of.items() if not name.endswith(CLOCK)}
        if slots is None or slots is self.slots:
            return {name: v if null is None else np.ma.masked_array(v, null) for name, (v, null) in found.items()}
        at = np.minimum(np.searchsorted(self.slots, slots), max(len(self.slots) - 1, 0))
        if len(self.slots) == 0:
            empty = {name: np.zeros(len(slots), values.dtype) for name, (values, _) in found.items()}
            return {name: np.ma.masked_array(column, True) for name, column in empty.items()}
        out = self.slots[at] != slots
        return {name: _some(values, null, at, out) for name, (values, null) in found.items()}

    def _column(self, name: str) -> tuple[Any, Any]:
        if name not in self._plain:
            column = self.batch.column(name)
            self._plain[name] = (numpy(column), None) if name == REGION else plain(column)
        return self._plain[name]


def _some(values: Any, null: Any, at: Int, out: Any) -> Any:
    if values.dtype == np.object_:
        return np.where(out, "", values[at])
    none = out if null is None else out | null[at]
    return np.ma.masked_array(values[at], none) if none.any() else values[at]


def tier_input(
    rows: Any, category: Any, region: Any, names: tuple[str, ...], values: dict[str, Any], clock: dict[str, Any]
) -> pa.RecordBatch:
    """What fold 2 needs of a day's features: slot, category code, region if any, and the columns that the policy reads.

    Columns as of the day's clock stand after them, by the name of their column and `CLOCK`.
    """
    columns = {"slot": pa.array(rows.astype(np.int32)), "category": pa.array(category)}
    columns |= {} if region is None else {REGION: pa.array(region, pa.string())}
    columns |= {name: arrow(values[name], pa.int64()) for name in names}
    columns |= {name + CLOCK: arrow(values, pa.int64()) for name, values in clock.items()}
    return pa.record_batch(columns)


def write_tier_inputs(place: Place, kind: str, shard: int, blocks: Sequence[tuple[int, pa.RecordBatch]]) -> list[Entry]:
    """Write what tiers are made of, by day: a file for each stretch of days of which the policy reads the same columns."""
    entries: list[Entry] = []
    for _, some in itertools.groupby(blocks, key=lambda item: item[1].schema):
        days = list(some)
        entries += place.store().write_blocks(place.path(kind, shard, "arrow", days[0][0]), kind, shard, days)
    return entries


def without_repeats(blocks: Sequence[tuple[int, pa.RecordBatch]]) -> list[tuple[int, pa.RecordBatch]]:
    """Tier inputs of some days with those columns as of the clock alone that differ, on some of these days, from the day's end.

    All days have the same ones, so that they go into one file.
    """
    of_clock = {name: None for _, block in blocks for name in block.schema.names if name.endswith(CLOCK)}

    def differs(name: str, block: pa.RecordBatch) -> bool:
        return name in block.schema.names and not block[name].equals(block[name.removesuffix(CLOCK)])

    told = [name for name in of_clock if any(differs(name, block) for _, block in blocks)]

    def kept(block: pa.RecordBatch) -> pa.RecordBatch:
        columns = {name: block[name] for name in block.schema.names if not name.endswith(CLOCK)}
        of = {name: name.removesuffix(CLOCK) for name in told}
        more = {name: block[name if name in block.schema.names else c] for name, c in of.items() if c in columns}
        return pa.record_batch(columns | more)

    return [(day, kept(block)) for day, block in blocks]
