"""What may go out of a ledger: what stays, and what comes later, is allocated as by a ledger of all events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_credit import orderly
from tests.kernels.test_ledger import ACCOUNTS, LONG, POLICIES, SHORT, columns, number, on, table, worlds
from tests.oracles.ledger import Event
from transforms.kernels.allocation import FIFO, NO_BILL, UNSETTLED
from transforms.kernels.closed import REACH, close, missing, paid_days, recalls, shut_slots, superseded
from transforms.kernels.credit import Credit
from transforms.kernels.ledger import Ledger
from transforms.kernels.ledger_exceptions import ledger_exceptions
from transforms.kernels.reference import NEVER

EVERYBODY = np.ones(ACCOUNTS, np.bool_)


class Shelf:
    """A ledger that is closed now and then, and all that ever came."""

    def __init__(self, allocation: str) -> None:
        self.allocation, self.day = allocation, NO_BILL
        self.every = self.kept = table([])
        self.names = np.zeros(0, np.uint64)
        self.ended = np.full(ACCOUNTS, NEVER, np.int32)

    def add(self, rows: list[tuple[int, Event]]) -> None:
        """Take in events, and back what they need."""
        new = table(rows).combine_chunks()
        shut = shut_slots(self.kept, ACCOUNTS)
        asking = new["slot"].to_numpy()[recalls(new, shut, self.day, self.names)]
        ended = np.flatnonzero(shut & (self.ended < paid_days(self.kept, ACCOUNTS)))
        slots = np.union1d(asking, ended)
        mine = self.every.filter(pa.array(np.isin(self.every["slot"].to_numpy(), slots)))
        back = mine.filter(pa.array(missing(mine, self.kept)))
        self.kept = pa.concat_tables([self.kept, back, superseded(self.kept, slots), new]).combine_chunks()
        self.every = pa.concat_tables([self.every, new]).combine_chunks()

    def close(self, day: int) -> int:
        """Let go of what was settled before a day. Returns how many rows went."""
        closing = close(self.kept, ACCOUNTS, day, self.allocation, EVERYBODY, self.ended)
        self.kept = pa.concat_tables([closing.opening, self.kept.filter(pa.array(~closing.gone))]).combine_chunks()
        self.names, self.day = np.union1d(self.names, closing.names), day
        return int(closing.gone.sum()) - closing.opening.num_rows

    def assert_as_all(self, day: int) -> None:
        """What stays is open, and left over, as of a day; and figures, once they do not look back before the closing."""
        some, every = (Ledger.at(t, ACCOUNTS, day, self.allocation) for t in (self.kept, self.every))
        assert some.unallocated_minor.tolist() == every.unallocated_minor.tolist()
        assert standing(some, self.day) == [row for row in standing(every, self.day) if row[:2] in ids(self.kept)]
        found = (ledger_exceptions(ledger, np.arange(ACCOUNTS), self.ended).to_pylist() for ledger in (some, every))
        assert next(found) == next(found)
        if day >= self.day + REACH:
            assert columns(some) == columns(every)


def ids(events: pa.Table) -> set:
    return set(zip(events["slot"].to_pylist(), events["event_id"].to_pylist(), strict=True))


def standing(ledger: Ledger, day: int) -> list:
    """The debits, and how they stand; of those settled before a day not when."""
    names, due = ledger.events["event_id"].to_pylist(), ledger.due_on
    rows = np.flatnonzero(ledger.settled_on != NO_BILL)
    settled = [UNSETTLED if s == UNSETTLED else max(int(s), day - 1) for s in ledger.settled_on[rows]]
    found = [(int(ledger.slot[r]), names[r], int(due[r]), int(ledger.open_minor[r])) for r in rows]
    return sorted({(*row, when) for row, when in zip(found, settled, strict=True)})


def rounds(last):
    """What comes in portions: up to which row, on which day, whether the ledger is closed then, and when the accounts ended."""
    ended = st.one_of(st.just(NEVER), st.just(NEVER), st.integers(number(on(0)), number(on(last))))
    return st.lists(st.tuples(st.integers(0, 32), st.integers(0, last), st.booleans(), ended), max_size=5)


def check(rows, allocation, portions):
    """Events come in portions, each of any date; the ledger is closed now and then; every day is as by all events."""
    shelf, known = Shelf(allocation), 0
    for more, day, closes, ended in [*portions, (32, 0, False, NEVER)]:
        shelf.ended[:] = ended
        shelf.add(rows[known : max(known, more)])
        known = max(known, more)
        if closes:
            shelf.close(max(shelf.day, number(on(day))))
        for after in (0, 1, 3, REACH - 1, REACH, REACH + 1, REACH + 30):
            shelf.assert_as_all(max(shelf.day, number(on(0))) + after)


@settings(max_examples=30, deadline=None)
@given(worlds(SHORT), POLICIES, rounds(12))
def test_a_dense_ledger_that_is_closed_is_as_all_events(rows, allocation, portions):
    check(rows, allocation, portions)


@settings(max_examples=30, deadline=None)
@given(worlds(LONG, max_size=12), POLICIES, rounds(500))
def test_a_sparse_ledger_that_is_closed_is_as_all_events(rows, allocation, portions):
    check(rows, allocation, portions)


@settings(max_examples=30, deadline=None)
@given(orderly(), POLICIES, rounds(16))
def test_an_orderly_ledger_that_is_closed_is_as_all_events(rows, allocation, portions):
    check(rows, allocation, portions)


@settings(max_examples=15, deadline=None)
@given(orderly(), st.integers(0, 14), st.data())
def test_a_closed_ledger_is_carried_on_from_day_to_day(rows, at, data):
    """Closed at a day, walked on from where figures hold, with events that come late on the way."""
    shelf, known = Shelf(FIFO), data.draw(st.integers(0, len(rows)))
    shelf.add(rows[:known])
    shelf.close(number(on(at)))
    day, carried = number(on(at)) + REACH, None
    for more in (known, data.draw(st.integers(known, len(rows))), len(rows)):
        shelf.add(rows[known:more])
        known = more
        credit = Credit(Ledger(shelf.kept, ACCOUNTS, carried and carried[0]), carried=carried and carried[1])
        for _ in range(3):
            day += 1
            credit.advance(day)
            shown = {name: values.tolist() for name, values in credit.columns().items()}
            assert shown == columns(Ledger.at(shelf.every, ACCOUNTS, day))
        carried = credit.ledger.dump(), credit.to_batch()


BILL, PAID = Event("c", "charge", on(0), 9, on(2), "B"), Event("p", "payment", on(1), 9, bill_id="B")
NEXT, LAST = Event("d", "charge", on(0), 5, on(3), "D"), Event("q", "payment", on(2), 5)


@pytest.mark.parametrize(
    ("events", "gone", "left"),
    [
        pytest.param([BILL, PAID, NEXT, LAST], "cp", 0, id="the latest payment stays, and what it pays"),
        pytest.param([BILL, PAID], "", 0, id="there is but one"),
        pytest.param([BILL, replace(PAID, bill_id=None, amount_minor=30), LAST, NEXT], "cdp", 16, id="more than enough"),
        pytest.param([BILL, replace(PAID, amount_minor=8), LAST], "", 0, id="open then"),
        pytest.param([BILL, PAID, LAST, replace(BILL, revision=1, event_date=on(1))], "ccp", 0, id="with all versions"),
        pytest.param([BILL, PAID, LAST, replace(BILL, revision=1, event_date=on(9))], "", 0, id="a later version"),
        pytest.param([BILL, PAID, LAST, Event("r", "reversal", on(9), 1, ref_event_id="p")], "", 0, id="taken back later"),
        pytest.param([BILL, replace(PAID, bill_id="X"), LAST], "", 0, id="an unknown bill"),
        pytest.param(
            [BILL, Event("o", "payment", on(1), 9), Event("r", "reversal", on(2), 9, ref_event_id="o"), PAID, LAST], "copr",
            0, id="taken back before",
        ),
    ],
)  # fmt: skip
def test_what_goes(events, gone, left):
    shelf = Shelf(FIFO)
    shelf.add([(1, event) for event in events])
    shelf.close(number(on(5)))
    kept = [name for _, name in ids(shelf.kept) if name]
    assert sorted(e.event_id for e in events if e.event_id not in kept) == sorted(gone)
    assert [row["amount_minor"] for row in shelf.kept.to_pylist() if not row["event_id"]] == ([-left] if gone else [])
