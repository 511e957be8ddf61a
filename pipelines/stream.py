"""`wattier stream`: the folds of the bounded run as one pipeline that does not end, and the publisher of what it writes.

A stream goes on from what is published, be it by a bounded run or by a stream: state, file register and offsets are the
generation's. It writes below a folder of its own; nothing of it counts until it is published.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from threading import Event
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import flink_jobs
from pipelines.config import Config
from pipelines.landing import open_landing
from pipelines.plan import made_under
from pipelines.publish import Publisher
from pipelines.stalls import StallWatch
from pipelines.stream_publish import Published, StreamPublisher
from pipelines.warehouse import STREAM, Generation, Warehouse
from schemas.errors import ConfigError, StateError, WattierError
from schemas.marts import PROVISIONAL_TIERS
from transforms.checkpoints import DAY_STATE, METER_STATE, PLAN_STATE, REFERENCE_STATE, TIER_INPUT, TIER_INPUT_PATCH
from transforms.epochs import write_entries
from transforms.kernels.keys import shard_of
from transforms.kernels.windows import day_of
from transforms.parts import partition_of
from transforms.provisional import TOLD_BEFORE
from transforms.shards import Place
from transforms.storage import as_file
from transforms.tick_stages import CUTOFFS_BEFORE, MADE

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
    warehouse.check_shards(standing, shards)
    warehouse.check_currency(standing, config.currency)
    offsets = standing.header.get("stream", {}).get("offsets", {})
    partitions = list_parts(config, offsets)
    landing = config.landing if any(mapping.files for mapping in config.sources.values()) else None
    if not partitions and landing is None:
        raise ConfigError(f"{config.path}: no source names `topics` or `files`: there is nothing to stream")
    if landing is not None:
        open_landing(landing)
    folder = f"data/{standing.number + 1:06d}-stream-{uuid.uuid4().hex[:8]}"
    write_snapshot(warehouse, standing, f"{folder}/snapshot", shards)
    register = f"{folder}/snapshot-deliveries.arrow"
    warehouse.store.write_bytes(register, as_file(standing.deliveries))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    begins = {p.part: p.start for p in partitions}
    facts = {"folder": folder, "generation": standing.number, "started_at": started, "offsets": begins}
    facts |= {"shards": shards, **made_under(config.policy)}
    warehouse.store.write_json(f"{folder}/{STREAM}", facts)
    inputs = Inputs(
        {p.part: p.source for p in partitions}, begins, landing,
        standing.last_delivery, register, standing.through,
    )  # fmt: skip
    return Session(Place(warehouse.root, folder, shards), f"{folder}/snapshot", inputs, tuple(partitions))


def list_parts(config: Config, offsets: dict[str, int]) -> list[Partition]:
    """The partitions to read, from where the last stream stopped. offsets: part -> offset. Raises ConfigError."""
    if not any(mapping.topics for mapping in config.sources.values()):
        return []
    if config.settings.kafka is None:
        raise ConfigError(f"{config.path}: sources name `topics`, but there is no `kafka:` to say where the broker is")
    from transforms.kafka_partitions import list_partitions

    starts = {partition_of(part): offset for part, offset in offsets.items()}
    return list_partitions(config.settings.kafka, config.sources, starts)


def write_snapshot(warehouse: Warehouse, standing: Generation, path: str, shards: int) -> None:
    """The state of a generation as the stages of a stream take it up: entries by shard, and what the planner knows."""
    from pipelines.plan_stage import PlanState

    store = warehouse.store
    kinds = {*REFERENCE_STATE, *DAY_STATE, *METER_STATE, *MADE, PLAN_STATE}
    days = tuple(sorted({entry.first for entry in standing.of("windows")}))
    inputs = (TIER_INPUT, TIER_INPUT_PATCH)
    entries = [e for e in standing.entries if e.kind in kinds and (e.kind not in inputs or e.first in days)]
    told = standing.tables.get("provisional_tiers", PROVISIONAL_TIERS.schema.empty_table())
    owner = pa.array(shard_of(told["account_id"].combine_chunks(), shards))
    for shard in pc.unique(owner).to_pylist():
        some = told.filter(pc.equal(owner, shard))
        entries.append(store.write_parquet(f"{path}-told-{shard:04d}.parquet", TOLD_BEFORE, shard, some))
    for cut in standing.of("mart:cutoffs"):
        for day in days:
            if cut.first <= day <= cut.last:
                some = replace(cut, kind=CUTOFFS_BEFORE, first=day, last=day)
                entries += [replace(some, shard=shard) for shard in range(shards)]
    write_entries(store, path, entries)
    header = standing.header
    state = PlanState(standing.through, header.get("first"), days, header.get("policy"))
    calendar = [list(asdict(entry).values()) for entry in standing.of("calendar")]
    within = header.get("stream", {}).get("within", {})
    store.write_json(f"{path}.json", {"standing": asdict(state), "calendar": calendar, "within": within})


def build(p: Any, config: Config, session: Session, pace: Pace, source: Any = None) -> Any:
    """Wire the sources, the cutter, the folds, and the topics that are written. Returns the provisional changes of tier.

    source: what reads the partitions; `ReadKafka` unless another is given.
    """
    import apache_beam as beam

    from pipelines.cut import CutEpochs
    from pipelines.graph import Inbound, stream
    from transforms.begin import START, Begin
    from transforms.inbox import RouteDelivery, RouteRows
    from transforms.read_kafka import ReadKafka
    from transforms.tier_changes import ToDeadLetters, ToTierChanges
    from transforms.write_kafka import WriteMessages

    place, rows, kafka = session.place, [], config.settings.kafka
    start = beam.Create([START], reshuffle=False) if session.partitions else Begin()
    marks = [p | "Start" >> start]
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


@dataclass(frozen=True)
class StreamSettings:
    """How `wattier stream` goes. until: stop once this service day is published; attach: submit nothing, only publish.
    publish_seconds: how long what closes no day waits for its publication. Each publication has rows of its own in the marts
    that tell of runs, so it is not to come every minute; but Kafka's retention must be longer, by far.
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
    publish_seconds: float = 900.0
    stalled_seconds: float = 60.0


POLL_SECONDS = 0.2
LOOK_SECONDS = 5.0
DRAIN_SECONDS = 30.0
"""So long epochs are taken up before what they made is published."""

SIGN_SECONDS = 20.0
"""Until the first publication, so often it is told what is waited for."""

TELL_SECONDS = 5.0
"""After a failure, changes are told again so much later."""

SETTLE_SECONDS = 2.0
"""A landed file is taken up so long after it was last written to."""

JOB = "job.json"
"""File in a stream's folder that says what its job is named."""

UNSPLIT = "prism_disable_sdf_split"
"""Experiment of Beam's Prism runner."""

IN_PROCESS = ("FnApiRunner", "BundleBasedDirectRunner")
"""Runners that show nothing before the input ends."""

FINISH = "--finish_bundle_before_checkpointing"


def stream(
    config: Config,
    beam_options: Sequence[str],
    settings: StreamSettings,
    stopped: Callable[[], bool] = lambda: False,
    asked: Event | None = None,
    submitting: Callable[[], None] = lambda: None,
) -> Iterator[Published | Notice]:
    """Run a stream until `stopped` says so; yields what is published. Raises WattierError.

    The job ends with it; what it had not published is taken in again by the next run or stream. asked: set to have a
    publication now; cleared when there was one. submitting: called right before the job is submitted, or attached to: until
    then the process may be ended at any moment.
    """
    warehouse = Warehouse(config.warehouse)
    if settings.flink:
        flink_jobs.look_for(settings.flink)
    with warehouse.lock():
        Publisher(warehouse).recover()
        if settings.attach:
            folder, job = live_folder(warehouse), None
            submitting()
        else:
            p = _pipeline(beam_options)
            session = begin(config, warehouse)
            folder, job = session.place.folder, _submit(p, config, warehouse, session, settings, submitting)
            yield Notice(f"Submitted; it writes to {folder}.")
            if any(o.startswith("--checkpointing_interval") for o in beam_options) and FINISH not in beam_options:
                yield Notice(f"Warning: without {FINISH} the last day before a pause may wait for the next message.")
        ours = not settings.attach  # nobody else knows of the job
        try:
            publisher = StreamPublisher(config, folder, audit=settings.audit, overrides=settings.overrides)
            ours = True
            yield from pump(publisher, job, settings, stopped, asked or Event())
        except BaseException:
            if ours:
                with suppress(WattierError):  # what went wrong first is what is to be told
                    _cancel(job, warehouse, folder, settings.flink)
            raise
        _cancel(job, warehouse, folder, settings.flink)


@dataclass(frozen=True)
class Notice:
    """Something to be told."""

    message: str

    def __str__(self) -> str:
        return self.message


class Waiting(Notice):
    """What is waited for before the first publication."""


def _pace(config: Config, settings: StreamSettings) -> Pace:
    from pipelines.cut import Pace

    kafka = config.settings.kafka
    lag, idle = (kafka.out_of_order_days, kafka.idle_timeout_seconds) if kafka else (0, 0)
    return Pace(settings.cut_seconds, settings.cut_rows, lag, idle, SETTLE_SECONDS)


def _pipeline(beam_options: Sequence[str]) -> Any:
    """An empty streaming pipeline. Raises ConfigError where it would go wrong on its runner."""
    from apache_beam.options.pipeline_options import DebugOptions

    from pipelines.runner import new_pipeline

    p = new_pipeline([*beam_options, "--streaming"])
    experiments = p.options.view_as(DebugOptions).experiments or ()
    if type(p.runner).__name__ == "PrismRunner" and UNSPLIT not in experiments:
        raise ConfigError(
            f"add --experiments={UNSPLIT}: else Prism splits the elements of one key between bundles that run at the same "
            "time, and what one of them keeps is lost"
        )
    return p


def _submit(
    p: Any, config: Config, warehouse: Warehouse, session: Session, settings: StreamSettings, submitting: Callable[[], None]
) -> Any:  # fmt: skip
    """Submit the job, and write down its name. Raises ConfigError."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    if type(p.runner).__name__ in IN_PROCESS:
        raise ConfigError(
            "a stream does not end, and the in-process runner shows nothing before the end: name a runner after --, as "
            "docs/how-to/stream.md says: --runner=PortableRunner for Flink (infra/flink/cluster.py up prints the options), or "
            "--runner=PrismRunner"
        )
    folder = session.place.folder
    if settings.flink and (before := _left_running(warehouse, settings.flink)):
        raise ConfigError(
            f"the job {before} of an earlier stream runs on {settings.flink}: go on with it by --attach, or stop it there"
        )
    named = p.options.view_as(GoogleCloudOptions)  # where Beam keeps the name of a job of any runner
    named.job_name = named.job_name or "wattier-" + folder.rsplit("-", 1)[1]
    if settings.flink and flink_jobs.running(settings.flink, named.job_name):
        raise ConfigError(
            f"a job named {named.job_name} runs on {settings.flink}: stop it there, or give another --job_name"
        )
    warehouse.store.write_json(f"{folder}/{JOB}", {"name": named.job_name})
    build(p, config, session, _pace(config, settings))
    submitting()
    job = p.run()
    take_over(warehouse, folder)
    return job


def take_over(warehouse: Warehouse, folder: str) -> None:
    """Make a stream the warehouse's. Before its job was submitted, the one before can still be attached to."""
    warehouse.store.write_json(STREAM, warehouse.store.read_json(f"{folder}/{STREAM}"))


def _cancel(job: Any, warehouse: Warehouse, folder: str, flink: str | None) -> None:
    """Stop the job, also where Beam's job server only lets go of it. Raises ConfigError."""
    from apache_beam.runners.runner import PipelineState

    if job is not None and not PipelineState.is_terminal(job.state):
        job.cancel()
    if flink is None:
        return
    name = str(warehouse.store.read_json(f"{folder}/{JOB}")["name"])
    try:
        flink_jobs.cancel(flink, name)
    except ConfigError as error:
        raise ConfigError(f"the job {name} may still run on Flink: stop it there. {error}") from None


def _left_running(warehouse: Warehouse, flink: str) -> str | None:
    """The name of the job of the stream before, if it still runs: whoever submitted it died."""
    if not warehouse.store.exists(STREAM):
        return None
    path = f"{warehouse.store.read_json(STREAM)['folder']}/{JOB}"
    if not warehouse.store.exists(path):
        return None
    name = str(warehouse.store.read_json(path)["name"])
    return name if flink_jobs.running(flink, name) else None


def pump(
    publisher: StreamPublisher, job: Any, settings: StreamSettings, stopped: Callable[[], bool], asked: Event
) -> Iterator[Published | Notice]:
    """Publish whenever a day closes, when asked to, and every so often what else came in, for as long as the job lives.

    A stop publishes what the job has written so far. What epochs are there is taken up first, then published at once. While
    the topic of changes takes nothing, nothing more is published. Until the first publication gives signs of life.
    """
    from apache_beam.runners.runner import PipelineState

    last, told, looked, waited = time.monotonic(), "", 0.0, False
    began, signed = publisher.standing.number, time.monotonic()
    watch = StallWatch(publisher.warehouse.store, publisher.folder, settings.stalled_seconds)
    until = day_of(settings.until) if settings.until else None
    stops = False
    while not stops:
        stops, took = stopped(), False
        lives = job is None or not PipelineState.is_terminal(job.state)
        if time.monotonic() - looked > LOOK_SECONDS:
            looked = time.monotonic()
            yield from map(Notice, watch.look(time.time()))
        drained = time.monotonic() + DRAIN_SECONDS
        while publisher.take():
            took = True
            yield from (Notice(f"Left aside: {fault}") for fault in publisher.faults())
            if not stops and time.monotonic() >= drained:
                break
        yield from _tell(publisher)
        if not publisher.since.epochs:
            asked.clear()  # what stands is all there is
        due = asked.is_set() or stops or time.monotonic() - last > settings.publish_seconds
        due = due or (publisher.since.days > 0 and (took or not told))
        due = due and publisher.since.epochs > 0
        if due and publisher.undecided and not waited and (stops or asked.is_set()):
            yield Notice("Nothing is published yet: it is not known how far service days may close.")
            waited = True
        if due and not publisher.undecided and not publisher.untold:
            published = publisher.publish()
            asked.clear()
            if published.held is None or published.held != told:
                yield published
            told, last = published.held or "", time.monotonic()
            yield from _tell(publisher)
        through = publisher.standing.through
        if until is not None and through is not None and through >= until:
            return
        if not took and not stops:
            if publisher.standing.number == began and not told and time.monotonic() - signed > SIGN_SECONDS:
                signed = time.monotonic()
                yield Waiting(f"Waiting. {publisher.waiting()}")
            if not lives:
                raise StateError(f"the job has ended: {job.state}. See the runner's log; what is published stands.")
            time.sleep(POLL_SECONDS)


def _tell(publisher: StreamPublisher) -> Iterator[Notice]:
    """Tell downstream what was published; where the broker is away, say so once, and try again by and by."""
    failed = publisher.untold_since is not None
    if failed and time.monotonic() - (publisher.untold_since or 0.0) < TELL_SECONDS:
        return
    try:
        publisher.tell()
    except WattierError as error:
        publisher.untold_since = time.monotonic()
        if not failed:
            yield Notice(
                f"Changes of generation {publisher.standing.number} are still to be told; trying again. {error}"
            )
    else:
        publisher.untold_since = None
        if failed:
            yield Notice(f"Changes of generation {publisher.standing.number} are told.")


def describe(config: Config, beam_options: Sequence[str], settings: StreamSettings) -> Iterator[str]:
    """The graph and Beam's options, as lines; nothing is submitted or written."""
    from apache_beam.pipeline import PipelineVisitor

    from pipelines.cut import Inputs

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
    p = _pipeline(beam_options)
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
