"""The ledger of one account shard: what is owed, since when, and how it was paid, carried on from day to day.

The rules are in docs/explanation/definitions.md, "Ledger, as of service day D"; how a set of events is allocated is told in
`allocation`. Here it is told which accounts are allocated anew, and which only further.

Days are day numbers (days since 1970-01-01, as in date32), money is int64 minor units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import StateError
from transforms.kernels.allocation import FIFO, NO_BILL, NO_PAYMENT, allocate
from transforms.kernels.by_day import ByDay
from transforms.kernels.keys import stable_hash
from transforms.kernels.ledger_events import (
    CHARGE,
    COLUMNS,
    INT64_MAX,
    PAYMENTS,
    WRITE_OFF,
    Bool,
    Int32,
    Int64,
    due_days,
    kinds,
    numbers,
    texts,
    total,
)

_BLOCK_ACCOUNTS: Final = 8192

_PRINT_BITS: Final = 22
_PRINT_MASK: Final = np.uint32((1 << _PRINT_BITS) - 1)
"""Part of a hash by which most rows are passed over."""

_STORED: Final = ("open_minor", "settled_on", "next_paid_on")
"""What is stored of each row."""

_BY_ACCOUNT: Final = ("unallocated_minor", "last_due", "last_paid_row", "odd")
"""What is stored of each account."""


@dataclass(frozen=True)
class Carried:
    """A ledger in the form that is stored between runs: Arrow batches and two numbers, all immutable.

    day: the day as of which it holds, and rows: how many rows of the events table were known.
    base: (open_minor int64, settled_on int32, next_paid_on int32) of the first `len(base)` rows of the events table.
    index: (due_on int32, by_issue int32, by_due int32, refund bool, id_print uint32, bill_print uint32) of the same rows: the day
    each is due, the rows in order of either day, which are refunds, and hashes of `event_id` and `bill_id`.
    changes: batches of (ordinal int64, and the columns of the base), oldest first: rows that differ from the base, or come
    after it; a later batch overrides an earlier one. Rows named nowhere are neither debits nor payments.
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

    further: (j,) the accounts that were allocated further; changed: (i,) rows of theirs, all open debits among them;
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
    carried: where an earlier process left off, under the same allocation. Rows that were added since with a date up to
    `carried.day` are taken in at once, so the ledger always holds what is known of `day`. Without it the ledger starts
    before the first event. To go back to an earlier day, build another one.
    allocation: one of `ALLOCATIONS`.
    Raises StateError when `carried` does not fit the events.

    Public, not to be mutated: slot, issued_on, due_on, amount_minor, open_minor, settled_on, next_paid_on (n,) arrays, the last
    three as in `Allocation`; refund (n,) bool, which rows are refunds, also where they do not count; is_bill, is_refund (n,) bool;
    unallocated_minor, last_due, last_paid_row, odd (n_slots,), as in `Allocation`; touched (n_slots,) bool, the accounts that were
    allocated since `carried`; by_issue, by_due: the rows by either day; step: what was allocated last; events: the columns of
    COLUMNS but for slot, (n,).
    """

    def __init__(
        self, events: pa.Table, n_slots: int, carried: Carried | None = None, allocation: str = FIFO
    ) -> None:  # fmt: skip
        self.events = events.select(list(COLUMNS[1:]))
        self.n_slots, self.allocation = n_slots, allocation
        self.touched: Bool = np.zeros(n_slots, np.bool_)
        self.slot: Int32 = numbers(events["slot"], np.int32)
        self.issued_on: Int32 = numbers(events["event_date"], np.int32)
        self.amount_minor: Int64 = numbers(events["amount_minor"], np.int64)
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
        told = {} if self._index is None else {name: _plain(self._index[name]) for name in self._index.schema.names}
        own = _told_by(events.slice(len(told["due_on"]) if told else 0))
        joined = {
            name: np.r_[told[name], rest] if told and len(rest) else told.get(name, rest) for name, rest in own.items()
        }
        self.due_on: Int32 = joined["due_on"]
        self.refund: Bool = joined["refund"]
        self._prints = {name: joined[f"{name}_print"] for name in ("id", "bill")}
        self.by_issue = ByDay(self.issued_on, told.get("by_issue"))
        self.by_due = ByDay(self.due_on, told.get("by_due"))
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
        bills: Bool = (self.settled_on != NO_BILL) & ~self.refund
        return bills

    @property
    def is_refund(self) -> Bool:
        """Which rows are refunds that count: debits like bills, but nothing that was billed."""
        refunds: Bool = (self.settled_on != NO_BILL) & self.refund
        return refunds

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
        if next_day and self._within_int64():
            asked = np.zeros(self.n_slots, np.bool_)
            asked[some] = True
            self._go_on(new[~asked[self.slot[new]]])
            mine[self.step.further] = False
        return len(self.step.further) + self._allocate(np.flatnonzero(mine))

    def _within_int64(self) -> bool:
        """Whether the amounts of no account can add up to 2^63, by those of all together."""
        largest = max(int(self.amount_minor.max(initial=0)), -int(self.amount_minor.min(initial=0)))
        return largest * len(self.amount_minor) <= INT64_MAX or total(self.amount_minor) <= INT64_MAX

    # ------------------------------------------------------------------------------------------------ a plain day's events
    def _go_on(self, new: Int64) -> None:
        """Allocate accounts further whose allocation stands: what is new goes to what is open, and changes nothing else.

        That is so where all credits are applied, each named bill is there once, and a day brings payments, prepayments and
        write-offs, no more of them to a bill they name than it needs, and charges, due after all other debits. Old credits then go
        to old debits as they did, and all that is new comes after them in either order. A charge may come before old debits
        by its priority: under that allocation there must be none. new: rows of the day.
        """
        events = self.events.take(pa.array(new))
        kind, slot = kinds(events["event_type"]), self.slot[new].astype(np.int64)
        charge, credit = kind == CHARGE, np.isin(kind, (*PAYMENTS, WRITE_OFF))
        last = charge & (self.due_on[new] > self.last_due[slot]) & (self.allocation == FIFO)
        fits = ~self.odd & (self.unallocated_minor == 0)
        fits[slot[~(last | credit)]] = False
        some = np.zeros(self.n_slots, np.bool_)
        some[slot] = fits[slot]
        some[self._known_names(new, charge, some)] = False
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
        result = allocate(some_events.set_column(at, "amount_minor", pa.array(amount)), len(slots), self.allocation)

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
        self.touched[further] = True
        self.step = replace(self.step, further=further, changed=changed, before=before)

    def _known_names(self, new: Int64, charge: Bool, some: Bool) -> Int64:
        """Slots whose new events have an id, or a bill's number, that the account has already, or twice. some: (n_slots,).

        Told by hashes: of some accounts it may be said wrongly, of none it is missed.
        """
        slot, ids, bills = self.slot[new].astype(np.int64), self._prints["id"][new], self._prints["bill"][new]
        numbered = np.flatnonzero(charge & (bills != _NO_TEXT) & (bills != ids))
        names, owner = np.r_[ids, bills[numbered]], np.r_[slot, slot[numbered]]
        wanted = np.zeros(1 << _PRINT_BITS, np.bool_)
        wanted[names[some[owner]] & _PRINT_MASK] = True
        mine = some[self.slot]
        mine[new] = False
        found, where = [names], [owner]
        for prints, rows in ((self._prints["id"], mine), (self._prints["bill"], mine & (self.settled_on != NO_BILL))):
            hit = np.flatnonzero(rows & wanted[prints & _PRINT_MASK])
            found.append(prints[hit])
            where.append(self.slot[hit].astype(np.int64))
        key = np.concatenate(where) << 32 | np.concatenate(found)
        known = pc.is_in(pa.array(key[: len(names)]), value_set=pa.array(key[len(names) :])).to_numpy(
            zero_copy_only=False
        )
        order = np.argsort(key[: len(names)], kind="stable")
        twice = order[1:][key[order[1:]] == key[order[:-1]]]
        slots: Int64 = np.r_[owner[known], owner[twice]]
        return slots

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
                {
                    "due_on": self.due_on,
                    "by_issue": self.by_issue.all(),
                    "by_due": self.by_due.all(),
                    "refund": self.refund,
                    "id_print": self._prints["id"],
                    "bill_print": self._prints["bill"],
                }
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

    def blocks(self, slots: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], pa.Table, Int64]]:
        """The events of some accounts up to `day`, some thousands of accounts at a time. slots: (k,), ascending, unique.

        Their text stays in the processor's cache, and memory is bounded. Yields accounts (m,), their events with COLUMNS,
        in which `slot` is the position among them, and the rows of these events in this ledger. The amounts of a block
        of several accounts add up to less than 2^63.
        """
        if not len(slots):
            return
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
        every = [np.zeros(0, np.int64)]
        for some, events, rows in self.blocks(slots):
            result = allocate(events, len(some), self.allocation)
            changed = np.zeros(len(rows), np.bool_)
            for name in _STORED:
                column, values = getattr(self, name), getattr(result, name)
                changed |= column[rows] != values
                column[rows] = values
            self._changed[rows[changed]] = True
            self.unallocated_minor[some], self.last_due[some], self.odd[some] = (
                result.unallocated_minor, result.last_due, result.odd,
            )  # fmt: skip
            paid = result.last_paid_row >= 0
            self.last_paid_row[some] = -1
            self.last_paid_row[some[paid]] = rows[result.last_paid_row[paid]]
            every.append(rows)
        self.touched[slots] = True
        self.step = replace(self.step, slots=slots, rows=np.concatenate(every))
        return len(slots)


def _told_by(events: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """What is kept of each row besides its allocation, and does not change. (n,) each."""
    refund = pc.equal(events["event_type"].cast(pa.string()), "refund")
    return {
        "due_on": due_days(events),
        "refund": _plain(refund),
        "id_print": _print(events["event_id"]),
        "bill_print": _print(events["bill_id"]),
    }


def _print(text: Any) -> npt.NDArray[np.uint32]:
    return stable_hash(texts(text)).astype(np.uint32)


def _plain(column: Any) -> npt.NDArray[Any]:
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


_NO_TEXT: Final = _print(pa.array([""]))[0]
