"""The ledger of one account shard: what is owed, since when, and how it was paid.

The rules are in docs/explanation/definitions.md, "Ledger, as of service day D". This module follows them by sorts,
running sums and searches; it loops over no account and no event.

    events of the touched accounts                one line per account: bills and pooled credits end to end
      -> versions that count                        bills     |--- b1 ---|-- b2 --|------ b3 ------|
      -> bills and credits, reversals taken out     credits   |- c1 -|------ c2 -------|
      -> directed credits, bill by bill                                  ^ b2 is settled by c2; b3 is open
      -> pooled credits, oldest bill first

Days are day numbers (days since 1970-01-01, as in date32), money is int64 minor units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import StateError
from schemas.inbound import EVENT_TYPES
from transforms.kernels.by_day import ByDay

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

COLUMNS: Final = (
    "slot", "event_id", "event_type", "event_date", "due_date", "amount_minor", "bill_id", "ref_event_id", "revision",
)  # fmt: skip
"""The columns of an events table that count here. Any others are ignored."""

NO_BILL: Final = -(1 << 31)
"""`settled_on` of a row that is no bill: a credit, a reversal, a superseded version, an event still to come."""

UNSETTLED: Final = NO_BILL + 1
"""`settled_on` of a bill with an open amount."""

NO_PAYMENT: Final = NO_BILL
"""`next_paid_on` of a row that neither is a payment that stands nor takes one back."""

SAME_DAY: Final = NO_BILL + 1
"""`next_paid_on` of a payment that stands, where another of the account's on its day tells the next day."""

BOUNCE: Final = NO_BILL + 2
"""`next_paid_on` of a reversal that takes a payment back: of several of one payment, the earliest."""

NEVER: Final = (1 << 31) - 1
"""`next_paid_on` of a payment of the account's last day with one."""

_CHARGE, _PAYMENT, _REVERSAL, _WRITE_OFF, _ADJUSTMENT = (
    EVENT_TYPES.index(name) for name in ("charge", "payment", "reversal", "write_off", "adjustment")
)
_PAYMENTS: Final = (_PAYMENT,)
"""Types of events by which a customer pays."""

_CONTENT: Final = ("event_type", "event_date", "due_date", "amount_minor", "bill_id", "ref_event_id")
_BLOCK_ACCOUNTS: Final = 8192
_INT64_MAX: Final = (1 << 63) - 1


# ------------------------------------------------------------------------------------------------------- allocation
@dataclass(frozen=True)
class Allocation:
    """What a set of events comes to. The first two arrays are row by row, the others account by account.

    open_minor: (n,) int64, what the bill of the row still needs; 0 where the row is no bill.
    settled_on: (n,) int32, the day the bill of the row was settled, or UNSETTLED, or NO_BILL.
    next_paid_on: (n,) int32, of a payment that stands the next day on which the account paid, or NEVER; or SAME_DAY, BOUNCE,
    NO_PAYMENT.
    unallocated_minor: (n_slots,) int64, credits left when all bills are paid.
    balance_minor: (n_slots,) int64, bills minus credits; always the open amounts minus `unallocated_minor`.
    last_due: (n_slots,) int32, the latest day a bill is due, or NO_BILL.
    last_paid_row: (n_slots,) int64, the row of the latest payment that stands and has no SAME_DAY, or -1.
    odd: (n_slots,) bool, whether a credit names a bill, or a reversal an event, that is not there, or two bills have one number.
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
class _Side:
    """Bills, or the credits that pay them, in the order in which they are served. All (k,); `slot` is ascending."""

    row: Int64
    slot: Int64
    day: Int64
    minor: Int64


def allocate(events: pa.Table, n_slots: int) -> Allocation:
    """Allocate all credits of some accounts to their bills.

    events: (n,) rows with COLUMNS, in any order: every event of the accounts that exists on the day, and no later
    one. Several versions of an event may be among them. slot: int32 in 0 .. n_slots-1.
    Raises ValueError for a charge without a due date or a charge or credit that is not positive, and OverflowError
    when the amounts add up to 2^63 or more.
    """
    slot = _numbers(events["slot"], np.int64)
    issued = _numbers(events["event_date"], np.int64)
    amount = _numbers(events["amount_minor"], np.int64)
    kind = _kinds(events["event_type"])
    event_id = _texts(events["event_id"])
    reference = _texts(events["ref_event_id"])

    reversals = np.flatnonzero((kind == _REVERSAL) & (_lengths(reference) > 0))
    event, reversed_event = _same_text(event_id, reference.take(reversals))
    counts = _winners(events, slot, event)
    _check(events, counts, kind, amount)

    is_bill = counts & ((kind == _CHARGE) | ((kind == _ADJUSTMENT) & (amount > 0)))
    is_credit = counts & ((kind == _PAYMENT) | (kind == _WRITE_OFF) | ((kind == _ADJUSTMENT) & (amount < 0)))
    standing = counts[reversals]
    reversals, reversed_event = reversals[standing], reversed_event[standing]
    reversed_ = _named(slot, event, slot[reversals], reversed_event)
    is_credit &= ~reversed_
    is_payment = np.isin(kind, _PAYMENTS)
    next_paid_on = _next_payments(slot, issued, is_credit & is_payment)
    taken = np.flatnonzero(counts & is_payment & reversed_)
    next_paid_on[_bounces(slot, issued, event, taken, reversals, reversed_event)] = BOUNCE

    due = due_days(events)
    bill_id = _texts(events["bill_id"])
    number = pc.if_else(pa.array((kind == _CHARGE) & (_lengths(bill_id) > 0)), bill_id, event_id)
    bill_rows, credit_rows = np.flatnonzero(is_bill), np.flatnonzero(is_credit)
    bill_rows = _order(bill_rows, _pair(slot[bill_rows], due[bill_rows]), number, event_id)
    credit_rows = _order(credit_rows, _pair(slot[credit_rows], issued[credit_rows]))  # no figure depends on more
    bills = _Side(bill_rows, slot[bill_rows], due[bill_rows].astype(np.int64), amount[bill_rows])
    funds = _Side(credit_rows, slot[credit_rows], issued[credit_rows], np.abs(amount[credit_rows]))

    target = _directed_to(bills, funds, number, bill_id)
    names = _lengths(bill_id)[funds.row] > 0
    odd, overpaid = np.zeros(n_slots, np.bool_), np.zeros(n_slots, np.bool_)
    odd[funds.slot[names & (target < 0)]] = True
    odd[_of_one_number(bills, number)] = True
    odd[_unknown(slot, event, slot[reversals], reversed_event)] = True
    need, left, latest = _apply_directed(bills, funds, target)
    overpaid[funds.slot[(target >= 0) & (left > 0)]] = True
    filled, latest = _apply_pooled(bills, funds, need, left, latest, n_slots)

    open_minor = np.zeros(len(slot), np.int64)
    settled_on = np.full(len(slot), NO_BILL, np.int32)
    open_minor[bills.row] = need - filled
    settled_on[bills.row] = np.where(need == filled, latest, UNSETTLED)
    billed = _sums(bills.minor, bills.slot, n_slots)
    credited = _sums(funds.minor, funds.slot, n_slots)
    pooled = _sums(left, funds.slot, n_slots)
    unallocated = pooled - _sums(filled, bills.slot, n_slots)
    last_due = np.full(n_slots, NO_BILL, np.int32)
    np.maximum.at(last_due, bills.slot, due[bills.row])
    last_paid_row = _last_payments(slot, next_paid_on, n_slots)
    return Allocation(
        open_minor, settled_on, next_paid_on, unallocated, billed - credited, last_due, last_paid_row, odd, overpaid
    )


def due_days(events: pa.Table) -> Int32:
    """The day each row is due, were it a bill: an adjustment on its `event_date`, a charge on its `due_date`. (n,)."""
    issued, adjustment = events["event_date"], _is_adjustment(events["event_type"])
    return _numbers(pc.if_else(adjustment, issued, pc.coalesce(events["due_date"], issued)), np.int32)


def _winners(events: pa.Table, slot: Int64, event: Int64) -> Bool:
    """Which rows count: of each event the highest revision, then the content that comes first as text. (n,) bool."""
    several = np.bincount(event)[event] > 1 if len(event) else np.zeros(0, np.bool_)
    rows = np.flatnonzero(several)
    counts = ~several
    if len(rows):
        key = slot * (int(event.max()) + 1) + event
        last_revision_first = -_numbers(events["revision"], np.int64)
        rows = _order(rows, key[rows], last_revision_first, *(events[name] for name in _CONTENT))
        counts[rows[_starts(key[rows])]] = True
    return counts


def _check(events: pa.Table, counts: Bool, kind: Int64, amount: Int64) -> None:
    """Refuse what intake should have rejected, and sums that int64 does not hold."""
    undue = pc.is_null(events["due_date"]).to_numpy() if events["due_date"].null_count else np.False_
    signed = (kind == _ADJUSTMENT) | (kind == _REVERSAL)
    for wrong, problem in (
        (counts & (kind == _CHARGE) & undue, "is a charge without a due date"),
        (counts & ~signed & (amount <= 0), "must have a positive amount"),
    ):
        if wrong.any():
            name = events["event_id"][int(np.argmax(wrong))].as_py()
            raise ValueError(f"ledger event {name!r} {problem}; intake must reject such rows")
    used = np.abs(amount[counts & (kind != _REVERSAL)])
    total = (int((used >> 32).sum()) << 32) + int((used & 0xFFFFFFFF).sum())
    if total > _INT64_MAX:
        raise OverflowError(
            f"the amounts of {len(used)} ledger events add up to {total} minor units; "
            f"int64 holds at most {_INT64_MAX}. Use more shards, or look for wrong amounts."
        )


def _named(slot: Int64, event: Int64, by_slot: Int64, by_event: Int64) -> Bool:
    """Which events some others of the same account name. slot, event: (n,); by_*: (k,), few. Returns (n,) bool."""
    named = np.zeros(len(slot), np.bool_)
    if len(by_slot):
        several = max(int(event.max()), int(by_event.max())) + 1
        anywhere = np.zeros(several, np.bool_)
        anywhere[by_event] = True
        rows = np.flatnonzero(anywhere[event])
        named[rows] = np.isin(slot[rows] * several + event[rows], by_slot * several + by_event)
    return named


def _unknown(slot: Int64, event: Int64, by_slot: Int64, by_event: Int64) -> Int64:
    """Slots of which some name an event that is not there. slot, event: (n,); by_*: (k,), few."""
    if not len(by_slot):
        return by_slot
    several = max(int(event.max()), int(by_event.max())) + 1
    anywhere = np.zeros(several, np.bool_)
    anywhere[by_event] = True
    rows = np.flatnonzero(anywhere[event])
    return by_slot[~np.isin(by_slot * several + by_event, slot[rows] * several + event[rows])]


def _next_payments(slot: Int64, day: Int64, pays: Bool) -> Int32:
    """`next_paid_on` of the payments that stand; NO_PAYMENT of all other rows. pays: (n,) which rows they are."""
    out = np.full(len(slot), NO_PAYMENT, np.int32)
    rows = np.flatnonzero(pays)
    key = _pair(slot[rows], day[rows])
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    heads = rows[_starts(key)]
    out[rows] = SAME_DAY
    out[heads] = np.where(slot[heads] == np.r_[slot[heads[1:]], -1], np.r_[day[heads[1:]], NEVER], NEVER)
    return out


def _last_payments(slot: Int64, next_paid_on: Int32, n_slots: int) -> Int64:
    """The row of each account's latest payment that stands, the first of its day, -1 where there is none. (n_slots,)."""
    out = np.full(n_slots, -1, np.int64)
    rows = np.flatnonzero(next_paid_on == NEVER)
    out[slot[rows]] = rows
    return out


def _bounces(slot: Int64, day: Int64, event: Int64, taken: Int64, reversals: Int64, reversed_event: Int64) -> Int64:
    """The rows of reversals that take a payment back, one for each payment. taken: rows of payments that were taken back."""
    if not len(taken):
        return taken
    several = max(int(event.max()), int(reversed_event.max())) + 1
    key = slot[reversals] * several + reversed_event
    mine = np.isin(key, slot[taken] * several + event[taken])
    rows, key = reversals[mine], key[mine]
    order = np.lexsort((day[rows], key))
    return rows[order[_starts(key[order])]]


def _directed_to(bills: _Side, funds: _Side, number: pa.Array, bill_id: pa.Array) -> Int64:
    """The bill each credit is directed to, as a position in `bills`; -1 for a pooled credit. (funds,) int64."""
    target = np.full(len(funds.row), -1, np.int64)
    directed = np.flatnonzero(_lengths(bill_id)[funds.row] > 0)
    if not len(directed) or not len(bills.row):
        return target
    mine, named = _same_text(number.take(bills.row), bill_id.take(funds.row[directed]))
    several = max(int(mine.max()), int(named.max())) + 1
    key = bills.slot * several + mine
    wanted = funds.slot[directed] * several + named
    by_key = np.argsort(key, kind="stable")  # bills of one number stay in order of (due date, event id)
    found = by_key[np.minimum(np.searchsorted(key, wanted, sorter=by_key), len(by_key) - 1)]
    target[directed] = np.where(key[found] == wanted, found, -1)
    return target


def _of_one_number(bills: _Side, number: pa.Array) -> Int64:
    """Slots of accounts with two bills of one number."""
    (text,) = _same_text(number.take(bills.row))
    key = np.sort(bills.slot * (int(text.max(initial=0)) + 1) + text)
    twice: Int64 = key[1:][key[1:] == key[:-1]]
    return twice // (int(text.max(initial=0)) + 1)


def _apply_directed(bills: _Side, funds: _Side, target: Int64) -> tuple[Int64, Int64, Int64]:
    """Pay each bill from the credits directed to it, in their order.

    Returns what each bill still needs (bills,), what is left of each credit (funds,), and the latest day of a
    portion applied to each bill (bills,), UNSETTLED where there is none.
    """
    used = np.flatnonzero(target >= 0)
    used = used[np.argsort(target[used], kind="stable")]
    bill, minor = target[used], funds.minor[used]
    applied = np.clip(bills.minor[bill] - _before(minor, bill), 0, minor)
    left = funds.minor.copy()
    left[used] -= applied
    latest = np.full(len(bills.row), UNSETTLED, np.int64)
    some = applied > 0
    latest[bill[some]] = funds.day[used[some]]  # in order of day: the last assignment stands
    return bills.minor - _sums(applied, bill, len(bills.row)), left, latest


def _apply_pooled(
    bills: _Side, funds: _Side, need: Int64, left: Int64, latest: Int64, n_slots: int
) -> tuple[Int64, Int64]:
    """Fill what the bills need from what is left of the account's credits, both in order.

    Returns what each bill gets and the latest day of a portion applied to it; (bills,) both. Where a bill is filled,
    the last portion is the one in which the running sum of credits reaches the running sum of needs.
    """
    pool = _sums(left, funds.slot, n_slots)
    before = _before(need, bills.slot)
    filled = np.clip(pool[bills.slot] - before, 0, need)
    full = np.flatnonzero((need > 0) & (filled == need))
    ahead = np.cumsum(pool) - pool  # pools of the accounts before: one running sum serves all accounts
    reached = np.searchsorted(np.cumsum(left), (ahead[bills.slot] + before + need)[full])
    latest = latest.copy()
    latest[full] = np.maximum(latest[full], funds.day[reached])
    return filled, latest


# ------------------------------------------------------------------------------------------- the ledger from day to day
@dataclass(frozen=True)
class Carried:
    """A ledger in the form that is stored between runs: Arrow batches and two numbers, all immutable.

    day: the day as of which it holds, and rows: how many rows of the events table were known.
    base: (open_minor int64, settled_on int32, next_paid_on int32) of the first `len(base)` rows of the events table.
    index: (due_on int32, by_issue int32, by_due int32) of the same rows: the day each is due, and the rows in order of either day.
    changes: batches of (ordinal int64, and the columns of the base), oldest first: rows that differ from the base, or come
    after it; a later batch overrides an earlier one. Rows named nowhere are neither bills nor payments.
    accounts: (unallocated_minor int64, last_due int32, last_paid_row int64, odd bool), one row per slot.
    """

    day: int
    rows: int
    base: pa.RecordBatch
    index: pa.RecordBatch
    changes: tuple[pa.RecordBatch, ...]
    accounts: pa.RecordBatch

    @property
    def changed_rows(self) -> int:
        """Rows in `changes`. Once they are no longer few against the base, `Ledger.dump(rebase=True)` pays."""
        return sum(len(batch) for batch in self.changes)


@dataclass(frozen=True)
class Step:
    """What was allocated last. slots: (k,) the accounts that were anew, ascending; rows: (m,) their events that exist on the day.

    further: (j,) the accounts that were allocated further; changed: (i,) rows of theirs, all open bills among them;
    before: of these rows, the columns that are stored of each, as they were. No account is among both.
    """

    slots: Int64
    rows: Int64
    further: Int64
    changed: Int64
    before: dict[str, npt.NDArray[Any]]


class Ledger:
    """All ledger events known of a shard, and their allocation as of `day`.

    events: (n,) rows with COLUMNS. Rows are only ever added, at the end; a slot always means the same account.
    carried: where an earlier process left off. Rows that were added since with a date up to `carried.day` are taken
    in at once, so the ledger always holds what is known of `day`. Without it the ledger starts before the first
    event. To go back to an earlier day, build another one.
    Raises StateError when `carried` does not fit the events.

    Public, not to be mutated: slot, issued_on, due_on, amount_minor, open_minor, settled_on, next_paid_on (n,) arrays, the last
    three as in `Allocation`; unallocated_minor, last_due, last_paid_row, odd (n_slots,), also as there; by_issue, by_due: the rows
    by either day; step: what was allocated last.
    """

    def __init__(self, events: pa.Table, n_slots: int, carried: Carried | None = None) -> None:
        self.events = events.select(list(COLUMNS[1:]))
        self.n_slots = n_slots
        self.slot: Int32 = _numbers(events["slot"], np.int32)
        self.issued_on: Int32 = _numbers(events["event_date"], np.int32)
        self.amount_minor: Int64 = _numbers(events["amount_minor"], np.int64)
        n = len(self.slot)
        if n and not 0 <= int(self.slot.min()) <= int(self.slot.max()) < n_slots:
            raise ValueError(f"slots run from {self.slot.min()} to {self.slot.max()}, not within 0 .. {n_slots - 1}")
        if carried is not None:
            self._check(carried)
        self.day = NO_BILL
        self.open_minor: Int64 = np.zeros(n, np.int64)
        self.settled_on: Int32 = np.full(n, NO_BILL, np.int32)
        self.next_paid_on: Int32 = np.full(n, NO_PAYMENT, np.int32)
        self.unallocated_minor: Int64 = np.zeros(n_slots, np.int64)
        self.last_due: Int32 = np.full(n_slots, NO_BILL, np.int32)
        self.last_paid_row: Int64 = np.full(n_slots, -1, np.int64)
        self.odd: Bool = np.zeros(n_slots, np.bool_)
        self.step = self._no_step()
        self._base = carried.base if carried else self._rows_of(np.arange(0))
        self._index = carried.index if carried else None
        self._changes = carried.changes if carried else ()
        self._changed = np.zeros(n, np.bool_)
        by_issue = by_due = None
        self.due_on: Int32
        if self._index is None:
            self.due_on = due_days(events)
        else:
            due, by_issue, by_due = (column.to_numpy() for column in self._index.columns)
            self.due_on = np.r_[due, due_days(events.slice(len(due)))] if len(due) < n else due
        self.by_issue, self.by_due = ByDay(self.issued_on, by_issue), ByDay(self.due_on, by_due)
        if carried is not None:
            self._load(carried)

    @classmethod
    def at(cls, events: pa.Table, n_slots: int, day: int) -> Ledger:
        """The ledger as of a day, allocated from scratch."""
        ledger = cls(events, n_slots)
        ledger.advance(day)
        return ledger

    def advance(self, day: int, touched: npt.ArrayLike = ()) -> int:
        """Go on to `day`; returns how many accounts were allocated.

        Those are the accounts with an event after the present day and up to `day`, and the slots in `touched`, which are
        allocated anew; of the others, those with a plain day go on from what is open.
        Raises ValueError when `day` is before the present one, and what `allocate` raises.
        """
        if day < self.day:
            raise ValueError(f"the ledger stands at day {self.day}, after {day}; build it anew with Ledger.at")
        new = self.by_issue.between(self.day + 1, day)
        mine = np.zeros(self.n_slots, np.bool_)
        mine[self.slot[new]] = True
        some = np.asarray(touched, np.int64)
        mine[some] = True
        next_day, self.day, self.step = day == self.day + 1, day, self._no_step()
        if next_day:
            asked = np.zeros(self.n_slots, np.bool_)
            asked[some] = True
            self._go_on(new[~asked[self.slot[new]]])
            mine[self.step.further] = False
        return len(self.step.further) + self._allocate(np.flatnonzero(mine))

    # ------------------------------------------------------------------------------------------------ a plain day's events
    def _go_on(self, new: Int64) -> None:
        """Allocate accounts further whose allocation stands: what is new goes to what is open, and changes nothing else.

        That is so where all credits are applied, each named bill is there once, and a day brings charges, due after all others,
        payments and write-offs, no more of them to a bill they name than it needs. Old credits then go to old bills as they did,
        and all that is new comes after them in either order. new: rows of the day.
        """
        events = self.events.take(pa.array(new))
        kind, slot = _kinds(events["event_type"]), self.slot[new].astype(np.int64)
        charge, credit = kind == _CHARGE, np.isin(kind, (*_PAYMENTS, _WRITE_OFF))
        fits = ~self.odd & (self.unallocated_minor == 0)
        fits[slot[~(charge | credit) | (charge & (self.due_on[new] <= self.last_due[slot]))]] = False
        some = np.zeros(self.n_slots, np.bool_)
        some[slot] = fits[slot]
        some[self._known_names(new, events, charge, some)] = False
        slots = np.flatnonzero(some)
        if not len(slots):
            return
        new = new[some[self.slot[new]]]
        held = np.flatnonzero(self.open_minor)
        rows = np.r_[held[some[self.slot[held]]], new]
        place = np.full(self.n_slots, -1, np.int64)
        place[slots] = np.arange(len(slots))
        amount = np.where(self.open_minor[rows] > 0, self.open_minor[rows], self.amount_minor[rows])
        some_events = self.events.take(pa.array(rows)).append_column(
            "slot", pa.array(place[self.slot[rows]].astype(np.int32))
        )
        at = some_events.schema.get_field_index("amount_minor")
        result = allocate(some_events.set_column(at, "amount_minor", pa.array(amount)), len(slots))

        done = ~(result.odd | result.overpaid)
        mine = np.flatnonzero(done[place[self.slot[rows]]])
        paid = np.flatnonzero(done & (result.last_paid_row >= 0))
        last = self.last_paid_row[slots[paid]]
        further, changed = slots[done], np.r_[rows[mine], last[last >= 0]]
        before = {name: getattr(self, name)[changed] for name in _STORED}
        for name in _STORED:
            getattr(self, name)[rows[mine]] = getattr(result, name)[mine]
        self.next_paid_on[last[last >= 0]] = self.day
        self.last_paid_row[slots[paid]] = rows[result.last_paid_row[paid]]
        self.unallocated_minor[further] = result.unallocated_minor[done]
        self.last_due[further] = np.maximum(self.last_due[further], result.last_due[done])
        differs = np.any([getattr(self, name)[changed] != before[name] for name in _STORED], axis=0)
        self._changed[changed[differs]] = True
        self.step = replace(self.step, further=further, changed=changed, before=before)

    def _known_names(self, new: Int64, events: pa.Table, charge: Bool, some: Bool) -> Int64:
        """Slots whose new events have an id, or a bill's number, that the account has already, or twice. some: (n_slots,)."""
        event_id, bill_id = _texts(events["event_id"]), _texts(events["bill_id"])
        slot = self.slot[new].astype(np.int64)
        numbered = np.flatnonzero(charge & (_lengths(bill_id) > 0))
        own = numbered[np.asarray(pc.not_equal(bill_id.take(numbered), event_id.take(numbered)))]
        names, owner = pa.concat_arrays([event_id, bill_id.take(own)]), np.r_[slot, slot[own]]
        wanted = pc.unique(names.filter(pa.array(some[owner])))
        mine = some[self.slot]
        mine[new] = False
        found, where = [names], [owner]
        for column, rows in (("event_id", mine), ("bill_id", mine & (self.settled_on != NO_BILL))):
            at = np.flatnonzero(rows)
            if 2 * len(at) > len(rows):  # to pick out most of the text costs more than to look at all of it
                hit = np.flatnonzero(rows & np.asarray(pc.is_in(self.events[column], value_set=wanted)))
            else:
                hit = at[np.asarray(pc.is_in(self.events[column].take(pa.array(at)), value_set=wanted))]
            found.append(_texts(self.events[column].take(pa.array(hit))))
            where.append(self.slot[hit].astype(np.int64))
        (code,) = _same_text(pa.concat_arrays(found))
        owner = np.concatenate(where)
        key = owner * (int(code.max(initial=0)) + 1) + code
        known = (
            np.isin(key[: len(names)], key[len(names) :]) if len(key) > len(names) else np.zeros(len(names), np.bool_)
        )
        order = np.argsort(key[: len(names)], kind="stable")
        twice = order[1:][key[order[1:]] == key[order[:-1]]]
        return np.concatenate([owner[: len(names)][known], owner[twice]])

    @staticmethod
    def _no_step() -> Step:
        none = np.zeros(0, np.int64)
        return Step(none, none, none, none, dict.fromkeys(_STORED, none))

    def dump(self, *, rebase: bool = False) -> Carried:
        """What the next process needs to go on from here.

        `base`, `index` and `changes` are those that were loaded, with one more batch of what changed since, if anything did.
        rebase: write a new base and index of all rows instead, as the first time.
        """
        base, index, changes = self._base, self._index, self._changes
        if rebase or index is None:
            everything = np.arange(len(self.slot))
            base, changes = self._rows_of(everything), ()
            index = pa.record_batch(
                {"due_on": self.due_on, "by_issue": self.by_issue.all(), "by_due": self.by_due.all()}
            )
        elif len(rows := np.flatnonzero(self._changed)):
            batch = self._rows_of(rows)
            changes = (*changes, batch.add_column(0, "ordinal", pa.array(rows)))
        accounts = pa.record_batch({name: getattr(self, name).copy() for name in _BY_ACCOUNT})
        return Carried(self.day, len(self.slot), base, index, changes, accounts)

    def _rows_of(self, rows: npt.NDArray[Any]) -> pa.RecordBatch:
        return pa.record_batch({name: getattr(self, name)[rows] for name in _STORED})

    def _check(self, carried: Carried) -> None:
        if not len(carried.base) <= carried.rows <= len(self.slot) or len(carried.accounts) > self.n_slots:
            raise StateError(
                f"the ledger state covers {carried.rows} events and {len(carried.accounts)} accounts, but there are "
                f"{len(self.slot)} and {self.n_slots}: it belongs to another shard or another state of the event log. "
                "Rebuild the ledger from the event log."
            )

    def _load(self, carried: Carried) -> None:
        self.day = carried.day
        for name in _STORED:
            column = getattr(self, name)
            column[: len(carried.base)] = carried.base[name].to_numpy()
            for batch in carried.changes:
                column[batch["ordinal"].to_numpy()] = batch[name].to_numpy()
        for name in _BY_ACCOUNT:
            getattr(self, name)[: len(carried.accounts)] = carried.accounts[name].to_numpy(zero_copy_only=False)
        late = self.slot[carried.rows :][self.issued_on[carried.rows :] <= carried.day]
        self._allocate(np.unique(late))

    def _allocate(self, slots: npt.NDArray[Any]) -> int:
        """Allocate these accounts anew as of `self.day`. slots: (k,), ascending, unique.

        Some thousands of accounts at a time: their text stays in the processor's cache, and memory is bounded.
        """
        if not len(slots):
            return 0
        place = np.full(self.n_slots, -1, np.int32)
        place[slots] = np.arange(len(slots), dtype=np.int32)
        rows = np.flatnonzero((place[self.slot] >= 0) & (self.issued_on <= self.day))
        account = place[self.slot[rows]]
        block = (account // _BLOCK_ACCOUNTS).astype(np.uint16)
        by_block = np.argsort(block, kind="stable")
        ends = np.cumsum(np.bincount(block, minlength=-(-len(slots) // _BLOCK_ACCOUNTS)))
        for number, mine in enumerate(np.split(by_block, ends[:-1])):
            first = number * _BLOCK_ACCOUNTS
            accounts = slots[first : first + _BLOCK_ACCOUNTS]
            self._allocate_block(accounts, rows[mine], account[mine] - first)
        self.step = replace(self.step, slots=slots, rows=rows)
        return len(slots)

    def _allocate_block(self, slots: npt.NDArray[Any], rows: Int64, account: Int32) -> None:
        """Allocate the accounts at `slots`. rows: (n,), their events; account: (n,), each one's position in `slots`."""
        events = self.events.take(pa.array(rows)).append_column("slot", pa.array(account))
        result = allocate(events, len(slots))
        changed = np.zeros(len(rows), np.bool_)
        for name in _STORED:
            column, values = getattr(self, name), getattr(result, name)
            changed |= column[rows] != values
            column[rows] = values
        self._changed[rows[changed]] = True
        self.unallocated_minor[slots], self.last_due[slots], self.odd[slots] = (
            result.unallocated_minor, result.last_due, result.odd,
        )  # fmt: skip
        self.last_paid_row[slots] = np.where(result.last_paid_row >= 0, rows[result.last_paid_row], -1)


_STORED: Final = ("open_minor", "settled_on", "next_paid_on")
"""What is stored of each row."""

_BY_ACCOUNT: Final = ("unallocated_minor", "last_due", "last_paid_row", "odd")
"""What is stored of each account."""


# ----------------------------------------------------------------------------------------------------------- columns
def _sums(values: Int64, group: npt.NDArray[Any], n: int) -> Int64:
    """Exact sum of the values per group, (n,); groups in any order. Not np.bincount, which would add in floats."""
    out = np.zeros(n, np.int64)
    np.add.at(out, group.astype(np.intp, copy=False), values)
    return out


def _order(rows: Int64, key: Int64, *columns: Any) -> Int64:
    """Put rows in order of their key, then of the columns, then of their position.

    rows: (k,) positions in the columns; key: (k,). A column is an integer array, or an Arrow array that is compared as
    text in binary order, null as the empty text. Columns are looked at only where keys tie.
    """
    order = np.argsort(key)
    rows, key = rows[order], key[order]
    again = key[1:] == key[:-1]
    tied = np.flatnonzero(np.r_[again, False] | np.r_[False, again])
    if len(tied):
        some = rows[tied]
        ranks = [column[some] if isinstance(column, np.ndarray) else _text_rank(column, some) for column in columns]
        rows[tied] = some[np.lexsort((some, *reversed(ranks), key[tied]))]
    return rows


def _text_rank(column: Any, rows: Int64) -> npt.NDArray[Any]:
    text = _texts(pc.take(column, pa.array(rows)))
    return pc.rank(text, sort_keys="ascending", tiebreaker="dense").to_numpy()  # type: ignore[no-any-return]


def _same_text(*columns: pa.Array) -> list[Int64]:
    """Numbers from 0 that are equal where the texts are equal, across all columns."""
    codes = pa.concat_arrays(columns).dictionary_encode().indices.to_numpy().astype(np.int64)
    return np.split(codes, np.cumsum([len(column) for column in columns])[:-1])


def _pair(slot: Int64, day: npt.NDArray[Any]) -> Int64:
    """One number that orders by slot, then by day."""
    return (slot << 32) + (day.astype(np.int64) - NO_BILL)


def _starts(segment: Int64) -> Int64:
    """Where a run of equal numbers begins. segment: (n,); returns (runs,)."""
    return np.flatnonzero(np.r_[True, segment[1:] != segment[:-1]]) if len(segment) else np.zeros(0, np.int64)


def _before(values: Int64, segment: Int64) -> Int64:
    """The sum of the values ahead of each one in its run of equal segment numbers. All (n,)."""
    running, starts = np.cumsum(values) - values, _starts(segment)
    return running - np.repeat(running[starts], np.diff(np.r_[starts, len(segment)]))


def _numbers(column: Any, dtype: type[np.integer[Any]]) -> npt.NDArray[Any]:
    """An Arrow column of integers or dates without nulls as NumPy; a view where the type allows."""
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.to_numpy().astype(dtype, copy=False)  # type: ignore[no-any-return]


def _texts(column: Any) -> pa.Array:
    """A column as one array of text, null as the empty text."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pc.fill_null(column.cast(pa.string()), "")


def _lengths(text: pa.Array) -> Int32:
    """Length of each text in bytes, (n,)."""
    return pc.binary_length(text).to_numpy()  # type: ignore[no-any-return]


def _kinds(event_type: Any) -> Int64:
    """Position of each type in EVENT_TYPES, (n,) int64."""
    kinds = pc.index_in(_texts(event_type), value_set=pa.array(EVENT_TYPES))
    if kinds.null_count:
        raise ValueError(f"ledger event types must be of {EVENT_TYPES}; intake must reject others")
    return _numbers(kinds, np.int64)


def _is_adjustment(event_type: Any) -> Any:
    return pc.equal(event_type.cast(pa.string()), "adjustment")
