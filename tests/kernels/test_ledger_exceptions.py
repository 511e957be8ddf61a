"""Ledger exceptions against the clerk, renewed and from scratch; one story for each reason."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.inbound import MONEY_LIMIT_MINOR
from schemas.ledger import LEDGER_FAULTS
from tests.kernels.test_ledger import ACCOUNTS, POLICIES, SHORT, number, of, on, table, worlds
from tests.oracles.ledger import Event, exceptions
from transforms.kernels.ledger import Ledger
from transforms.kernels.ledger_exceptions import EXCEPTIONS, ledger_exceptions, to_look_at
from transforms.kernels.reference import NEVER

Closed = list[date | None]
closings = st.lists(st.none() | SHORT.map(on), min_size=ACCOUNTS, max_size=ACCOUNTS)


def last_days(closed: Closed) -> np.ndarray:
    return np.array([NEVER if day is None else number(day) for day in closed], np.int32)


def told(found: pa.Table) -> list[tuple]:
    names = ("slot", "event_id", "reason", "named_id", "closed_on")
    return [tuple(row[name] for name in names) for row in found.to_pylist()]


def everything(ledger: Ledger, closed: Closed) -> pa.Table:
    return ledger_exceptions(ledger, np.arange(ledger.n_slots), last_days(closed))


def by_clerk(rows: list[tuple[int, Event]], day: date, closed: Closed, allocation: str) -> list[tuple]:
    return [
        (slot, *row) for slot in range(ACCOUNTS) for row in exceptions(of(slot, rows), day, closed[slot], allocation)
    ]


@settings(max_examples=60)
@given(worlds(SHORT), closings, POLICIES)
def test_as_the_clerk_says_on_every_day(rows, closed, allocation):
    ledger = Ledger(table(rows), ACCOUNTS, allocation=allocation)
    for day in (on(n) for n in range(-1, 10)):
        ledger.advance(number(day))
        assert told(everything(ledger, closed)) == by_clerk(rows, day, closed, allocation)


@settings(max_examples=60)
@given(worlds(SHORT), st.data())
def test_renewed_equals_from_scratch(rows, data):
    """Each process knows some more events, of any date, and other last days; it looks at few accounts, and goes on."""
    known, day, carried, held = 0, -1, None, EXCEPTIONS.empty_table()
    while day < 10:
        known = data.draw(st.integers(known, len(rows)))
        closed = data.draw(closings)
        ledger = Ledger(table(rows[:known]), ACCOUNTS, carried)
        day += data.draw(st.integers(1, 4))
        ledger.advance(number(on(day)))
        some = to_look_at(ledger, held, last_days(closed))
        kept = held.filter(pa.array(~np.isin(held["slot"].to_numpy(), some)))
        held = pa.concat_tables([kept, ledger_exceptions(ledger, some, last_days(closed))]).combine_chunks()
        held = held.sort_by([(name, "ascending") for name in ("slot", "event_id", "reason")])
        assert told(held) == told(everything(ledger, closed))
        carried = ledger.dump()


def test_who_has_no_news_is_not_looked_at():
    """Of three accounts one has a new event, one paid after its last day, which is told already; another last day is news."""
    rows = [(slot, Event("p", "payment", on(slot), 5, bill_id="x")) for slot in range(3)]
    closed = last_days([None, on(0), None])
    before = Ledger.at(table(rows), 3, number(on(2)))
    held = ledger_exceptions(before, np.arange(3), closed)
    ledger = Ledger(table([*rows, (0, Event("c", "charge", on(3), 5, due_date=on(9)))]), 3, before.dump())
    ledger.advance(number(on(3)))
    assert to_look_at(ledger, held, closed).tolist() == [0]
    assert to_look_at(ledger, held, last_days([None, None, None])).tolist() == [0, 1]
    assert to_look_at(ledger, held, last_days([None, on(0), on(1)])).tolist() == [0, 2]


CHARGE = Event("c", "charge", on(0), 5, due_date=on(9), bill_id="B")
PAYMENT = Event("p", "payment", on(1), 5)
STORIES = {
    "reversal_of_unknown": [Event("r", "reversal", on(1), 0, ref_event_id="p"), Event("p", "payment", on(3), 5)],
    "reversal_of_no_credit": [CHARGE, Event("r", "reversal", on(1), 0, ref_event_id="c")],
    "reversal_again": [PAYMENT, *(Event(name, "reversal", on(2), 0, ref_event_id="p") for name in ("q", "r"))],
    "reversal_amount_differs": [PAYMENT, Event("r", "reversal", on(2), 3, ref_event_id="p")],
    "conflicting_event": [Event("r", "payment", on(1), 7), Event("r", "payment", on(1), 6)],
    "bill_unknown": [CHARGE, Event("r", "payment", on(1), 5, bill_id="A")],
    "bill_number_twice": [CHARGE, Event("r", "charge", on(0), 5, due_date=on(9), bill_id="B")],
    "closed_account_pays": [Event("r", "prepayment", on(2), 5)],
    "closed_account_owes": [Event("r", "charge", on(0), 5, due_date=on(1))],
    "refund_beyond_credit": [Event("r", "refund", on(2), 5)],
    "beyond_limit": [*(Event(f"p{n}", "payment", on(1), MONEY_LIMIT_MINOR) for n in range((1 << 15) - 1)),
                     Event("r", "write_off", on(1), MONEY_LIMIT_MINOR)],
}  # fmt: skip


def test_a_closed_account_may_pay_its_last_bill_but_not_more():
    """Closed on day 1: the bill is paid on day 2 and 3, of the second payment 2 are left over, until they are paid back."""
    paid = [
        Event("a", "payment", on(2), 3),
        Event("b", "payment", on(3), 4),
        Event("r", "refund", on(5), 2),
    ]
    ledger = Ledger(table([(0, event) for event in (CHARGE, *paid)]), 1)
    said = {}
    for day in range(6):
        ledger.advance(number(on(day)))
        said[day] = [(row[1], row[2]) for row in told(everything(ledger, [on(1)]))]
    named = [("b", "closed_account_pays")]
    assert list(said.values()) == [[], [], [], named, named, []]


def test_what_a_closed_account_owes_is_told_when_it_is_past_due_and_until_it_is_paid():
    """Closed on day 1; one bill is due on day 2, the other on day 4, and both are paid on day 7. No event tells of a due date."""
    bills = [Event(name, "charge", on(0), 5, due_date=on(due)) for name, due in (("a", 2), ("b", 4))]
    rows, said = [(0, event) for event in (*bills, Event("p", "payment", on(7), 10))], {}
    ledger, held = Ledger(table(rows), 1), EXCEPTIONS.empty_table()
    for day in range(9):
        ledger = Ledger(table(rows), 1, ledger.dump() if day else None)
        ledger.advance(number(on(day)))
        some = to_look_at(ledger, held, last_days([on(1)]))
        if len(some):
            held = ledger_exceptions(ledger, some, last_days([on(1)]))
        said[day] = held["event_id"].to_pylist()
    assert said == {0: [], 1: [], 2: [], 3: ["a"], 4: ["a"], 5: ["a", "b"], 6: ["a", "b"], 7: [], 8: []}


@pytest.mark.parametrize("reason", LEDGER_FAULTS)
def test_one_story_for_each_reason(reason):
    """Event r is at fault on day 2; what ends it, ends it."""
    rows, closed = [(0, event) for event in STORIES[reason]], [on(1) if reason.startswith("closed") else None]
    found = everything(Ledger.at(table(rows), 1, number(on(2))), closed)
    assert found.select(["event_id", "reason"]).to_pylist() == [{"event_id": "r", "reason": reason}]
    cures = {
        "reversal_of_unknown": [], "reversal_again": [Event("q", "reversal", on(3), 0, ref_event_id="x", revision=1)],
        "conflicting_event": [Event("r", "payment", on(3), 7, revision=1)],
        "bill_unknown": [Event("d", "charge", on(3), 5, due_date=on(9), bill_id="A")],
        "refund_beyond_credit": [Event("d", "payment", on(3), 5)],
        "closed_account_owes": [Event("d", "payment", on(3), 5)],
        "reversal_amount_differs": [Event("r", "reversal", on(3), 5, ref_event_id="p", revision=1)],
    }  # fmt: skip
    if reason in cures:
        rows += [(0, event) for event in cures[reason]]
        later = everything(Ledger.at(table(rows), 1, number(on(3))), closed)
        assert "r" not in later["event_id"].to_pylist()
