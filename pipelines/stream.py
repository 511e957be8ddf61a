"""`wattier stream`: the folds of the bounded run as one pipeline that does not end, and the publisher of what it writes.

A stream goes on from what is published, be it by a bounded run or by a stream: state, file register and offsets are the
generation's. It writes below a folder of its own; nothing of it counts until it is published.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Config
from pipelines.stream_publish import Published, StreamPublisher
from pipelines.warehouse import Generation, Warehouse
from schemas.errors import ConfigError, StateError
from transforms.checkpoints import CHECKPOINT, DAY_STATE, METER_STATE, REFERENCE_STATE
from transforms.epochs import write_entries
from transforms.kernels.windows import day_of
from transforms.shards import Place
from transforms.tick_stages import CUTOFFS_BEFORE

if TYPE_CHECKING:
    from pipelines.cut import Inputs, Pace
    from transforms.read_kafka import Partition

MARKER = "stream.json"
"""In the warehouse: which folder the stream at work writes to."""


@dataclass(frozen=True)
class Session:
    """A stream that was begun: where it writes, the snapshot it starts from, and what it reads."""

    place: Place
    snapshot: str
    inputs: Inputs
    partitions: tuple[Partition, ...]


def begin(config: Config, warehouse: Warehouse) -> Session:
    """Write down what a new stream starts from. The caller holds the lock. Raises ConfigError, StateError."""
    from pipelines.cut import Inputs

    standing = warehouse.load()
    shards = config.settings.shards
    if standing.header.get("shards", shards) != shards:
        raise StateError(f"{warehouse.root} is kept in {standing.header['shards']} shards, the configuration says {shards}.")
    offsets = standing.header.get("stream", {}).get("offsets", {})
    partitions = list_parts(config, offsets)
    landing = config.landing if any(mapping.files for mapping in config.sources.values()) else None
    if not partitions and landing is None:
        raise ConfigError(f"{config.path}: no source names `topics` or `files`: there is nothing to stream")
    folder = f"data/{standing.number + 1:06d}-stream-{uuid.uuid4().hex[:8]}"
    write_snapshot(warehouse, standing, f"{folder}/snapshot", shards)
    register = f"{folder}/snapshot-deliveries.arrow"
    warehouse.store.write_bytes(register, _as_file(standing.deliveries))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"folder": folder, "generation": standing.number, "started_at": started}
    warehouse.store.write_json(f"{folder}/{MARKER}", facts)
    warehouse.store.write_json(MARKER, facts)
    inputs = Inputs(
        {p.part: p.source for p in partitions}, {p.part: p.start for p in partitions}, landing,
        pc.max(standing.deliveries["seq"]).as_py() or 0, register,
    )  # fmt: skip
    return Session(Place(warehouse.root, folder, shards), f"{folder}/snapshot", inputs, tuple(partitions))


def list_parts(config: Config, offsets: dict[str, int]) -> list[Partition]:
    """The partitions to read, from where the last stream stopped. offsets: part -> offset. Raises ConfigError."""
    if not any(mapping.topics for mapping in config.sources.values()):
        return []
    if config.settings.kafka is None:
        raise ConfigError(f"{config.path}: sources name `topics`, but there is no `kafka:` to say where the broker is")
    from transforms.read_kafka import list_partitions

    starts = {}
    for part, offset in offsets.items():
        topic, partition = part.removeprefix("kafka:").rsplit("/", 1)
        starts[topic, int(partition)] = offset
    return list_partitions(config.settings.kafka, config.sources, starts)


def write_snapshot(warehouse: Warehouse, standing: Generation, path: str, shards: int) -> None:
    """The state of a generation as the stages of a stream take it up: entries by shard, and what the planner knows."""
    from pipelines.plan_stage import PlanState

    store = warehouse.store
    kinds = {*REFERENCE_STATE, *DAY_STATE, *METER_STATE, *CHECKPOINT}
    days = tuple(sorted({entry.first for entry in standing.of("windows")}))
    entries = [entry for entry in standing.entries if entry.kind in kinds]
    for cut in standing.of("mart:cutoffs"):
        for day in days:
            if cut.first <= day <= cut.last:
                some = replace(cut, kind=CUTOFFS_BEFORE, first=day, last=day)
                entries += [replace(some, shard=shard) for shard in range(shards)]
    write_entries(store, path, entries)
    header = standing.header
    state = PlanState(standing.through, header.get("first"), days, header.get("policy"))
    calendar = [list(asdict(entry).values()) for entry in standing.of("calendar")]
    store.write_json(f"{path}.json", {"standing": asdict(state), "calendar": calendar})


def build(p: Any, config: Config, session: Session, pace: Pace) -> Any:
    """Wire the sources, the cutter and the folds. Returns the tiers' state by account shard after each tick."""
    import apache_beam as beam

    from pipelines.cut import CutEpochs
    from pipelines.graph import Inbound, stream
    from transforms.blocks import tag
    from transforms.epochs import NOTHING
    from transforms.inbox import RouteDelivery, RouteRows
    from transforms.read_kafka import ReadKafka

    place, rows = session.place, []
    marks = [p | "Start" >> beam.Create([(0, tag(NOTHING, "start"))], reshuffle=False)]
    if session.partitions:
        assert config.settings.kafka is not None
        read = p | "ReadKafka" >> ReadKafka(config.settings.kafka, config.sources, list(session.partitions))
        routed = read | "RouteRows" >> beam.ParDo(RouteRows(place)).with_outputs("marks", main="rows")
        rows.append(routed.rows)
        marks.append(routed.marks)
    cutter = CutEpochs(place, session.inputs, config.sources, pace)
    cut = (
        marks
        | "Marks" >> beam.Flatten()
        | "CutEpochs" >> beam.ParDo(cutter).with_outputs("plan", "deliveries", main="cuts")
    )
    rows.append(cut.deliveries | "RouteDelivery" >> beam.ParDo(RouteDelivery(place, config.sources)))
    inbound = Inbound(rows, cut.cuts, cut.plan)
    return stream(p, inbound, place, config.policy, config.settings.retention, session.snapshot)


def _as_file(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@dataclass(frozen=True)
class StreamSettings:
    """How `wattier stream` goes. until: stop once this service day is published; drain: stop once all that is there was."""

    until: date | None = None
    drain: bool = False
    attach: bool = False
    audit: bool = True
    overrides: frozenset[str] = frozenset()
    poll_seconds: float = 0.2
    publish_seconds: float = 30.0


def pump(publisher: StreamPublisher, alive: Callable[[], bool], settings: StreamSettings) -> Iterator[Published]:
    """Publish whenever a day closes, and every so often what else came in, for as long as the job lives."""
    last = time.monotonic()
    until = day_of(settings.until) if settings.until else None
    while True:
        lives = alive()
        took = False
        while publisher.take():
            took = True
            if publisher.since.days:
                break
        due = publisher.since.days or (publisher.since.epochs and time.monotonic() - last > settings.publish_seconds)
        if due or (publisher.since.epochs and not lives):
            yield publisher.publish()
            last = time.monotonic()
        if until is not None and publisher.standing.through is not None and publisher.standing.through >= until:
            return
        if not lives and not took:
            return
        if not took:
            time.sleep(settings.poll_seconds)


@contextmanager
def submitted(config: Config, beam_options: Sequence[str], pace: Pace, warehouse: Warehouse) -> Iterator[tuple[Session, Any]]:
    """Begin a stream and submit its job; it is cancelled in the end."""
    from pipelines.runner import new_pipeline

    session = begin(config, warehouse)
    p = new_pipeline([*beam_options, "--streaming"])
    build(p, config, session, pace)
    result = p.run()
    try:
        yield session, result
    finally:
        result.cancel()


def live_folder(warehouse: Warehouse) -> str:
    """The folder of the stream that was begun last. Raises StateError."""
    if not warehouse.store.exists(MARKER):
        raise StateError(f"{warehouse.root}: no stream was begun here. Start one with `wattier stream`.")
    return str(warehouse.store.read_json(MARKER)["folder"])

