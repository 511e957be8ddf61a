"""The credit score as published: its parts, and the grade that remembers the day before."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from tests.pipeline.bureau import Bureau
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
