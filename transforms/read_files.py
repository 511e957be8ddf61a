"""Landed files to blocks: one element is one delivery, what comes out is rows by shard, and rejects on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa

from schemas.errors import WattierError
from schemas.mapping import SourceMapping
from schemas.marts import REJECTS
from transforms.blocks import Keyed, spread, tag
from transforms.kernels.files import read_delivery
from transforms.kernels.keys import SHARD_KEY
from transforms.kernels.parse import Delivery
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


def _numbered(text: str) -> tuple[int, str]:
    return delivery_from_json(text).seq, text


def fault_path(folder: str, seq: int) -> str:
    """Where a file-level fault of a run, or of a stream, is reported."""
    return f"{folder}/faults/{seq:06d}.json"


def write_fault(store: Store, folder: str, seq: int, fault: WattierError) -> None:
    """Report a file-level fault."""
    store.write_json(fault_path(folder, seq), {"message": str(fault), "exit_code": fault.exit_code})


def faulty(store: Store, folder: str) -> list[int]:
    """Numbers of the deliveries with a file-level fault."""
    return sorted(int(info.base_name.removesuffix(".json")) for info in store.files(f"{folder}/faults"))


def read_faults(store: Store, folder: str) -> list[dict[str, Any]]:
    """The file-level faults of a run: message and exit code, in order of delivery."""
    return list(store.records(f"{folder}/faults"))


@beam.typehints.with_output_types(Keyed, **dict.fromkeys(SHARD_KEY, Keyed))
class ReadDelivery(beam.DoFn):
    """Reads one landed file. Emits its rows by shard to the output named like the source; writes its rejects.

    A file-level fault is written down for the run to stop on: nothing of the run is published then.
    """

    def __init__(self, place: Place, mappings: Mapping[str, SourceMapping]) -> None:
        self.place, self.mappings = place, dict(mappings)

    def process(self, element: tuple[int, Iterable[str]]) -> Iterator[beam.pvalue.TaggedOutput]:
        """element: (seq, the one delivery of that number as JSON)."""
        (text,) = element[1]
        delivery = delivery_from_json(text)
        try:
            for keyed in self.read(delivery):
                yield beam.pvalue.TaggedOutput(delivery.source, keyed)
        except WattierError as fault:
            write_fault(self.place.store(), self.place.folder, delivery.seq, fault)

    def read(self, delivery: Delivery, content: str | None = None) -> Iterator[Keyed]:
        """A delivery's rows by shard; in the end its rejects and its counts are written.

        content: a copy to read in its place. Raises WattierError; nothing is written then.
        """
        source, store, read, rejects = delivery.source, self.place.store(), 0, []
        for decoded in read_delivery(delivery, self.mappings[source], content=content):
            read += decoded.rows_read
            if decoded.rejects.num_rows:
                rejects.append(decoded.rejects)
            for shard, block in spread(decoded.rows, source, self.place.shards):
                yield shard, tag(block, source)
        entries, rejected = [], sum(block.num_rows for block in rejects)
        if rejected:
            table = pa.Table.from_batches(rejects).cast(REJECTS.schema)
            path = f"{self.place.folder}/mart-rejects/{delivery.seq:06d}.parquet"
            entries.append(store.write_parquet(path, "mart:rejects", -1, table))
        counts = {source: {"read": read, "rejected": rejected}}
        self.place.report(Commit("read", delivery.seq, tuple(entries), (), counts))


class ReadDeliveries(beam.PTransform):
    """deliveries as JSON -> one PCollection of (shard, block) for each source, by the source's name."""

    def __init__(self, place: Place, mappings: Mapping[str, SourceMapping]) -> None:
        super().__init__()
        self.place, self.mappings = place, mappings

    def expand(self, deliveries: beam.PCollection[str]) -> beam.pvalue.DoOutputsTuple:
        """Spread the files over the workers by their numbers (Beam's Reshuffle would pickle), then read each."""
        read = beam.ParDo(ReadDelivery(self.place, self.mappings)).with_outputs(*SHARD_KEY)
        numbered = deliveries | "Number" >> beam.Map(_numbered).with_output_types(tuple[int, str])
        return numbered | "Spread" >> beam.GroupByKey() | "Read" >> read
