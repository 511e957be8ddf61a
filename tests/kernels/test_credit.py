"""Credit carried on from day to day against credit from scratch, and against the clerk in tests/oracles/ledger.py."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.credit import CREDIT
from schemas.inbound import MONEY_LIMIT_MINOR
from schemas.marts import FEATURES
from tests.kernels.test_ledger import (
    ACCOUNTS,
    LONG,
    POLICIES,
    SHORT,
    START,
    STORY,
    assert_as_oracle,
    columns,
    number,
    of,
    on,
    state,
    table,
    worlds,
)
from tests.oracles.ledger import WEIGHTS, Event, features
from transforms.kernels.allocation import ALLOCATIONS, FIFO, PRIORITY
from transforms.kernels.by_day import ByDay
from transforms.kernels.credit import Credit, credit_features
from transforms.kernels.ledger import Ledger

ALIKE = [1 << 20] * len(WEIGHTS)


def shown(credit: Credit) -> dict[str, list]:
    return {name: values.tolist() for name, values in credit.columns().items()}


def telling_days(rows: list[tuple[int, Event]]) -> set[date]:
    """The days on which something changes without an event, and those before them."""
    days = set()
    for _, event in rows:
        due = event.due_date or event.event_date
        days |= {due + timedelta(days=n) for n in (1, 31, 61, 91, 366, *range(30, 366, 30))}
        days |= {event.event_date + timedelta(days=n) for n in (0, 90, 365)}
    days |= {(day.replace(day=1) + timedelta(days=31)).replace(day=1) for day in days}
    return days | {day - timedelta(days=1) for day in days}


def bill(name: str, day: int, amount: int, due: int) -> Event:
    return Event(f"c{name}", "charge", on(day), amount, due_date=on(due), bill_id=f"b{name}")


def paid(name: str, day: int, amount: int, to: str | None = None) -> Event:
    return Event(name, "payment", on(day), amount, bill_id=to)


def dumped(credit: Credit, rebase: bool) -> tuple:
    return credit.ledger.dump(rebase=rebase), credit.to_batch()


# -------------------------------------------------------------------------------------------------------------- laws
@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(worlds(LONG, max_size=8))
def test_every_day_carried_on_equals_from_scratch_equals_the_oracle(rows):
    events, told = table(rows), telling_days(rows)
    credit = Credit(Ledger(events, ACCOUNTS))
    for day in (on(n) for n in range(-1, 480 + 13 * 31)):
        credit.advance(number(day))
        assert shown(credit) == columns(credit.ledger), day
        if day in told:
            assert_as_oracle(credit.ledger, rows, day)


def test_quiet_days_pass_every_edge():
    """A fortnight of events, then thirteen months without any: every window closes, every month ends, one bill stays open."""
    rows = [
        *(
            (0, event)
            for event in (bill("1", 0, 10, 3), paid("p", 2, 10), bill("2", 4, 7, 6), paid("q", 5, 2), paid("r", 9, 5))
        ),
        *((0, event) for event in (bill("3", 10, 4, 13), paid("s", 11, 4), bill("4", 12, 6, 20), paid("t", 13, 1))),
        *((1, event) for event in (bill("1", 0, 10, 3), bill("2", 2, 5, 4), paid("p", 5, 12), bill("3", 6, 9, 9))),
        (1, Event("b", "reversal", on(8), 12, ref_event_id="p")),
        (1, paid("q", 9, 24)),
    ]
    events = table(rows)
    credit = Credit(Ledger(events, ACCOUNTS))
    for day in range(-1, 420):
        credit.advance(number(on(day)))
        assert shown(credit) == columns(Ledger.at(events, ACCOUNTS, number(on(day)))), day


@settings(max_examples=40, deadline=None)
@given(worlds(LONG, max_size=20), POLICIES, st.data())
def test_as_of_the_clock_the_events_of_the_day_do_not_exist(rows, allocation, data):
    """Between `turn` and `take_in` a ledger is that of the events of before the day, carried on to the day or begun on it."""
    events, at = table(rows), on(data.draw(st.sampled_from([-1, 0, 3, 29, 120, 365])))
    credit = Credit(Ledger(events, ACCOUNTS, allocation=allocation))
    for _ in range(data.draw(st.sampled_from([1, 12, 130]))):
        credit.turn(number(at))
        before = [(slot, event) for slot, event in rows if event.event_date < at]
        wanted = [features(of(slot, before), at, allocation) for slot in range(ACCOUNTS)]
        assert shown(credit) == {name: [one[name] for one in wanted] for name in wanted[0]}, at
        credit.take_in()
        assert shown(credit) == columns(credit.ledger), at
        at += timedelta(days=data.draw(st.sampled_from([1, 1, 1, 1, 7])))


def test_the_clock_of_one_day_by_hand():
    """A bill of day 0 falls due on day 9 and is paid on day 10, on which another one comes."""
    rows = [(0, bill("1", 0, 100, due=9)), (0, paid("p", 10, 100)), (0, bill("2", 10, 70, due=20))]
    credit = Credit(Ledger(table(rows), 1))
    credit.advance(number(on(9)))
    credit.turn(number(on(10)))
    names = ("overdue_minor", "oldest_overdue_days", "billed_365d_minor", "payments_365d", "bills_on_time_365d")
    assert [credit.columns(names)[name].tolist() for name in names] == [[100], [1], [100], [0], [0]]
    credit.take_in()
    assert [credit.columns()[name].tolist() for name in names] == [[0], [0], [170], [1], [0]]


@settings(max_examples=8, deadline=None)
@given(worlds(SHORT), st.data())
def test_a_dense_ledger_is_carried_on_through_its_edges(rows, data):
    credit = Credit(Ledger(table(rows), ACCOUNTS))
    for day in (on(n) for n in range(-1, data.draw(st.sampled_from([12, 110, 400])))):
        credit.advance(number(day))
        if day in telling_days(rows):
            assert shown(credit) == columns(credit.ledger), day


@settings(max_examples=30, deadline=None)
@given(worlds(LONG, max_size=12), POLICIES, st.data())
def test_carried_over_between_processes_with_late_events(rows, allocation, data):
    """Each process knows some more events, of any date, and walks some days from where the last one left off."""
    known, day, left = 0, -1, None
    for _ in range(6):
        known = data.draw(st.integers(known, len(rows)))
        events = table(rows[:known])
        credit = Credit(Ledger(events, ACCOUNTS, left and left[0], allocation), carried=left and left[1])
        if left:
            assert shown(credit) == columns(Ledger.at(events, ACCOUNTS, number(on(day)), allocation))
        for _ in range(data.draw(st.sampled_from([1, 2, 40]))):
            day += 1
            credit.advance(number(on(day)))
        assert shown(credit) == columns(Ledger.at(events, ACCOUNTS, number(on(day)), allocation))
        left = dumped(credit, data.draw(st.booleans()))


@st.composite
def orderly(draw, days=14):
    """Accounts as most are, day by day: bills due one after the other, payments of what is open, now and then what is not plain."""
    rows, numbers = [], st.integers(1, 9)
    for day in range(days):
        for slot in range(ACCOUNTS):
            name, kind = f"{day}", draw(st.sampled_from(["charge", "payment", "pooled", "other", "none", "none"]))
            if kind == "charge":
                number = draw(st.sampled_from([None, f"b{day}", f"b{day}", f"b{day}", "b1"]))
                due = day + draw(st.sampled_from([3, 3, 3, 0, 40]))
                rank = draw(st.sampled_from([None, None, 0, 1, -1]))
                charge = Event(f"c{name}", "charge", on(day), draw(numbers), on(due), number, priority=rank)
                rows.append((slot, charge))
            if kind in ("payment", "pooled", "charge") and draw(st.integers(0, 2)):
                bill = f"b{max(0, day - draw(st.integers(0, 4)))}" if kind == "payment" else None
                type_ = draw(st.sampled_from(["payment", "payment", "payment", "prepayment"]))
                rows.append((slot, Event(f"p{name}", type_, on(day), draw(numbers), bill_id=bill)))
                if draw(st.integers(0, 3)) == 0:
                    rows.append((slot, Event(f"q{name}", "write_off", on(day), draw(numbers))))
            if kind == "other" and draw(st.integers(0, 2)) == 0:
                near = f"p{max(0, day + draw(st.integers(-3, 2)))}"
                rows.append((slot, draw(st.sampled_from([
                    Event(f"r{name}", "reversal", on(day), 1, ref_event_id=near),
                    Event(near, "payment", on(day), 2, revision=1),
                    Event(f"a{name}", "adjustment", on(day), 2),
                    Event(f"x{name}", "payment", on(day), 2, bill_id=f"b{day + 1}"),
                    Event(f"f{name}", "refund", on(day), 2),
                    Event(f"y{name}", "prepayment", on(day), (1 << 63) - 40),
                ]))))  # fmt: skip
    return rows


@settings(max_examples=80, deadline=None)
@given(orderly(), POLICIES)
def test_plain_days_are_allocated_further_as_from_scratch(rows, allocation):
    events = table(rows)
    credit = Credit(Ledger(events, ACCOUNTS, allocation=allocation))
    for day in range(-1, 16):
        credit.advance(number(on(day)))
        again = Ledger.at(events, ACCOUNTS, number(on(day)), allocation)
        assert state(credit.ledger) == state(again), day
        for name in ("last_due", "last_paid_row", "odd", "touched"):
            assert getattr(credit.ledger, name).tolist() == getattr(again, name).tolist(), (name, day)
        assert shown(credit) == columns(again), day


ONE_BILL = [bill("1", 0, 10, 20)]
PARTLY = [bill("1", 0, 10, 20), bill("2", 1, 2, 30), paid("p", 2, 4)]


@pytest.mark.parametrize(
    ("events", "plain"),
    [
        pytest.param([*ONE_BILL, bill("2", 3, 5, 21)], True, id="a bill due later"),
        pytest.param([*PARTLY, bill("3", 3, 5, 31), paid("q", 3, 6, "b1")], True, id="a bill, and what another needs"),
        pytest.param([*PARTLY, paid("q", 3, 9)], True, id="more than is open"),
        pytest.param([*PARTLY, Event("w", "write_off", on(3), 7)], True, id="a write-off"),
        pytest.param([*PARTLY, bill("3", 3, 5, 31), paid("q", 3, 5, "b3")], True, id="a bill paid at once"),
        pytest.param([*PARTLY, bill("3", 3, 5, 20)], False, id="due before a bill that was paid"),
        pytest.param([*PARTLY, bill("3", 3, 5, 30)], False, id="due with another"),
        pytest.param([*PARTLY, paid("q", 3, 8, "b1")], False, id="more than the bill needs: p moves on to b2, in time"),
        pytest.param([*PARTLY, paid("q", 3, 1, "b9")], False, id="an unknown bill is named"),
        pytest.param([*ONE_BILL, paid("p", 1, 5, "b2"), bill("2", 3, 5, 30)], False, id="a bill that was named before"),
        pytest.param([*ONE_BILL, paid("p", 1, 12), bill("2", 3, 5, 30)], False, id="something is left"),
        pytest.param([*PARTLY, paid("p", 3, 5)], False, id="another version"),
        pytest.param(
            [*PARTLY, Event("c9", "charge", on(3), 5, due_date=on(40), bill_id="b2")], False, id="a number again"
        ),
        pytest.param([*PARTLY, bill("3", 3, 5, 40), bill("3", 3, 4, 40)], False, id="twice on one day"),
        pytest.param(
            [*ONE_BILL, Event("r", "reversal", on(1), 5, ref_event_id="q"), paid("q", 3, 5)],
            False,
            id="reversed before",
        ),
        pytest.param([*PARTLY, Event("r", "reversal", on(3), 4, ref_event_id="p")], False, id="a reversal"),
        pytest.param([*PARTLY, Event("a", "adjustment", on(3), 4)], False, id="an adjustment"),
        pytest.param(
            [*PARTLY, Event("q", "prepayment", on(3), 4, bill_id="b9")], True, id="a prepayment, which names none"
        ),
        pytest.param([*PARTLY, Event("f", "refund", on(1), 3), paid("q", 3, 4)], True, id="a refund is open"),
        pytest.param([*PARTLY, Event("f", "refund", on(3), 3)], False, id="a refund"),
        pytest.param([*PARTLY, paid("x", 5, 1 << 62), paid("y", 5, 1 << 62), paid("q", 3, 4)], False, id="near 2^63"),
    ],
)
def test_what_a_plain_day_is(events, plain):
    walk(events, plain, FIFO)


@pytest.mark.parametrize(
    ("events", "plain"),
    [
        pytest.param([*PARTLY, paid("q", 3, 6, "b1"), Event("r", "prepayment", on(3), 1)], True, id="payments"),
        pytest.param([*PARTLY, bill("3", 3, 5, 31)], False, id="a bill, which may be served before others"),
    ],
)
def test_what_a_plain_day_is_where_bills_are_served_by_priority(events, plain):
    walk(events, plain, PRIORITY)


def walk(events, plain, allocation):
    rows = [(0, event) for event in events]
    ledger = Ledger(table(rows), 1, allocation=allocation)
    for day in range(-1, 6):
        ledger.advance(number(on(day)))
        assert state(ledger) == state(Ledger.at(table(rows), 1, number(on(day)), allocation)), day
        if day == 3:
            assert (len(ledger.step.further), len(ledger.step.slots)) == (int(plain), int(not plain))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_most_orderly_days_are_plain(allocation):
    seen = {"anew": 0, "further": 0}

    @settings(max_examples=40, derandomize=True, deadline=None)
    @given(orderly())
    def count(rows):
        ledger = Ledger(table(rows), ACCOUNTS, allocation=allocation)
        for day in range(-1, 14):
            ledger.advance(number(on(day)))
            seen["anew"] += len(ledger.step.slots)
            seen["further"] += len(ledger.step.further)

    count()
    assert min(seen.values()) > 50, seen


@given(worlds(SHORT), st.lists(st.integers(1, 40), max_size=5))
def test_days_may_be_left_out(rows, steps):
    events, day = table(rows), -1
    credit = Credit(Ledger(events, ACCOUNTS))
    for step in steps:
        day += step
        credit.advance(number(on(day)))
        assert shown(credit) == columns(Ledger.at(events, ACCOUNTS, number(on(day))))


@given(st.lists(st.integers(0, 9)), st.data())
def test_rows_by_day(days, data):
    day = np.array(days, np.int32)
    ordered = data.draw(st.integers(0, len(days)))
    rows = ByDay(day, np.argsort(day[:ordered], kind="stable").astype(np.int32))
    wanted = data.draw(st.lists(st.integers(-1, 11)))
    assert sorted(rows.on(wanted)) == [n for n, d in enumerate(days) if d in wanted]
    first, last = data.draw(st.integers(-1, 9)), data.draw(st.integers(0, 10))
    assert sorted(rows.between(first, last)) == [n for n, d in enumerate(days) if first <= d <= last]
    assert day[rows.all()].tolist() == sorted(days)


# ------------------------------------------------------------------------------------------------- by hand, and edges
def test_features_are_those_of_the_mart():
    found = credit_features(Ledger.at(table([(0, event) for event in STORY]), 2, number(date(2024, 3, 12))))
    assert list(found) == [column.name for column in CREDIT]
    for name, values in found.items():
        array = pa.array(values)
        assert array.type == FEATURES[name].type, name
        assert array.null_count == 0 or FEATURES[name].nullable, name
        assert values.tolist()[1] == (None if FEATURES[name].nullable else 0), name


@settings(max_examples=15, deadline=None)
@given(
    worlds(LONG, max_size=12),
    st.lists(st.sampled_from([tuple(WEIGHTS), (1,) * 3 + (0,) * 10, tuple(range(13))]), min_size=5, max_size=5),
)
def test_weights_may_be_others_from_any_day_on(rows, weights):
    """As from scratch by the weights of the day, also where a process takes up what another one left under other weights."""
    events, day, left = table(rows), -1, (None, None)
    for by, until in zip(weights, (-1, 40, 41, 75, 130), strict=True):
        credit = Credit(Ledger(events, ACCOUNTS, left[0]), by, left[1])
        while day < until:
            day += 1
            credit.advance(number(on(day)))
        assert shown(credit) == shown(Credit(Ledger.at(events, ACCOUNTS, number(on(day))), by))
        for slot, ppm in enumerate(shown(credit)["on_time_decayed_ppm"]):
            own = [event for other, event in rows if other == slot]
            assert ppm == features(own, on(day), weights=by)["on_time_decayed_ppm"]
        credit.weigh([3, *[2] * 12])
        left = dumped(credit, rebase=False)


def test_other_weights_are_another_ratio():
    """Of two bills the older was late: by the shipped weights 2^20 / (2^20 + 934175), by equal ones a half."""
    rows = [
        (0, Event("a", "charge", on(0), 5, due_date=on(10))),
        (0, Event("b", "charge", on(0), 5, due_date=on(40))),
        (0, Event("p", "payment", on(20), 5)),
        (0, Event("q", "payment", on(40), 5)),
    ]
    ledger = Ledger.at(table(rows), 1, number(on(41)))
    assert columns(ledger)["on_time_decayed_ppm"] == [1048576 * 10**6 // (1048576 + 934175)] == [528849]
    assert credit_features(ledger, ALIKE)["on_time_decayed_ppm"].tolist() == [500_000]
    carried = Credit(ledger).to_batch()
    assert Credit(ledger, ALIKE, carried).columns()["on_time_decayed_ppm"].tolist() == [500_000]


def test_amounts_near_the_limit_are_exact():
    """2^48 times a million passes int64; 1 over 2^48 rounds down to nothing."""
    rows = [
        (0, Event("a", "charge", on(0), MONEY_LIMIT_MINOR, due_date=on(5))),
        (0, Event("p", "payment", on(3), MONEY_LIMIT_MINOR)),
        (1, Event("a", "charge", on(0), 1, due_date=on(5))),
        (1, Event("b", "charge", on(0), MONEY_LIMIT_MINOR, due_date=on(5))),
        (1, Event("p", "payment", on(3), 1)),
        (2, Event("a", "charge", on(0), 1, due_date=on(5))),
        (2, Event("p", "payment", on(3), MONEY_LIMIT_MINOR)),
    ]
    found = columns(Ledger.at(table(rows), 3, number(on(6))))
    assert found["on_time_amount_365d_ppm"] == [1_000_000, 0, 1_000_000]
    assert found["arrears_months_milli"] == [0, MONEY_LIMIT_MINOR * 12000 // (MONEY_LIMIT_MINOR + 1), 0]
    assert found["prepayment_cover_days"] == [0, 0, 10**12]


def test_arrears_by_month_end_stop_at_twelve():
    """One bill, due on 31 January 2023: past due from 1 February on, so January's end does not count."""
    rows = [(0, Event("a", "charge", START, 5, due_date=date(2023, 1, 31)))]
    days = [
        date(2023, 1, 31),
        date(2023, 2, 1),
        date(2023, 2, 28),
        date(2023, 3, 1),
        date(2024, 1, 1),
        date(2025, 1, 1),
    ]
    found = [columns(Ledger.at(table(rows), 1, number(day)))["months_in_arrears"][0] for day in days]
    assert found == [0, 1, 1, 2, 12, 12]


def test_a_payment_bounces_once():
    """Two reversals of one payment count once, on the earlier date; one of an unknown payment, or of a write-off, does not."""
    rows = [
        (0, Event("p", "payment", on(1), 5)),
        (0, Event("w", "write_off", on(1), 5)),
        (0, Event("r1", "reversal", on(4), 5, ref_event_id="p")),
        (0, Event("r2", "reversal", on(3), 5, ref_event_id="p")),
        (0, Event("r3", "reversal", on(3), 5, ref_event_id="w")),
        (0, Event("r4", "reversal", on(3), 5, ref_event_id="unknown")),
    ]
    bounced = [columns(Ledger.at(table(rows), 1, number(on(day))))["bounced_90d"][0] for day in (2, 3, 4, 92, 93)]
    assert bounced == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("weights", [WEIGHTS[1:], [0] * 13, [-1, *WEIGHTS[1:]], [1 << 40] * 13])
def test_weights_out_of_bounds_are_refused(weights):
    with pytest.raises(ValueError, match=r"weights must be 13 numbers"):
        Credit(Ledger(table([]), 1), weights)
