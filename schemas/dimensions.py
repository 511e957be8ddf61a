"""The dimensions of value of a policy version: each a score of 0 .. 100, made of parts.

score = sum(weight * points) // 100     weights of a dimension add up to 100, points are 0 .. 100

A part gives points by thresholds of its column (`bins`), by where the account ranks (`top`), or takes the column's value for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator

from schemas.conditions import NUMBERS, Condition, Fault, Part
from schemas.document import one_of
from schemas.fields import COUNT, Column
from schemas.marts import SCORE_COLUMNS
from schemas.rankings import By, Order, Ranking, parse_share, percentile
from schemas.scorecard import FULL, SCORE, Bin, Name, Points, bin_faults, null_faults, repeated

DimensionName = Literal["current_value", "potential", "credit", "stability", "loyalty", "scale"]


def _share(value: object) -> Fraction | None:
    return None if value is None else parse_share(value)


OptionalShare = Annotated[
    Fraction | None, PlainValidator(_share), PlainSerializer(str, when_used="unless-none")
]  # fmt: skip


class TopBin(Part):
    """Points of the first accounts of a ranking, up to a share of them; without a share: otherwise."""

    share: OptionalShare = None
    points: Points


class DimensionPart(Part):
    """One column, how it gives points, and its weight. if_null: points where the column is null.

    scope, order: of `top`: who is ranked together, and who comes first; all, and the largest, where nothing is said.
    """

    part: Name
    column: str
    weight: Annotated[int, Field(ge=1, le=FULL)]
    bins: tuple[Bin, ...] | None = None
    top: tuple[TopBin, ...] | None = None
    points: Literal["value"] | None = None
    scope: By | None = None
    order: Order | None = None
    if_null: Points | None = None

    def ranking(self) -> Ranking | None:
        """The ranking that gives its points, if one does, with the cuts it asks for."""
        if self.top is None:
            return None
        cuts = tuple(percentile(bin_.share) for bin_ in self.top if bin_.share is not None)
        return Ranking(self.column, self.scope or "all", cuts, self.order or "largest_first")


class Dimension(Part):
    """A dimension of value."""

    dimension: DimensionName
    parts: tuple[DimensionPart, ...]


def percentile_rankings(dimensions: Sequence[Dimension]) -> tuple[Ranking, ...]:
    """Every ranking that the parts ask for, once, with the cuts of all of them, ascending."""
    found: dict[tuple[str, str, str, bool], Ranking] = {}
    for ranking in (part.ranking() for dimension in dimensions for part in dimension.parts):
        if ranking is None:
            continue
        before = found[ranking.key].cuts if ranking.key in found else ()
        cuts = sorted({*before, *ranking.cuts}, key=lambda cut: Fraction(cut.num, cut.den))
        found[ranking.key] = Ranking(ranking.metric, ranking.by, tuple(cuts), ranking.order)
    return tuple(found.values())


def scores_as_columns() -> dict[str, Column]:
    """The scores as columns that a condition can compare."""
    return {
        name: Column(name, COUNT, f"Score of the dimension {dimension}", "points", minimum=0, maximum=FULL)
        for dimension, name in SCORE_COLUMNS.items()
    }


def dimension_faults(
    dimensions: Sequence[Dimension] | None, scored: bool, path: tuple[str | int, ...]
) -> Iterator[Fault]:
    """What is wrong with the dimensions of a version. scored: whether it has a scorecard of credit."""
    if dimensions is not None and not dimensions:
        yield path, [], "at least one dimension is needed; or leave `dimensions:` out"
    for i, dimension in enumerate(dimensions or ()):
        at = (*path, i)
        if dimension.dimension in [other.dimension for other in (dimensions or ())[:i]]:
            yield (*at, "dimension"), dimension.dimension, "is there twice; put all its parts into one"
        weights = [part.weight for part in dimension.parts]
        if sum(weights) != FULL:
            yield (*at, "parts"), weights, f"the weights must add up to {FULL}, not {sum(weights)}"
        names = [part.part for part in dimension.parts]
        for j, part in enumerate(dimension.parts):
            yield from repeated(part.part, names[:j], (*at, "parts", j, "part"))
            yield from _part_faults(part, scored, (*at, "parts", j))


def _part_faults(part: DimensionPart, scored: bool, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """A column that exists, one way to points, and nothing that does not belong to it."""
    if part.column not in NUMBERS:
        yield (*path, "column"), part.column, one_of(part.column, tuple(NUMBERS))
    elif part.column == SCORE and not scored:
        yield (*path, "column"), SCORE, "needs a scorecard: add `credit_score:`"
    else:
        yield from null_faults(part.column, part.if_null, path)
    given = [name for name in ("bins", "top", "points") if getattr(part, name) is not None]
    if len(given) != 1:
        yield path, given, "write exactly one of bins, top, points"
    if part.bins is not None:
        yield from bin_faults(part.bins, path)
    if part.top is not None:
        yield from _top_faults(part.top, path)
        return
    for name in ("scope", "order"):
        if (value := getattr(part, name)) is not None:
            yield (*path, name), value, "is only for a part with `top:`; leave it out"


def _top_faults(top: Sequence[TopBin], path: tuple[str | int, ...]) -> Iterator[Fault]:
    """Shares ascend, below all; the last bin takes those that are left."""
    if len(top) < 2:
        yield (*path, "top"), [], "at least two bins are needed, all but the last with a share"
    for i, bin_ in enumerate(top):
        at, last = (*path, "top", i), i == len(top) - 1
        if last and bin_.share is not None:
            yield (*at, "share"), str(bin_.share), "the last bin must have no share: it takes all that are left"
        elif not last and bin_.share is None:
            yield at, {}, "needs a share; only the last bin has none"
        elif bin_.share == 1:
            yield (*at, "share"), "1", "must be below 100 %: bins after it are never reached"
    for i, (before, bin_) in enumerate(pairwise(top)):
        if before.share is not None and bin_.share is not None and bin_.share <= before.share:
            yield (
                (*path, "top", i + 1, "share"),
                str(bin_.share),
                f"must be above that of the bin before, {before.share}",
            )


def score_faults(
    when: Sequence[Condition], dimensions: Sequence[Dimension], path: tuple[str | int, ...]
) -> Iterator[Fault]:
    """A condition on a score needs its dimension; else the score is always null."""
    held = {SCORE_COLUMNS[dimension.dimension] for dimension in dimensions}
    for j, condition in enumerate(when):
        if condition.column in SCORE_COLUMNS.values() and condition.column not in held:
            yield (*path, j, "column"), condition.column, "needs its dimension: add it to `dimensions:`"
