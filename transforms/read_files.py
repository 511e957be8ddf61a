"""Landed files to blocks: one element is one delivery, what comes out is rows by shard, and rejects on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa

from schemas.errors import WattierError
from schemas.mapping import SourceMapping
from schemas.marts import REJECTS
from transforms.blocks import Keyed, split_by_id, tag
from transforms.kernels.files import Delivery, read_delivery
from transforms.kernels.keys import SHARD_KEY
from transforms.shards import Place
from transforms.storage import Commit, Store

def delivery_to_json(delivery: Delivery) -> str:
    """A delivery as an element that needs no coder of its own."""
    value = {**vars(delivery), "known_at": delivery.known_at.isoformat()}
    return json.dumps(value, sort_keys=True)


def delivery_from_json(text: str) -> Delivery:
    """The inverse of `delivery_to_json`."""
    value: dict[str, Any] = json.loads(text)
    return Delivery(**{**value, "known_at": datetime.fromisoformat(value["known_at"])})


def fault_path(folder: str, seq: int) -> str:
    """Where a file-level fault of a run is reported."""
    return f"{folder}/faults/{seq:06d}.json"


def read_faults(store: Store, folder: str) -> list[dict[str, Any]]:
    """The file-level faults of a run: message and exit code, in order of delivery."""
    found = sorted(store.list(f"{folder}/faults"), key=lambda info: str(info.path))
    return [json.loads(store.fs.open_input_stream(info.path).read()) for info in found]


class ReadDelivery(beam.DoFn):  # type: ignore[misc]
    """Reads one landed file. Emits its rows by shard to the output named like the source; writes its rejects.

    A file-level fault is written down for the run to stop on: nothing of the run is published then.
    """

    def __init__(self, place: Place, mappings: Mapping[str, SourceMapping]) -> None:
        self.place, self.mappings = place, dict(mappings)

    def process(self, element: str) -> Iterator[beam.pvalue.TaggedOutput]:
        """element: a delivery as JSON."""
        delivery, store = delivery_from_json(element), self.place.store()
        source = delivery.source
        read, rejects = 0, []
        try:
            for decoded in read_delivery(delivery, self.mappings[source]):
                read += decoded.rows_read
                if decoded.rejects.num_rows:
                    rejects.append(decoded.rejects)
                for shard, block in split_by_id(decoded.rows, SHARD_KEY[source], self.place.shards):
                    yield beam.pvalue.TaggedOutput(source, (shard, tag(block, source)))
        except WattierError as fault:
            report = {"message": str(fault), "exit_code": fault.exit_code}
            store.write_json(fault_path(self.place.folder, delivery.seq), report)
            return
        entries, rejected = [], sum(block.num_rows for block in rejects)
        if rejected:
            table = pa.Table.from_batches(rejects).cast(REJECTS.schema)
            path = f"{self.place.folder}/mart-rejects/{delivery.seq:06d}.parquet"
            entries.append(store.write_parquet(path, "mart:rejects", -1, table))
        counts = {source: {"read": read, "rejected": rejected}}
        Commit("read", delivery.seq, tuple(entries), (), counts).write(store, self.place.folder)


class ReadDeliveries(beam.PTransform):  # type: ignore[misc]
    """deliveries as JSON -> one PCollection of (shard, block) for each source, by the source's name."""

    def __init__(self, place: Place, mappings: Mapping[str, SourceMapping]) -> None:
        super().__init__()
        self.place, self.mappings = place, mappings

    def expand(self, deliveries: beam.PCollection[str]) -> beam.pvalue.DoOutputsTuple:
        """Spread the files over the workers, then read each."""
        read = beam.ParDo(ReadDelivery(self.place, self.mappings)).with_outputs(*SHARD_KEY)
        return deliveries | "Spread" >> beam.Reshuffle() | "Read" >> read
