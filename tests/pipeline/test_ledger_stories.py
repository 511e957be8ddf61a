"""Ledger events that come in the wrong order, twice, or to the wrong account: nothing is lost, and each is told of.

Each story is told to bounded runs, delivery by delivery, to runs that put right the accounts concerned alone, and to a stream.
"""

from __future__ import annotations

import pytest

import pipelines.restate
from tests.pipeline.bureau import POLICY, Bureau, assert_balanced
from tests.pipeline.streams import Epochs
from tests.pipeline.test_stories import LONG_AGO, day, opened, reference, used
from tests.pipeline.worlds import account, ledger

pytestmark = pytest.mark.slow

EXCEPTIONS = "SELECT event_id, reason, named_id FROM ledger_exceptions ORDER BY ALL"
OWED = (
    "SELECT balance_minor, unallocated_minor FROM features WHERE account_id = 'big' ORDER BY service_date DESC LIMIT 1"
)

CHARGE = ledger("big", "c", "charge", day(1), 500, day(2), "B")
PAYMENT = ledger("big", "p", "payment", day(2), 500, bill="B")
REVERSAL = ledger("big", "r", "reversal", day(3), 0, ref="p")

STORIES = {
    "a reversal before its payment": [
        ([CHARGE, REVERSAL], (500, 0), [("r", "reversal_of_unknown", "p")]),
        ([PAYMENT], (500, 0), []),
        ([ledger("big", "s", "reversal", day(3), 0, ref="p")], (500, 0), [("s", "reversal_again", "p")]),
    ],
    "a payment before its charge": [
        ([PAYMENT], (-500, 500), [("p", "bill_unknown", "B")]),
        ([CHARGE], (0, 0), []),
    ],
    "a duplicate with another amount": [
        ([CHARGE, PAYMENT], (0, 0), []),
        ([ledger("big", "p", "payment", day(2), 400, bill="B")], (100, 0), [("p", "conflicting_event", None)]),
        ([ledger("big", "p", "payment", day(2), 500, bill="B", revision=2)], (0, 0), []),
    ],
    "a duplicate with another amount, which does not count": [
        ([CHARGE, PAYMENT], (0, 0), []),
        ([ledger("big", "p", "payment", day(2), 600, bill="B")], (0, 0), [("p", "conflicting_event", None)]),
        ([ledger("big", "p", "payment", day(2), 500, bill="B", revision=2)], (0, 0), []),
        ([ledger("big", "p", "payment", day(2), 400, bill="B")], (0, 0), []),
    ],
    "a refund, and an account that is closed": [
        ([CHARGE, PAYMENT, ledger("big", "f", "refund", day(3), 70)], (70, 0), [("f", "refund_beyond_credit", None)]),
        ([ledger("big", "v", "prepayment", day(3), 100)], (-30, 30), []),
        (
            [account("big", LONG_AGO, closed=day(2), revision=2)],
            None,
            [("v", "closed_account_pays", None)],
        ),
        ([account("big", LONG_AGO, closed=None, revision=3)], (-30, 30), []),
    ],
}  # fmt: skip


def assert_told(bureau, owed, exceptions, *, check=True):
    """check: hold all marts against the oracle, too."""
    assert bureau.query(EXCEPTIONS) == exceptions
    if owed is not None:
        assert bureau.query(OWED) == [owed]
    assert_balanced(bureau)
    if check:
        bureau.check()


@pytest.mark.parametrize("alone", [False, True], ids=["for all", "by account"])
@pytest.mark.parametrize("story", STORIES)
def test_told_to_runs(tmp_path, monkeypatch, story, alone):
    monkeypatch.setattr(pipelines.restate, "MOST_PPM", 10**9 if alone else 0)
    bureau = opened(Bureau(tmp_path / "bureau"))
    rows = 0
    for events, owed, exceptions in STORIES[story]:
        bureau.land_all(events)
        bureau.run()
        assert_told(bureau, owed, exceptions, check=alone)  # where all is made anew the last one will do
        rows += sum(source == "ledger_events" for source, _ in events)
    assert bureau.query("SELECT count(*) FROM accepted_ledger_events") == [(rows,)]
    bureau.land_all(used(4, 4))
    bureau.run()
    *_, (_, owed, exceptions) = STORIES[story]
    assert_told(bureau, owed, exceptions)


@pytest.mark.parametrize("story", STORIES)
def test_told_to_a_stream(tmp_path, story):
    bureau = opened(Bureau(tmp_path / "bureau"))
    epochs = Epochs(bureau)
    for events, _, _ in STORIES[story]:
        bureau.land_all(events)
        epochs.cut()
    epochs.run()
    told = iter(STORIES[story])

    def as_told() -> None:
        _, owed, exceptions = next(told)
        assert_told(bureau, owed, exceptions, check=False)

    epochs.publish(each=True, then=as_told)
    assert list(told) == []
    bureau.check()


def test_an_account_that_becomes_known_is_told_of_then(tmp_path):
    bureau = opened(Bureau(tmp_path / "bureau"))
    bureau.land_all([ledger("new", "f", "refund", day(2), 70), ledger("new", "p", "payment", day(3), 20)])
    bureau.run()
    assert_told(bureau, None, [])
    bureau.land_all([account("new", LONG_AGO), *used(4, 4)])
    bureau.run()
    assert_told(bureau, None, [("f", "refund_beyond_credit", None)])
    bureau.land_all([ledger("new", "q", "payment", day(5), 50), *used(5, 5)])
    bureau.run()
    assert_told(bureau, None, [])


def test_events_come_to_shards_that_have_no_account_yet(tmp_path):
    bureau = Bureau(tmp_path / "bureau")
    bureau.land_all([*reference(["big"]), *used(0, 3, ["big"])])
    bureau.run()
    epochs = Epochs(bureau)
    events = [ledger(f"new-{n}", "f", "refund", day(2), 70) for n in range(20)]
    epochs.take_all([events, [account(f"new-{n}", LONG_AGO) for n in range(20)]], each=True)
    assert_told(bureau, None, [("f", "refund_beyond_credit", None)] * 20)


def test_another_allocation_makes_every_day_again(tmp_path):
    bureau = opened(Bureau(tmp_path / "bureau"))
    bills = [ledger("big", f"c{n}", "charge", day(0), 100, day(n), priority=-n) for n in (1, 2)]
    bureau.land_all([*bills, ledger("big", "p", "payment", day(1), 100)])
    bureau.run()
    assert bureau.query(OWED.replace("unallocated_minor", "bills_on_time_365d")) == [(100, 1)]
    bureau.set_policy(POLICY.replace("versions:", "ledger: {allocation: priority}\nversions:"))
    report = bureau.run()
    assert (report.restated_from, report.days) == (day(0), 4)
    bureau.check()
    overdue = "SELECT overdue_minor FROM features WHERE account_id = 'big' ORDER BY service_date"
    assert bureau.query(overdue) == [(0,), (0,), (100,), (100,)]
    bureau.land_all(used(4, 4))
    bureau.run()
    bureau.check()


def test_a_warehouse_holds_one_currency(tmp_path):
    bureau = opened(Bureau(tmp_path / "bureau"))
    bureau.configure(("currency: CNY", "currency: EUR"))
    with pytest.raises(Exception, match=r"holds amounts in CNY, sources.ledger_events.currency says EUR"):
        bureau.run()


def test_an_item_open_for_years_makes_no_service_days(tmp_path):
    """Told at the start, and told later of a day that nobody could mean; mended after that."""
    bureau = Bureau(tmp_path / "bureau", shards=1)
    bureau.land_all([ledger("big", "c", "charge", day(-3_000), 500, day(-2_990), "B")])
    opened(bureau)
    days = "SELECT min(service_date), count(*) FROM service_days"
    overdue = (
        "SELECT overdue_minor, oldest_overdue_days FROM features WHERE account_id = 'big' ORDER BY service_date LIMIT 1"
    )
    assert (bureau.query(days), bureau.query(overdue)) == ([(day(0), 4)], [(500, 2_990)])
    bureau.land_all([ledger("big", "d", "charge", day(-7_000), 30, day(-6_999), "D")])
    bureau.run()
    assert (bureau.query(days), bureau.query(overdue)) == ([(day(0), 4)], [(530, 6_999)])
    bureau.check()
    bureau.land_all([ledger("big", "d", "charge", day(1), 30, day(2), "D", revision=2)])
    bureau.run()
    assert (bureau.query(days), bureau.query(overdue)) == ([(day(0), 4)], [(530, 6_999)])
    assert bureau.query(overdue.replace("LIMIT", "DESC LIMIT")) == [(530, 2_993)]
    bureau.check()
