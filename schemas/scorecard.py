"""The credit scorecard of a policy version: columns of `features` in bins, points by weight, less demerits.

score = sum(weight * points) // 100 - demerits, at least 0     weights add up to 100, points are 0 .. 100
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from schemas.conditions import NUMBERS, Codes, Conditional, Fault, Part, condition_faults, rule_name
from schemas.document import one_of

SCORE = "credit_score"
"""The column of `features` that the scorecard fills."""

FULL = 100
"""The most points, and what the weights add up to."""

Points = Annotated[int, Field(ge=0, le=FULL)]
Name = Annotated[str, AfterValidator(rule_name)]


class Bin(Part):
    """Points from a threshold on, or up to one; without a threshold: otherwise."""

    at_least: int | None = None
    at_most: int | None = None
    points: Points


class ScorePart(Part):
    """One column, its bins, the first that fits deciding, and its weight. if_null: points where the column is null."""

    part: Name
    column: str
    weight: Annotated[int, Field(ge=1, le=FULL)]
    bins: tuple[Bin, ...]
    if_null: Points | None = None


class Demerit(Conditional):
    """Points taken off where all conditions hold: once, or for each unit of the column `per`, at most `at_most`."""

    demerit: Name
    points: Annotated[int, Field(ge=1, le=FULL)]
    per: str | None = None
    at_most: Annotated[int, Field(ge=1, le=FULL)] = FULL


class CreditScore(Part):
    """The scorecard."""

    parts: tuple[ScorePart, ...]
    demerits: tuple[Demerit, ...] = ()

    def columns(self) -> tuple[str, ...]:
        """The columns that the score is made of, each once."""
        named = [part.column for part in self.parts]
        for demerit in self.demerits:
            named += [*([demerit.per] if demerit.per else []), *(condition.column for condition in demerit.when)]
        return tuple(dict.fromkeys(named))


def scorecard_faults(card: CreditScore, codes: Codes, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """What is wrong with a scorecard. codes: text columns that a demerit may name."""
    weights = sum(part.weight for part in card.parts)
    if weights != FULL:
        yield (
            (*path, "parts"),
            [part.weight for part in card.parts],
            f"the weights must add up to {FULL}, not {weights}",
        )
    names = [*(part.part for part in card.parts), *(demerit.demerit for demerit in card.demerits)]
    for i, part in enumerate(card.parts):
        yield from repeated(part.part, names[:i], (*path, "parts", i, "part"))
        yield from _part_faults(part, (*path, "parts", i))
    for i, demerit in enumerate(card.demerits):
        at = (*path, "demerits", i)
        yield from repeated(demerit.demerit, names[: len(card.parts) + i], (*at, "demerit"))
        if demerit.per is not None:
            yield from _column_fault(demerit.per, (*at, "per"))
        for j, condition in enumerate(demerit.when):
            if condition.column == SCORE:
                yield from _column_fault(condition.column, (*at, "when", j, "column"))
            else:
                yield from condition_faults(condition, codes, (*at, "when", j))


def repeated(name: str, before: list[str], path: tuple[str | int, ...]) -> Iterator[Fault]:
    """A name that another part has already."""
    if name in before:
        yield path, name, "another part or demerit has that name; give each its own"


def _column_fault(name: str, path: tuple[str | int, ...]) -> Iterator[Fault]:
    if name not in NUMBERS or name == SCORE:
        yield path, name, one_of(name, [number for number in NUMBERS if number != SCORE])


def _part_faults(part: ScorePart, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """Each value must fall into a bin, and each bin be reached: thresholds one way, in order, the last bin without."""
    unknown = list(_column_fault(part.column, (*path, "column")))
    yield from unknown or null_faults(part.column, part.if_null, path)
    yield from bin_faults(part.bins, path)


def null_faults(column: str, if_null: int | None, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """Points are needed for a null where the column has some, and only there."""
    nullable = NUMBERS[column].nullable
    if nullable and if_null is None:
        yield (*path, "if_null"), None, f"{column} may be null: say how many points that gives"
    if not nullable and if_null is not None:
        yield (*path, "if_null"), if_null, f"{column} is never null; leave it out"


def bin_faults(bins: Sequence[Bin], path: tuple[str | int, ...]) -> Iterator[Fault]:
    """Thresholds go one way, in order; the last bin has none. path: of the part."""
    if not bins:
        yield (*path, "bins"), [], "at least one bin is needed, the last without a threshold"
    thresholds: list[tuple[str, int]] = []
    for i, bin_ in enumerate(bins):
        at, last = (*path, "bins", i), i == len(bins) - 1
        given = [(name, value) for name in ("at_least", "at_most") if (value := getattr(bin_, name)) is not None]
        if last and given:
            yield at, dict(given), "the last bin must have no threshold: it takes all that is left"
        elif not last and len(given) != 1:
            yield at, dict(given), "write exactly one of at_least, at_most; only the last bin has none"
        elif given:
            (way, value), before = given[0], thresholds[-1] if thresholds else None
            if before and way != before[0]:
                yield (*at, way), value, f"all bins of a part go one way; those before say {before[0]}"
            elif before and (value >= before[1] if way == "at_least" else value <= before[1]):
                yield (*at, way), value, f"is never reached: the bin before takes {before[0]} {before[1]}"
            thresholds.append(given[0])
