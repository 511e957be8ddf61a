"""What a stream keeps: bytes of state per account, bytes written per day, checkpoints, and whether any of it grows.

    python benchmarks/stream_state.py growth --accounts 300 --days 520
    python benchmarks/stream_state.py stream --accounts 20000 --history 60 --days 5

`growth` moves a plain world on in process, some days at a time, and weighs what each publication holds. `stream` loads
the history by a bounded run, then streams the days after it through Kafka and Flink, both started by infra/, and asks
Flink for its checkpoints.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import world
from world import World, say

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 455
"""Days back that features need: the longest window, and the year before it for growth."""

HISTORY = ("day_block", "meter_block")
"""State that is one file for each shard and service day."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["growth", "stream"])
    parser.add_argument("--accounts", type=int, default=300)
    parser.add_argument("--days", type=int, default=520, help="service days to weigh, or to stream")
    parser.add_argument("--history", type=int, default=60, help="stream: service days loaded before")
    parser.add_argument("--step", type=int, default=40, help="growth: days from one publication to the next")
    parser.add_argument("--shards", type=int)
    parser.add_argument(
        "--watch", type=int, default=120, help="stream: seconds to watch checkpoints, idle and trickling"
    )
    parser.add_argument("--config", action="append", default=[], metavar="KEY=VALUE", help="stream: a Flink setting")
    parser.add_argument(
        "--port-base", type=int, default=24000, help="stream: ports of the cluster; the broker takes +50"
    )
    parser.add_argument("--work", type=Path, help="folder that keeps the world; default: a temporary one")
    arguments = parser.parse_args(argv)
    with _work(arguments.work) as work:
        print(growth(arguments, work) if arguments.part == "growth" else stream(arguments, work))
    return 0


@contextmanager
def _work(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="wattier-state-", dir=".") as made:
        yield Path(made).resolve()


# ---- growth ---------------------------------------------------------------------------------------------------------


def growth(arguments: argparse.Namespace, work: Path) -> str:
    """What the publications of a growing history hold, as a table."""
    days = arguments.days
    shards = arguments.shards or 1
    made = World(work, arguments.accounts, days, shards, stocked=days)
    made.home.mkdir(parents=True, exist_ok=True)
    world.settle_in(made)
    world.simulate_stock(made)
    names = ("history", "a day", "in D-455", "checkpoints", "ledger", "other", "log", "register rows")
    lines = [
        f"{arguments.accounts:,} accounts in {shards} shards; bytes for each account",
        f"{'day':>5}" + "".join(f"{name:>14}" for name in names),
    ]
    for last in [*range(arguments.step, days, arguments.step), days]:
        world.backfill(made, last)
        lines.append(weigh(made, last, arguments.accounts, shards))
    return "\n".join(lines)


def weigh(made: World, day: int, accounts: int, shards: int) -> str:
    """One line of the table: what the standing publication holds."""
    from pipelines.warehouse import Warehouse

    standing = Warehouse(str(made.warehouse)).load()
    size: Counter[str] = Counter()
    for entry, length in weights(standing.entries):
        size[kind_of(entry)] += length
        if kind_of(entry) == "history" and entry.first > standing.through - LONGEST:
            size["recent"] += length
    per = {name: size[name] / accounts for name in ("history", "recent", "checkpoint", "ledger", "state", "log")}
    history, *rest = per.values()
    shown = [f"{history:,.0f}", f"{history / day:,.1f}", *(f"{value:,.0f}" for value in rest)]
    return f"{day:>5}" + "".join(f"{value:>14}" for value in [*shown, f"{standing.deliveries.num_rows:,}"])


def kind_of(entry: Any) -> str:
    """What an entry is to these tables: log, mart, history, checkpoint, ledger or other state."""
    from transforms.checkpoints import CHECKPOINT

    head = entry.kind.partition(":")[0]
    of = {**dict.fromkeys(HISTORY, "history"), **dict.fromkeys(CHECKPOINT, "checkpoint")}
    return head if head in ("log", "mart", "ledger") else of.get(entry.kind, "state")


def weights(entries: Sequence[Any]) -> Iterator[tuple[Any, float]]:
    """Each entry with its bytes: an entry may be one part of a file, and then has its share of the file's."""
    parts = Counter(entry.path for entry in entries)
    for entry in entries:
        yield entry, entry.bytes / parts[entry.path]


# ---- stream ---------------------------------------------------------------------------------------------------------


def stream(arguments: argparse.Namespace, work: Path) -> str:
    """What a stream on Flink keeps and writes while it takes in some days, as text."""
    shards = arguments.shards or max(2, arguments.accounts // world.SHARDS_OF)
    stocked = arguments.history + arguments.days
    made = World(work, arguments.accounts, arguments.history, shards, stocked)
    world.prepare(made)
    cluster, broker, run = ROOT / "infra/flink/cluster.py", ROOT / "infra/kafka/broker.py", work / "run"
    settings = [f"--config={pair}" for pair in arguments.config]
    with ExitStack() as at_end:
        at_end.callback(_call, broker, "down", "--run-dir", run / "kafka", "--wipe")
        at_end.callback(_call, cluster, "down", "--run-dir", run / "flink")
        flink = _call(cluster, "up", "--run-dir", run / "flink", "--port-base", arguments.port_base, *settings)
        kafka = _call(broker, "up", "--run-dir", run / "kafka", "--port", arguments.port_base + 50)
        return _measure(arguments, made, flink, kafka["address"], shards)


def _measure(arguments: argparse.Namespace, made: World, flink: dict[str, Any], address: str, shards: int) -> str:
    from pipelines.warehouse import Warehouse

    sys.path.append(str(ROOT))
    from tests.feeding import streaming_config
    from transforms.kernels.windows import day_of

    here, prefix = made.home / "stream", f"state{int(time.time())}-"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(made.warehouse, here / "warehouse")
    for name in ("policy.yaml", "capacity.yaml"):
        shutil.copy(made.home / name, here)
    text = streaming_config(made.config.read_text(), address, prefix, idle_timeout_seconds=5)
    (here / "wattier.yaml").write_text(text)
    warehouse = Warehouse(str(here / "warehouse"))
    before = warehouse.load()
    _create_topics(address, prefix)
    command = [sys.executable, "-P", "-m", "pipelines", "stream", "--config", str(here / "wattier.yaml"), "--no-audit"]
    command += ["--flink", flink["page"], "--", *flink["options"], *flink["streaming_options"]]
    command += ["--parallelism=2", "--sdk_worker_parallelism=2"]
    rest, lines, seen = flink["page"], [], {entry.path for entry in before.entries}
    with (here / "stream.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        for number in range(arguments.history + 1, arguments.history + arguments.days + 1):
            started = time.monotonic()
            rows = _feed_day(made, number, address, prefix)
            wanted = day_of(made.date_of(number))  # it closes once its partitions are idle
            while (warehouse.load().through or 0) < wanted:
                if process.poll() is not None or time.monotonic() - started > 1200:
                    raise RuntimeError(f"the stream does not go on: see {here / 'stream.log'}")
                time.sleep(1)
            new = [entry for entry in warehouse.load().entries if entry.path not in seen]
            seen |= {entry.path for entry in new}
            size: Counter[str] = Counter()
            for entry, length in weights(new):
                size[kind_of(entry)] += length
            size["state"] += size.pop("checkpoint", 0) + size.pop("ledger", 0)
            per = {kind: size[kind] / arguments.accounts for kind in ("history", "state", "log", "mart")}
            lines.append(
                f"day {number}: {rows:,} rows in {time.monotonic() - started:.0f} s; bytes written per account: "
                f"history {per['history']:,.1f}, other state {per['state']:,.1f}, log {per['log']:,.1f}, marts {per['mart']:,.1f}; "
                f"checkpoint {_checkpoint(rest)}"
            )
            say(lines[-1])
        for events in (0, 10):
            lines.append(watch(rest, arguments.watch, events, address, prefix))
            say(lines[-1])
    finally:
        process.terminate()
        process.wait(120)
    standing = warehouse.load()
    state = sum(length for entry, length in weights(standing.entries) if kind_of(entry) not in ("log", "mart"))
    head = [
        f"{arguments.accounts:,} accounts in {shards} shards, {arguments.history} days loaded, {arguments.days} streamed",
        f"state files: {state / arguments.accounts:,.0f} bytes for each account, {state / (1 << 20):,.1f} MiB",
    ]
    return "\n".join([*head, *lines])


def watch(page: str, seconds: int, events: int, address: str, prefix: str) -> str:
    """How checkpoints grow under so many events a second, as text."""
    from confluent_kafka import Producer

    producer, until = Producer({"bootstrap.servers": address}), time.monotonic() + seconds
    sizes: dict[float, int] = {}
    while time.monotonic() < until:
        for number in range(events):
            row = {"account_id": "nobody", "event_id": f"{time.time()}-{number}", "event_type": "payment"}
            producer.produce(f"{prefix}ledger-events", json.dumps(row))
        producer.flush()
        last = _latest(page)
        sizes[last["latest_ack_timestamp"] / 1000] = last["state_size"]
        time.sleep(1)
    seen, half = list(sizes.items()), len(sizes) // 2  # compactions move sizes up and down: the means of halves tell
    (before, small), (after, large) = (
        [sum(column) / len(column) for column in zip(*some, strict=True)] for some in (seen[:half], seen[half:])
    )
    growth = (large - small) / (after - before) * 3600 / 1e6
    return (
        f"{events} events/s: {len(seen)} checkpoints in {seconds} s, of {large:,.0f} bytes, {growth:+,.1f} MB an hour"
    )


def _latest(page: str) -> Any:
    (job,) = (j["jid"] for j in _get(f"{page}/jobs/overview")["jobs"] if j["state"] == "RUNNING")
    return _get(f"{page}/jobs/{job}/checkpoints")["latest"]["completed"]


def _checkpoint(page: str) -> str:
    """The latest checkpoint of the one job that runs: all of it, what was written of it, how long it took."""
    (job,) = (j["jid"] for j in _get(f"{page}/jobs/overview")["jobs"] if j["state"] == "RUNNING")
    said = _get(f"{page}/jobs/{job}/checkpoints")
    last, summary = said["latest"]["completed"], said["summary"]["end_to_end_duration"]
    if not last:
        return "none yet"
    return (
        f"{last['state_size']:,} bytes, {last['checkpointed_size']:,} of them written, {last['end_to_end_duration']} ms "
        f"(of all: median {summary.get('p50', summary['avg']):.0f}, most {summary['max']})"
    )


def _get(url: str) -> Any:
    import urllib.request

    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def _feed_day(made: World, number: int, address: str, prefix: str) -> int:
    """Send what lands after a service day. Returns how many rows."""
    import pyarrow.parquet as pq
    from confluent_kafka import Producer

    sys.path.append(str(ROOT))
    from tests.feeding import FOLDERS, message

    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    sent = 0
    for path in made.files(number):
        folder = path.parent.name
        names = pq.read_schema(path).names
        columns = [pq.read_table(path)[name].cast("string").to_pylist() for name in names]
        for values in zip(*columns, strict=True):
            row = {name: value or "" for name, value in zip(names, values, strict=True)}
            while True:
                try:
                    producer.produce(prefix + FOLDERS[folder], message(row), key=next(iter(row.values())))
                    break
                except BufferError:
                    producer.poll(0.1)
            sent += 1
    producer.flush()
    return sent


def _create_topics(address: str, prefix: str) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    counts = {"accounts": 1, "meters": 1, "ledger-events": 2, "conduct-events": 1, "meter-readings": 2}
    admin = AdminClient({"bootstrap.servers": address})
    made = admin.create_topics([NewTopic(prefix + n, c, 1) for n, c in counts.items()])
    for topic in made.values():
        topic.result()


def _call(script: Path, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, str(script), *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


if __name__ == "__main__":
    sys.exit(main())
