"""What tiers are made of, of a shard and service day: as columns of a block, and as it is written."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.checkpoints import CLOCK
from transforms.shards import Place
from transforms.storage import Entry


def arrow(value: Any, kind: pa.DataType) -> pa.Array:
    """A column, masked where it is null."""
    mask = np.ma.getmaskarray(value) if np.ma.isMaskedArray(value) else None
    return pa.array(np.ma.getdata(value), mask=mask).cast(kind)


def tier_input(
    rows: Any, category: Any, names: tuple[str, ...], values: dict[str, Any], clock: dict[str, Any]
) -> pa.RecordBatch:
    """What fold 2 needs of a day's features: slot, category code and the columns that the policy reads.

    Columns as of the day's clock stand after them, by the name of their column and `CLOCK`.
    """
    columns = {"slot": pa.array(rows.astype(np.int32)), "category": pa.array(category)}
    columns |= {name: arrow(values[name], pa.int64()) for name in names}
    columns |= {name + CLOCK: arrow(values, pa.int64()) for name, values in clock.items()}
    return pa.record_batch(columns)


def write_tier_inputs(place: Place, kind: str, shard: int, blocks: Sequence[tuple[int, pa.RecordBatch]]) -> list[Entry]:
    """Write what tiers are made of, by day: a file for each stretch of days of which the policy reads the same columns."""
    entries: list[Entry] = []
    for _, some in itertools.groupby(blocks, key=lambda item: item[1].schema):
        days = list(some)
        entries += place.store().write_blocks(place.path(kind, shard, "arrow", days[0][0]), kind, shard, days)
    return entries


def without_repeats(blocks: Sequence[tuple[int, pa.RecordBatch]]) -> list[tuple[int, pa.RecordBatch]]:
    """Tier inputs of some days with those columns as of the clock alone that differ, on some of these days, from the day's end.

    All days have the same ones, so that they go into one file.
    """
    of_clock = {name: None for _, block in blocks for name in block.schema.names if name.endswith(CLOCK)}

    def differs(name: str, block: pa.RecordBatch) -> bool:
        return name in block.schema.names and not block[name].equals(block[name.removesuffix(CLOCK)])

    told = [name for name in of_clock if any(differs(name, block) for _, block in blocks)]

    def kept(block: pa.RecordBatch) -> pa.RecordBatch:
        columns = {name: block[name] for name in block.schema.names if not name.endswith(CLOCK)}
        of = {name: name.removesuffix(CLOCK) for name in told}
        more = {name: block[name if name in block.schema.names else c] for name, c in of.items() if c in columns}
        return pa.record_batch(columns | more)

    return [(day, kept(block)) for day, block in blocks]
