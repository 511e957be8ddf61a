"""The credit score as published: its parts, and the grade that remembers the day before."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from tests.pipeline.bureau import POLICY, Bureau
from tests.pipeline.streams import Epochs
from tests.pipeline.worlds import account, ledger, meter, reading

LONG_AGO = date(2020, 1, 1)


def day(n):
    return date(2023, 3, 6) + timedelta(days=n)


@pytest.fixture
def bureau(tmp_path):
    return Bureau(tmp_path / "bureau")


def opened(bureau, last):
    """One account, read on days 0 to `last`."""
    bureau.land_all(
        [
            account("big", LONG_AGO),
            meter("m", "big", LONG_AGO),
            *(reading("m", day(n), 1000, 1) for n in range(last + 1)),
        ]
    )


def test_the_parts_that_are_published_add_up_to_every_score(bureau):
    opened(bureau, last=8)
    bureau.land_all([
        ledger("big", "b1", "charge", day(0), 5_000, day(2), "B1"),
        ledger("big", "b2", "charge", day(1), 5_000, day(3), "B2"),
        ledger("big", "p1", "payment", day(5), 5_000, bill="B1"),
    ])  # fmt: skip
    bureau.run()
    scored = """
        SELECT account_id, service_date, credit_score, greatest(0, fdiv(sum(hundredths), 100)) FROM features
        JOIN credit_score_parts USING (account_id, service_date) GROUP BY ALL ORDER BY ALL
    """
    rows = bureau.query(scored)
    assert [score for _, _, score, _ in rows] == [parts for *_, parts in rows]
    assert len(rows) == bureau.query("SELECT count(*) FROM features")[0][0]
    # on day 4 two bills were due and neither is paid: 0 of 70, 90 of 30, less twice 7
    mine = f"(account_id, service_date) = ('big', '{day(4)}')"
    parts = f"SELECT * EXCLUDE (account_id, service_date) FROM credit_score_parts WHERE {mine}"
    assert bureau.query(f"{parts} ORDER BY weight DESC NULLS LAST, part") == [
        ("punctual", "on_time_365d_ppm", 0, 0, 70, 0),
        ("owed", "overdue_91_minor", 0, 90, 30, 2700),
        ("not_read", None, None, 0, None, 0),
        ("open", "bills_due_365d", 2, -14, None, -1400),
    ]
    assert bureau.query(f"SELECT credit_score FROM features WHERE {mine}") == [(13,)]
    bureau.check()


def test_who_was_graded_c_rises_to_b_before_a(bureau):
    """Overdue for a day, then written right by a correction of the due date: the score is full, the grade climbs."""
    opened(bureau, last=6)
    bureau.land_all([
        ledger("big", "b1", "charge", day(0), 5_000, day(1), "B1"),
        ledger("big", "p1", "payment", day(1), 5_000, bill="B1"),
        ledger("big", "b2", "adjustment", day(2), 100),
        ledger("big", "p2", "payment", day(4), 100, bill="b2"),
    ])  # fmt: skip
    bureau.run()
    history = "SELECT valid_from, credit_grade FROM customer_tiers WHERE account_id = 'big' ORDER BY valid_from"
    grades = bureau.query(history)
    assert [grade for _, grade in grades][:3] == ["B", "A", "C"]
    after_c = next(n for n, (_, grade) in enumerate(grades) if grade == "C")
    assert grades[after_c + 1][1] == "B"
    bureau.check()


OLD_COUNT_LESS = "{half_life_days: 30}"
ONLY_RECENT_COUNT = "{weights: [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]}"


def decaying(*by_day):
    """The policy with a rule for `on_time_decayed_ppm`, and with versions of it by decay: (first day, decay)."""
    start = POLICY.index("  - version:")
    rule = "      - {rule: careless, tier: low_risk, immediate: true, when: [{column: on_time_decayed_ppm, below: 400000}]}\n"
    version = POLICY[start:].replace("    tiers:\n", f"    tiers:\n{rule}")
    text = POLICY[:start]
    for number, (first, decay) in enumerate(by_day):
        one = version.replace('version: "1"', f'version: "{number}"').replace("2000-01-01", str(first))
        text += one.replace("    credit_score:\n", f"    credit_decay: {decay}\n    credit_score:\n")
    return text


def late_then_on_time(bureau, last=70):
    opened(bureau, last)
    bills = [ledger("big", f"b{n}", "charge", day(n), 100, day(n + 1), f"B{n}") for n in (0, 2, 4, 45, 47)]
    paid = [
        ledger("big", f"p{n}", "payment", day(n + delay), 100, bill=f"B{n}")
        for n, delay in ((0, 1), (2, 9), (4, 9), (45, 1), (47, 1))
    ]
    bureau.land_all([*bills, *paid])


def decayed(bureau):
    return bureau.query("SELECT on_time_decayed_ppm FROM features ORDER BY service_date")


@pytest.mark.slow
def test_another_decay_from_a_day_on_and_a_late_payment_put_right_under_both(bureau):
    """By a half-life of 30 days, then by a table; the bills of day 2 and 4 were late, those since were not."""
    late_then_on_time(bureau)
    bureau.set_policy(decaying((LONG_AGO, OLD_COUNT_LESS), (day(60), ONLY_RECENT_COUNT)))
    bureau.run()
    bureau.check()
    found = [ppm for (ppm,) in decayed(bureau)]
    assert found[50] == (524288 + 2 * 1048576) * 10**6 // (3 * 524288 + 2 * 1048576)
    assert found[60:62] == [3 * 10**6 // 5, 2 * 10**6 // 4]
    assert found[66] == 10**6, "bills of the first days are more than 60 days due, and weigh nothing"
    tiers = bureau.query("SELECT valid_from, tier FROM customer_tiers WHERE account_id = 'big' ORDER BY valid_from")
    assert "low_risk" in {tier for _, tier in tiers}
    bureau.land_all([ledger("big", "p2", "payment", day(3), 100, bill="B2", revision=2)])
    assert bureau.run().restated_from == day(3)
    bureau.check()
    assert decayed(bureau) != [(ppm,) for ppm in found]


@pytest.mark.slow
def test_a_decay_that_is_changed_makes_the_days_anew_from_its_first(bureau):
    late_then_on_time(bureau)
    bureau.set_policy(decaying((LONG_AGO, OLD_COUNT_LESS)))
    bureau.run()
    before = decayed(bureau)
    bureau.set_policy(decaying((LONG_AGO, OLD_COUNT_LESS), (day(50), "{half_life_days: 180}")))
    assert bureau.run().restated_from == day(50)
    bureau.check()
    after = decayed(bureau)
    assert after[:50] == before[:50]
    assert after[50:] != before[50:]
    bureau.set_policy(decaying((LONG_AGO, OLD_COUNT_LESS)))
    bureau.run()
    bureau.check()
    assert decayed(bureau) == before


@pytest.mark.slow
def test_a_stream_decays_alike(bureau):
    late_then_on_time(bureau, last=40)
    bureau.set_policy(decaying((LONG_AGO, OLD_COUNT_LESS), (day(55), ONLY_RECENT_COUNT)))
    bureau.run()
    epochs = Epochs(bureau)
    later = [reading("m", day(n), 1000, 1) for n in range(41, 71)]
    epochs.take_all(
        [later[:18], [*later[18:], ledger("big", "p2", "payment", day(3), 100, bill="B2", revision=2)]], each=True
    )
    bureau.check()
