"""What flows through Beam: `(shard, Arrow RecordBatch)`, and the coder that carries it.

A block says what it holds in its schema metadata (`wattier.kind`), so that inputs of several kinds can be flattened
and grouped by shard without a union coder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.coders import Coder, registry
from apache_beam.utils.plugin import BeamPlugin

from transforms.kernels.keys import SHARD_KEY, shard_of

URN = "wattier:coder:block:v1"
_KIND = b"wattier.kind"

Keyed = tuple[int, pa.RecordBatch]
Named = tuple[str, pa.RecordBatch]
Grouped = tuple[int, Iterable[pa.RecordBatch]]
NamedGroup = tuple[str, Iterable[pa.RecordBatch]]


class BlockCoder(Coder):
    """A RecordBatch as an Arrow IPC stream. The URN names the version of the encoding."""

    def encode(self, value: pa.RecordBatch) -> bytes:
        """One block to bytes. It is copied first: of a slice, Arrow would write the text of the rows behind it, too."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_batch(pa.concat_batches([value, value.slice(0, 0)]))
        return bytes(sink.getvalue())

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        """Bytes to one block."""
        return pa.ipc.open_stream(encoded).read_next_batch()

    def is_deterministic(self) -> bool:
        """Equal blocks give equal bytes."""
        return True

    def to_type_hint(self) -> type:
        """The type this coder is for."""
        kind: type = pa.RecordBatch
        return kind

    def to_runner_api_parameter(self, context: Any) -> tuple[str, None, Sequence[Coder]]:
        """By URN, so that nothing is pickled into the pipeline."""
        return URN, None, ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


Coder.register_urn(URN, None, lambda payload, components, context: BlockCoder())
registry.register_coder(pa.RecordBatch, BlockCoder)


class WattierPlugin(BeamPlugin):
    """Makes workers import this module at their start, so that they know the block coder."""


def tag(batch: pa.RecordBatch, kind: str, **facts: str) -> pa.RecordBatch:
    """Say what a block holds, with further facts if need be. Data are shared, not copied."""
    metadata = {"wattier.kind": kind, **{f"wattier.{key}": value for key, value in facts.items()}}
    return batch.replace_schema_metadata(metadata)


def with_facts(batch: pa.RecordBatch, **facts: str) -> pa.RecordBatch:
    """A tagged block with more facts, or others in place of those it had."""
    said = {f"wattier.{name}".encode(): value.encode() for name, value in facts.items()}
    return batch.replace_schema_metadata({**(batch.schema.metadata or {}), **said})


def kind_of(batch: pa.RecordBatch) -> str:
    """What a tagged block holds."""
    return str(batch.schema.metadata[_KIND].decode())


def fact(batch: pa.RecordBatch, key: str) -> str:
    """A fact a tagged block carries."""
    return str(batch.schema.metadata[f"wattier.{key}".encode()].decode())


def by_kind(blocks: Iterable[pa.RecordBatch]) -> dict[str, list[pa.RecordBatch]]:
    """Sort a group's blocks by what they hold."""
    out: dict[str, list[pa.RecordBatch]] = {}
    for block in blocks:
        out.setdefault(kind_of(block), []).append(block)
    return out


def concat(blocks: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Blocks of one kind as one table of `schema` and contiguous columns, metadata apart."""
    bare = schema.remove_metadata()
    tables = [
        pa.Table.from_batches([block]).replace_schema_metadata(None).cast(bare) for block in blocks if block.num_rows
    ]
    return pa.concat_tables(tables).combine_chunks() if tables else bare.empty_table()


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """A table as a single block, empty ones included."""
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def split(batch: pa.RecordBatch, shard: npt.NDArray[np.int32]) -> Iterator[Keyed]:
    """Split a block by the shard of each row. shard: (n,) int32."""
    if batch.num_rows == 0:
        return
    order = np.argsort(shard, kind="stable")
    ordered = batch.take(pa.array(order))
    numbers, starts = np.unique(shard[order], return_index=True)
    for number, start, end in zip(numbers, starts, [*starts[1:], len(order)], strict=True):
        yield int(number), ordered.slice(start, end - start)


def split_by_id(batch: pa.RecordBatch, column: str, shards: int) -> Iterator[Keyed]:
    """Split a block by the shard of the ids in a column."""
    yield from split(batch, shard_of(batch.column(column), shards))


def spread(batch: pa.RecordBatch, source: str, shards: int) -> Iterator[Keyed]:
    """A source's rows to the shards that they go to first."""
    column = SHARD_KEY[source]
    if column is not None:
        yield from split_by_id(batch, column, shards)
    elif batch.num_rows:
        yield from ((shard, batch) for shard in range(shards))


def group(pcolls: Sequence[beam.PCollection], label: str) -> beam.PCollection:
    """Bring everything that concerns a shard together: flatten and group by key."""
    return pcolls | f"{label}/Flatten" >> beam.Flatten() | f"{label}/Group" >> beam.GroupByKey()
