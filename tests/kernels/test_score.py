"""The credit score against the definition, row by row, and at the edges of its bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.policy import default_policy_text, parse_policy
from schemas.scorecard import CreditScore
from tests.kernels.test_ledger import table
from tests.oracles.ledger import Event
from tests.oracles.whole import score_of
from transforms.kernels.credit import Credit
from transforms.kernels.ledger import Ledger
from transforms.kernels.score import credit_score, points_of, taken_off
from transforms.kernels.windows import date_of

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


def shipped_scores(events: list[tuple[int, Event]], days: range) -> list[int]:
    """The score of account 0 by the policy that ships."""
    (version,) = parse_policy(default_policy_text(), "policy.yaml").versions
    credit, scores = Credit(Ledger(table(events), 1)), []
    for day in days:
        credit.advance(day)
        columns = credit.columns() | {"category": np.zeros(1, np.int8)}
        scores.append(int(credit_score(version.credit_score, columns, 1)[0]))
    return scores


def bills(first: int, last: int, fen: int = 10_000) -> list[tuple[int, Event]]:
    """A bill every 30 days, due after 20, and paid five days before that."""
    return [
        (0, event)
        for day in range(first, last, 30)
        for event in (
            Event(f"c{day}", "charge", date_of(day), fen, date_of(day + 20), f"b{day}"),
            Event(f"p{day}", "payment", date_of(day + 15), fen, bill_id=f"b{day}"),
        )
    ]


def test_by_the_policy_that_ships_a_debt_grows_no_better_with_age():
    scores = shipped_scores([(0, Event("c", "charge", date_of(0), 100, date_of(20)))], range(21, 900))
    assert sorted(scores, reverse=True) == scores
    assert scores[-1] == 0


def test_by_the_policy_that_ships_an_old_debt_is_c_whatever_else_is_paid():
    lost = [(0, Event("c", "charge", date_of(400), 10_000, date_of(420), "lost"))]
    scores = shipped_scores([*bills(0, 1_500), *lost], range(399, 1_500))
    assert scores[0] == 100
    assert max(scores[420 - 399 + 91 :]) < 70


def test_by_the_policy_that_ships_a_fen_makes_no_bad_customer():
    """Of one bill a fen stays open for ever: no grade A, which wants nothing overdue, but no C either."""
    short = [
        (0, Event("c", "charge", date_of(400), 10_000, date_of(420), "short")),
        (0, Event("p", "payment", date_of(410), 9_999, bill_id="short")),
    ]
    scores = shipped_scores([*bills(0, 1_500), *short], range(399, 1_500))
    assert min(scores) >= 70
