"""How long a payment takes to its change of tier: from Kafka's append time of the one to that of the other.

    python benchmarks/latency.py --work /somewhere/large

A warehouse that bounded runs have filled is taken up by `wattier stream` on a Flink cluster and a broker of its own. Days
of readings and of ledger events follow, and payments at a steady rate. Both times are the broker's.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from tick import machine, work_folder
from world import World, go_back, prepare, say

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.append(str(CHECKOUT))

from schemas.marts import PROVISIONAL_TIERS  # noqa: E402
from tests.clusters import BROKER, CLUSTER, call, command, eventually  # noqa: E402
from tests.feeding import FOLDERS, message, streaming_config  # noqa: E402

PARTITIONS = {
    "accounts": 1,
    "meters": 1,
    "ledger-events": 2,
    "conduct-events": 1,
    "meter-readings": 2,
    "tier-changes": 1,
}
BOUNCED_SECONDS = 10
"""So long after a payment was taken back the account pays again."""

QUIET_SECONDS = 5
"""What was sent last is answered before all the rest is sent."""

OLD_DAYS = (100, 300)
"""The bills that are open again were due so many days before the first day that is fed."""


@dataclass(frozen=True)
class Messages:
    """What is sent: `due` seconds after the start, ascending; to a topic, with a key."""

    due: np.ndarray[Any, Any]
    topic: list[str]
    key: list[str]
    value: list[bytes]

    @classmethod
    def of(cls, parts: Sequence[tuple[np.ndarray[Any, Any], str, list[dict[str, str]]]]) -> Messages:
        """From (due, folder of the source, rows as text) of any order."""
        due = np.concatenate([part[0] for part in parts])
        order = np.argsort(due, kind="stable")
        topics = [FOLDERS[folder] for _, folder, rows in parts for _ in rows]
        keys = [next(iter(row.values())) for _, _, rows in parts for row in rows]
        values = [message(row) for _, _, rows in parts for row in rows]
        return cls(
            due[order], [topics[i] for i in order], [keys[i] for i in order], [values[i] for i in order]
        )  # fmt: skip


def landed_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a landed file as text, as a CSV file would have them."""
    table = pq.read_table(path)
    return pa.table([column.cast(pa.string()) for column in table.columns], names=table.column_names).to_pylist()


def day_messages(
    world: World, day: int, start: float, seconds: float
) -> Iterator[tuple[Any, str, list[dict[str, str]]]]:
    """The files of a service day, spread evenly over some seconds."""
    for path in world.files(day):
        rows = landed_rows(path)
        yield start + np.arange(len(rows)) * (seconds / max(len(rows), 1)), path.parent.name, rows


def paid_bills(world: World, on: date) -> list[tuple[str, str, Decimal, str]]:
    """(account, payment, amount in yuan, bill) of one old bill of each account, in random order, the same each time."""
    oldest, youngest = on - timedelta(OLD_DAYS[1]), on - timedelta(OLD_DAYS[0])
    with duckdb.connect() as con:
        con.execute(f"CREATE TABLE ledger AS FROM '{world.home}/stock/ledger/*.parquet' WHERE event_date < DATE '{on}'")
        return con.execute(f"""
            SELECT account_id, p.event_id, p.amount_yuan, bill_id
            FROM ledger p JOIN ledger c USING (account_id, bill_id)
            WHERE p.event_type = 'payment' AND c.event_type = 'charge'
              AND c.due_date BETWEEN DATE '{oldest}' AND DATE '{youngest}'
              AND NOT EXISTS (FROM ledger r WHERE r.account_id = p.account_id AND r.ref_event_id = p.event_id)
            QUALIFY row_number() OVER (PARTITION BY account_id ORDER BY hash(p.event_id)) = 1
            ORDER BY hash(account_id)""").fetchall()


def bounced(
    bills: Sequence[tuple[str, str, Decimal, str]],
    dates: Sequence[date],
    rate: float,
    day_seconds: float,
    seconds: float,
) -> tuple[np.ndarray[Any, Any], str, list[dict[str, str]]]:
    """Old payments that bounce, one account after the other, and what is paid in their place some seconds later.

    dates: the day on which events take place, every `day_seconds` the next.
    """
    standing = {account: event for account, event, _, _ in bills}
    due, rows = [], []
    wait, most = int(BOUNCED_SECONDS * rate / 2), int(rate * seconds)
    for nth in range(most):
        turn, pays = nth // 2 - wait * (nth % 2), nth % 2 == 1
        if turn < 0:
            continue
        account, _, amount, bill = bills[turn % len(bills)]
        at = nth / rate
        row = {"account_id": account, "event_id": f"L{nth}", "event_date": f"{dates[int(at / day_seconds)]}",
               "amount_yuan": str(amount), "revision": "1"}  # fmt: skip
        if pays:
            row |= {"event_type": "payment", "bill_id": bill}
            standing[account] = row["event_id"]
        else:
            row |= {"event_type": "reversal", "ref_event_id": standing[account]}
        due.append(at)
        rows.append(row)
    return np.array(due), "ledger", rows


def closing(
    part: tuple[np.ndarray[Any, Any], str, list[dict[str, str]]], seconds: float
) -> tuple[np.ndarray[Any, Any], str, list[dict[str, str]]]:
    """What is due after the measured time is sent soon after its end, at once: the days that were fed close."""
    return np.where(part[0] < seconds, part[0], seconds + QUIET_SECONDS), *part[1:]


# --- the stream -----------------------------------------------------------------------------------------------------


class Live:
    """`wattier stream` over a world's warehouse, with topics of its own."""

    def __init__(self, arguments: argparse.Namespace, world: World, flink: dict[str, Any], address: str) -> None:
        self.world, self.address, self.page = world, address, flink["page"]
        self.prefix = f"latency-{uuid.uuid4().hex[:6]}-"
        settings = {"idle_timeout_seconds": 3600, "tier_changes_topic": f"{self.prefix}tier-changes"}
        text = streaming_config(world.config.read_text(encoding="utf-8"), address, self.prefix, **settings)
        self.config = world.home / "stream.yaml"
        self.config.write_text(text, encoding="utf-8")
        admin = AdminClient({"bootstrap.servers": address})
        topics = [NewTopic(self.prefix + name, count, 1) for name, count in PARTITIONS.items()]
        for made in admin.create_topics(topics).values():
            made.result()
        self.log = world.home / "stream.log"
        nice = ["nice", "-n", "10"]  # the publisher may wait for the job: they share a machine here
        run = [*nice, sys.executable, "-P", "-m", "pipelines", "stream", "--config", str(self.config)]
        run += ["--flink", self.page, *arguments.stream]
        beam = [*flink["options"], *flink["streaming_options"], f"--parallelism={arguments.parallelism}"]
        beam += [f"--sdk_worker_parallelism={arguments.parallelism}", *arguments.beam]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*run, "--", *beam], stdout=log, stderr=subprocess.STDOUT, cwd=CHECKOUT)
        self.sent = 0

    def ready(self) -> None:
        """Wait until the job runs with all its tasks."""

        def running() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            jobs = [job for job in self.rest("/jobs/overview")["jobs"] if job["state"] == "RUNNING"]
            return bool(jobs) and jobs[0]["tasks"]["running"] == jobs[0]["tasks"]["total"]

        eventually(running, 120, f"the job to run; see {self.log}")

    def rest(self, path: str) -> Any:
        """What Flink says."""
        with urllib.request.urlopen(self.page + path, timeout=30) as answer:
            return json.load(answer)

    def feed(self, messages: Messages) -> None:
        """Send each message when it is due."""
        producer = Producer({"bootstrap.servers": self.address, "linger.ms": 0})
        start, at = time.monotonic(), 0
        while at < len(messages.due):
            until = int(np.searchsorted(messages.due, time.monotonic() - start, "right"))
            for n in range(at, until):
                producer.produce(self.prefix + messages.topic[n], messages.value[n], key=messages.key[n])
            at = max(at, until)
            producer.poll(0)
            time.sleep(0.005)
        producer.flush()
        self.sent += at

    def wait_through(self, day: date) -> None:
        """Until a service day is published."""
        eventually(lambda: through(self.world) >= day, 120, f"{day} to be published; see {self.log}")

    def stop(self) -> None:
        """Stop the stream and its job."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


def read_topic(address: str, topic: str) -> Iterator[tuple[int, Any]]:
    """(Kafka's append time in ms, message) of all messages of a topic, by partition."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": uuid.uuid4().hex})
    for partition in consumer.list_topics(topic, 10).topics[topic].partitions:
        _, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), 10)
        consumer.assign([TopicPartition(topic, partition, 0)])
        at = 0
        while at < high:
            found = consumer.poll(10)
            if found is None or found.error() is not None:
                raise RuntimeError(f"{topic}/{partition} cannot be read from offset {at}")
            at = found.offset() + 1
            yield found.timestamp()[1], found
    consumer.close()


# --- what was seen --------------------------------------------------------------------------------------------------

TOLD = pa.schema([
    ("told_ms", pa.int64()), ("position", pa.int64()), ("status", pa.string()), ("account_id", pa.string()),
    ("service_date", pa.string()), ("from_tier", pa.string()), ("to_tier", pa.string()), ("rule", pa.string()),
    ("event_id", pa.string()), ("source_part", pa.string()), ("source_offset", pa.int64()),
])  # fmt: skip


def told_table(address: str, topic: str) -> pa.Table:
    """The messages of `tier_changes` in their order."""
    found = []
    for at, one in read_topic(address, topic):
        value = json.loads(one.value())
        found.append({name: value.get(name) for name in TOLD.names} | {"told_ms": at, "position": one.offset()})
    return pa.Table.from_pylist(found, schema=TOLD)


def sent_table(address: str, topic: str) -> pa.Table:
    """The messages of ledger events, with their type and Kafka's time of each."""
    rows = [
        (at, f"kafka:{topic}/{one.partition()}", one.offset(), json.loads(one.value())["event_type"])
        for at, one in read_topic(address, topic)
    ]
    names = ("sent_ms", "source_part", "source_offset", "event_type")
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def samples(sent: pa.Table, told: pa.Table, warm_up: float, seconds: float) -> pa.Table:
    """Each event that changed a tier after the warm-up: its type, when it was sent, and the ms until it was told."""
    with duckdb.connect() as con:
        return con.execute(
            """
            WITH first AS (SELECT source_part, source_offset, min(told_ms) AS told_ms FROM told
                           WHERE status = 'provisional' GROUP BY ALL),
            begun AS (SELECT min(sent_ms) AS ms FROM sent)
            SELECT event_type, source_part, sent_ms - ms AS at_ms, told_ms - sent_ms AS lag_ms
            FROM sent JOIN first USING (source_part, source_offset), begun
            WHERE sent_ms - ms BETWEEN 1000 * ? AND 1000 * (?)
            ORDER BY at_ms""",
            [warm_up, warm_up + seconds],
        ).to_arrow_table()


def disagreements(world: World, told: pa.Table) -> dict[str, int]:
    """What the topic said against the marts, in rows; all but the first should be 0.

    Whatever stood in `provisional_tiers` in any publication was told, with the same answer. In the end every event is in a
    published service day, nothing stands provisionally, and of each account the topic said last what is published.
    """
    with duckdb.connect(str(world.warehouse / "marts.duckdb"), read_only=True) as con:
        con.register("told", told)
        con.register("stood", provisional_rows(world))
        early = """(SELECT account_id, CAST(service_date AS DATE), from_tier, to_tier, rule, event_id, source_part, source_offset
                    FROM told WHERE status = 'provisional')"""
        stood = "(SELECT account_id, as_of, from_tier, tier, rule, event_id, source_part, source_offset FROM stood)"
        counts = con.execute(f"""
            SELECT (SELECT count(*) FROM (FROM {early} INTERSECT FROM {stood})),
                   (SELECT count(*) FROM (FROM {stood} EXCEPT FROM {early})),
                   (SELECT count(*) FROM provisional_tiers),
                   (SELECT count(*) FROM (FROM told QUALIFY row_number() OVER (PARTITION BY account_id ORDER BY position DESC) = 1)
                    LEFT JOIN customer_tiers_current now USING (account_id) WHERE to_tier IS DISTINCT FROM now.tier)
            """).fetchone()
    assert counts is not None
    return dict(
        zip(
            ("equal", "in the mart, but not told", "left in the mart", "told last, but not published"),
            counts,
            strict=True,
        )
    )


def provisional_rows(world: World) -> pa.Table:
    """The mart `provisional_tiers` of every publication since the base, each row once."""
    from pipelines.warehouse import Warehouse

    warehouse = Warehouse(str(world.warehouse))
    base = json.loads((world.home / "base.json").read_text())["generation"]
    tables = [warehouse.read(n).tables for n in range(base + 1, warehouse.load().number + 1)]
    rows = pa.concat_tables(
        [PROVISIONAL_TIERS.schema.empty_table(), *(t["provisional_tiers"] for t in tables if "provisional_tiers" in t)]
    )
    return rows.group_by(rows.column_names).aggregate([])


def report(
    arguments: argparse.Namespace,
    world: World,
    found: pa.Table,
    sent: pa.Table,
    told: pa.Table,
    counted: dict[str, Any],
) -> str:
    """What was measured, as text."""
    lines = [
        f"{world.accounts:,} accounts, {world.days} days of history, {world.shards} shards, parallelism "
        f"{arguments.parallelism}; {machine()}",
        f"{arguments.seconds:g} s after {arguments.warm_up:g} s of warm-up: {counted['events']:.0f} ledger events/s, "
        f"{counted['readings']:.0f} readings/s; a day takes {arguments.day_seconds:g} s, {counted['days']} closed",
        f"{'event to tier change':<24}{'changes':>9}{'p50 s':>8}{'p90 s':>8}{'p99 s':>8}{'max s':>8}",
    ]
    lag, kind = found["lag_ms"].to_numpy() / 1000, np.array(found["event_type"].to_pylist())
    for label, some in (("payments", lag[kind == "payment"]), ("all", lag)):
        shown = np.percentile(some, [50, 90, 99, 100]) if len(some) else [float("nan")] * 4
        lines.append(f"{label:<24}{len(some):>9,}" + "".join(f"{value:>8.2f}" for value in shown))
    checkpoints = counted["checkpoints"]
    lines.append(
        f"checkpoints: {checkpoints['counts']['completed']}, mean "
        f"{checkpoints['summary']['end_to_end_duration']['avg'] / 1000:.2f} s, longest "
        f"{checkpoints['summary']['end_to_end_duration']['max'] / 1000:.2f} s"
    )
    early = sum(status == "provisional" for status in told["status"].to_pylist())
    lines.append(f"told: {told.num_rows:,} messages, {early:,} provisional, of {sent.num_rows:,} ledger events")
    answers = dict(counted["answers"])
    wrong = [f"{rows:,} {what}" for what, rows in answers.items() if what != "equal" and rows]
    lines.append(
        f"answers: {answers['equal']:,} provisional changes stood in the mart as told; "
        + ("; ".join(wrong) or "each account's last message is what is published")
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, measure, compare, print. Returns 0 where all answers are equal."""
    arguments = options(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped
    with work_folder(arguments.work) as work:
        span = arguments.warm_up + arguments.seconds
        fed = int(-(-span // arguments.day_seconds))
        world = World(Path(work).absolute(), arguments.accounts, arguments.days, arguments.shards, arguments.days + 15)
        prepare(world)
        go_back(world)
        return 0 if arguments.prepare_only else _measure(arguments, world, fed)


def _measure(arguments: argparse.Namespace, world: World, fed: int) -> int:
    span, run_dir = arguments.warm_up + arguments.seconds, Path(arguments.run_dir or world.home / "infra").absolute()
    days = [world.days + 1 + n for n in range(fed)]
    say(f"messages of {fed} days")
    parts = [
        part
        for n, day in enumerate([*days, days[-1] + 1])
        for part in day_messages(world, day, n * arguments.day_seconds, arguments.day_seconds)
    ]
    own = sum(int((due < span).sum()) for due, folder, _ in parts if folder == "ledger") / span
    dates = [world.date_of(day) for day in days]
    parts.append(bounced(paid_bills(world, dates[0]), dates, arguments.rate - own, arguments.day_seconds, span))
    messages = Messages.of([closing(part, span) for part in parts])
    say("Flink and Kafka")
    settings = [word for pair in arguments.flink_config for word in ("--config", pair)]
    cluster = ["--run-dir", run_dir / "flink", "--port-base", arguments.port_base, *settings]
    if arguments.state_cache_mb is not None:
        cluster += ["--state-cache-mb", arguments.state_cache_mb]
    broker = ["--run-dir", run_dir / "kafka", "--port", arguments.kafka_port]
    try:
        flink = call(CLUSTER, "up", *cluster)
        address = call(BROKER, "up", *broker)["address"]
        live = Live(arguments, world, flink, address)
        try:
            live.ready()
            say(f"feeding {len(messages.due):,} messages over {span:g} s")
            live.feed(messages)
            live.wait_through(dates[-1])
            (job,) = (job for job in live.rest("/jobs/overview")["jobs"] if job["state"] == "RUNNING")
            checkpoints = live.rest(f"/jobs/{job['jid']}/checkpoints")
            say(f"published through {through(world)}")
        finally:
            live.stop()
        sent = sent_table(address, live.prefix + "ledger-events")
        told = told_table(address, live.prefix + "tier-changes")
    finally:
        if not arguments.keep:
            command(CLUSTER, "down", "--run-dir", run_dir / "flink")
            command(BROKER, "down", "--run-dir", run_dir / "kafka", "--wipe")
    found = samples(sent, told, arguments.warm_up, arguments.seconds)
    if arguments.samples:
        pa_csv.write_csv(found, arguments.samples)
    measured = (messages.due >= arguments.warm_up) & (messages.due < span)
    of = {
        name: sum(topic == name and mine for topic, mine in zip(messages.topic, measured, strict=True))
        for name in ("ledger-events", "meter-readings")
    }
    counted = {
        "events": _reached(sent, arguments.warm_up, arguments.seconds),
        "readings": of["meter-readings"] / arguments.seconds,
        "days": (through(world) - world.date_of(world.days)).days,
        "checkpoints": checkpoints,
        "answers": disagreements(world, told),
    }
    print(report(arguments, world, found, sent, told, counted))
    wrong = [rows for what, rows in counted["answers"].items() if what != "equal"]
    return 1 if any(wrong) or found.num_rows == 0 else 0


def _reached(sent: pa.Table, warm_up: float, seconds: float) -> float:
    """Ledger events that Kafka took each second of those measured."""
    at = sent["sent_ms"].to_numpy()
    at = (at - at.min()) / 1000 - warm_up
    return float(((at >= 0) & (at < seconds)).sum() / seconds)


def through(world: World) -> date:
    """The last service day published."""
    from pipelines.warehouse import Warehouse
    from transforms.kernels.windows import date_of

    day = Warehouse(str(world.warehouse)).load().through
    assert day is not None
    return date_of(day)


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=365, help="days of history")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--parallelism", type=int, default=min(2, os.cpu_count() or 1), help="of the job")
    parser.add_argument("--rate", type=float, default=200, help="ledger events a second")
    parser.add_argument("--day-seconds", type=float, default=60, help="so long the readings of a day take to come in")
    parser.add_argument("--warm-up", type=float, default=30, help="seconds before the measured ones")
    parser.add_argument("--seconds", type=float, default=120, help="seconds measured")
    parser.add_argument("--work", help="folder that keeps the world; default: a temporary one in the working directory")
    parser.add_argument("--prepare-only", action="store_true", help="make the world and stop")
    parser.add_argument("--run-dir", help="folder of Flink and Kafka; default: in the world's")
    parser.add_argument("--port-base", type=int, default=19_000, help="ports of Flink, in a row")
    parser.add_argument("--kafka-port", type=int, default=19_092)
    parser.add_argument("--flink-config", action="append", default=[], metavar="KEY=VALUE", help="any Flink setting")
    parser.add_argument("--state-cache-mb", type=int, help="of each Python worker, 0: none; default: the cluster's")
    parser.add_argument("--keep", action="store_true", help="leave Flink and Kafka up for the next run")
    parser.add_argument("--stream", action="append", default=[], metavar="OPTION", help="for `wattier stream`")
    parser.add_argument("--samples", help="CSV file for each change: type, part, ms since the start, ms until told")
    parser.add_argument("beam", nargs="*", help="after --: options for Beam")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
