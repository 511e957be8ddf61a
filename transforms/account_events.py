"""Events of accounts, in versions: the sources that bring some, and where a shard keeps them.

Both go the same way: they get their account's slot in `fold_reference`; `fold_days` settles their versions, logs and keeps
them, and lets those wait whose account is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from schemas.inbound import CONDUCT_EVENTS, SOURCES, STAMP
from transforms.kernels.ledger_events import COLUMNS

STAMP_FIELDS = [pa.field(column.name, column.type) for column in STAMP]
SLOT = pa.field("slot", pa.int32())


@dataclass(frozen=True)
class EventSource:
    """A source of events. kind, pending: of state, what is kept and what waits; opens: whether an event makes a service day.

    columns: those that figures depend on.
    """

    source: str
    kind: str
    pending: str
    opens: bool
    columns: tuple[str, ...]

    @cached_property
    def landed(self) -> pa.Schema:
        """Rows as they come."""
        return pa.schema([*(pa.field(f.name, f.type) for f in SOURCES[self.source].schema), *STAMP_FIELDS])

    @cached_property
    def kept(self) -> pa.Schema:
        """Rows as they are kept: with their account's slot, and what figures depend on."""
        return pa.schema([SLOT, *(pa.field(name, SOURCES[self.source][name].type) for name in self.columns)])

    @cached_property
    def arrived(self) -> pa.Schema:
        """Rows on their way, with both."""
        return pa.schema([SLOT, *self.landed])


LEDGER = EventSource("ledger_events", "ledger", "pending_ledger", opens=True, columns=COLUMNS[1:])
CONDUCT = EventSource(
    "conduct_events", "conduct", "pending_conduct", opens=False, columns=tuple(CONDUCT_EVENTS.schema.names)
)
EVENT_SOURCES = (LEDGER, CONDUCT)

NO_CONTENT = ("slot", "account_id", "event_id", "revision")
"""Columns of kept rows that say which version a row is; the others are its content."""
