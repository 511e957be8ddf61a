"""What a ledger no longer needs to hold: rows that may go, and the one row of each account that takes their place.

Bills that were paid before a day, and what paid them, can be left out, so that what stays is allocated as it was on that day and
on every later one. The pool serves debits in their order, so the first of them go. Of credits before that day only the sum
matters: what those that go leave over becomes an *opening*. A bill and the credits that name it go together or stay together.

    debits    |-- b1 --|-- b2 --|------ b3 ------          b1 and b2 go
    credits   |---- c1 ----|-- c2 --|- c3                   c1 and c2 go; c3 is the latest payment
    stays                     | r   |- c3                   r: the opening, what c1 and c2 leave over

That holds as long as nothing new is dated, or due, before the day, and names nothing that went: see `recalls`.
Days are day numbers (days since 1970-01-01, as in date32), money is int64 minor units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.kernels.allocation import FIFO, Matched, match
from transforms.kernels.keys import stable_hash
from transforms.kernels.ledger import Ledger
from transforms.kernels.ledger_events import (
    ADJUSTMENT,
    NO_DAY,
    PAYMENTS,
    Bool,
    Int32,
    Int64,
    before,
    due_days,
    kinds,
    lengths,
    numbers,
    same_text,
    sums,
    texts,
)
from transforms.kernels.ledger_exceptions import ledger_exceptions
from transforms.kernels.reference import NEVER

UInt64 = npt.NDArray[np.uint64]

OPENING_ID: Final = ""
"""Event id of an opening row: an event without an id is taken in from nowhere."""

REACH: Final = 367
"""Days that figures look back, and one: bills 366 days after they were due, months in arrears up to the end of the twelfth."""

_OWN: Final = ("event_id", "bill_id")
_NAMES: Final = (*_OWN, "ref_event_id")
"""Columns by which an event can be named, and those by which it can name another."""

_SMALL: Final = 1 << 30
"""In 2^20 minor units: of accounts whose amounts add up to more nothing goes, for 2^63 is counted up to."""


@dataclass(frozen=True)
class Closing:
    """gone: (n,) bool, the rows that go. opening: (k,) rows in their place, ascending by slot, of the columns of the events.

    names: fingerprints of what must not be named any more, ascending, unique.
    """

    gone: Bool
    opening: pa.Table
    names: UInt64


def close(events: pa.Table, n_slots: int, day: int, allocation: str, may_close: Bool, ended: Int32) -> Closing:
    """Which rows dated before `day` may go. events: all rows of the ledger, of COLUMNS; may_close: (n_slots,) of which accounts.

    ended: (n_slots,) the last day of each account; payments after it stay, and so does the latest one that stands. Of an account
    with exceptions, or whose later rows concern what would go, nothing goes.
    """
    ledger = Ledger.at(events, n_slots, day - 1, allocation)
    some = may_close & ~ledger.odd & (sums(np.abs(ledger.amount_minor) >> 20, ledger.slot, n_slots) < _SMALL)
    held = np.zeros(n_slots, np.bool_)
    held[ledger.slot[ledger.issued_on < day]] = True
    some &= held
    told = ledger_exceptions(ledger, np.flatnonzero(some), np.full(n_slots, NEVER, np.int32))
    some[numbers(told["slot"], np.int64)] = False

    gone, rest, dated = np.zeros(len(ledger.slot), np.bool_), np.zeros(n_slots, np.int64), np.zeros(n_slots, np.int32)
    for slots, block, rows in ledger.blocks(np.flatnonzero(some)):
        stays = np.isin(rows, ledger.last_paid_row[slots]) | (ledger.issued_on[rows] > ended[ledger.slot[rows]])
        mine, rest[slots], dated[slots] = _close_block(block, len(slots), day, allocation, stays)
        gone[rows[mine]] = True

    opens = opening_rows(events)
    shut = np.zeros(n_slots, np.bool_)
    shut[ledger.slot[gone & ~opens]] = True
    later = np.flatnonzero(shut[ledger.slot] & (ledger.issued_on >= day))
    asking = recalls(events.take(pa.array(later)), shut, day, _names(ledger, events, gone, shut))
    shut[ledger.slot[later[asking]]] = False
    gone = (gone | opens) & shut[ledger.slot]
    slots = np.flatnonzero(shut)
    opening = _openings(events.schema, slots, rest[slots], dated[slots], _paid(events, ledger, gone, n_slots)[slots], 0)
    return Closing(gone, opening, _names(ledger, events, gone, shut))


def _paid(events: pa.Table, ledger: Ledger, gone: Bool, n_slots: int) -> Int32:
    """The latest day of a payment among what goes, and what openings say of what went before: (n_slots,)."""
    rows = np.flatnonzero(gone)
    some = events.take(pa.array(rows))
    paid = np.where(np.isin(kinds(some["event_type"]), PAYMENTS), ledger.issued_on[rows], NO_DAY)
    told = numbers(pc.fill_null(some["due_date"].cast(pa.int32()), NO_DAY), np.int32)
    out = np.full(n_slots, NO_DAY, np.int32)
    np.maximum.at(out, ledger.slot[rows], np.where(opening_rows(some), told, paid))
    return out


def _names(ledger: Ledger, events: pa.Table, gone: Bool, shut: Bool) -> UInt64:
    """Fingerprints of the ids and numbers of what goes, and of the latest payments, which hide those before them."""
    last = ledger.last_paid_row[shut]
    rows = np.flatnonzero(gone & shut[ledger.slot])
    found = [_told(ledger.slot, events, name, rows)[1] for name in _OWN]
    return np.unique(np.concatenate([*found, _told(ledger.slot, events, "event_id", last[last >= 0])[1]]))


def recalls(events: pa.Table, shut: Bool, day: int, names: UInt64) -> Bool:
    """Which of some events need what went of their account: (n,). shut: (n_slots,), accounts of which something went.

    They are dated or due before the day of the closing, or have or name an id, or a bill's number, that went. names: fingerprints
    of those, ascending: where another name has the same, that costs a look in vain.
    """
    slot = numbers(events["slot"], np.int64)
    found: Bool = shut[slot] & (np.minimum(numbers(events["event_date"], np.int32), due_days(events)) < day)
    rows = np.flatnonzero(shut[slot] & ~found)
    for name in _NAMES:
        some, prints = _told(slot, events, name, rows)
        at = np.searchsorted(names, prints)
        hit = np.zeros(len(some), np.bool_)
        inside = at < len(names)
        hit[inside] = names[at[inside]] == prints[inside]
        found[some[hit]] = True
    return found


def opening_rows(events: pa.Table) -> Bool:
    """Which rows are openings: (n,)."""
    opens: Bool = numbers(pc.binary_length(events["event_id"]), np.int32) == len(OPENING_ID)
    return opens


def paid_days(events: pa.Table, n_slots: int) -> Int32:
    """The latest day of a payment that went, of each account: (n_slots,), NO_DAY where none did."""
    rows = np.flatnonzero(opening_rows(events))
    some = events.select(["slot", "due_date"]).take(pa.array(rows))
    out = np.full(n_slots, NO_DAY, np.int32)
    np.maximum.at(
        out, numbers(some["slot"], np.int64), numbers(pc.fill_null(some["due_date"].cast(pa.int32()), NO_DAY), np.int32)
    )
    return out


def shut_slots(events: pa.Table, n_slots: int) -> Bool:
    """Accounts of which something went and has not come back: (n_slots,)."""
    rows = np.flatnonzero(opening_rows(events))
    some = events.select(["slot", "revision"]).take(pa.array(rows))
    slot, revision = numbers(some["slot"], np.int64), numbers(some["revision"], np.int64)
    shut = np.zeros(n_slots, np.bool_)
    shut[slot] = True
    shut[slot[revision > 0]] = False
    return shut


def superseded(events: pa.Table, slots: npt.NDArray[Any]) -> pa.Table:
    """Rows that supersede the openings of some accounts, whose events are all back. events: with these openings."""
    rows = np.flatnonzero(opening_rows(events))
    slot = numbers(events["slot"].take(pa.array(rows)), np.int64)
    mine = rows[np.isin(slot, slots)]
    dated = numbers(events["event_date"].take(pa.array(mine)), np.int32)
    slot = numbers(events["slot"].take(pa.array(mine)), np.int64)
    return _openings(events.schema, slot, np.zeros(len(mine), np.int64), dated, np.full(len(mine), NO_DAY, np.int32), 1)


def missing(some: pa.Table, events: pa.Table) -> Bool:
    """Which of some rows are of events that are not among others: (n,). Both with slot and event_id."""
    mine, theirs = same_text(texts(some["event_id"]), texts(events["event_id"]))
    several = max(int(mine.max(initial=0)), int(theirs.max(initial=0))) + 1
    key = numbers(some["slot"], np.int64) * several + mine
    absent: Bool = ~np.isin(key, numbers(events["slot"], np.int64) * several + theirs)
    return absent


# ------------------------------------------------------------------------------------------------------------- one block
def _close_block(
    events: pa.Table, n: int, day: int, allocation: str, stays: Bool
) -> tuple[Bool, Int64, Int32]:  # fmt: skip
    """Of some accounts the rows that may go, what is left of what goes, and the day of that. stays: rows that must not."""
    found = match(events, n, allocation)
    counted, debits, funds = found.counted, found.debits, found.funds
    gone_debits, gone_funds = _parting(found, n, day, stays[funds.row], pools=allocation == FIFO)
    rest = sums(np.where(gone_funds, found.left, 0), funds.slot, n)
    rest -= sums(np.where(gone_debits, found.need, 0), debits.slot, n)
    dated = np.full(n, NO_DAY, np.int64)
    np.maximum.at(dated, funds.slot[gone_funds], funds.day[gone_funds])

    goes = np.zeros(len(counted.slot), np.bool_)
    goes[debits.row[gone_debits]] = True
    goes[funds.row[gone_funds]] = True
    goes[counted.reversals] = True
    goes |= counted.reversed | (counted.counts & (counted.kind == ADJUSTMENT) & (counted.amount_minor == 0))
    key = counted.key(counted.slot, counted.event)
    return np.isin(key, key[goes]), rest, np.where(dated == NO_DAY, day - 1, dated).astype(np.int32)


def _parting(found: Matched, n: int, day: int, stays: Bool, *, pools: bool) -> tuple[Bool, Bool]:
    """Which debits and which credits may go. stays: (credits,) which must not; pools: whether what the pool pays may.

    What has to stay keeps with it the bill that a credit names, the credits that name a bill, and of the debits that the pool pays
    all that come after.
    """
    debits, funds, target, need = found.debits, found.funds, found.target, found.need
    named = np.flatnonzero(target >= 0)
    held, kept = (need != found.filled) | (debits.day >= day), stays
    if not pools:
        held, kept = held | (need > 0), kept | (found.left > 0)
    upto = before(need, debits.slot) + need
    for _ in range(len(held) + len(kept) + 1):
        first = before(held.astype(np.int64), debits.slot) == 0
        most = sums(np.where(kept, 0, found.left), funds.slot, n)
        gone = ~held & ((need == 0) | (first & (upto <= most[debits.slot])))
        now_held, now_kept = held.copy(), kept.copy()
        now_kept[named[~gone[target[named]]]] = True
        now_held[target[named[now_kept[named]]]] = True
        if (now_held == held).all() and (now_kept == kept).all():
            break
        held, kept = now_held, now_kept
    return gone, ~kept


def _openings(schema: pa.Schema, slot: Int64, rest: Int64, dated: Int32, paid: Int32, revision: int) -> pa.Table:
    """Opening rows: adjustments of minus what is left, so that they are credits and no payments.

    paid: the latest day of a payment that went, or NO_DAY; it stands in `due_date`, which no credit has a use for.
    """
    n = len(slot)
    columns = {
        "slot": pa.array(slot), "event_id": pa.repeat(OPENING_ID, n), "event_type": pa.repeat("adjustment", n),
        "event_date": pa.array(dated.astype(np.int32)), "amount_minor": pa.array(-rest), "revision": pa.repeat(revision, n),
        "due_date": pa.array(paid, mask=paid == NO_DAY),
    }  # fmt: skip
    return pa.table(
        [
            columns[field.name].cast(field.type) if field.name in columns else pa.nulls(n, field.type)
            for field in schema
        ],
        schema=schema,
    )


# ---------------------------------------------------------------------------------------------------------- fingerprints
def _told(slot: npt.NDArray[Any], events: pa.Table, name: str, rows: Int64) -> tuple[Int64, UInt64]:
    """Of some rows those that have a text in a column, and its fingerprint for their account."""
    text = texts(events[name].take(pa.array(rows)))
    has = lengths(text) > 0
    some = rows[has]
    return some, stable_hash(text.filter(pa.array(has))) ^ (
        slot[some].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    )
