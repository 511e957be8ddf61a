"""The ledger kernel against the clerk in tests/oracles/ledger.py, and against itself in every other order."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import StateError
from schemas.inbound import LEDGER_EVENTS, MONEY_LIMIT_MINOR
from schemas.marts import FEATURES
from tests.oracles.ledger import Event, allocated, existing, features
from transforms.kernels import ledger as kernel
from transforms.kernels.allocation import ALLOCATIONS, FIFO, NO_BILL, NO_PAYMENT, PRIORITY, UNSETTLED, allocate
from transforms.kernels.credit import credit_features
from transforms.kernels.ledger import Ledger
from transforms.kernels.ledger_events import COLUMNS

START = date(2023, 1, 1)
EPOCH = date(1970, 1, 1)
ACCOUNTS = 2


def on(day: int) -> date:
    return START + timedelta(days=day)


def number(day: date) -> int:
    return (day - EPOCH).days


def table(rows: list[tuple[int, Event]]) -> pa.Table:
    """An events table of (slot, event) rows, in two chunks, as it is read from two files."""
    types = {name: LEDGER_EVENTS[name].type for name in COLUMNS[1:]}
    schema = pa.schema([("slot", pa.int32()), *types.items()])
    records = [{"slot": slot, **{name: getattr(event, name) for name in types}} for slot, event in rows]
    half = len(records) // 2
    return pa.concat_tables(pa.Table.from_pylist(part, schema) for part in (records[:half], records[half:]))


def of(slot: int, rows: list[tuple[int, Event]]) -> list[Event]:
    return [event for other, event in rows if other == slot]


# ------------------------------------------------------------------------------------------------------------ worlds
BILL_IDS, CREDIT_IDS, REVERSAL_IDS = ["c1", "c2", "C10"], ["p1", "p2", "P10", "é"], ["r1", "r2"]
ANY_ID = st.sampled_from([*BILL_IDS, *CREDIT_IDS, *REVERSAL_IDS])
KINDS = st.sampled_from([
    ("charge", BILL_IDS), ("charge", BILL_IDS), ("payment", CREDIT_IDS), ("payment", CREDIT_IDS),
    ("write_off", CREDIT_IDS), ("adjustment", BILL_IDS), ("adjustment", CREDIT_IDS), ("reversal", REVERSAL_IDS),
    ("refund", BILL_IDS), ("prepayment", CREDIT_IDS),
])  # fmt: skip
NUMBERS = st.sampled_from([None, "", "b1", "b2", "c1", "c2", "unknown"])
SHORT = st.integers(0, 8)
LONG = st.one_of(SHORT, st.integers(0, 480))
MONEY = st.one_of(st.integers(1, 6), st.sampled_from([100, MONEY_LIMIT_MINOR]))


@st.composite
def events(draw, days):
    kind, usual_ids = draw(KINDS)
    wild = draw(st.integers(0, 5)) == 5  # now and then, versions of one event are of different kinds
    day, amount = draw(days), draw(MONEY)
    return Event(
        event_id=draw(ANY_ID if wild else st.sampled_from(usual_ids)),
        event_type=kind,
        event_date=on(day),
        amount_minor=draw(st.sampled_from([amount, -amount, 0])) if kind == "adjustment" else amount,
        due_date=on(draw(st.sampled_from([5, day - 2, day + 1, day + 9])))
        if kind == "charge"
        else draw(st.sampled_from([None, on(day + 1), on(day + 40)])),
        bill_id=draw(NUMBERS),
        ref_event_id=draw(ANY_ID if wild else st.sampled_from(CREDIT_IDS)) if kind == "reversal" else None,
        revision=draw(st.integers(0, 1)),
        priority=draw(st.sampled_from([None, 0, 1, -1, 10])),
    )


def worlds(days, max_size=32):
    """Sparse worlds, and (where they fit) dense ones, in which most rules meet."""
    row = st.tuples(st.integers(0, ACCOUNTS - 1), events(days))
    sparse = st.lists(row, max_size=8)
    return st.one_of(sparse, st.lists(row, min_size=16, max_size=max_size)) if max_size > 16 else sparse


def telling_days(rows: list[tuple[int, Event]]) -> list[date]:
    """Every day of the short world, and the days on which a window or an age opens or closes."""
    days = {on(day) for day in range(-1, 12)}
    for _, event in rows:
        due = event.due_date or event.event_date
        days |= {event.event_date, *(due + timedelta(days=n) for n in (0, 1, 30, 31, 60, 61, 90, 91, 365, 366))}
        days |= {event.event_date + timedelta(days=n) for n in (364, 365)}
    return sorted(days)


def state(ledger: Ledger) -> tuple[list, ...]:
    rows = (ledger.open_minor, ledger.settled_on, ledger.next_paid_on)
    return ledger.day, *(column.tolist() for column in (*rows, ledger.unallocated_minor))


def columns(ledger: Ledger) -> dict[str, list]:
    return {name: values.tolist() for name, values in credit_features(ledger).items()}


def assert_as_oracle(ledger: Ledger, rows: list[tuple[int, Event]], day: date) -> None:
    expected = [features(of(slot, rows), day, ledger.allocation) for slot in range(ledger.n_slots)]
    assert columns(ledger) == {name: [one[name] for one in expected] for name in expected[0]}
    for slot in range(ledger.n_slots):
        bills, _ = allocated(of(slot, rows), day, ledger.allocation)
        for refund, kept in ((False, ledger.is_bill), (True, ledger.is_refund)):
            mine = (ledger.slot == slot) & kept
            found = zip(ledger.due_on[mine], ledger.open_minor[mine], ledger.settled_on[mine], strict=True)
            some = [bill for bill in bills if bill.refund == refund]
            wanted = [(number(b.due), b.open, number(b.settled_on) if b.settled_on else UNSETTLED) for b in some]
            assert sorted(found) == sorted(wanted)


# -------------------------------------------------------------------------------------------------------------- laws
POLICIES = st.sampled_from(ALLOCATIONS)


@settings(max_examples=30)
@given(worlds(SHORT), POLICIES)
def test_day_by_day_equals_from_scratch_equals_the_oracle(rows, allocation):
    events = table(rows)
    walking = Ledger(events, ACCOUNTS, allocation=allocation)
    for day in (on(n) for n in range(-1, 10)):
        walking.advance(number(day))
        assert state(walking) == state(Ledger.at(events, ACCOUNTS, number(day), allocation))
        assert_as_oracle(walking, rows, day)


@settings(max_examples=30)
@given(worlds(LONG, max_size=8))
def test_windows_and_ages_open_and_close_on_the_day(rows):
    walking = Ledger(table(rows), ACCOUNTS)
    for day in telling_days(rows):
        walking.advance(number(day))
        assert_as_oracle(walking, rows, day)


@settings(max_examples=30)
@given(worlds(SHORT), POLICIES, st.data())
def test_order_of_arrival_changes_nothing(rows, allocation, data):
    shuffled = data.draw(st.permutations(rows))
    day = number(on(data.draw(SHORT)))
    found, again = (Ledger.at(table(some), ACCOUNTS, day, allocation) for some in (rows, shuffled))
    assert columns(found) == columns(again)


@settings(max_examples=30)
@given(worlds(SHORT), st.data())
def test_carried_over_between_processes_with_late_events(rows, data):
    """Each process knows some more events, of any date, starts from what the last one left, and walks some days."""
    known, day, carried = 0, -1, None
    while known < len(rows) or day < 10:
        known = data.draw(st.integers(known, len(rows)))
        ledger = Ledger(table(rows[:known]), ACCOUNTS, carried)
        if carried is not None:
            assert state(ledger) == state(Ledger.at(table(rows[:known]), ACCOUNTS, number(on(day))))
        day += data.draw(st.integers(1, 4))
        ledger.advance(number(on(day)))
        assert_as_oracle(ledger, rows[:known], on(day))
        carried = ledger.dump(rebase=data.draw(st.booleans()))
        again = Ledger(table(rows[:known]), ACCOUNTS, carried)
        assert state(again) == state(ledger)
        if day > 10:
            known = len(rows)


@settings(max_examples=60)
@given(worlds(SHORT), POLICIES)
def test_the_books_balance(rows, allocation):
    """On every day, to the minor unit: debits - allocated = open, and credits = allocated + left over; by hand, of each kind."""
    for day in (on(n) for n in range(-1, 10)):
        past = [(slot, event) for slot, event in rows if event.event_date <= day]
        ledger = Ledger.at(table(rows), ACCOUNTS, number(day), allocation)
        result = allocate(table(past), ACCOUNTS, allocation)
        for slot in range(ACCOUNTS):
            counting = existing(of(slot, past), day)
            gone = {e.ref_event_id for e in counting if e.event_type == "reversal"}

            def worth(*kinds, sign=1, some=counting):
                return sum(max(0, sign * e.amount_minor) for e in some if e.event_type in kinds)

            standing = [e for e in counting if e.event_id not in gone]
            billed = worth("charge") + worth("adjustment")
            refunded = worth("refund")
            credited = worth("payment", "prepayment", "write_off", some=standing)
            credited += worth("adjustment", sign=-1, some=standing)
            mine = ledger.slot == slot
            open_bills = int(ledger.open_minor[mine & ledger.is_bill].sum())
            open_refunds = int(ledger.open_minor[mine & ledger.is_refund].sum())
            left = int(ledger.unallocated_minor[slot])
            allocated_to_bills, allocated_to_refunds = billed - open_bills, refunded - open_refunds
            assert credited == allocated_to_bills + allocated_to_refunds + left
            assert left == 0 or open_bills + open_refunds == 0, "nothing is owed where something is left"
            assert result.balance_minor[slot] == open_bills + open_refunds - left == billed + refunded - credited
            assert min(allocated_to_bills, allocated_to_refunds, open_bills, open_refunds, left) >= 0


@settings(max_examples=20)
@given(worlds(SHORT), st.integers(1, 3))
def test_blocks_of_accounts_change_nothing(rows, size):
    whole = Ledger.at(table(rows), ACCOUNTS, number(on(8)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "_BLOCK_ACCOUNTS", size)
        assert state(Ledger.at(table(rows), ACCOUNTS, number(on(8)))) == state(whole)


def test_the_worlds_meet_every_rule():
    """The laws above are worth something only if these cases occur in the worlds they are tried on."""
    seen = dict.fromkeys(("reversed", "paid as directed", "left over", "tie", "two portions", "unknown bill"), 0)

    @settings(max_examples=90, derandomize=True)
    @given(worlds(SHORT))
    def count(rows):
        for slot in range(ACCOUNTS):
            mine = of(slot, rows)
            bills, paying = allocated(mine, on(8))
            counting = existing(mine, on(8))
            numbers = {bill.number for bill in bills}
            refs = {e.ref_event_id for e in counting if e.event_type == "reversal"}
            directed = [credit for credit in paying if credit.bill_number in numbers]
            seen["reversed"] += any(e.event_id in refs and e.event_type == "payment" for e in counting)
            seen["paid as directed"] += any(credit.left < credit.amount for credit in directed)
            seen["left over"] += any(0 < credit.left < credit.amount for credit in directed)
            seen["tie"] += len({(e.event_id, e.revision) for e in mine}) < len(set(mine))
            seen["two portions"] += any(len(bill.portions) > 1 for bill in bills)
            seen["unknown bill"] += any(c.bill_number and c.bill_number not in numbers for c in paying)

    count()
    assert all(times >= 3 for times in seen.values()), seen


# ------------------------------------------------------------------------------------------------- by hand, and edges
STORY = [
    # January's bill is settled by the payment of 20 February, ten days late. The payment of 5 March pays the bill it
    # names, B3, though B2 is older; what is left of it, 50, goes to B2. The transfer of 9 March bounces on the 12th.
    Event("c1", "charge", date(2024, 1, 20), 300, due_date=date(2024, 2, 10), bill_id="B1"),
    Event("p1", "payment", date(2024, 2, 20), 300),
    Event("c2", "charge", date(2024, 2, 20), 200, due_date=date(2024, 3, 10), bill_id="B2"),
    Event("c3", "charge", date(2024, 3, 1), 100, due_date=date(2024, 3, 20), bill_id="B3"),
    Event("p2", "payment", date(2024, 3, 5), 150, bill_id="B3"),
    Event("p3", "payment", date(2024, 3, 9), 400),
    Event("r1", "reversal", date(2024, 3, 12), 400, ref_event_id="p3"),
]


@pytest.mark.parametrize(
    ("day", "open_by_bill", "expected"),
    [
        # 300 owed, 8 days late and counting
        (date(2024, 2, 18), [300], (300, 300, 0, 0, 0, 8, 8000)),
        # B3 paid ahead of B2; B1 was ten days late
        (date(2024, 3, 6), [0, 150, 0], (150, 0, 0, 0, 0, 10, 10000)),
        # the transfer of 400 settles B2 in time and leaves 250 over: the account is in credit
        (date(2024, 3, 11), [0, 0, 0], (-250, 0, 250, 1, 500000, 10, 5000)),
        # it bounced: B2 is open again, with 150, and 2 days late
        (date(2024, 3, 12), [0, 150, 0], (150, 150, 0, 0, 0, 12, 6000)),
        # B3 has fallen due and was paid in time: one of three; 10 + 11 + 0 days
        (date(2024, 3, 21), [0, 150, 0], (150, 150, 0, 1, 333333, 21, 7000)),
    ],
)
def test_worked_example(day, open_by_bill, expected):
    ledger = Ledger.at(table([(0, event) for event in STORY]), 1, number(day))
    assert ledger.open_minor[ledger.settled_on != NO_BILL].tolist() == open_by_bill
    names = (
        "balance_minor", "overdue_1_30_minor", "unallocated_minor", "bills_on_time_365d", "on_time_365d_ppm",
        "beyond_terms_365d_days", "mean_beyond_terms_365d_milli",
    )  # fmt: skip
    assert {name: columns(ledger)[name] for name in names} == {
        name: [value] for name, value in zip(names, expected, strict=True)
    }


def test_equal_versions_are_settled_by_their_text():
    """Of 9 and 10 under one revision 10 counts, as text; a higher revision counts from its own date on."""
    rows = [
        (0, Event("a", "adjustment", on(0), 9)),
        (0, Event("a", "adjustment", on(0), 10)),
        (0, Event("a", "adjustment", on(3), 7, revision=1)),
    ]
    balances = [columns(Ledger.at(table(rows), 1, number(on(day))))["balance_minor"] for day in (0, 2, 3)]
    assert balances == [[10], [10], [7]]


@pytest.mark.parametrize("order", [1, -1])
def test_equal_versions_that_differ_in_what_they_name(order):
    """Of two payments p, the one to b1 counts; of two reversals r, the one of p."""
    bills = [(0, Event(f"c{n}", "charge", on(0), 5, due_date=on(9 - n), bill_id=f"b{n}")) for n in (1, 2)]
    payments = [(0, Event("p", "payment", on(1), 5, bill_id=bill)) for bill in ("b1", "b2")][::order]
    reversals = [(0, Event("r", "reversal", on(2), 5, ref_event_id=name)) for name in ("p", "q")][::order]
    events = table(bills + payments + reversals)
    assert Ledger.at(events, 1, number(on(1))).open_minor[:2].tolist() == [0, 5]
    assert Ledger.at(events, 1, number(on(2))).open_minor[:2].tolist() == [5, 5]


def test_a_refund_takes_from_credit_and_what_credit_does_not_cover_stays_owed():
    """100 too much was paid, and 130 given back: 30 are owed since, by no bill, until the next payment."""
    rows = [
        (0, Event("c", "charge", on(0), 300, due_date=on(9), bill_id="B")),
        (0, Event("p", "payment", on(1), 400, bill_id="B")),
        (0, Event("r", "refund", on(2), 130)),
        (0, Event("q", "prepayment", on(5), 50, bill_id="B")),
    ]
    days = {day: Ledger.at(table(rows), 1, number(on(day))) for day in (1, 2, 4, 5)}
    names = ("balance_minor", "unallocated_minor", "overdue_1_30_minor", "billed_365d_minor")
    assert {day: tuple(columns(ledger)[name][0] for name in names) for day, ledger in days.items()} == {
        1: (-100, 100, 0, 300), 2: (30, 0, 0, 300), 4: (30, 0, 30, 300), 5: (-20, 20, 0, 300),
    }  # fmt: skip
    assert days[4].is_bill.tolist() == [True, False, False, False]
    assert days[4].is_refund.tolist() == [False, False, True, False]
    assert days[5].settled_on.tolist() == [number(on(1)), NO_BILL, number(on(5)), NO_BILL]


def test_a_refund_goes_before_bills_that_are_due_later():
    rows = [
        (0, Event("c", "charge", on(0), 300, due_date=on(9))),
        (0, Event("p", "payment", on(1), 300)),
        (0, Event("r", "refund", on(2), 300)),
    ]
    assert Ledger.at(table(rows), 1, number(on(2))).open_minor.tolist() == [300, 0, 0]


@pytest.mark.parametrize(("allocation", "open_minor"), [(FIFO, [4, 5, 5, 0]), (PRIORITY, [5, 0, 4, 5])])
def test_by_priority_the_smaller_number_is_served_first(allocation, open_minor):
    """6 are left for four bills of 5, the last of which is the first due; the directed payment goes to its bill in both."""
    rows = [
        (0, Event("a", "charge", on(0), 5, due_date=on(1), priority=2)),
        (0, Event("b", "charge", on(0), 5, due_date=on(2), priority=-1)),
        (0, Event("c", "charge", on(0), 5, due_date=on(3))),
        (0, Event("d", "charge", on(0), 10, due_date=on(0), bill_id="D", priority=9)),
        (0, Event("p", "payment", on(1), 5, bill_id="D")),
        (0, Event("q", "payment", on(1), 6)),
    ]
    assert Ledger.at(table(rows), 1, number(on(1)), allocation).open_minor[:4].tolist() == open_minor


def test_two_bills_of_one_number_the_earlier_due_is_paid():
    rows = [
        (0, Event("x", "charge", on(0), 5, due_date=on(9), bill_id="B")),
        (0, Event("y", "charge", on(0), 5, due_date=on(8), bill_id="B")),
        (0, Event("p", "payment", on(1), 5, bill_id="B")),
    ]
    ledger = Ledger.at(table(rows), 1, number(on(1)))
    assert ledger.open_minor.tolist() == [5, 0, 0]
    assert ledger.settled_on.tolist() == [UNSETTLED, number(on(1)), NO_BILL]


def test_bills_due_on_one_day_are_paid_by_number_then_event_id():
    rows = [
        (0, Event("c3", "charge", on(0), 5, due_date=on(9), bill_id="B1")),
        (0, Event("c1", "charge", on(0), 5, due_date=on(9), bill_id="B2")),
        (0, Event("c2", "charge", on(0), 5, due_date=on(9), bill_id="B1")),
        (0, Event("p", "payment", on(1), 8)),
    ]
    assert Ledger.at(table(rows), 1, number(on(1))).open_minor.tolist() == [2, 5, 0, 0]


def test_nothing_known_is_zeros_and_nulls():
    found = columns(Ledger.at(table([]), 2, number(START)))
    assert found == {name: [None if FEATURES[name].nullable else 0] * 2 for name in found}
    assert columns(Ledger.at(table([]), 0, number(START)))["balance_minor"] == []


def test_event_types_may_be_dictionary_encoded():
    plain = table([(0, event) for event in STORY])
    at = plain.schema.get_field_index("event_type")
    encoded = plain.set_column(at, "event_type", plain["event_type"].dictionary_encode())
    day = number(date(2024, 3, 12))
    assert columns(Ledger.at(encoded, 1, day)) == columns(Ledger.at(plain, 1, day))


def test_only_touched_accounts_are_allocated():
    rows = [(slot, Event("c", "charge", on(slot), 5, due_date=on(9))) for slot in range(3)]
    ledger = Ledger(table(rows), 3)
    assert [ledger.advance(number(on(day))) for day in (0, 0, 1, 2, 3)] == [1, 0, 1, 1, 0]
    assert ledger.advance(number(on(4)), touched=[0, 2]) == 2


def test_dump_writes_only_what_changed():
    rows = [(slot, Event("c", "charge", on(slot), 5, due_date=on(9))) for slot in range(3)]
    events = table(rows)
    writer = Ledger.at(events, 3, number(on(0)))
    first = writer.dump(rebase=True)
    assert (len(first.base), first.changed_rows) == (3, 0)
    writer.advance(number(on(2)))
    ledger = Ledger(events, 3, first)
    ledger.advance(number(on(1)))
    second = ledger.dump()
    assert second.base is first.base
    assert [batch.to_pydict() for batch in second.changes] == [
        {"ordinal": [1], "open_minor": [5], "settled_on": [UNSETTLED], "next_paid_on": [NO_PAYMENT]}
    ]
    ledger.advance(number(on(2)))
    assert first.base["open_minor"].to_pylist() == [5, 0, 0], "what was dumped does not change any more"


# -------------------------------------------------------------------------------------------------------------- faults
def test_going_back_is_refused():
    ledger = Ledger.at(table([]), 1, number(on(3)))
    with pytest.raises(ValueError, match=r"build it anew"):
        ledger.advance(number(on(2)))


def test_state_of_another_log_is_refused():
    carried = Ledger.at(table([(0, event) for event in STORY]), 1, number(START)).dump()
    with pytest.raises(StateError, match=r"covers 7 events and 1 accounts, but there are 0 and 1"):
        Ledger(table([]), 1, carried)


def test_of_one_account_events_count_up_to_what_int64_holds():
    """2^15 payments of 2^48 reach 2^63: the last of them does not count, whatever its place in the table."""
    payments = [(0, Event(f"p{i:05d}", "payment", on(i % 2), MONEY_LIMIT_MINOR)) for i in range(1 << 15)]
    other = [(1, Event("p", "payment", on(0), 7)), (1, Event("r", "refund", on(1), 9))]
    ledger = Ledger.at(table([*payments[::-1], *other]), 2, number(on(1)))
    assert ledger.unallocated_minor.tolist() == [(1 << 63) - (1 << 48), 0]
    assert columns(ledger)["balance_minor"] == [-((1 << 63) - (1 << 48)), 2]
    rows = [
        *payments,
        (0, Event("c", "charge", on(0), 5, due_date=on(0))),
        (0, Event("r", "reversal", on(1), 0, None, None, "p00000")),
    ]
    assert_as_oracle(Ledger.at(table(rows), 1, number(on(1))), rows, on(1))


def test_blocks_are_split_where_their_accounts_together_pass_int64():
    rows = [(slot, Event(f"p{i}", "payment", on(0), MONEY_LIMIT_MINOR)) for slot in range(5) for i in range(1 << 13)]
    ledger = Ledger.at(table(rows), 5, number(on(0)))
    assert ledger.unallocated_minor.tolist() == [1 << 61] * 5
    with pytest.raises(OverflowError, match="count them apart"):
        allocate(table(rows), 5)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event("x", "charge", on(0), 5), r"'x' is a charge without a due date"),
        (Event("x", "payment", on(0), -5), r"'x' must have a positive amount"),
        (Event("x", "charge", on(0), 0, due_date=on(1)), r"'x' must have a positive amount"),
        (Event("x", "refund", on(0), -5), r"'x' must have a positive amount"),
        (Event("x", "gift", on(0), 5), r"event types must be of"),
    ],
)
def test_what_intake_should_have_rejected_is_refused(event, message):
    with pytest.raises(ValueError, match=message):
        Ledger.at(table([(0, event)]), 1, number(on(0)))


def test_slots_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"slots run from 4 to 4, not within 0 \.\. 2"):
        Ledger(table([(4, STORY[0])]), 3)
