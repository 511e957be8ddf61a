"""The accepted log, and other tables that only grow: each run and epoch adds a file, and small files become larger ones."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from transforms.storage import Entry, Store

FAN_IN = 32
"""So many files of about one size become one file."""

LARGE_ROWS = 1 << 15
"""Files of so many rows stay as they are."""


def to_merge(files: Sequence[Entry], fan_in: int = FAN_IN) -> list[Entry]:
    """Of the files of one table and shard, those to make one of; none while there are few of each size.

    A row is written again once for each size that its file grows through, and every size is 32 times the one before it: so
    what is written stays in proportion to what comes in, however long that goes on.
    """
    by_size: dict[int, list[Entry]] = {}
    for entry in files:
        if entry.rows < LARGE_ROWS:
            by_size.setdefault(entry.rows.bit_length() // 5, []).append(entry)
    full = [some for _, some in sorted(by_size.items()) if len(some) >= fan_in]
    return full[0] if full else []


def merge(store: Store, path: str, files: Sequence[Entry]) -> Entry:
    """The rows of some files, in their order, as one file."""
    table = pa.concat_tables([store.read_parquet(entry) for entry in files], promote_options="default").combine_chunks()
    days = min(entry.first for entry in files), max(entry.last for entry in files)
    return store.write_parquet(path, files[0].kind, files[0].shard, table, days)
