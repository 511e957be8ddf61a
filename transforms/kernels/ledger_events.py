"""Ledger events in columns: which version of each counts, and what it is: a bill, a refund, a credit, or nothing.

The rules are in docs/explanation/definitions.md, "Ledger, as of service day D".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import EVENT_TYPES

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

CONTENT: Final = ("event_type", "event_date", "due_date", "amount_minor", "bill_id", "ref_event_id", "priority")
"""What figures depend on: events of one id and revision that differ in it are settled by it, as text."""

COLUMNS: Final = ("slot", "event_id", *CONTENT, "revision")
"""The columns of an events table that count here. Any others are ignored."""

NO_DAY: Final = -(1 << 31)
"""Earlier than every day number."""

INT64_MAX: Final = (1 << 63) - 1

CHARGE, PAYMENT, REVERSAL, WRITE_OFF, ADJUSTMENT, REFUND, PREPAYMENT = (
    EVENT_TYPES.index(name)
    for name in ("charge", "payment", "reversal", "write_off", "adjustment", "refund", "prepayment")
)

_TELL_DUE: Final = pa.array(["charge", "adjustment"])

PAYMENTS: Final = (PAYMENT, PREPAYMENT)
"""Types of events by which a customer pays."""


@dataclass(frozen=True)
class Counted:
    """What the events of some accounts are. All (n,), row by row; at most one mask holds of a row.

    slot, kind (position in `EVENT_TYPES`), amount_minor, issued_on: of the row. event: one number for all events of an id.
    counts: whether the version counts; what is no bill, refund or credit then is a reversal, names nothing, or is `beyond`.
    bill, refund: debits. credit: pays debits; `reversed`: would, were it not taken back. beyond: see `count_events`.
    reversals: (k,) rows of the reversals that count, reversed_event: (k,) number of the event that each names.
    """

    slot: Int64
    kind: Int64
    amount_minor: Int64
    issued_on: Int64
    event_id: pa.Array
    event: Int64
    counts: Bool
    bill: Bool
    refund: Bool
    credit: Bool
    reversed: Bool
    beyond: Bool
    reversals: Int64
    reversed_event: Int64

    def key(self, slot: Int64, event: Int64) -> Int64:
        """An event of an account as one number; the same account and id, the same number."""
        several = max(int(self.event.max(initial=0)), int(self.reversed_event.max(initial=0))) + 1
        return slot * several + event


def count_events(events: pa.Table, n_slots: int) -> Counted:
    """Tell what the events are.

    events: (n,) rows with COLUMNS, in any order: every event of the accounts that exists on the day, and no later
    one. Several versions of an event may be among them. slot: int32 in 0 .. n_slots-1.
    Of one account whose amounts add up to 2^63 or more, in order of (event date, event id) those count up to which they
    do not; the others are `beyond`. Of several accounts together that is an OverflowError: ask for them apart.
    Raises ValueError for what intake rejects: an unknown type, a charge without a due date, an amount that is not positive.
    """
    slot, issued = numbers(events["slot"], np.int64), numbers(events["event_date"], np.int64)
    amount, kind = numbers(events["amount_minor"], np.int64), kinds(events["event_type"])
    event_id, reference = texts(events["event_id"]), texts(events["ref_event_id"])
    naming = np.flatnonzero((kind == REVERSAL) & (lengths(reference) > 0))
    event, named = same_text(event_id, reference.take(naming))
    counts = _winners(events, slot, event)
    _check(events, counts, kind, amount)

    beyond = np.zeros(len(slot), np.bool_)
    used = counts & (kind != REVERSAL)
    if total(amount[used]) > INT64_MAX:
        if n_slots > 1:
            raise OverflowError(f"amounts of {n_slots} accounts add up to more than int64 holds; count them apart")
        rows = order_rows(np.flatnonzero(used), issued[used], event_id)
        running = np.cumsum(np.abs(amount[rows]).astype(object))
        beyond[rows[running > INT64_MAX]] = True
    used &= ~beyond

    pays = (kind == PAYMENT) | (kind == PREPAYMENT) | (kind == WRITE_OFF) | ((kind == ADJUSTMENT) & (amount < 0))
    standing = counts[naming]
    reversals, named = naming[standing], named[standing]
    taken_back = _named(slot, event, slot[reversals], named)
    return Counted(
        slot, kind, amount, issued, event_id, event, counts,
        bill=used & ((kind == CHARGE) | ((kind == ADJUSTMENT) & (amount > 0))),
        refund=used & (kind == REFUND),
        credit=used & pays & ~taken_back,
        reversed=used & pays & taken_back,
        beyond=beyond, reversals=reversals, reversed_event=named,
    )  # fmt: skip


def due_days(events: pa.Table) -> Int32:
    """The day each row is due, were it a debit: charges and adjustments on a `due_date`, all others on their `event_date`. (n,)."""
    issued, told = events["event_date"], pc.is_in(events["event_type"].cast(pa.string()), value_set=_TELL_DUE)
    return numbers(pc.if_else(told, pc.coalesce(events["due_date"], issued), issued), np.int32)


def bill_numbers(events: pa.Table, counted: Counted) -> tuple[pa.Array, pa.Array]:
    """Of each row the number of its bill, were it one, and the bill that it is directed to, were it a credit: (n,) both.

    A charge without a number, and an adjustment, has its event id as number; what is not directed, the empty text.
    """
    bill_id = texts(events["bill_id"])
    own = pc.if_else(pa.array((counted.kind == CHARGE) & (lengths(bill_id) > 0)), bill_id, counted.event_id)
    return own, pc.if_else(pa.array(counted.kind == PREPAYMENT), "", bill_id)


def _winners(events: pa.Table, slot: Int64, event: Int64) -> Bool:
    """Which rows count: of each event the highest revision, then the content that comes first as text. (n,) bool."""
    several = np.bincount(event)[event] > 1 if len(event) else np.zeros(0, np.bool_)
    rows = np.flatnonzero(several)
    counts = ~several
    if len(rows):
        key = slot * (int(event.max()) + 1) + event
        last_revision_first = -numbers(events["revision"], np.int64)
        rows = order_rows(rows, key[rows], last_revision_first, *(events[name] for name in CONTENT))
        counts[rows[starts(key[rows])]] = True
    return counts


def _check(events: pa.Table, counts: Bool, kind: Int64, amount: Int64) -> None:
    """Refuse what intake should have rejected."""
    undue = pc.is_null(events["due_date"]).to_numpy() if events["due_date"].null_count else np.False_
    signed = (kind == ADJUSTMENT) | (kind == REVERSAL)
    for wrong, problem in (
        (counts & (kind == CHARGE) & undue, "is a charge without a due date"),
        (counts & ~signed & (amount <= 0), "must have a positive amount"),
    ):
        if wrong.any():
            name = events["event_id"][int(np.argmax(wrong))].as_py()
            raise ValueError(f"ledger event {name!r} {problem}; intake must reject such rows")


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


# ----------------------------------------------------------------------------------------------------------- columns
def total(amount: Int64) -> int:
    """The exact sum of amounts taken as positive, of fewer than 2^31."""
    used = np.abs(amount)
    return (int((used >> 32).sum()) << 32) + int((used & 0xFFFFFFFF).sum())


def sums(values: Int64, group: npt.NDArray[Any], n: int) -> Int64:
    """Exact sum of the values per group, (n,); groups in any order. Not np.bincount, which would add in floats."""
    out = np.zeros(n, np.int64)
    np.add.at(out, group.astype(np.intp, copy=False), values)
    return out


def order_rows(rows: Int64, key: Int64, *columns: Any) -> Int64:
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
    text = texts(pc.take(column, pa.array(rows)))
    return pc.rank(text, sort_keys="ascending", tiebreaker="dense").to_numpy()  # type: ignore[no-any-return]


def same_text(*columns: pa.Array) -> list[Int64]:
    """Numbers from 0 that are equal where the texts are equal, across all columns."""
    codes = pa.concat_arrays(columns).dictionary_encode().indices.to_numpy().astype(np.int64)
    return np.split(codes, np.cumsum([len(column) for column in columns])[:-1])


def pair(slot: Int64, day: npt.NDArray[Any]) -> Int64:
    """One number that orders by slot, then by day, or another number of 32 bits."""
    return (slot << 32) + (day.astype(np.int64) - NO_DAY)


def starts(segment: Int64) -> Int64:
    """Where a run of equal numbers begins. segment: (n,); returns (runs,)."""
    return np.flatnonzero(np.r_[True, segment[1:] != segment[:-1]]) if len(segment) else np.zeros(0, np.int64)


def before(values: Int64, segment: Int64) -> Int64:
    """The sum of the values ahead of each one in its run of equal segment numbers. All (n,)."""
    running, first = np.cumsum(values) - values, starts(segment)
    return running - np.repeat(running[first], np.diff(np.r_[first, len(segment)]))


def numbers(column: Any, dtype: type[np.integer[Any]]) -> npt.NDArray[Any]:
    """An Arrow column of integers or dates without nulls as NumPy; a view where the type allows."""
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.to_numpy().astype(dtype, copy=False)  # type: ignore[no-any-return]


def texts(column: Any) -> pa.Array:
    """A column as one array of text, null as the empty text."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pc.fill_null(column.cast(pa.string()), "")


def lengths(text: pa.Array) -> Int32:
    """Length of each text in bytes, (n,)."""
    return pc.binary_length(text).to_numpy()  # type: ignore[no-any-return]


def kinds(event_type: Any) -> Int64:
    """Position of each type in EVENT_TYPES, (n,) int64. Raises ValueError for another one."""
    found = pc.index_in(texts(event_type), value_set=pa.array(EVENT_TYPES))
    if found.null_count:
        raise ValueError(f"ledger event types must be of {EVENT_TYPES}; intake must reject others")
    return numbers(found, np.int64)
