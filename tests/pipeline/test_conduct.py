"""Conduct events through whole runs, held against the oracle: what comes, what waits, what is withdrawn, and lock-outs."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from schemas.policy import default_policy_text
from tests.pipeline.bureau import POLICY, Bureau, assert_balanced
from tests.pipeline.test_stories import LONG_AGO, day, opened, reference, tiers, used
from tests.pipeline.worlds import account, conduct, ledger

LOCKED = POLICY.replace(
    "    tiers:\n",
    "    tiers:\n      - {rule: thief, tier: abuse, immediate: true, when: [{column: days_since_theft, below: 730}]}\n",
)


@pytest.fixture
def bureau(tmp_path):
    return Bureau(tmp_path / "bureau", policy=LOCKED)


def found(bureau, columns, who="big"):
    return bureau.query(f"SELECT {columns} FROM features WHERE account_id = '{who}' ORDER BY service_date")


def test_events_count_from_their_day_on_and_the_highest_revision_counts(bureau):
    opened(bureau)
    bureau.land_all([
        conduct("big", "t1", "theft_confirmed", day(1)),
        conduct("big", "t1", "theft_confirmed", day(2), 2),
        conduct("big", "t1", "usage_violation", day(0), 1),
        conduct("small", "d1", "disconnection", day(1)),
        conduct("small", "r1", "reconnection", day(3)),
    ])  # fmt: skip
    assert bureau.run().restated_from == day(0)
    assert found(bureau, "days_since_theft, thefts_730d") == [(None, 0), (0, 1), (0, 1), (1, 1)]
    assert found(bureau, "disconnected", "small") == [(0,), (1,), (1,), (0,)]
    assert bureau.query("FROM conduct_events ORDER BY ALL") == [
        ("big", "t1", "theft_confirmed", day(2)),
        ("small", "d1", "disconnection", day(1)),
        ("small", "r1", "reconnection", day(3)),
    ]
    assert bureau.query("SELECT count(*) FROM accepted_conduct_events") == [(5,)]
    assert bureau.query("SELECT rows_accepted, rows_superseded FROM pipeline_runs WHERE source = 'conduct_events'") == [
        (3, 2)
    ]
    bureau.check()
    assert_balanced(bureau)


def test_bad_rows_are_rejected_and_unknown_accounts_wait(bureau):
    opened(bureau)
    bureau.land_all([
        conduct("big", "t1", "fraud", day(1)),
        conduct("big", "", "tampering", day(1)),
        ("conduct_events", ("big", "t2", "tampering", "2023-02-30", "1")),
        conduct("new", "t3", "theft_confirmed", day(1)),
        conduct("new", "t3", "withdrawn", day(3), 2),
    ])  # fmt: skip
    bureau.run()
    assert bureau.query('SELECT "column", reason FROM rejects ORDER BY ALL') == [
        ("event_date", "bad_date"), ("event_id", "missing_value"), ("event_type", "unknown_code"),
    ]  # fmt: skip
    waiting = [("conduct_events", "new", "unknown_account")] * 2
    assert bureau.query("SELECT source, name, reason FROM pending") == waiting
    assert bureau.query("SELECT count(*) FROM conduct_events") == [(0,)]
    bureau.land_all([account("new", LONG_AGO)])
    bureau.run()
    assert found(bureau, "days_since_theft", "new") == [(None,), (0,), (1,), (None,)]
    assert bureau.query("SELECT tier FROM customer_tiers WHERE account_id = 'new' ORDER BY valid_from") == [
        ("low_small",), ("abuse",), ("low_small",),
    ]  # fmt: skip
    bureau.check()
    assert_balanced(bureau)


@pytest.mark.parametrize("withdrawn_on", [1, 3])
def test_a_finding_is_withdrawn_altogether_or_from_a_day_on(bureau, withdrawn_on):
    opened(bureau)
    bureau.land_all([conduct("big", "t1", "theft_confirmed", day(1))])
    assert bureau.run().restated_from == day(1)
    assert tiers(bureau)["big"] == "abuse"
    bureau.land_all([conduct("big", "t1", "withdrawn", day(withdrawn_on), 2)])
    assert bureau.run().restated_from == day(withdrawn_on)
    assert tiers(bureau)["big"] == "high"
    assert found(bureau, "days_since_theft")[-1] == (None,)
    assert bureau.query("SELECT count(*) FROM conduct_events") == [(0,)]
    bureau.check()


def test_events_long_ago_make_no_service_days_and_count_from_the_first_one(bureau):
    bureau.land_all([*reference(), *used(0, 2), conduct("big", "t1", "tampering", date(2001, 1, 1))])
    bureau.run()
    assert found(bureau, "days_since_tampering") == [((day(n) - date(2001, 1, 1)).days,) for n in range(3)]
    bureau.check()


def test_a_lock_out_begins_with_the_theft_and_ends_after_730_days(bureau):
    """The first and last day of a theft's lock-out, in the tier and in the migrations."""
    events = [
        conduct("big", "t1", "theft_confirmed", day(3)),
        conduct("middle", "t1", "theft_confirmed", day(2) - timedelta(days=730)),
    ]
    bureau.land_all([*reference(), *used(0, 4), *events])
    bureau.run()
    assert found(bureau, "days_since_theft, thefts_730d", "middle")[:3] == [(728, 1), (729, 1), (730, 0)]
    history = "SELECT account_id, tier, valid_from, valid_to FROM customer_tiers WHERE account_id IN ('big', 'middle')"
    assert bureau.query(f"{history} ORDER BY ALL") == [
        ("big", "abuse", day(3), None),
        ("big", "high", day(0), day(2)),
        ("middle", "abuse", day(0), day(1)),
        ("middle", "mid_steady", day(2), None),
    ]
    assert bureau.query("SELECT account_id, service_date, cause, rule FROM tier_migrations ORDER BY ALL") == [
        ("big", day(3), "conduct", "thief"),
        ("middle", day(2), "conduct", "middle"),
    ]
    bureau.check()


@pytest.mark.parametrize("kind", ["theft_confirmed", "tampering", "usage_violation"])
def test_lock_outs_of_the_policy_that_ships(bureau, kind):
    """Under the shipped policy, without its minimum stay: one account on its first day, one on its last."""
    bureau.set_policy(default_policy_text().replace("min_stay_days: 30", "min_stay_days: 0"))
    length, locked = (365, "mid_large") if kind == "usage_violation" else (730, "abuse")
    bills = [
        event
        for who in ("big", "middle")
        for event in (
            ledger(who, "c", "charge", day(0) - timedelta(days=9), 5_000, day(0) - timedelta(days=5), "B"),
            ledger(who, "p", "payment", day(0) - timedelta(days=6), 5_000, bill="B"),
        )
    ]
    bureau.land_all([
        *reference(), *bills, *used(0, 4),
        conduct("big", "x", kind, day(2)), conduct("middle", "x", kind, day(3) - timedelta(days=length)),
    ])  # fmt: skip
    bureau.run()
    rows = "SELECT service_date, tier FROM features JOIN customer_tiers t USING (account_id) WHERE service_date BETWEEN valid_from"
    query = f"{rows} AND coalesce(valid_to, service_date) AND service_date >= '{day(0)}' AND account_id = "
    assert [tier for _, tier in bureau.query(f"{query} 'big' ORDER BY 1")] == ["high"] * 2 + [locked] * 3
    assert [tier for _, tier in bureau.query(f"{query} 'middle' ORDER BY 1")] == [locked] * 3 + ["high"] * 2
    bureau.check()
