"""A stream in process: epochs are cut beforehand, so that its input ends and the in-process runner can run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import apache_beam as beam

from pipelines.cut import NO_LIMIT
from pipelines.graph import Inbound, stream
from pipelines.landing import discover, keep_below
from pipelines.runner import new_pipeline
from pipelines.stream import Session, begin, take_over
from pipelines.stream_publish import Published, StreamPublisher
from pipelines.warehouse import Warehouse
from tests.pipeline.bureau import Bureau, Row
from transforms.epochs import parcels
from transforms.inbox import Cut, RouteDelivery, cut_path, landed_folder
from transforms.parts import file_part
from transforms.read_files import delivery_to_json


class Epochs:
    """The epochs of a bureau's landing folder: each cut takes what has landed since the one before."""

    def __init__(self, bureau: Bureau) -> None:
        self.bureau = bureau
        self.warehouse = Warehouse(bureau.config.warehouse)
        with self.warehouse.lock():
            self.session: Session = begin(bureau.config, self.warehouse)
            take_over(self.warehouse, self.session.place.folder)
        self.register = self.warehouse.load().deliveries
        self.cuts: list[Cut] = []

    def cut(self, through: int | None = NO_LIMIT) -> Cut:
        config = self.bureau.config
        store, folder = self.warehouse.store, self.session.place.folder
        landed = discover(config.landing, config.sources, self.register, keep=keep_below(store, landed_folder(folder)))
        rows = tuple(tuple(row.values()) for row in landed.register.slice(self.register.num_rows).to_pylist())
        self.register = landed.register
        seqs = {file_part(d.seq): d.seq for d in landed.deliveries}
        cut = Cut(
            len(self.cuts) + 1, dict.fromkeys(seqs, 0), dict.fromkeys(seqs, 1), seqs, "2025-01-01T00:00:00+00:00",
            tuple(map(delivery_to_json, landed.deliveries)), through, rows, landed.aside,
        )  # fmt: skip
        self.cuts.append(cut)
        store.create_bytes(cut_path(folder, cut.number), cut.to_json().encode())
        return cut

    def run(self) -> None:
        """All epochs, in one pipeline."""
        config, place = self.bureau.config, self.session.place
        cuts = [(bucket, cut.to_block()) for cut in self.cuts for bucket in range(place.shards)]
        plans = [
            parcel
            for cut in self.cuts
            for parcel in parcels({0: [cut.to_block()]}, [0], "cutter", cut.number, cut.number - 1)
        ]
        files = [(cut.number, text) for cut in self.cuts for text in cut.deliveries]
        with new_pipeline([]) as p:
            rows = p | "Files" >> beam.Create(files, reshuffle=False) | beam.ParDo(RouteDelivery(place, config.sources))
            inbound = Inbound(
                [rows],
                p | "Cuts" >> beam.Create(cuts, reshuffle=False),
                p | "Plans" >> beam.Create(plans, reshuffle=False),
            )
            stream(p, inbound, place, config.policy, config.settings.retention, self.session.snapshot)

    def take_all(self, portions: Iterable[Iterable[tuple[str, Row]]], *, each: bool = False) -> None:
        """Land and cut portion after portion; run them all, and publish."""
        for portion in portions:
            self.bureau.land_all(portion)
            self.cut()
        self.run()
        self.publish(each=each)

    def publish(self, *, each: bool = False, then: Callable[[], None] = lambda: None) -> list[Published]:
        """Publish what was written: epoch by epoch, or at once. then: what is done after each publication."""
        out = []
        with self.warehouse.lock():
            publisher = StreamPublisher(self.bureau.config, self.session.place.folder, audit=False)
            while publisher.take():
                if each:
                    out.append(publisher.publish())
                    publisher.tell()
                    then()
            if publisher.since.epochs:
                out.append(publisher.publish())
                publisher.tell()
        assert publisher.epoch == len(self.cuts)
        return out
