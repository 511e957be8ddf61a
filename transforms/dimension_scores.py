"""The scores of the dimensions of value beside the columns that tiers are made of, and the mart `scores`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.marts import SCORE_COLUMNS, SCORES
from schemas.policy import PolicyVersion
from schemas.rankings import PERCENTILE
from transforms.kernels.dimensions import Edges, Found, dimension_scores
from transforms.kernels.windows import day_of

Percentiles = dict[int, dict[tuple[str, str, str], Edges]]
"""Service day number -> its percentiles."""

MART = "mart:scores"


def percentiles(cutoffs: pa.Table) -> Percentiles:
    """The percentiles among cut-offs. cutoffs: rows of the mart."""
    out: Percentiles = {}
    rows = cutoffs.filter(pc.equal(cutoffs["rule"], PERCENTILE))
    names = (
        "service_date", "metric", "ranked", "scope", "cut_num", "cut_den", "amount", "boundary_account_id",
    )  # fmt: skip
    for date, metric, order, scope, num, den, amount, account in zip(
        *(rows[name].to_pylist() for name in names), strict=True
    ):
        of_day = out.setdefault(day_of(date), {})
        of_day.setdefault((metric, order, scope), {})[num, den] = amount, account
    return out


def scored(version: PolicyVersion, columns: Mapping[str, Any], ids: pa.Array, found: Found) -> dict[str, Any]:
    """The columns that tier rules can name: those given, and the scores. columns, ids: (m,); found: the day's percentiles."""
    return {**columns, **dimension_scores(version, columns, ids, found)}


def scores_table(day: int, ids: pa.Array, columns: Mapping[str, Any]) -> pa.Table:
    """Rows of `scores` of some accounts on one day. columns: as `scored` gives them, (m,)."""
    m = len(ids)
    made: dict[str, Any] = {"account_id": ids, "service_date": pa.array(np.full(m, day, np.int32)).cast(pa.date32())}
    for name in SCORE_COLUMNS.values():
        made[name] = pa.array(columns[name].astype(np.int32)) if name in columns else pa.nulls(m, pa.int32())
    return pa.table([made[name] for name in SCORES.schema.names], schema=SCORES.schema)
