"""The allocation of a set of ledger events: which credits pay which debits, what stays open, and when accounts paid.

The rules are in docs/explanation/definitions.md, "Ledger, as of service day D". This module follows them by sorts,
running sums and searches; it loops over no account and no event. What the events are is told in `ledger_events`.

    events of the touched accounts                one line per account: debits and pooled credits end to end
      -> versions that count                        debits    |--- b1 ---|-- b2 --|------ b3 ------|
      -> debits and credits, reversals taken out    credits   |- c1 -|------ c2 -------|
      -> directed credits, bill by bill                                  ^ b2 is settled by c2; b3 is open
      -> pooled credits, debits as they are served

Days are day numbers (days since 1970-01-01, as in date32), money is int64 minor units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.kernels.ledger_events import (
    NO_DAY,
    PAYMENTS,
    Bool,
    Counted,
    Int32,
    Int64,
    before,
    bill_numbers,
    count_events,
    due_days,
    lengths,
    numbers,
    order_rows,
    pair,
    same_text,
    starts,
    sums,
)

NO_BILL: Final = NO_DAY
"""`settled_on` of a row that is no debit: a credit, a reversal, a superseded version, an event still to come."""

UNSETTLED: Final = NO_BILL + 1
"""`settled_on` of a bill or refund with an open amount."""

NO_PAYMENT: Final = NO_BILL
"""`next_paid_on` of a row that neither is a payment that stands nor takes one back."""

SAME_DAY: Final = NO_BILL + 1
"""`next_paid_on` of a payment that stands, where another of the account's on its day tells the next day."""

BOUNCE: Final = NO_BILL + 2
"""`next_paid_on` of a reversal that takes a payment back: of several of one payment, the earliest."""

NEVER: Final = (1 << 31) - 1
"""`next_paid_on` of a payment of the account's last day with one."""

FIFO: Final = "fifo"
PRIORITY: Final = "priority"
ALLOCATIONS: Final = (FIFO, PRIORITY)
"""What pooled credits serve first: what is due first; or what has the smallest priority, then what is due first."""


@dataclass(frozen=True)
class Allocation:
    """What a set of events comes to. The first three arrays are row by row, the others account by account.

    open_minor: (n,) int64, what the bill or refund of the row still needs; 0 where the row is neither.
    settled_on: (n,) int32, the day the bill or refund of the row was settled, or UNSETTLED, or NO_BILL.
    next_paid_on: (n,) int32, of a payment that stands the next day on which the account paid, or NEVER; or SAME_DAY, BOUNCE,
    NO_PAYMENT. A prepayment is one of the payments.
    unallocated_minor: (n_slots,) int64, credits left when all debits are paid.
    balance_minor: (n_slots,) int64, debits minus credits; always the open amounts minus `unallocated_minor`.
    last_due: (n_slots,) int32, the latest day a debit is due, or NO_BILL.
    last_paid_row: (n_slots,) int64, the row of the latest payment that stands and has no SAME_DAY, or -1.
    odd: (n_slots,) bool, whether a credit names a bill, or a reversal an event, that is not there, or two bills have one number, or
    an event does not count since amounts add up to 2^63.
    overpaid: (n_slots,) bool, whether a credit is more than the bill it names still needed.
    """

    open_minor: Int64
    settled_on: Int32
    next_paid_on: Int32
    unallocated_minor: Int64
    balance_minor: Int64
    last_due: Int32
    last_paid_row: Int64
    odd: Bool
    overpaid: Bool


@dataclass(frozen=True)
class Side:
    """Debits, or the credits that pay them, in the order in which they are served. All (k,); `slot` is ascending."""

    row: Int64
    slot: Int64
    day: Int64
    minor: Int64


@dataclass(frozen=True)
class Matched:
    """Debits and credits, and what goes from one to the other.

    number, directed: (n,) as of `bill_numbers`. target: (credits,) position of the debit that each credit is directed to, or -1.
    need: (debits,) what each still needs of the pool; left: (credits,) what of each goes to the pool; filled: (debits,) what each
    gets of it; latest: (debits,) day of the latest portion.
    """

    counted: Counted
    number: pa.Array
    directed: pa.Array
    debits: Side
    funds: Side
    target: Int64
    need: Int64
    left: Int64
    filled: Int64
    latest: Int64


def match(events: pa.Table, n_slots: int, allocation: str = FIFO) -> Matched:
    """Match the credits of some accounts with their debits. events, errors: as of `count_events`."""
    counted = count_events(events, n_slots)
    number, directed = bill_numbers(events, counted)
    debits, funds, target = _sides(events, counted, number, directed, allocation)
    need, left, latest = _apply_directed(debits, funds, target)
    filled, latest = _apply_pooled(debits, funds, need, left, latest, n_slots)
    return Matched(counted, number, directed, debits, funds, target, need, left, filled, latest)


def allocate(events: pa.Table, n_slots: int, allocation: str = FIFO) -> Allocation:
    """Allocate all credits of some accounts to their debits. events, errors: as of `count_events`.

    allocation: one of `ALLOCATIONS`.
    """
    found = match(events, n_slots, allocation)
    counted, debits, funds = found.counted, found.debits, found.funds
    need, left, filled = found.need, found.left, found.filled
    overpaid = _some(funds.slot[(found.target >= 0) & (left > 0)], n_slots)

    open_minor = np.zeros(len(counted.slot), np.int64)
    settled_on = np.full(len(counted.slot), NO_BILL, np.int32)
    open_minor[debits.row] = need - filled
    settled_on[debits.row] = np.where(need == filled, found.latest, UNSETTLED)
    owed, credited = sums(debits.minor, debits.slot, n_slots), sums(funds.minor, funds.slot, n_slots)
    unallocated = sums(left, funds.slot, n_slots) - sums(filled, debits.slot, n_slots)
    last_due = np.full(n_slots, NO_BILL, np.int32)
    np.maximum.at(last_due, debits.slot, debits.day.astype(np.int32))
    next_paid_on = _next_payments(counted)
    last_paid_row = _last_payments(counted.slot, next_paid_on, n_slots)
    in_vain = funds.slot[(lengths(found.directed)[funds.row] > 0) & (found.target < 0)]
    odd = _some(
        np.r_[in_vain, _of_one_number(counted, found.number), _naming_nothing(counted), counted.slot[counted.beyond]],
        n_slots,
    )
    return Allocation(
        open_minor, settled_on, next_paid_on, unallocated, owed - credited, last_due, last_paid_row, odd, overpaid
    )


def left_of_credits(
    events: pa.Table, counted: Counted, number: pa.Array, directed: pa.Array, unallocated_minor: Int64
) -> Int64:
    """Of the credits of some accounts what is in `unallocated_minor`, (n_slots,): the last of the pool. (n,) int64."""
    debits, funds, target = _sides(events, counted, number, directed, FIFO, by_id=True)
    _, left, _ = _apply_directed(debits, funds, target)
    behind = sums(left, funds.slot, len(unallocated_minor))[funds.slot] - before(left, funds.slot) - left
    out = np.zeros(len(counted.slot), np.int64)
    out[funds.row] = np.clip(unallocated_minor[funds.slot] - behind, 0, left)
    return out


def _some(slots: Int64, n_slots: int) -> Bool:
    """A mask of the slots. (n_slots,)."""
    mask = np.zeros(n_slots, np.bool_)
    mask[slots] = True
    return mask


def _sides(
    events: pa.Table, counted: Counted, number: pa.Array, directed: pa.Array, allocation: str, by_id: bool = False
) -> tuple[Side, Side, Int64]:
    """Debits as pooled credits serve them, credits by day (and event id), and the debit each credit is directed to, or -1."""
    slot, issued, amount = counted.slot, counted.issued_on, counted.amount_minor
    due = due_days(events)
    debit_rows, credit_rows = np.flatnonzero(counted.bill | counted.refund), np.flatnonzero(counted.credit)
    debit_rows = order_rows(debit_rows, pair(slot[debit_rows], due[debit_rows]), number, counted.event_id)
    ids = (counted.event_id,) if by_id else ()  # which of a day comes first only tells whose the rest of the pool is
    credit_rows = order_rows(credit_rows, pair(slot[credit_rows], issued[credit_rows]), *ids)
    target = _directed_to(debit_rows, credit_rows, slot, counted.bill, number, directed)
    if allocation == PRIORITY:
        first = numbers(pc.fill_null(events["priority"], 0), np.int64)
        served = np.argsort(pair(slot[debit_rows], first[debit_rows]), kind="stable")  # the rest stays as it was
        place = np.empty(len(served), np.int64)
        place[served] = np.arange(len(served))
        debit_rows = debit_rows[served]
        target[target >= 0] = place[target[target >= 0]]
    debits = Side(debit_rows, slot[debit_rows], due[debit_rows].astype(np.int64), amount[debit_rows])
    funds = Side(credit_rows, slot[credit_rows], issued[credit_rows], np.abs(amount[credit_rows]))
    return debits, funds, target


def _directed_to(
    debit_rows: Int64, credit_rows: Int64, slot: Int64, is_bill: Bool, number: pa.Array, directed: pa.Array
) -> Int64:
    """The bill each credit is directed to, as a position in `debit_rows`; -1 for a pooled credit. (credits,) int64.

    debit_rows: in order of (slot, due date, bill number, event id).
    """
    target = np.full(len(credit_rows), -1, np.int64)
    asking, bills = np.flatnonzero(lengths(directed)[credit_rows] > 0), np.flatnonzero(is_bill[debit_rows])
    if not len(asking) or not len(bills):
        return target
    mine, named = same_text(number.take(debit_rows[bills]), directed.take(credit_rows[asking]))
    several = max(int(mine.max()), int(named.max())) + 1
    key = slot[debit_rows[bills]] * several + mine
    wanted = slot[credit_rows[asking]] * several + named
    by_key = np.argsort(key, kind="stable")  # bills of one number stay in order of (due date, event id)
    found = by_key[np.minimum(np.searchsorted(key, wanted, sorter=by_key), len(by_key) - 1)]
    target[asking] = np.where(key[found] == wanted, bills[found], -1)
    return target


def _apply_directed(debits: Side, funds: Side, target: Int64) -> tuple[Int64, Int64, Int64]:
    """Pay each bill from the credits directed to it, in their order.

    Returns what each debit still needs (debits,), what is left of each credit (funds,), and the latest day of a
    portion applied to each debit (debits,), UNSETTLED where there is none.
    """
    used = np.flatnonzero(target >= 0)
    used = used[np.argsort(target[used], kind="stable")]
    bill, minor = target[used], funds.minor[used]
    applied = np.clip(debits.minor[bill] - before(minor, bill), 0, minor)
    left = funds.minor.copy()
    left[used] -= applied
    latest = np.full(len(debits.row), UNSETTLED, np.int64)
    some = applied > 0
    latest[bill[some]] = funds.day[used[some]]  # in order of day: the last assignment stands
    return debits.minor - sums(applied, bill, len(debits.row)), left, latest


def _apply_pooled(
    debits: Side, funds: Side, need: Int64, left: Int64, latest: Int64, n_slots: int
) -> tuple[Int64, Int64]:
    """Fill what the debits need from what is left of the account's credits, both in order.

    Returns what each debit gets and the latest day of a portion applied to it; (debits,) both. Where one is filled,
    the last portion is the one in which the running sum of credits reaches the running sum of needs.
    """
    pool = sums(left, funds.slot, n_slots)
    ahead = before(need, debits.slot)
    filled = np.clip(pool[debits.slot] - ahead, 0, need)
    full = np.flatnonzero((need > 0) & (filled == need))
    earlier = np.cumsum(pool) - pool  # pools of the accounts before: one running sum serves all accounts
    reached = np.searchsorted(np.cumsum(left), (earlier[debits.slot] + ahead + need)[full])
    latest = latest.copy()
    latest[full] = np.maximum(latest[full], funds.day[reached])
    return filled, latest


# ------------------------------------------------------------------------------------------------ payments, odd accounts
def _next_payments(counted: Counted) -> Int32:
    """`next_paid_on` of all rows."""
    slot, day, pays = counted.slot, counted.issued_on, np.isin(counted.kind, PAYMENTS)
    out = np.full(len(slot), NO_PAYMENT, np.int32)
    rows = np.flatnonzero(counted.credit & pays)
    key = pair(slot[rows], day[rows])
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    heads = rows[starts(key)]
    out[rows] = SAME_DAY
    out[heads] = np.where(slot[heads] == np.r_[slot[heads[1:]], -1], np.r_[day[heads[1:]], NEVER], NEVER)
    out[_bounces(counted, np.flatnonzero(counted.reversed & pays))] = BOUNCE
    return out


def _last_payments(slot: Int64, next_paid_on: Int32, n_slots: int) -> Int64:
    """The row of each account's latest payment that stands, the first of its day, -1 where there is none. (n_slots,)."""
    out = np.full(n_slots, -1, np.int64)
    rows = np.flatnonzero(next_paid_on == NEVER)
    out[slot[rows]] = rows
    return out


def _bounces(counted: Counted, taken: Int64) -> Int64:
    """The rows of reversals that take a payment back, one for each payment. taken: rows of payments that were taken back."""
    if not len(taken):
        return taken
    rows = counted.reversals
    key = counted.key(counted.slot[rows], counted.reversed_event)
    mine = np.isin(key, counted.key(counted.slot[taken], counted.event[taken]))
    rows, key = rows[mine], key[mine]
    order = np.lexsort((counted.issued_on[rows], key))
    return rows[order[starts(key[order])]]


def _of_one_number(counted: Counted, number: pa.Array) -> Int64:
    """Slots of accounts with two bills of one number."""
    bills = np.flatnonzero(counted.bill)
    (text,) = same_text(number.take(pa.array(bills)))
    several = int(text.max(initial=0)) + 1
    key = np.sort(counted.slot[bills] * several + text)
    twice: Int64 = key[1:][key[1:] == key[:-1]]
    return twice // several


def _naming_nothing(counted: Counted) -> Int64:
    """Slots of accounts with a reversal that names an event that is not there."""
    by_slot = counted.slot[counted.reversals]
    if not len(by_slot):
        return by_slot
    named = np.zeros(max(int(counted.event.max()), int(counted.reversed_event.max())) + 1, np.bool_)
    named[counted.reversed_event] = True
    rows = np.flatnonzero(named[counted.event])
    wanted = counted.key(by_slot, counted.reversed_event)
    return by_slot[~np.isin(wanted, counted.key(counted.slot[rows], counted.event[rows]))]
