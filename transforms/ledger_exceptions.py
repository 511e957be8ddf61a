"""The mart `ledger_exceptions` of an account shard: renewed for the accounts whose events, or last day, are otherwise.

What stands is kept with the ledger's checkpoint, of unknown accounts also; the mart has the rows of known ones.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.marts import LEDGER_EXCEPTIONS
from transforms.blocks import one_batch
from transforms.checkpoints import CARRIED_EXCEPTIONS
from transforms.kernels.ledger import Ledger
from transforms.kernels.ledger_exceptions import EXCEPTIONS, ledger_exceptions, to_look_at
from transforms.kernels.reference import Population
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Entry

MART = "mart:ledger_exceptions"


def renewed(place: Place, state: State, ledger: Ledger, people: Population, slots: Slots, shard: int) -> list[Entry]:
    """The exceptions as of the ledger's day, to go on from and to publish in place of those published before."""
    held, closed = state.table(CARRIED_EXCEPTIONS, EXCEPTIONS), people.closed_on(ledger.day, ledger.n_slots)
    some = to_look_at(ledger, held, closed)
    kept = held.filter(pa.array(~np.isin(numpy(held["slot"]), some)))
    table = pa.concat_tables([kept, ledger_exceptions(ledger, some, closed)]).combine_chunks()
    blocks = [(ledger.day, one_batch(table))] if table.num_rows else []
    path = place.path(CARRIED_EXCEPTIONS, shard, "arrow")
    carried = place.store().write_blocks(path, CARRIED_EXCEPTIONS, shard, blocks)
    return carried + _published(place, shard, ledger.day, _mart(table, people, slots, ledger.n_slots))


def put_right(
    place: Place, state: State, ledger: Ledger, people: Population, slots: Slots, shard: int
) -> list[Entry]:  # fmt: skip
    """Those published, with the exceptions of some accounts in place of what theirs were. ledger, people, slots: of these alone."""
    every = np.arange(ledger.n_slots)
    new = _mart(
        ledger_exceptions(ledger, every, people.closed_on(ledger.day, ledger.n_slots)), people, slots, len(every)
    )
    schema = LEDGER_EXCEPTIONS.schema
    held = [state.store.read_parquet(entry).cast(schema) for entry in state.entries.get(MART, [])]
    kept = [table.filter(pc.invert(pc.is_in(table["account_id"], value_set=slots.ids))) for table in held]
    return _published(place, shard, ledger.day, pa.concat_tables([*kept, new]))


def _mart(table: pa.Table, people: Population, slots: Slots, n: int) -> pa.Table:
    """The rows of known accounts as those of the mart."""
    table = table.filter(pa.array(people.known(n)[numpy(table["slot"])]))
    named = table.append_column("account_id", slots.ids.take(table["slot"].combine_chunks()))
    return named.select(LEDGER_EXCEPTIONS.schema.names).cast(LEDGER_EXCEPTIONS.schema)


def _published(place: Place, shard: int, day: int, table: pa.Table) -> list[Entry]:
    if table.num_rows == 0:
        return []
    return [place.store().write_parquet(place.path(MART, shard, "parquet"), MART, shard, table, (day, day))]
