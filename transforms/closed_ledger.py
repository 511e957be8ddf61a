"""Ledger rows that an account shard has let go: when they may go, and how they are found again in the accepted log.

Beside what is kept stands one file (`closed_names`): the day before which rows went, the allocation they went under, and the
fingerprints of what must not be named. Which accounts are concerned, their opening rows say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.policy import LedgerRules
from transforms.account_events import LEDGER
from transforms.kernels.closed import (
    REACH,
    Closing,
    close,
    missing,
    opening_rows,
    paid_days,
    recalls,
    shut_slots,
    superseded,
)
from transforms.kernels.ledger_events import NO_DAY
from transforms.kernels.reference import NEVER, Population
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Entry

CLOSED = "closed_names"
"""Kind of the file."""

LOG = f"log:{LEDGER.source}"

MOST_PART = 8
"""A ledger is closed when the rows that may go since the last closing are more than this part of it."""

LATE_PPM = 1000
"""Of the readings received, so many may be of later days than the one that counts as the present: clocks run ahead."""

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ClosedLedger:
    """What a shard's ledger has let go. day: rows dated before it; names: fingerprints (m,), ascending."""

    path: str
    day: int
    allocation: str
    names: npt.NDArray[np.uint64]

    @classmethod
    def load(cls, state: State) -> ClosedLedger | None:
        """From the stored file; None where nothing was ever let go."""
        for entry in state.entries.get(CLOSED, []):
            batch = state.store.read_block(entry)
            allocation = batch.schema.metadata[b"allocation"].decode()
            return cls(entry.path, entry.first, allocation, batch.column("name").to_numpy())
        return None

    def suffices(self, day: int, allocation: str) -> bool:
        """Whether figures as of a day, and of later ones, can be told without what was let go."""
        return allocation == self.allocation and day >= self.day + REACH

    def asking(
        self, kept: pa.Table, new: pa.Table, people: Population, allocation: str, n: int
    ) -> npt.NDArray[np.int64]:
        """The accounts whose events are wanted back: for new ones, for a last day that long ago, or another allocation."""
        shut = shut_slots(kept, n)
        if allocation != self.allocation:
            return np.flatnonzero(shut)
        wanted = shut & (_ended(people, n) < paid_days(kept, n))
        wanted[numpy(new["slot"])[recalls(new, shut, self.day, self.names)]] = True
        return np.flatnonzero(wanted)

    def back(self, state: State, ids: Slots, kept: pa.Table, slots: npt.NDArray[Any]) -> pa.Table:
        """All events of some accounts that are not kept, from the accepted log. ids: of the shard's accounts."""
        found, names = [LEDGER.kept.empty_table()], ids.ids.take(pa.array(slots))
        own = kept.filter(pa.array(np.isin(numpy(kept["slot"]), slots)))
        for entry in state.entries.get(LOG, []) if len(slots) else ():
            if entry.first < self.day:
                log = state.store.read_parquet(entry, ["account_id", *LEDGER.kept.names[1:]])
                log = log.filter(pc.is_in(log["account_id"], value_set=names)).combine_chunks()
                slot = pa.array(ids.find(log["account_id"].combine_chunks()))
                some = log.drop_columns(["account_id"]).add_column(0, "slot", slot).cast(LEDGER.kept)
                found.append(some.filter(pa.array(missing(some, own))))
        return pa.concat_tables(found)

    def recalled(self, state: State, ids: Slots, kept: pa.Table, slots: npt.NDArray[Any]) -> pa.Table:
        """Rows to add to those kept, so that all events of some accounts are there again."""
        return pa.concat_tables([self.back(state, ids, kept, slots), superseded(kept, slots)]).combine_chunks()


def ledger_rows(
    state: State, ids: Slots, since: int, allocation: str, some: Bool | None = None
) -> tuple[pa.Table, str]:
    """The ledger rows that figures from a day on are told from, and a name: rows of one name are in one order.

    since: the day before the first; some: (n,) accounts, None: all. Where rows that were let go may matter they are put first, and
    no opening stands for them.
    """
    kept, closed = state.table(LEDGER.kind, LEDGER.kept), ClosedLedger.load(state)
    if some is not None:
        kept = kept.take(pa.array(np.flatnonzero(some[numpy(kept["slot"])])))
    if closed is None:
        return kept, ""
    if closed.suffices(since, allocation):
        return kept, closed.path
    back = closed.back(state, ids, kept, np.flatnonzero(shut_slots(kept, len(ids))))
    kept = kept.filter(pa.array(~opening_rows(kept)))
    paths = "\n".join([closed.path, *(entry.path for entry in state.entries.get(LOG, []))])
    return pa.concat_tables([back, kept]), hashlib.sha256(paths.encode()).hexdigest()


def close_ledger(
    place: Place, state: State, shard: int, rows: pa.Table, calendar: pa.Table, rules: LedgerRules, people: Population, n: int
) -> tuple[pa.Table, list[Entry]] | None:  # fmt: skip
    """Let go of what the horizon has passed, where that is much. rows: all that is kept; calendar: the shard's, any rows.

    Returns what is kept then, and the file beside it; None where all stays as it is.
    """
    held, today = ClosedLedger.load(state), present(calendar)
    day = NO_DAY if today is None else today - rules.horizon_days
    dates, since = numpy(rows["event_date"]), held.day if held else NO_DAY
    if int(((dates >= since) & (dates < day)).sum()) * MOST_PART <= len(dates):
        return None
    closing: Closing = close(rows, n, day, rules.allocation, people.known(n), _ended(people, n))
    kept = pa.concat_tables([closing.opening, rows.filter(pa.array(~closing.gone))]).combine_chunks()
    names = np.union1d(held.names, closing.names) if held else closing.names
    batch = pa.record_batch({"name": names}).replace_schema_metadata({"allocation": rules.allocation})
    path = place.path(CLOSED, shard, "arrow")
    return kept, place.store().write_blocks(path, CLOSED, shard, [(day, batch)], compress=False)


def present(calendar: pa.Table) -> int | None:
    """The day up to which nearly all readings are dated; None before the first. calendar: day, received, told; any rows.

    >>> present(pa.table({"day": [5, 6, 90], "received": [900, 900, 1], "told": [0, 0, 0]}))
    6
    """
    day, readings = numpy(calendar["day"]), numpy(calendar["received"]) + numpy(calendar["told"])
    order = np.argsort(day, kind="stable")
    upto = np.cumsum(readings[order])
    if len(upto) == 0 or upto[-1] <= 0:
        return None
    return int(day[order][np.argmax(upto * 1_000_000 >= upto[-1] * (1_000_000 - LATE_PPM))])


def _ended(people: Population, n: int) -> npt.NDArray[np.int32]:
    """The earliest last day that any row says of each account: (n,), NEVER where none does."""
    ended = np.full(n, NEVER, np.int32)
    np.minimum.at(ended, people.slot, people.closed)
    return ended
