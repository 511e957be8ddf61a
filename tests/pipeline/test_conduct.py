"""Conduct events through whole runs, held against the oracle: what comes, what waits, what is withdrawn, and lock-outs."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

import pipelines.restate
from schemas.policy import default_policy_text
from tests.pipeline.bureau import POLICY, Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.streams import Epochs
from tests.pipeline.test_stories import LONG_AGO, day, opened, reference, tiers, used
from tests.pipeline.worlds import account, conduct, ledger, second_version


@pytest.fixture
def bureau(tmp_path):
    return Bureau(tmp_path / "bureau")


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
        ("middle", day(2), "lockout_ended", "middle"),
    ]
    bureau.check()


@pytest.mark.parametrize("kind", ["theft_confirmed", "tampering", "usage_violation"])
def test_lock_outs_of_the_policy_that_ships(bureau, kind):
    """Under the shipped policy, without its minimum stay: one account on its first day, one on its last, after which it rises
    to grade B, and the day after to A.
    """
    bureau.set_policy(default_policy_text().replace("min_stay_days: 30", "min_stay_days: 0"))
    length, locked = (365, "low_risk") if kind == "usage_violation" else (730, "abuse")
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
    assert [tier for _, tier in bureau.query(f"{query} 'middle' ORDER BY 1")] == [locked] * 3 + ["mid_large", "high"]
    assert [move for move in moves(bureau) if move[1] > day(1)] == [
        ("big", day(2), locked, "conduct"), ("middle", day(3), "mid_large", "lockout_ended"),
        ("middle", day(4), "high", "stay_ended"),
    ]  # fmt: skip
    bureau.check()


GRADED_BY_CONDUCT = POLICY.replace(
    "    credit_grades:\n", "    credit_grades:\n      - {grade: C, when: [{column: days_since_violation, below: 3}]}\n"
).replace(
    "      - {rule: unsteady",
    "      - {rule: cut_off, tier: low_small, immediate: true, when: [{column: disconnected, equals: 1}]}\n      - {rule: unsteady",
)
"""A grade that an event forces, and a tier rule by another column of conduct."""

FORCED = [
    *[conduct("big", "v", "usage_violation", day(1)), conduct("middle", "d", "disconnection", day(2))],
    conduct("middle", "r", "reconnection", day(5)),
]
BY_CONDUCT = [
    ("big", day(1), "low_risk", "conduct"), ("big", day(4), "high", "lockout_ended"),
    ("middle", day(2), "low_small", "conduct"), ("middle", day(5), "mid_steady", "conduct"),
]  # fmt: skip


def moves(bureau):
    return bureau.query("SELECT account_id, service_date, to_tier, cause FROM tier_migrations ORDER BY ALL")


def test_who_moves_by_a_grade_or_rule_that_an_event_forces_moves_by_conduct(bureau):
    bureau.set_policy(GRADED_BY_CONDUCT)
    bureau.land_all([*reference(), *used(0, 6), *FORCED])
    bureau.run()
    assert moves(bureau) == BY_CONDUCT
    bureau.check()


def test_an_event_that_comes_late_or_is_withdrawn_leaves_the_cause_conduct(bureau, monkeypatch):
    """Put right by account. The violation is withdrawn from day 3 on: the account rises a day sooner."""
    monkeypatch.setattr(pipelines.restate, "MOST_PPM", 10**9)
    monkeypatch.setattr(pipelines.restate, "LEAST_DAYS", 1)
    bureau.set_policy(GRADED_BY_CONDUCT)
    bureau.land_all([*reference(), *used(0, 0)])
    bureau.run()
    for n in range(1, 7):
        bureau.land_all(used(n, n))
        bureau.run()
    assert moves(bureau) == []
    bureau.land_all(FORCED)
    bureau.run()
    assert moves(bureau) == BY_CONDUCT
    bureau.check()
    bureau.land_all([conduct("big", "v", "withdrawn", day(3), 2)])
    bureau.run()
    assert moves(bureau) == [BY_CONDUCT[0], ("big", day(3), "high", "conduct"), *BY_CONDUCT[2:]]
    bureau.check()


def test_a_stream_tells_conduct_as_the_cause(bureau):
    bureau.set_policy(GRADED_BY_CONDUCT)
    Epochs(bureau).take_all([[*reference(), *used(0, 3), *FORCED[:1]], [*used(4, 6), *FORCED[1:]]], each=True)
    assert moves(bureau) == BY_CONDUCT
    bureau.check()


@pytest.mark.slow
def test_a_stream_publishes_what_a_run_does(tmp_path):
    """Epoch by epoch, with a finding that comes late, one that waits for its account, and one withdrawn."""
    portions = [
        [*reference(), *used(0, 1), conduct("new", "t", "theft_confirmed", day(0))],
        [*used(2, 2), conduct("big", "t", "theft_confirmed", day(1)), conduct("tiny", "d", "disconnection", day(2))],
        [account("new", LONG_AGO), *used(3, 3), conduct("tiny", "r", "reconnection", day(3))],
        [*used(4, 4), conduct("big", "t", "withdrawn", day(3), 2)],
    ]
    streamed, run = (Bureau(tmp_path / name) for name in ("streamed", "run"))
    Epochs(streamed).take_all(portions, each=True)
    for portion in portions:
        run.land_all(portion)
        run.run()
    streamed.check()
    assert_equal_marts(streamed.marts, run.marts, same_deliveries=True)
    assert len(streamed.query("FROM conduct_events")) == 3


# --- the abuse ladder: a warning for 2 days, a restriction for 1 at least, then an inspection ends it

STEPS = (
    "SELECT service_date, from_step, step, abuse_reason FROM abuse_steps WHERE account_id = '{}' ORDER BY service_date"
)


def climbed(bureau, who="big"):
    return [((date_ - day(0)).days, *more) for date_, *more in bureau.query(STEPS.format(who))]


def test_the_ladder_is_climbed_step_by_step(bureau):
    events = [
        conduct("big", "t1", "theft_confirmed", day(1)),
        conduct("big", "i1", "inspection_passed", day(2)),  # too early: it is not restricted yet
        conduct("big", "i2", "inspection_passed", day(5)),
        conduct("big", "t2", "theft_confirmed", day(7)),
        conduct("middle", "t1", "theft_confirmed", day(4) - timedelta(days=730)),
    ]
    bureau.land_all([*reference(), *used(0, 10), *events])
    bureau.run()
    assert climbed(bureau) == [
        (1, None, "warn", "tier_abuse"),
        (3, "warn", "restrict", "warning_ended"),
        (5, "restrict", "release", "inspection_passed"),
        (7, "release", "warn", "new_finding"),
        (9, "warn", "restrict", "warning_ended"),
    ]
    assert climbed(bureau, "middle") == [
        (0, None, "warn", "tier_abuse"),
        (2, "warn", "restrict", "warning_ended"),
        (4, "restrict", "release", "tier_left"),
    ]
    bureau.check()


@pytest.mark.slow
def test_day_by_day_is_as_at_once_and_a_late_finding_puts_the_steps_right(bureau, monkeypatch):
    monkeypatch.setattr(pipelines.restate, "MOST_PPM", 10**9)  # by account
    monkeypatch.setattr(pipelines.restate, "DAYS_AT_ONCE", 3)
    bureau.land_all([*reference(), *used(0, 0), conduct("big", "t1", "theft_confirmed", day(0))])
    bureau.run()
    for n in range(1, 9):
        bureau.land_all(used(n, n))
        bureau.run()
    assert climbed(bureau) == [(0, None, "warn", "tier_abuse"), (2, "warn", "restrict", "warning_ended")]
    bureau.land_all(
        [conduct("big", "i", "inspection_passed", day(4)), conduct("small", "t", "theft_confirmed", day(3))]
    )
    bureau.run()
    assert climbed(bureau)[2:] == [(4, "restrict", "release", "inspection_passed")]
    assert climbed(bureau, "small") == [(3, None, "warn", "tier_abuse"), (5, "warn", "restrict", "warning_ended")]
    bureau.check()
    bureau.land_all([
        conduct("big", "t1", "withdrawn", day(0), 2), account("small", LONG_AGO, closed=day(6), revision=2),
        conduct("middle", "t", "theft_confirmed", day(8)),
    ])  # fmt: skip
    bureau.run()
    assert climbed(bureau) == []
    assert climbed(bureau, "small")[2:] == [(7, "restrict", "release", "account_closed")]
    assert climbed(bureau, "middle") == [(8, None, "warn", "tier_abuse")]
    bureau.check()
    bureau.land_all(used(9, 11))  # from the checkpoint that was put right
    bureau.run()
    assert climbed(bureau, "middle")[1:] == [(10, "warn", "restrict", "warning_ended")]
    bureau.check()


def test_a_policy_without_a_ladder_lets_go_and_one_that_has_it_again_begins_anew(bureau):
    bureau.land_all([*reference(), *used(0, 8), conduct("big", "t1", "theft_confirmed", day(0))])
    text = second_version(day(4), ("    abuse_ladder:", "    # abuse_ladder:"))
    third = second_version(day(6)).removeprefix(POLICY).replace('version: "2"', 'version: "3"')
    bureau.set_policy(text + third)
    bureau.run()
    assert climbed(bureau) == [
        (0, None, "warn", "tier_abuse"),
        (2, "warn", "restrict", "warning_ended"),
        (4, "restrict", "release", "no_ladder"),
        (6, None, "warn", "tier_abuse"),
        (8, "warn", "restrict", "warning_ended"),
    ]
    bureau.check()
