"""The ledger of one account shard: what is owed, since when, and how it was paid.

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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import StateError
from transforms.kernels.ledger_events import (
    COLUMNS,
    INT64_MAX,
    NO_DAY,
    Bool,
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
    sums,
    total,
)

NO_BILL: Final = NO_DAY
"""`settled_on` of a row that is no debit: a credit, a reversal, a superseded version, an event still to come."""

UNSETTLED: Final = NO_BILL + 1
"""`settled_on` of a bill or refund with an open amount."""

FIFO: Final = "fifo"
PRIORITY: Final = "priority"
ALLOCATIONS: Final = (FIFO, PRIORITY)
"""What pooled credits serve first: what is due first; or what has the smallest priority, then what is due first."""

_BLOCK_ACCOUNTS: Final = 8192


# ------------------------------------------------------------------------------------------------------- allocation
@dataclass(frozen=True)
class Allocation:
    """What a set of events comes to. The first two arrays are row by row, the others account by account.

    open_minor: (n,) int64, what the bill or refund of the row still needs; 0 where the row is neither.
    settled_on: (n,) int32, the day the bill or refund of the row was settled, or UNSETTLED, or NO_BILL.
    unallocated_minor: (n_slots,) int64, credits left when all debits are paid.
    balance_minor: (n_slots,) int64, debits minus credits; always the open amounts minus `unallocated_minor`.
    """

    open_minor: Int64
    settled_on: Int32
    unallocated_minor: Int64
    balance_minor: Int64


@dataclass(frozen=True)
class _Side:
    """Debits, or the credits that pay them, in the order in which they are served. All (k,); `slot` is ascending."""

    row: Int64
    slot: Int64
    day: Int64
    minor: Int64


def allocate(events: pa.Table, n_slots: int, allocation: str = FIFO) -> Allocation:
    """Allocate all credits of some accounts to their debits. events, errors: as of `count_events`.

    allocation: one of `ALLOCATIONS`.
    """
    counted = count_events(events, n_slots)
    slot, issued, amount = counted.slot, counted.issued_on, counted.amount_minor
    due = due_days(events)
    number, directed = bill_numbers(events, counted)

    debit_rows, credit_rows = np.flatnonzero(counted.bill | counted.refund), np.flatnonzero(counted.credit)
    debit_rows = order_rows(debit_rows, pair(slot[debit_rows], due[debit_rows]), number, counted.event_id)
    credit_rows = order_rows(credit_rows, pair(slot[credit_rows], issued[credit_rows]))  # no figure depends on more
    target = _directed_to(debit_rows, credit_rows, slot, counted.bill, number, directed)
    if allocation == PRIORITY:
        first = numbers(pc.fill_null(events["priority"], 0), np.int64)
        served = np.argsort(pair(slot[debit_rows], first[debit_rows]), kind="stable")  # the rest stays as it was
        place = np.empty(len(served), np.int64)
        place[served] = np.arange(len(served))
        debit_rows = debit_rows[served]
        target[target >= 0] = place[target[target >= 0]]
    debits = _Side(debit_rows, slot[debit_rows], due[debit_rows].astype(np.int64), amount[debit_rows])
    funds = _Side(credit_rows, slot[credit_rows], issued[credit_rows], np.abs(amount[credit_rows]))

    need, left, latest = _apply_directed(debits, funds, target)
    filled, latest = _apply_pooled(debits, funds, need, left, latest, n_slots)

    open_minor = np.zeros(len(slot), np.int64)
    settled_on = np.full(len(slot), NO_BILL, np.int32)
    open_minor[debits.row] = need - filled
    settled_on[debits.row] = np.where(need == filled, latest, UNSETTLED)
    owed = sums(debits.minor, debits.slot, n_slots)
    credited = sums(funds.minor, funds.slot, n_slots)
    pooled = sums(left, funds.slot, n_slots)
    return Allocation(open_minor, settled_on, pooled - sums(filled, debits.slot, n_slots), owed - credited)


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


def _apply_directed(debits: _Side, funds: _Side, target: Int64) -> tuple[Int64, Int64, Int64]:
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
    debits: _Side, funds: _Side, need: Int64, left: Int64, latest: Int64, n_slots: int
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


# ------------------------------------------------------------------------------------------- the ledger from day to day
@dataclass(frozen=True)
class Carried:
    """A ledger in the form that is stored between runs: Arrow batches and two numbers, all immutable.

    day: the day as of which it holds, and rows: how many rows of the events table were known.
    base: (open_minor int64, settled_on int32) of the first `len(base)` rows of the events table.
    changes: batches of (ordinal int64, open_minor, settled_on), oldest first: rows that differ from the base, or come
    after it; a later batch overrides an earlier one. Rows named nowhere are no debits.
    accounts: (unallocated_minor int64), one row per slot.
    """

    day: int
    rows: int
    base: pa.RecordBatch
    changes: tuple[pa.RecordBatch, ...]
    accounts: pa.RecordBatch

    @property
    def changed_rows(self) -> int:
        """Rows in `changes`. Once they are no longer few against the base, `Ledger.dump(rebase=True)` pays."""
        return sum(len(batch) for batch in self.changes)


class Ledger:
    """All ledger events known of a shard, and their allocation as of `day`.

    events: (n,) rows with COLUMNS. Rows are only ever added, at the end; a slot always means the same account.
    carried: where an earlier process left off, under the same allocation. Rows that were added since with a date up to
    `carried.day` are taken in at once, so the ledger always holds what is known of `day`. Without it the ledger starts
    before the first event. To go back to an earlier day, build another one.
    allocation: one of `ALLOCATIONS`.
    Raises StateError when `carried` does not fit the events.

    Public arrays, not to be mutated: slot, issued_on, due_on, amount_minor, open_minor, settled_on (n,), the last two
    as in `Allocation`; is_bill, is_refund (n,) bool; unallocated_minor (n_slots,); touched (n_slots,) bool, the accounts
    that were allocated anew since `carried`. events: the columns of COLUMNS but for slot, (n,).
    """

    def __init__(
        self, events: pa.Table, n_slots: int, carried: Carried | None = None, allocation: str = FIFO
    ) -> None:  # fmt: skip
        self.events = events.select(list(COLUMNS[1:]))
        self.n_slots, self.allocation = n_slots, allocation
        self.touched: Bool = np.zeros(n_slots, np.bool_)
        self.slot: Int32 = numbers(events["slot"], np.int32)
        self.issued_on: Int32 = numbers(events["event_date"], np.int32)
        self.due_on: Int32 = due_days(events)
        self.amount_minor: Int64 = numbers(events["amount_minor"], np.int64)
        self._refunds: Bool = pc.equal(events["event_type"].cast(pa.string()), "refund").to_numpy()
        if len(self.slot) and not 0 <= int(self.slot.min()) <= int(self.slot.max()) < n_slots:
            raise ValueError(f"slots run from {self.slot.min()} to {self.slot.max()}, not within 0 .. {n_slots - 1}")
        self.day = NO_BILL
        self.open_minor: Int64 = np.zeros(len(self.slot), np.int64)
        self.settled_on: Int32 = np.full(len(self.slot), NO_BILL, np.int32)
        self.unallocated_minor: Int64 = np.zeros(n_slots, np.int64)
        self._base = _base_of(self.open_minor[:0], self.settled_on[:0])
        self._changes: tuple[pa.RecordBatch, ...] = ()
        self._changed = np.zeros(len(self.slot), np.bool_)
        if carried is not None:
            self._load(carried)

    @classmethod
    def at(cls, events: pa.Table, n_slots: int, day: int, allocation: str = FIFO) -> Ledger:
        """The ledger as of a day, allocated from scratch."""
        ledger = cls(events, n_slots, allocation=allocation)
        ledger.advance(day)
        return ledger

    @property
    def is_bill(self) -> Bool:
        """Which rows are bills that count: charges and positive adjustments."""
        bills: Bool = (self.settled_on != NO_BILL) & ~self._refunds
        return bills

    @property
    def is_refund(self) -> Bool:
        """Which rows are refunds that count: debits like bills, but nothing that was billed."""
        refunds: Bool = (self.settled_on != NO_BILL) & self._refunds
        return refunds

    def advance(self, day: int, touched: npt.ArrayLike = ()) -> int:
        """Go on to `day`; returns how many accounts were allocated anew.

        Those are the accounts with an event after the present day and up to `day`, and the slots in `touched`.
        Raises ValueError when `day` is before the present one, and what `allocate` raises.
        """
        if day < self.day:
            raise ValueError(f"the ledger stands at day {self.day}, after {day}; build it anew with Ledger.at")
        new = (self.issued_on > self.day) & (self.issued_on <= day)
        mine = np.zeros(self.n_slots, np.bool_)
        mine[self.slot[new]] = True
        mine[np.asarray(touched, np.int64)] = True
        self.day = day
        return self._allocate(np.flatnonzero(mine))

    def dump(self, *, rebase: bool = False) -> Carried:
        """What the next process needs to go on from here.

        `base` and `changes` are those that were loaded, with one more batch of what changed since, if anything did.
        rebase: write a new base of all rows instead.
        """
        if rebase:
            base = _base_of(self.open_minor.copy(), self.settled_on.copy())
            changes: tuple[pa.RecordBatch, ...] = ()
        else:
            base, changes = self._base, self._changes
            rows = np.flatnonzero(self._changed)
            if len(rows):
                changes = (*changes, _changes_of(rows, self.open_minor[rows], self.settled_on[rows]))
        accounts = pa.record_batch({"unallocated_minor": self.unallocated_minor.copy()})
        return Carried(self.day, len(self.slot), base, changes, accounts)

    def _load(self, carried: Carried) -> None:
        if not len(carried.base) <= carried.rows <= len(self.slot) or len(carried.accounts) > self.n_slots:
            raise StateError(
                f"the ledger state covers {carried.rows} events and {len(carried.accounts)} accounts, but there are "
                f"{len(self.slot)} and {self.n_slots}: it belongs to another shard or another state of the event log. "
                "Rebuild the ledger from the event log."
            )
        self.day = carried.day
        self._base, self._changes = carried.base, carried.changes
        self.open_minor[: len(carried.base)] = carried.base["open_minor"].to_numpy()
        self.settled_on[: len(carried.base)] = carried.base["settled_on"].to_numpy()
        for batch in carried.changes:
            rows = batch["ordinal"].to_numpy()
            self.open_minor[rows] = batch["open_minor"].to_numpy()
            self.settled_on[rows] = batch["settled_on"].to_numpy()
        self.unallocated_minor[: len(carried.accounts)] = carried.accounts["unallocated_minor"].to_numpy()
        late = self.slot[carried.rows :][self.issued_on[carried.rows :] <= carried.day]
        self._allocate(np.unique(late))

    def blocks(self, slots: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], pa.Table, Int64]]:
        """The events of some accounts up to `day`, some thousands of accounts at a time. slots: (k,), ascending, unique.

        Their text stays in the processor's cache, and memory is bounded. Yields accounts (m,), their events with COLUMNS,
        in which `slot` is the position among them, and the rows of these events in this ledger. The amounts of a block
        of several accounts add up to less than 2^63.
        """
        place = np.full(self.n_slots, -1, np.int32)
        place[slots] = np.arange(len(slots), dtype=np.int32)
        rows = np.flatnonzero((place[self.slot] >= 0) & (self.issued_on <= self.day))
        account = place[self.slot[rows]]
        block = (account // _BLOCK_ACCOUNTS).astype(np.uint16)
        by_block = np.argsort(block, kind="stable")
        ends = np.cumsum(np.bincount(block, minlength=-(-len(slots) // _BLOCK_ACCOUNTS)))
        for number, mine in enumerate(np.split(by_block, ends[:-1])):
            first = number * _BLOCK_ACCOUNTS
            yield from self._block(slots[first : first + _BLOCK_ACCOUNTS], rows[mine], account[mine] - first)

    def _block(
        self, slots: npt.NDArray[Any], rows: Int64, account: Int32
    ) -> Iterator[tuple[npt.NDArray[Any], pa.Table, Int64]]:
        if len(slots) > 1 and total(self.amount_minor[rows]) > INT64_MAX:
            half = len(slots) // 2
            lower = account < half
            yield from self._block(slots[:half], rows[lower], account[lower])
            yield from self._block(slots[half:], rows[~lower], account[~lower] - np.int32(half))
        else:
            yield slots, self.events.take(pa.array(rows)).append_column("slot", pa.array(account)), rows

    def _allocate(self, slots: npt.NDArray[Any]) -> int:
        """Allocate these accounts anew as of `self.day`. slots: (k,), ascending, unique."""
        for some, events, rows in self.blocks(slots):
            result = allocate(events, len(some), self.allocation)
            changed = (self.open_minor[rows] != result.open_minor) | (self.settled_on[rows] != result.settled_on)
            self._changed[rows[changed]] = True
            self.open_minor[rows] = result.open_minor
            self.settled_on[rows] = result.settled_on
            self.unallocated_minor[some] = result.unallocated_minor
        self.touched[slots] = True
        return len(slots)


def _base_of(open_minor: Int64, settled_on: Int32) -> pa.RecordBatch:
    return pa.record_batch({"open_minor": open_minor, "settled_on": settled_on})


def _changes_of(ordinal: Int64, open_minor: Int64, settled_on: Int32) -> pa.RecordBatch:
    return pa.record_batch({"ordinal": ordinal, "open_minor": open_minor, "settled_on": settled_on})


# ---------------------------------------------------------------------------------------------------------- features
def credit_features(ledger: Ledger) -> dict[str, npt.NDArray[Any]]:
    """The credit columns of the features mart as of `ledger.day`, by name, in the mart's order.

    Each is (n_slots,), int64 or int32 as the mart says; the two that may be null are masked arrays. An account
    without events has zeros and nulls.
    """
    day, n = ledger.day, ledger.n_slots
    is_bill = ledger.is_bill

    rows = np.flatnonzero(is_bill & (ledger.issued_on >= day - 364))
    billed = sums(ledger.amount_minor[rows], ledger.slot[rows], n)

    rows = np.flatnonzero(ledger.open_minor)
    bucket = np.searchsorted(_AGES, day - ledger.due_on[rows])
    aged = sums(ledger.open_minor[rows], bucket * n + ledger.slot[rows], len(_AGED) * n).reshape(len(_AGED), n)

    rows = np.flatnonzero(is_bill & (ledger.due_on >= day - 365) & (ledger.due_on < day))
    settled, due, slot = ledger.settled_on[rows], ledger.due_on[rows], ledger.slot[rows]
    late_days = np.where(settled == UNSETTLED, day, settled) - due
    late = np.flatnonzero(late_days > 0)
    bills_due = np.bincount(slot, minlength=n)
    on_time = bills_due - np.bincount(slot[late], minlength=n)
    beyond = sums(late_days[late].astype(np.int64), slot[late], n)

    none, divisor = bills_due == 0, np.maximum(bills_due, 1)
    return {
        "billed_365d_minor": billed,
        "balance_minor": aged.sum(axis=0) - ledger.unallocated_minor,
        **dict(zip(_AGED, aged, strict=True)),
        "overdue_minor": aged[1:].sum(axis=0),
        "unallocated_minor": ledger.unallocated_minor.copy(),
        "bills_due_365d": bills_due.astype(np.int32),
        "bills_on_time_365d": on_time.astype(np.int32),
        "on_time_365d_ppm": np.ma.masked_array(on_time * 1_000_000 // divisor, none),
        "beyond_terms_365d_days": beyond,
        "mean_beyond_terms_365d_milli": np.ma.masked_array(beyond * 1000 // divisor, none),
    }


_AGED: Final = ("current_minor", "overdue_1_30_minor", "overdue_31_60_minor", "overdue_61_90_minor", "overdue_91_minor")
_AGES: Final = np.array([0, 30, 60, 90])
"""The last day past due of each bucket but the open-ended one."""
