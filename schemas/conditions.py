"""Conditions of policy rules: one comparison of a column each, checked against what the column can be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, PlainValidator

from schemas.document import one_of
from schemas.fields import Column
from schemas.marts import FEATURES

Operator = Literal["at_least", "at_most", "above", "below", "equals", "one_of", "not_one_of"]

OPERATORS: tuple[Operator, ...] = ("at_least", "at_most", "above", "below", "equals", "one_of", "not_one_of")
ORDERED: tuple[Operator, ...] = ("at_least", "at_most", "above", "below")
"""Operators that compare by size; text columns take the others."""

NUMBERS = {c.name: c for c in FEATURES.columns if pa.types.is_integer(c.type)}
"""Features that a condition can compare."""

Codes = Mapping[str, tuple[str, ...]]
"""Text column -> its values."""

Fault = tuple[tuple[str | int, ...], object, str]
"""Path in the file, value there, what is allowed."""

NULLABLE = ("credit_grade_before", "abuse_step")
"""Text columns that may be null."""

STAY, NOTCH, CLOSED = "stay", "one_notch", "closed"
"""What the marts give as rule where a minimum stay kept the tier, where promotion goes by one tier at a time, and where the account
was closed; no rule may be called so."""

MOST_RULES = 100
"""Rules of one kind in a version, at most."""

RESERVED = (STAY, NOTCH, CLOSED)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


def rule_name(value: str) -> str:
    """The value, where it may be the name of a rule. Raises ValueError saying what is allowed."""
    if not _NAME.fullmatch(value) or value in RESERVED:
        raise ValueError(f"write a name of small letters, digits and _, other than {', '.join(RESERVED)}")
    return value


def _scalar(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a whole number or text")
    return value


Scalar = Annotated[int | str, PlainValidator(_scalar)]


class Part(BaseModel):
    """A part of a policy file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Condition(Part):
    """One comparison of a column, with exactly one operator. On a null it holds only with `or_null`.

    exit: for those who have already what the rule gives, the threshold in place of the operator's.
    """

    column: str
    at_least: int | None = None
    at_most: int | None = None
    above: int | None = None
    below: int | None = None
    equals: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = None
    not_one_of: tuple[Scalar, ...] | None = None
    exit: int | None = None
    or_null: bool = False

    @property
    def op(self) -> Operator:
        """The operator."""
        return next(op for op in OPERATORS if getattr(self, op) is not None)

    @property
    def values(self) -> tuple[int | str, ...]:
        """What the column is compared with; one value, except for `one_of` and `not_one_of`."""
        value: int | str | tuple[int | str, ...] = getattr(self, self.op)
        return value if isinstance(value, tuple) else (value,)

    def to_stay(self) -> Condition:
        """The condition for those who have already what the rule gives."""
        return self if self.exit is None else self.model_copy(update={self.op: self.exit, "exit": None})


class Conditional(Part):
    """What applies where all its conditions hold. No conditions: otherwise."""

    when: tuple[Condition, ...] = ()


def condition_faults(
    condition: Condition, codes: Codes, path: tuple[str | int, ...], numbers: Mapping[str, Column] = NUMBERS,
    *, buffered: bool = False,
) -> Iterator[Fault]:  # fmt: skip
    """What is wrong with a condition.

    codes, numbers: text columns and numbers that it may name; buffered: whether it may say `exit`.
    """
    ops = [op for op in OPERATORS if getattr(condition, op) is not None]
    name, number = condition.column, numbers.get(condition.column)
    if len(ops) != 1:
        yield path, ops, f"write exactly one of {', '.join(OPERATORS)}"
    elif number is None and name not in codes:
        yield (*path, "column"), name, one_of(name, (*codes, *numbers))
    elif number is None and condition.op in ORDERED:
        yield (*path, condition.op), condition.values[0], f"{name} is text; use equals, one_of or not_one_of"
    else:
        yield from _value_faults(condition, number, codes.get(name, ()), (*path, condition.op))
        if condition.exit is not None:
            yield from _exit_faults(condition, number, (*path, "exit"), buffered=buffered)
        if condition.or_null and not (name in NULLABLE or (number and number.nullable)):
            yield (*path, "or_null"), True, f"{name} is never null; leave it out"


def _exit_faults(
    condition: Condition, number: Column | None, path: tuple[str | int, ...], *, buffered: bool
) -> Iterator[Fault]:
    """An exit must be wider than the entry: what lets an account in must not put it out."""
    op, entry, leave = condition.op, condition.values[0], condition.exit
    if not buffered:
        yield (
            path,
            leave,
            "is for the rules of grades and tiers, which an account may have met the day before; leave it out",
        )
    elif op not in ORDERED:
        yield path, leave, f"needs one of {', '.join(ORDERED)}"
    elif isinstance(entry, int) and leave is not None:
        upwards = op in ("at_least", "above")
        if leave > entry if upwards else leave < entry:
            yield path, leave, f"must be {'at most' if upwards else 'at least'} {entry}, as `{op}` says"
        yield from _value_faults(condition.to_stay(), number, (), path)


def _value_faults(
    condition: Condition, number: Column | None, codes: Sequence[str], path: tuple[str | int, ...]
) -> Iterator[Fault]:
    """Values that the column can never have make a condition that always, or never, holds."""
    if not condition.values:
        yield path, [], "name at least one value"
    for value in condition.values:
        if number is None:
            if value not in codes:
                yield path, value, f"must be one of {', '.join(codes)}"
            continue
        unit = f"a whole number of {number.unit}"
        low, high = number.minimum, number.maximum
        low, high = -(1 << 63) if low is None else low, (1 << 63) - 1 if high is None else high
        if not isinstance(value, int):
            yield path, value, f"must be {unit}"
        elif not low <= value <= high:
            yield path, value, f"must be {unit} from {low} to {high}, as {number.name} is"
