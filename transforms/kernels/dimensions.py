"""The dimensions of value of some accounts by a policy version: each a score, and the points that it is made of.

Formula: docs/explanation/definitions.md, "Dimensions of value". A function of the version, the accounts' columns and a day's
cut-offs alone: other columns, other cut-offs or another version tell what the scores would have been.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.dimensions import DimensionPart
from schemas.marts import SCORE_COLUMNS
from schemas.policy import PolicyVersion
from schemas.rankings import Ranking
from schemas.scorecard import FULL
from transforms.kernels.order_statistics import inside, ranked_by
from transforms.kernels.scopes import Scopes, ranked
from transforms.kernels.score import binned
from transforms.kernels.tiers import Columns

Int = npt.NDArray[np.int64]

Edges = dict[tuple[int, int], tuple[int | None, str | None]]
"""(numerator, denominator) of a percentile -> amount and id of the last account inside."""

Found = Mapping[tuple[str, str, str], Edges]
"""(metric, order, scope) -> its percentiles, of one service day."""


def dimension_points(
    version: PolicyVersion, columns: Columns, ids: pa.StringArray, found: Found
) -> dict[str, dict[str, Int]]:
    """Dimension -> part -> points before the weight, 0 .. 100, (m,) int64.

    columns: those that the parts name, `category`, and `region` where one ranks by it, (m,) each, masked where null; ids: (m,);
    found: a day's percentiles. Where a scope has none nobody is among the first.
    """
    scopes = Scopes.of(columns)
    return {
        dimension.dimension: {part.part: _points(part, columns, ids, scopes, found) for part in dimension.parts}
        for dimension in version.dimensions or ()
    }


def dimension_scores(version: PolicyVersion, columns: Columns, ids: pa.StringArray, found: Found) -> dict[str, Int]:
    """Column of `scores` -> score, 0 .. 100, (m,) int64, of each dimension that the version has. Arguments: `dimension_points`."""
    points = dimension_points(version, columns, ids, found)
    return {
        SCORE_COLUMNS[dimension.dimension]: np.add.reduce(
            [part.weight * points[dimension.dimension][part.part] for part in dimension.parts], dtype=np.int64
        )
        // FULL
        for dimension in version.dimensions or ()
    }


def _points(part: DimensionPart, columns: Columns, ids: pa.StringArray, scopes: Scopes, found: Found) -> Int:
    """Points of one part, (m,)."""
    column, ranking = columns[part.column], part.ranking()
    if part.bins is not None:
        return binned(part.bins, column, part.if_null)
    if ranking is not None:
        out = _ranked_points(part, ranking, column, ids, scopes, found)
    else:
        out = np.clip(np.ma.getdata(column).astype(np.int64), 0, FULL)
    if part.if_null is not None:
        out[np.ma.getmaskarray(column)] = part.if_null
    return out


def _ranked_points(
    part: DimensionPart, ranking: Ranking, column: npt.NDArray[np.int64], ids: pa.StringArray, scopes: Scopes, found: Found
) -> Int:  # fmt: skip
    """Points of a part by where each account ranks; of no meaning where the column is null. (m,)."""
    *firsts, rest = part.top or ()
    values, _ = ranked(ranking, column)
    keys = ranked_by(values, ranking.order)
    out = np.full(len(keys), rest.points, np.int64)
    for scope, rows in scopes.positions(ranking.by).items():
        edges = found.get((ranking.metric, ranking.order, scope))
        if edges is None or not len(rows):
            continue
        mine, names = keys[rows], ids if len(rows) == len(ids) else ids.take(pa.array(rows))
        for bin_, cut in reversed(list(zip(firsts, ranking.cuts, strict=True))):  # the first that fits is written last
            amount, boundary = edges.get((cut.num, cut.den), (None, None))
            edge = None if amount is None else int(ranked_by(np.array([amount]), ranking.order)[0])
            out[rows[inside(mine, names, edge, boundary)]] = bin_.points
    return out
