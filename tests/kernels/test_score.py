"""The credit score against the definition, row by row, and at the edges of its bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.scorecard import CreditScore
from tests.oracles.whole import score_of
from transforms.kernels.score import credit_score, points_of, taken_off

CARD = CreditScore.model_validate({
    "parts": (
        {"part": "punctual", "column": "on_time_365d_ppm", "weight": 50, "if_null": 75,
         "bins": ({"at_least": 950_000, "points": 100}, {"at_least": 700_000, "points": 61}, {"points": 7})},
        {"part": "owed", "column": "overdue_minor", "weight": 33, "bins": ({"at_most": 0, "points": 100}, {"points": 1})},
        {"part": "flat", "column": "days_90d", "weight": 17, "bins": ({"points": 50},)},
    ),
    "demerits": (
        {"demerit": "bills", "points": 7, "per": "bills_due_365d", "at_most": 20},
        {"demerit": "overdue", "points": 30, "when": ({"column": "overdue_minor", "above": 0},)},
    ),
})  # fmt: skip

AMOUNT = st.one_of(st.integers(-1, 2), st.just(1 << 62))
ROW = st.fixed_dictionaries({
    "on_time_365d_ppm": st.one_of(st.none(), st.sampled_from([0, 699_999, 700_000, 949_999, 950_000, 1_000_000])),
    "overdue_minor": AMOUNT, "days_90d": st.integers(0, 90), "bills_due_365d": st.one_of(st.integers(0, 4), st.just(2**31 - 1)),
})  # fmt: skip


def columns_of(rows):
    out = {}
    for name in ("on_time_365d_ppm", "overdue_minor", "days_90d", "bills_due_365d"):
        values = [row[name] for row in rows]
        out[name] = np.ma.masked_array([v or 0 for v in values], [v is None for v in values], dtype=np.int64)
    return out


@given(st.lists(ROW, max_size=6))
def test_the_score_is_the_definitions(rows):
    assert credit_score(CARD, columns_of(rows), len(rows)).tolist() == [score_of(CARD, row) for row in rows]


@given(st.lists(ROW, max_size=6))
def test_the_parts_add_up_to_the_score(rows):
    columns = columns_of(rows)
    total = sum(part.weight * points_of(part, columns) for part in CARD.parts) // 100
    total = total - sum(taken_off(demerit, columns, len(rows)) for demerit in CARD.demerits)
    assert credit_score(CARD, columns, len(rows)).tolist() == np.maximum(total, 0).tolist()


@pytest.mark.parametrize(
    ("on_time", "points"), [(1_000_000, 100), (950_000, 100), (949_999, 61), (700_000, 61), (699_999, 7), (None, 75)]
)
def test_a_bin_begins_at_its_threshold(on_time, points):
    row = {"on_time_365d_ppm": on_time, "overdue_minor": 0, "days_90d": 0, "bills_due_365d": 0}
    assert points_of(CARD.parts[0], columns_of([row])).tolist() == [points]


@pytest.mark.parametrize(("bills", "off"), [(0, 0), (1, 7), (2, 14), (3, 20), (2**31 - 1, 20)])
def test_a_demerit_goes_by_number_up_to_its_most(bills, off):
    row = {"on_time_365d_ppm": None, "overdue_minor": 0, "days_90d": 0, "bills_due_365d": bills}
    assert taken_off(CARD.demerits[0], columns_of([row]), 1).tolist() == [off]


def test_without_a_scorecard_there_is_no_score():
    assert credit_score(None, {}, 3).tolist() == [None, None, None]
