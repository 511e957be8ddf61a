"""`wattier stream`: the folds of the bounded run as one pipeline that does not end, and the publisher of what it writes.

A stream goes on from what is published, be it by a bounded run or by a stream: state, file register and offsets are the
generation's. It writes below a folder of its own; nothing of it counts until it is published.
"""

from __future__ import annotations

import json
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Config
from pipelines.publish import Publisher
from pipelines.stalls import StallWatch
from pipelines.stream_publish import Published, StreamPublisher
from pipelines.warehouse import STREAM, Generation, Warehouse
from schemas.errors import ConfigError, StateError
from transforms.checkpoints import CHECKPOINT, DAY_STATE, METER_STATE, REFERENCE_STATE
from transforms.epochs import write_entries
from transforms.kernels.windows import day_of
from transforms.shards import Place
from transforms.tick_stages import CUTOFFS_BEFORE

if TYPE_CHECKING:
    from pipelines.cut import Inputs, Pace
    from transforms.kafka_partitions import Partition


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
        raise StateError(
            f"{warehouse.root} is kept in {standing.header['shards']} shards, the configuration says {shards}."
        )
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
    warehouse.store.write_json(f"{folder}/{STREAM}", facts)
    warehouse.store.write_json(STREAM, facts)
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
    from transforms.kafka_partitions import list_partitions

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


def build(p: Any, config: Config, session: Session, pace: Pace, source: Any = None) -> Any:
    """Wire the sources, the cutter, the folds, and the topics that are written. Returns the provisional changes of tier.

    source: what reads the partitions; `ReadKafka` unless another is given.
    """
    import apache_beam as beam

    from pipelines.cut import CutEpochs
    from pipelines.graph import Inbound, stream
    from transforms.blocks import tag
    from transforms.epochs import NOTHING
    from transforms.inbox import RouteDelivery, RouteRows
    from transforms.read_kafka import ReadKafka
    from transforms.tier_changes import ToDeadLetters, ToTierChanges
    from transforms.write_kafka import WriteMessages

    place, rows, kafka = session.place, [], config.settings.kafka
    marks = [p | "Start" >> beam.Create([(0, tag(NOTHING, "start"))], reshuffle=False)]
    if session.partitions:
        assert kafka is not None
        read = p | "ReadKafka" >> (source or ReadKafka(kafka, config.sources, list(session.partitions)))
        if kafka.dead_letter_topic:
            letters = read | "DeadLetters" >> beam.ParDo(ToDeadLetters())
            letters | "WriteDeadLetters" >> beam.ParDo(WriteMessages(kafka, kafka.dead_letter_topic))
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
    changes = stream(p, inbound, place, config.policy, config.settings.retention, session.snapshot)
    if kafka and kafka.tier_changes_topic:
        messages = changes | "TierChanges" >> beam.ParDo(ToTierChanges())
        messages | "WriteTierChanges" >> beam.ParDo(WriteMessages(kafka, kafka.tier_changes_topic))
    return changes


def _as_file(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@dataclass(frozen=True)
class StreamSettings:
    """How `wattier stream` goes. until: stop once this service day is published; attach: submit nothing, only publish.
    flink: URL of the Flink cluster's page, to stop the job there: Beam's job server forgets a job, but does not stop it.
    stalled_seconds: a partition that is waited for so long is told of.
    """

    until: date | None = None
    attach: bool = False
    cut_seconds: float = 5.0
    cut_rows: int = 1_000_000
    audit: bool = True
    overrides: frozenset[str] = frozenset()
    flink: str | None = None
    publish_seconds: float = 30.0
    stalled_seconds: float = 60.0


POLL_SECONDS = 0.2
LOOK_SECONDS = 5.0
FINISH = "--finish_bundle_before_checkpointing"


def stream(
    config: Config, beam_options: Sequence[str], settings: StreamSettings, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Published | Notice]:
    """Run a stream until `stopped` says so; yields what is published. Raises WattierError.

    The job ends with it; what it had not published is taken in again by the next run or stream.
    """
    warehouse = Warehouse(config.warehouse)
    with warehouse.lock():
        Publisher(warehouse).recover()
        if settings.attach:
            folder, job = live_folder(warehouse), None
        else:
            session = begin(config, warehouse)
            folder, job = session.place.folder, _submit(config, session, beam_options, settings)
            yield Notice(f"Submitted; it writes to {folder}.")
            if any(o.startswith("--checkpointing_interval") for o in beam_options) and FINISH not in beam_options:
                yield Notice(f"Warning: without {FINISH} the last day before a pause may wait for the next message.")
        publisher = StreamPublisher(config, folder, audit=settings.audit, overrides=settings.overrides)
        try:
            yield from pump(publisher, job, settings, stopped)
        finally:
            _cancel(job, folder, settings.flink)


@dataclass(frozen=True)
class Notice:
    """Something to be told."""

    message: str

    def __str__(self) -> str:
        return self.message


def _pace(config: Config, settings: StreamSettings) -> Pace:
    from pipelines.cut import Pace

    kafka = config.settings.kafka
    lag, idle = (kafka.out_of_order_days, kafka.idle_timeout_seconds) if kafka else (0, 0)
    return Pace(settings.cut_seconds, settings.cut_rows, lag, idle)


def _submit(config: Config, session: Session, beam_options: Sequence[str], settings: StreamSettings) -> Any:
    from pipelines.runner import new_pipeline

    named = [] if any(option.startswith("--job_name") for option in beam_options) else [_job_name(session.place.folder)]
    p = new_pipeline([*beam_options, *named, "--streaming"])
    build(p, config, session, _pace(config, settings))
    return p.run()


def _job_name(folder: str) -> str:
    return "--job_name=wattier-" + folder.rsplit("-", 1)[1]


def _cancel(job: Any, folder: str, flink: str | None) -> None:
    """Stop the job, also where Beam's job server only lets go of it."""
    from apache_beam.runners.runner import PipelineState

    if job is not None and not PipelineState.is_terminal(job.state):
        job.cancel()
    if flink is None:
        return
    name = _job_name(folder).removeprefix("--job_name=")
    with urllib.request.urlopen(f"{flink.rstrip('/')}/jobs/overview", timeout=30) as answer:
        jobs = json.load(answer)["jobs"]
    for found in jobs:
        if found["name"].startswith(name) and found["state"] not in ("CANCELED", "FAILED", "FINISHED"):
            url = f"{flink.rstrip('/')}/jobs/{found['jid']}?mode=cancel"
            urllib.request.urlopen(urllib.request.Request(url, method="PATCH"), timeout=30).close()


def pump(
    publisher: StreamPublisher, job: Any, settings: StreamSettings, stopped: Callable[[], bool]
) -> Iterator[Published | Notice]:
    """Publish whenever a day closes, and every so often what else came in, for as long as the job lives."""
    from apache_beam.runners.runner import PipelineState

    last, told, looked = time.monotonic(), "", 0.0
    watch = StallWatch(publisher.warehouse.store, publisher.folder, settings.stalled_seconds)
    until = day_of(settings.until) if settings.until else None
    while not stopped():
        lives = job is None or not PipelineState.is_terminal(job.state)
        took = publisher.take()
        if time.monotonic() - looked > LOOK_SECONDS:
            looked = time.monotonic()
            yield from map(Notice, watch.look(time.time()))
        if took:
            yield from (Notice(f"Left aside: {fault}") for fault in publisher.faults())
        # Changes for which no days were made yet stay with the stream: a publication would forget them.
        waited = (
            publisher.since.epochs and not publisher.undecided and time.monotonic() - last > settings.publish_seconds
        )
        again = took or not told or time.monotonic() - last > settings.publish_seconds
        if (publisher.since.days and again) or waited:
            published = publisher.publish()
            if published.held is None or published.held != told:
                yield published
            told, last = published.held or "", time.monotonic()
        through = publisher.standing.through
        if until is not None and through is not None and through >= until:
            return
        if not took:
            if not lives:
                raise StateError(f"the job has ended: {job.state}. See the runner's log; what is published stands.")
            time.sleep(POLL_SECONDS)


def describe(config: Config, beam_options: Sequence[str], settings: StreamSettings) -> Iterator[str]:
    """The graph and Beam's options, as lines; nothing is submitted or written."""
    from apache_beam.pipeline import PipelineVisitor

    from pipelines.cut import Inputs
    from pipelines.runner import new_pipeline

    class Labels(PipelineVisitor):
        def __init__(self) -> None:
            self.found: list[str] = []

        def visit_transform(self, node: Any) -> None:
            self.found.append(node.full_label)

    partitions = list_parts(config, {})
    inputs = Inputs(
        {p.part: p.source for p in partitions}, {p.part: p.start for p in partitions}, config.landing, 0, ""
    )
    session = Session(Place(config.warehouse, "data/dry-run", config.settings.shards), "", inputs, tuple(partitions))
    p = new_pipeline([*beam_options, "--streaming"])
    build(p, config, session, _pace(config, settings))
    labels = Labels()
    p.visit(labels)
    yield "options: " + json.dumps(p.options.get_all_options(drop_default=True), default=str, sort_keys=True)
    yield "parts: " + (", ".join(f"{p.part} ({p.source}) from {p.start}" for p in partitions) or "no topics")
    yield f"landing: {config.landing}"
    yield from (f"  {label}" for label in labels.found)


def live_folder(warehouse: Warehouse) -> str:
    """The folder of the stream that was begun last. Raises StateError."""
    if not warehouse.store.exists(STREAM):
        raise StateError(f"{warehouse.root}: no stream was begun here. Start one with `wattier stream`.")
    return str(warehouse.store.read_json(STREAM)["folder"])
