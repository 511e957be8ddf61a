"""The conduct of accounts: what was found, and how long ago.

The rules are in docs/explanation/definitions.md, "Conduct, as of service day D". Few accounts have events, so all of them are
looked at on a day, and whatever is made of them is made for the accounts that have some.

    versions of an event, by day     r1 |--------------|            in force from its own date until a better one's
                                     r3                |---------
                                     r2                     never: when it is dated, r3 counts already
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import CONDUCT_TYPES
from schemas.marts import THEFT_DAYS, VIOLATION_DAYS
from transforms.kernels.ledger_events import numbers

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

NEVER: Final = (1 << 31) - 1

_THEFT, _TAMPERING, _VIOLATION, _OFF, _ON, _INSPECTION, _WITHDRAWN = (
    CONDUCT_TYPES.index(name)
    for name in (
        "theft_confirmed", "tampering", "usage_violation", "disconnection", "reconnection", "inspection_passed", "withdrawn",
    )
)  # fmt: skip
_SINCE: Final = {
    "days_since_theft": _THEFT, "days_since_tampering": _TAMPERING, "days_since_violation": _VIOLATION,
    "days_since_inspection": _INSPECTION,
}  # fmt: skip

CONDUCT_FEATURES: Final = (*_SINCE, f"thefts_{THEFT_DAYS}d", f"violations_{VIOLATION_DAYS}d", "disconnected")
"""Columns of `features` that are made here."""


class Conduct:
    """All conduct events known of some accounts: each version from the day on which it counts up to the day before `until`.

    events: rows with slot, event_id, event_type, event_date and revision, in any order and in all versions.
    slot: (k,) int32; kind: (k,) positions in `CONDUCT_TYPES`; date, until: (k,) day numbers. Versions that never count, and
    withdrawals, are not among them.
    """

    def __init__(self, events: pa.Table) -> None:
        events = events.combine_chunks()
        slot, date, revision = (numbers(events[name], np.int64) for name in ("slot", "event_date", "revision"))
        kind = numbers(pc.index_in(events["event_type"], value_set=pa.array(CONDUCT_TYPES)), np.int64)
        event = numbers(pc.rank(events["event_id"], sort_keys="ascending", tiebreaker="dense"), np.int64)
        content = pc.rank(withdrawn_first(events["event_type"]), sort_keys="ascending", tiebreaker="dense")
        # of one revision a withdrawal counts, else the content that comes first as text: the type, then the date
        best = _places(np.lexsort((-date, -numbers(content, np.int64), revision)))
        order = np.lexsort((best, date, event, slot))
        slot, event, date, kind, best = (column[order] for column in (slot, event, date, kind, best))

        n = len(slot)
        head = np.r_[True, (slot[1:] != slot[:-1]) | (event[1:] != event[:-1])][:n]
        key = np.cumsum(head) * n + best
        counts = head | np.r_[True, key[1:] > np.maximum.accumulate(key)[:-1]][:n]
        slot, date, kind, head = slot[counts], date[counts], kind[counts], head[counts]
        until = np.where(np.r_[head[1:], True][: len(head)], NEVER, np.r_[date[1:], NEVER][: len(head)])
        some = (kind != _WITHDRAWN) & (until > date)
        self.slot: Int32 = slot[some].astype(np.int32)
        self.kind, self.date, self.until = kind[some], date[some], until[some]

    def turns_on(self, day: int) -> bool:
        """Whether a version begins or ends to count on a day."""
        return bool(((self.date == day) | (self.until == day)).any())

    def features(self, day: int, rows: Int64, *, known: int | None = None) -> dict[str, npt.NDArray[Any]]:
        """The columns `CONDUCT_FEATURES` of some accounts as of a day. rows: (m,) slots, ascending.

        known: only events dated up to this day exist, that day's own if nothing is said.
        Each is (m,) int32; those that may be null are masked arrays.
        """
        known = day if known is None else known
        counts = np.flatnonzero((self.date <= known) & (known < self.until))
        at, m = np.searchsorted(rows, self.slot[counts]), len(rows)
        here = rows[np.minimum(at, m - 1)] == self.slot[counts] if m else np.zeros(len(counts), np.bool_)
        at, counts = at[here], counts[here]
        kind, date = self.kind[counts], self.date[counts]

        def latest(wanted: int) -> tuple[Int64, Int32]:
            """Positions in `rows` that have an event of a kind, ascending, and the day of the latest one of each."""
            mine = kind == wanted
            places, group = np.unique(at[mine], return_inverse=True)
            last = np.full(len(places), -NEVER, np.int64)
            np.maximum.at(last, group, date[mine])
            return places, last.astype(np.int32)

        def number(wanted: int, days: int) -> Int32:
            return np.bincount(at[(kind == wanted) & (date > day - days)], minlength=m).astype(np.int32)

        out: dict[str, npt.NDArray[Any]] = {}
        for name, wanted in _SINCE.items():
            (places, last), since, none = latest(wanted), np.zeros(m, np.int32), np.ones(m, np.bool_)
            since[places], none[places] = day - last, False
            out[name] = np.ma.masked_array(since, none)
        out[f"thefts_{THEFT_DAYS}d"] = number(_THEFT, THEFT_DAYS)
        out[f"violations_{VIOLATION_DAYS}d"] = number(_VIOLATION, VIOLATION_DAYS)
        off, on = latest(_OFF), latest(_ON)
        on_again = np.full(m, -NEVER, np.int32)
        on_again[on[0]] = on[1]
        out["disconnected"] = np.zeros(m, np.int32)
        out["disconnected"][off[0]] = off[1] > on_again[off[0]]
        return out


def withdrawn_first(event_type: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Types as text, in whose order events of one revision are settled: a withdrawal goes first."""
    return pc.if_else(pc.equal(event_type, "withdrawn"), "", event_type)


def _places(order: Int64) -> Int64:
    """The place of each row in an order."""
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places
