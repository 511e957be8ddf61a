"""Readings a second from Kafka to closed day: `wattier stream` beside Flink SQL's `SUM() OVER` (30 days).

Both run on the same Flink cluster, one after the other, over the same topics of the same broker; infra/ starts them. The
answers are compared in the same run: exit code 1 where they differ. See README.md for what is timed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import over
import topics
import yaml
from tick import machine, work_folder
from world import World, say, settle_in, simulate_stock

from infra.processes import Run

CHECKOUT = over.CHECKOUT
CLUSTER = CHECKOUT / "infra" / "flink" / "cluster.py"
BROKER = CHECKOUT / "infra" / "kafka" / "broker.py"
FLOWING_BYTES = 1 << 20
"""Once so much has gone from task to task, a job has begun to read."""

OVER = ("CANCELED", "FAILED", "FINISHED")

LABELS = {
    "sql": "Flink SQL, 30-day window, RocksDB",
    "sql-heap": "Flink SQL, 30-day window, state on the heap",
    "wattier": "wattier stream, all windows and marts",
    "wattier-arrow": "wattier stream, all windows and marts",
}


@dataclass(frozen=True)
class Outcome:
    """What one contender did. start: seconds from its command to its first read; seconds, cpu: from there to its last day,
    by the clock and of the processors, in all processes but the broker.
    """

    contender: str
    parallelism: int
    readings: int
    start: float
    seconds: float
    cpu: float

    @property
    def payload(self) -> str:
        """What the messages are."""
        return "Arrow" if self.contender.endswith("arrow") else "JSON"

    @property
    def rate(self) -> float:
        """Readings a second; not a number where a run was over before its first read was seen."""
        return self.readings / self.seconds if self.seconds > 0 else math.nan

    @property
    def rate_of_cpu(self) -> float:
        """Readings a second of one processor. On a machine that does other things too, this tells more."""
        return self.readings / self.cpu if self.cpu > 0 else math.nan


@dataclass(frozen=True)
class Moment:
    """A moment of a run: by the clock, and the processor seconds of each process until then."""

    at: float
    cpu: dict[int, float]

    @classmethod
    def now(cls, pids: Iterable[int]) -> Moment:
        """This one."""
        return cls(time.time(), {pid: seconds for pid in pids if (seconds := cpu_seconds(pid)) is not None})

    def cpu_since(self, before: Moment) -> float:
        """Processor seconds between two moments. A process that began in between counts in full."""
        return sum(seconds - before.cpu.get(pid, 0.0) for pid, seconds in self.cpu.items())


def cpu_seconds(pid: int) -> float | None:
    """Processor seconds of a process, None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(argv: Sequence[str] | None = None) -> int:
    """1 where answers differ."""
    arguments = options(argv)
    with work_folder(arguments.work) as work, infra(arguments, Path(work).absolute()) as (flink, kafka):
        return _bench(arguments, Bench(arguments, Path(work).absolute(), flink, kafka))


class Bench:
    """The world, the cluster and the broker. `stocked` holds one day more than is measured: it lets the last one close."""

    def __init__(self, arguments: argparse.Namespace, work: Path, flink: dict[str, Any], kafka: dict[str, Any]) -> None:
        self.arguments, self.flink, self.address = arguments, flink, str(kafka["address"])
        self.world = World(work, arguments.accounts, arguments.days, arguments.shards, arguments.days + 1)
        self.runs = self.world.home / "runs"

    def files(self, source: str) -> list[Path]:
        """The stock of a source in order of days."""
        return sorted((self.world.home / "stock" / source).glob("*.parquet"))

    def topic(self, source: str, payload: str) -> str:
        """The topic of a source."""
        return f"{source}-{payload}"

    def prepare(self) -> None:
        """The world on disk and in the topics, and a warehouse that knows accounts and meters, but no reading yet."""
        self.world.home.mkdir(parents=True, exist_ok=True)
        settle_in(self.world)
        simulate_stock(self.world)
        shutil.rmtree(self.runs, ignore_errors=True)
        payloads = {"arrow" if name.endswith("arrow") else "json" for name in self.arguments.only}
        for payload in sorted(payloads) if not self.arguments.keep_topics else ():
            names = {source: self.topic(source, payload) for source in ("ledger", "readings")}
            topics.create(self.address, names.values())
            for source, name in names.items():
                began = time.monotonic()
                sent = topics.feed(self.address, name, self.files(source), payload)
                say(f"{name}: {sent:,} rows fed, {time.monotonic() - began:,.0f} s")
        from pipelines.config import load_config
        from pipelines.run import run

        run(load_config(self.configure("base", "json")), audit=False)

    def configure(self, run: str, payload: str) -> Path:
        """The folder of a run: its configuration reads accounts and meters from files, the rest from topics."""
        folder = self.runs / run
        folder.mkdir(parents=True)
        if run != "base":
            shutil.copytree(self.runs / "base" / "warehouse", folder / "warehouse")
        config = yaml.safe_load(self.world.config.read_text(encoding="utf-8"))
        config |= {"landing": str(self.world.home / "stock"), "policy": str(self.world.home / "policy.yaml")}
        config["capacity"] = str(self.world.home / "capacity.yaml")
        config["kafka"] = {"bootstrap_servers": self.address, "out_of_order_days": 1, "idle_timeout_seconds": 600}
        for source, folder_name in (("meter_readings", "readings"), ("ledger_events", "ledger")):
            mapping = config["sources"][source]
            del mapping["files"], mapping["known_at"]
            mapping |= {"topics": self.topic(folder_name, payload), "payload": payload}
        path = folder / "wattier.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        return path

    @property
    def last(self) -> str:
        """The last day measured."""
        return self.world.date_of(self.world.days).isoformat()

    def readings(self, days: int) -> int:
        """Readings of the first so many days."""
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in self.files("readings")[:days])

    def rest(self, path: str) -> Any:
        """What Flink says."""
        with urllib.request.urlopen(self.flink["page"] + path, timeout=30) as answer:
            return json.load(answer)

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs that the cluster remembers."""
        found: list[dict[str, Any]] = self.rest("/jobs/overview")["jobs"]
        return found

    def quiet(self) -> set[str]:
        """Wait until no job runs; the ids of those that have."""
        while any(job["state"] not in OVER for job in self.jobs()):
            time.sleep(0.2)
        return {job["jid"] for job in self.jobs()}

    def moment(self, *more: int) -> Moment:
        """Now, for all processes of the cluster, and some more."""
        return Moment.now([*Run(Path(self.arguments.flink)).members(), *more])

    def flows(self, known: set[str], *more: int) -> tuple[str, Moment]:
        """Wait for a job beside the known ones to read; its id, and when that was."""
        enough = min(FLOWING_BYTES, 20 * self.readings(self.world.stocked))
        while True:
            for job in self.jobs():
                if job["jid"] not in known:
                    sent = [v["metrics"]["write-bytes"] for v in self.rest(f"/jobs/{job['jid']}")["vertices"]]
                    if sum(sent) >= enough or job["state"] in OVER:
                        return job["jid"], self.moment(*more)
            time.sleep(0.1)


# The contenders -----------------------------------------------------------------------------------------------------


def flink_sql(bench: Bench, name: str, parallelism: int) -> Outcome:
    """One statement over the topic of readings, until all of it is answered."""
    folder = bench.runs / f"{name}-{parallelism}"
    state = "hashmap" if name.endswith("heap") else "rocksdb"
    began = time.time()
    config = {"pipeline.name": folder.name, "parallelism.default": parallelism, "state.backend.type": state}
    topic, known = bench.topic("readings", "json"), bench.quiet()
    over.submit(Path(bench.arguments.flink), folder, config, topic=topic, address=bench.address)
    job, flows = bench.flows(known)
    while (found := bench.rest(f"/jobs/{job}"))["state"] not in OVER:
        time.sleep(0.2)
    if found["state"] != "FINISHED":
        raise SystemExit(f"{folder.name}: {found['state']}: {bench.rest(f'/jobs/{job}/exceptions')}"[:3000])
    seconds, cpu = found["end-time"] / 1000 - flows.at, bench.moment().cpu_since(flows)
    return Outcome(name, parallelism, bench.readings(bench.world.stocked), flows.at - began, seconds, cpu)


def wattier(bench: Bench, name: str, parallelism: int) -> Outcome:
    """`wattier stream` until the last day is published."""
    run = f"{name}-{parallelism}"
    config = bench.configure(run, "arrow" if name.endswith("arrow") else "json")
    command = [sys.executable, "-P", "-m", "pipelines", "stream", "--config", str(config), "--json"]
    command += ["--until", bench.last, "--flink", bench.flink["page"], *bench.arguments.stream]
    command += [] if bench.arguments.audit else ["--no-audit"]
    beam = [o for o in bench.flink["options"] if not o.startswith(("--parallelism", "--sdk_worker_parallelism"))]
    beam += [f"--parallelism={parallelism}", f"--sdk_worker_parallelism={parallelism}"]
    known = bench.quiet()
    began, published = time.time(), None
    flowing: list[Moment] = []
    with (config.parent / "stream.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--", *beam, *bench.flink["streaming_options"], *bench.arguments.beam],
            stdout=subprocess.PIPE, stderr=log, text=True, cwd=config.parent,
        )  # fmt: skip
        watch = threading.Thread(target=lambda: flowing.append(bench.flows(known, process.pid)[1]), daemon=True)
        watch.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                print(f"{time.time():.2f} {line.rstrip()}", file=log, flush=True)
                if json.loads(line).get("through") is not None:
                    published = bench.moment(process.pid)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(120)
    watch.join(60)  # a busy cluster may tell of the first read late
    if process.returncode or not published or not flowing:
        raise SystemExit(f"{run} ended with code {process.returncode}: {log.name}")
    flows = flowing[0]
    seconds, cpu = published.at - flows.at, published.cpu_since(flows)
    return Outcome(name, parallelism, bench.readings(bench.world.days), flows.at - began, seconds, cpu)


CONTENDERS: dict[str, Callable[[Bench, str, int], Outcome]] = {
    "sql": flink_sql, "sql-heap": flink_sql, "wattier": wattier, "wattier-arrow": wattier,
}  # fmt: skip


def _bench(arguments: argparse.Namespace, bench: Bench) -> int:
    bench.prepare()
    if arguments.prepare_only:
        return 0
    outcomes: list[Outcome] = []
    compared: dict[str, dict[str, int]] = {}
    for parallelism in arguments.parallelism:
        for name in arguments.only:
            outcomes.append(CONTENDERS[name](bench, name, parallelism))
            say(f"{LABELS[name]}, parallelism {parallelism}: {outcomes[-1].rate:,.0f} readings/s")
    peers = [o for o in outcomes if o.contender.startswith("sql")]
    ours = [o for o in outcomes if o not in peers]
    pairs = [(own, peers[0]) for own in ours] + [(ours[0], peer) for peer in peers[1:]] if ours and peers else []
    for pair in pairs:
        own, peer = (f"{o.contender}-{o.parallelism}" for o in pair)
        compared[f"{own} and {peer}"] = over.compare(
            bench.runs / own / "warehouse" / "marts.duckdb", bench.runs / peer / "answers",
            bench.world.home / "stock" / "readings", bench.world.home / "stock" / "meters", bench.last,
        )  # fmt: skip
    if arguments.json:
        print(json.dumps({"outcomes": [asdict(o) for o in outcomes], "compared": compared}))
    else:
        print(table(bench, outcomes, compared))
    return 1 if any(found["differing"] or not found["rows"] for found in compared.values()) else 0


def table(bench: Bench, outcomes: Sequence[Outcome], compared: dict[str, dict[str, int]]) -> str:
    """What was measured, as text."""
    world = bench.world
    lines = [
        f"{world.accounts:,} accounts, {world.days} days, {bench.readings(world.stocked):,} readings in 2 partitions; "
        f"{world.shards} shards; {machine()}",
        f"{'':<46}{'parallelism':>12}{'payload':>9}{'start s':>9}{'seconds':>9}{'readings/s':>12}{'ratio':>7}"
        f"{'CPU s':>8}{'readings/CPU s':>16}{'ratio':>7}",
    ]
    for o in outcomes:
        peers = [p for p in outcomes if p.contender.startswith("sql") and p.parallelism == o.parallelism]
        ratio = f"{o.rate / max(p.rate for p in peers):.2f}" if peers else ""
        ratio_of_cpu = f"{o.rate_of_cpu / max(p.rate_of_cpu for p in peers):.2f}" if peers else ""
        lines.append(
            f"{LABELS[o.contender]:<46}{o.parallelism:>12}{o.payload:>9}{o.start:>9.1f}{o.seconds:>9.1f}"
            f"{o.rate:>12,.0f}{ratio:>7}{o.cpu:>8.1f}{o.rate_of_cpu:>16,.0f}{ratio_of_cpu:>7}"
        )
    for sides, found in compared.items():
        verdict = f"{found['differing']:,} DIFFER" if found["differing"] or not found["rows"] else "all equal"
        lines.append(
            f"answers of {sides}: {verdict}; {found['rows']:,} rows of {found['days']} days compared, "
            f"{found['left_out']:,} left out"
        )
    return "\n".join(lines)


# What it runs on ------------------------------------------------------------------------------------------------------


@contextmanager
def infra(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """A cluster and a broker, started unless they are up, and stopped again unless they were."""
    arguments.flink = str(Path(arguments.flink or work / "flink").absolute())
    arguments.kafka = str(Path(arguments.kafka or work / "kafka").absolute())
    base = arguments.port_base
    # Flink's page is asked when a job begins to read, so its figures have to be fresh. A busy machine answers late.
    flink = ["--slots", max(arguments.parallelism), "--config", "metrics.fetcher.update-interval=500"]
    flink += ["--config", "pekko.ask.timeout=60s"]
    flink += ["--task-manager-memory", arguments.task_manager_memory, *(["--port-base", base] if base else [])]
    kafka = ["--port", arguments.kafka_port] if arguments.kafka_port else []
    with part(CLUSTER, arguments.flink, flink) as cluster, part(BROKER, arguments.kafka, kafka, "--wipe") as broker:
        yield cluster, broker


@contextmanager
def part(script: Path, folder: str, start: Sequence[object], *stop: str) -> Iterator[dict[str, Any]]:
    """One of infra's parts while it is up."""

    def call(action: str, *more: object) -> dict[str, Any]:
        command = [sys.executable, str(script), action, "--run-dir", folder, "--json", *map(str, more)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    run = Run(Path(folder))
    about = run.saved()[1] | {"already_up": True} if run.members() else call("up", *start)
    try:
        yield about
    finally:
        if not about["already_up"]:
            call("down", *stop)


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=40, help="service days that are closed; one more is fed")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--parallelism", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", action="append", choices=list(CONTENDERS), help="only this; may be given again")
    parser.add_argument("--work", help="folder that keeps the world; default: a temporary one in the working directory")
    parser.add_argument("--flink", metavar="DIR", help="run folder of the cluster; one that is up is used and left up")
    parser.add_argument("--kafka", metavar="DIR", help="run folder of the broker, likewise")
    parser.add_argument("--port-base", type=int, help="the cluster's ports in a row from here on")
    parser.add_argument("--kafka-port", type=int, help="the broker's port, and the next one")
    parser.add_argument("--task-manager-memory", default="4g", help="of the whole process")
    parser.add_argument("--audit", action="store_true", help="audit every publication")
    parser.add_argument("--stream", action="append", default=[], metavar="OPTION", help="for `wattier stream`")
    parser.add_argument("--keep-topics", action="store_true", help="the topics hold this world already")
    parser.add_argument("--prepare-only", action="store_true", help="make the world, feed the topics and stop")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("beam", nargs="*", help="after --: options for Beam")
    arguments = parser.parse_args(argv)
    arguments.only = arguments.only or list(CONTENDERS)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
