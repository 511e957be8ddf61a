"""Ledger events that have no effect, or an odd one: which, and why.

The reasons are in docs/explanation/definitions.md, "Ledger exceptions". Only the accounts asked for are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import EVENT_TYPES
from schemas.ledger import LEDGER_FAULTS
from transforms.kernels.allocation import left_of_credits
from transforms.kernels.ledger import Ledger
from transforms.kernels.ledger_events import (
    ADJUSTMENT,
    CONTENT,
    PAYMENTS,
    WRITE_OFF,
    Bool,
    Counted,
    Int32,
    Int64,
    bill_numbers,
    count_events,
    due_days,
    lengths,
    numbers,
    order_rows,
    pair,
    same_text,
    starts,
    texts,
)

EXCEPTIONS: Final = pa.schema(
    [
        ("slot", pa.int32()), ("event_id", pa.string()), ("reason", pa.string()), ("event_type", pa.string()),
        ("event_date", pa.date32()), ("amount_minor", pa.int64()), ("named_id", pa.string()), ("closed_on", pa.date32()),
    ]
)  # fmt: skip
"""An event and a reason. named_id: what the event names; closed_on: the account's last day, where that is the reason."""

_PAYS, _OWES = _CLOSED = ("closed_account_pays", "closed_account_owes")


def ledger_exceptions(ledger: Ledger, slots: npt.NDArray[Any], closed_on: Int32) -> pa.Table:
    """The exceptions of some accounts as of `ledger.day`, of EXCEPTIONS, ascending by slot, event id and reason.

    slots: (k,) ascending, unique; closed_on: (n_slots,) day number of each account's last day.
    """
    found = [EXCEPTIONS.empty_table()]
    for some, events, rows in ledger.blocks(slots):
        if len(rows):
            owed = _Owed(ledger.open_minor[rows], _past_due(ledger, rows, closed_on), ledger.unallocated_minor[some])
            found.append(_of_block(some, events, owed, closed_on[some]))
    table = pa.concat_tables(found).combine_chunks()
    return table.sort_by([(name, "ascending") for name in ("slot", "event_id", "reason")])


def to_look_at(ledger: Ledger, held: pa.Table, closed_on: Int32) -> Int64:
    """Accounts whose exceptions may differ from those of `carried`: they have new events, or another last day. (k,) ascending.

    held: the exceptions as of `carried`, of EXCEPTIONS.
    """
    mine = ledger.touched.copy()
    said = held.filter(pc.is_in(held["reason"], value_set=pa.array(_CLOSED)))
    slot = numbers(said["slot"], np.int64)
    was = numbers(said["closed_on"], np.int32) if len(slot) else np.zeros(0, np.int32)
    mine[slot[was != closed_on[slot]]] = True
    owes = np.asarray(pc.equal(said["reason"], _OWES))
    still = np.flatnonzero(ledger.open_minor)
    still = still[_past_due(ledger, still, closed_on)]
    mine |= np.bincount(ledger.slot[still], minlength=len(mine)) != np.bincount(slot[owes], minlength=len(mine))
    slot = slot[~owes]
    late = np.flatnonzero((ledger.issued_on > closed_on[ledger.slot]) & (ledger.issued_on <= ledger.day))
    some = np.flatnonzero(ledger.unallocated_minor > 0)
    late = late[np.isin(ledger.slot[late], np.setdiff1d(some, slot))]  # few: of most of them it is said already
    kinds = texts(ledger.events["event_type"].take(pa.array(late)))
    pays = pc.is_in(kinds, value_set=pa.array([EVENT_TYPES[kind] for kind in PAYMENTS])).to_numpy(zero_copy_only=False)
    mine[ledger.slot[late[pays]]] = True
    return np.flatnonzero(mine)


def _past_due(ledger: Ledger, rows: npt.NDArray[Any], closed_on: Int32) -> Bool:
    """Which rows would be owed past due by an account that has closed, were they open debits. rows: (k,)."""
    past: Bool = (ledger.due_on[rows] < ledger.day) & (closed_on[ledger.slot[rows]] < ledger.day)
    return past


@dataclass(frozen=True)
class _Owed:
    """What the ledger says of some accounts. open_minor, past_due: (n,), as of `_past_due`; unallocated_minor: (accounts,)."""

    open_minor: Int64
    past_due: Bool
    unallocated_minor: Int64


def _of_block(slots: npt.NDArray[Any], events: pa.Table, owed: _Owed, closed_on: Int32) -> pa.Table:
    """The exceptions of some accounts. events: theirs up to the day, (n,); closed_on: (accounts,)."""
    open_minor, unallocated_minor = owed.open_minor, owed.unallocated_minor
    counted = count_events(events, len(slots))
    number, directed = bill_numbers(events, counted)
    pays = np.isin(counted.kind, PAYMENTS)
    late = counted.credit & pays & (counted.issued_on > closed_on[counted.slot])
    if (late & (unallocated_minor[counted.slot] > 0)).any():
        late &= left_of_credits(events, counted, number, directed, unallocated_minor) > 0
    else:
        late[:] = False
    nothing = pa.nulls(len(open_minor), pa.string())
    reference = texts(events["ref_event_id"])
    found: dict[str, tuple[Any, pa.Array]] = {
        **{reason: (mask, reference) for reason, mask in _reversals(counted).items()},
        "conflicting_event": (_conflicts(events, counted), nothing),
        "bill_unknown": (_unknown_bills(counted, number, directed), directed),
        "bill_number_twice": (_numbers_twice(counted, due_days(events), number), number),
        _PAYS: (late, nothing),
        _OWES: ((open_minor > 0) & owed.past_due, nothing),
        "refund_beyond_credit": (counted.refund & (open_minor > 0), nothing),
        "beyond_limit": (counted.beyond, nothing),
    }
    parts = [EXCEPTIONS.empty_table()]
    for reason in LEDGER_FAULTS:
        mask, named = found[reason]
        rows = pa.array(np.flatnonzero(mask))
        if len(rows):
            parts.append(_table(slots, events, counted, rows, reason, named, closed_on))
    return pa.concat_tables(parts)


def _table(
    slots: npt.NDArray[Any],
    events: pa.Table,
    counted: Counted,
    rows: pa.Array,
    reason: str,
    named: pa.Array,
    closed_on: Int32,
) -> pa.Table:
    slot = counted.slot[rows.to_numpy()]
    closed = pa.array(closed_on[slot]).cast(pa.date32()) if reason in _CLOSED else pa.nulls(len(rows), pa.date32())
    columns = {name: events[name].take(rows) for name in ("event_type", "event_date", "amount_minor")}
    columns |= {
        "slot": pa.array(slots[slot].astype(np.int32)), "event_id": counted.event_id.take(rows),
        "reason": pa.repeat(reason, len(rows)), "named_id": named.take(rows), "closed_on": closed,
    }  # fmt: skip
    return pa.table([columns[name].cast(EXCEPTIONS.field(name).type) for name in EXCEPTIONS.names], schema=EXCEPTIONS)


def _reversals(counted: Counted) -> dict[str, Bool]:
    """Reversals that take nothing back, or another amount than they say, by reason. (n,) each."""
    n = len(counted.slot)
    reasons = ("reversal_of_unknown", "reversal_of_no_credit", "reversal_again", "reversal_amount_differs")
    out = {reason: np.zeros(n, np.bool_) for reason in reasons}
    rows = counted.reversals
    if len(rows) == 0:
        return out
    held = np.flatnonzero(counted.counts)
    key = counted.key(counted.slot[held], counted.event[held])
    order = np.argsort(key)
    wanted = counted.key(counted.slot[rows], counted.reversed_event)
    at = held[order[np.minimum(np.searchsorted(key, wanted, sorter=order), len(held) - 1)]]
    there = counted.key(counted.slot[at], counted.event[at]) == wanted
    kind = counted.kind[at]
    pays = np.isin(kind, (*PAYMENTS, WRITE_OFF)) | ((kind == ADJUSTMENT) & (counted.amount_minor[at] < 0))
    out["reversal_of_unknown"][rows[~there]] = True
    out["reversal_of_no_credit"][rows[there & ~pays]] = True
    by_row = np.zeros(n, np.int64)
    by_row[rows] = wanted
    some = order_rows(rows[there & pays], wanted[there & pays], counted.issued_on, counted.event_id)
    first = np.zeros(len(some), np.bool_)
    first[starts(by_row[some])] = True
    out["reversal_again"][some[~first]] = True
    amount, said = np.zeros(n, np.int64), np.abs(counted.amount_minor)
    amount[rows] = said[at]
    some = some[first]
    out["reversal_amount_differs"][some] = (said[some] > 0) & (said[some] != amount[some])
    return out


def _conflicts(events: pa.Table, counted: Counted) -> Bool:
    """Versions that count where another one of the same revision says something else. (n,)."""
    out = np.zeros(len(counted.slot), np.bool_)
    if len(out) == 0:
        return out
    several = np.flatnonzero(np.bincount(counted.event)[counted.event] > 1)
    some = events.take(pa.array(several))
    text = pc.binary_join_element_wise(*(texts(some[name]) for name in CONTENT), "\x1f")
    (content,) = same_text(text)
    key, revision = counted.key(counted.slot[several], counted.event[several]), numbers(some["revision"], np.int64)
    order = np.lexsort((content, ~counted.counts[several], -revision, key))  # of an event, the one that counts first
    first = np.flatnonzero(np.r_[True, key[order][1:] != key[order][:-1]][: len(order)])
    head = np.repeat(first, np.diff(np.r_[first, len(order)]))
    differs = (revision[order] == revision[order][head]) & (content[order] != content[order][head])
    out[several[order[head[differs]]]] = True
    return out


def _unknown_bills(counted: Counted, number: pa.Array, directed: pa.Array) -> Bool:
    """Credits that stand and name a bill that is not there. (n,)."""
    out = np.zeros(len(counted.slot), np.bool_)
    asking, bills = np.flatnonzero(counted.credit & (lengths(directed) > 0)), np.flatnonzero(counted.bill)
    mine, named = same_text(number.take(pa.array(bills)), directed.take(pa.array(asking)))
    several = max(int(mine.max(initial=0)), int(named.max(initial=0))) + 1
    there = np.isin(counted.slot[asking] * several + named, counted.slot[bills] * several + mine)
    out[asking[~there]] = True
    return out


def _numbers_twice(counted: Counted, due: Int32, number: pa.Array) -> Bool:
    """Bills whose number another bill of the account has that is first in (due date, event id). (n,)."""
    out = np.zeros(len(counted.slot), np.bool_)
    bills = np.flatnonzero(counted.bill)
    bills = order_rows(bills, pair(counted.slot[bills], due[bills]), counted.event_id)
    (mine,) = same_text(number.take(pa.array(bills)))
    key = counted.slot[bills] * (int(mine.max(initial=0)) + 1) + mine
    order = np.argsort(key, kind="stable")
    first = np.zeros(len(bills), np.bool_)
    first[order[starts(key[order])]] = True
    out[bills[~first]] = True
    return out
