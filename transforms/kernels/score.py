"""The credit score of some accounts by a scorecard, and the parts it is made of.

Formula: docs/explanation/definitions.md, "Credit score". Whole numbers throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.scorecard import FULL, Bin, CreditScore, Demerit, ScorePart
from transforms.kernels.tiers import Columns, holds

Int = npt.NDArray[np.int64]


def points_of(part: ScorePart, columns: Columns) -> Int:
    """Points of one part of the scorecard, 0 .. 100, before its weight. (m,)."""
    return binned(part.bins, columns[part.column], part.if_null)


def binned(bins: Sequence[Bin], column: Any, if_null: int | None) -> Int:
    """Points by thresholds of a column, masked where null. (m,)."""
    values, null = np.ma.getdata(column), np.ma.getmaskarray(column)
    out = np.full(len(values), bins[-1].points, np.int64)
    for bin_ in reversed(bins[:-1]):  # the first that fits is written last
        fits = values >= bin_.at_least if bin_.at_least is not None else values <= bin_.at_most
        out[fits] = bin_.points
    if if_null is not None:
        out[null] = if_null
    return out


def taken_off(demerit: Demerit, columns: Columns, m: int) -> Int:
    """Points that a demerit takes off. (m,)."""
    held = np.ones(m, np.bool_)
    for condition in demerit.when:
        held &= holds(condition, columns)
    if demerit.per is None:
        return np.where(held, min(demerit.points, demerit.at_most), 0)
    times = np.clip(np.ma.filled(columns[demerit.per], 0).astype(np.int64), 0, FULL)  # more than so many are too many
    return np.where(held, np.minimum(times * demerit.points, demerit.at_most), 0)


def credit_score(card: CreditScore | None, columns: Columns, m: int) -> Any:
    """The score of each account, 0 .. 100; all masked where there is no scorecard. (m,) int64.

    columns: those of `card.columns()`, (m,) each, masked where null.
    """
    if card is None:
        return np.ma.masked_array(np.zeros(m, np.int64), True)
    score = np.zeros(m, np.int64)
    for part in card.parts:
        score += part.weight * points_of(part, columns)
    score //= FULL
    for demerit in card.demerits:
        score -= taken_off(demerit, columns, m)
    return np.maximum(score, 0)
