"""`wattier stream` as a process on a real cluster, fed from a utility whose files a bounded run takes in, too."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
import uuid
from datetime import date
from pathlib import Path

import duckdb
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from pipelines.config import load_config
from pipelines.run import run
from pipelines.simulate import Settings, simulate
from pipelines.templates import write_templates
from pipelines.warehouse import Generation, Warehouse
from tests.clusters import Flink, Kafka, eventually
from tests.feeding import days_of, feed, streaming_config

PARTITIONS = {
    "accounts": 1, "meters": 1, "ledger-events": 2, "conduct-events": 1, "meter-readings": 2, "register-readings": 2,
    "tier-changes": 1, "dead-letters": 1,
}  # fmt: skip


class Landed:
    """A utility whose files have landed in a folder that has its configuration and policy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self) -> Path:
        """A bounded run in process; its marts."""
        run(load_config(self.folder / "wattier.yaml"), audit=False)
        return self.folder / "warehouse" / "marts.duckdb"

    @property
    def days(self) -> dict[str, list[Path]]:
        """Landed files by the day they landed on."""
        return days_of(self.folder / "landing")


class Utility(Landed):
    """A simulated utility."""

    def __init__(self, folder: Path, accounts: int, days: int, policy: str | None = None) -> None:
        super().__init__(folder)
        write_templates(folder)
        if policy is not None:
            (folder / "policy.yaml").write_text(policy)
        simulate(Settings(accounts, days, 1, date(2025, 1, 1), folder / "landing", "csv"), lambda day: None)


class Stream:
    """A stream of a utility: topics and a warehouse of its own, and the process that submits and publishes."""

    def __init__(self, folder: Path, utility: Landed, flink: Flink, kafka: Kafka, **settings: object) -> None:
        self.folder, self.utility, self.flink, self.kafka = folder, utility, flink, kafka
        self.prefix = f"{folder.name}-{uuid.uuid4().hex[:6]}-"
        folder.mkdir(parents=True, exist_ok=True)
        self.configure(**settings)
        admin = AdminClient({"bootstrap.servers": kafka.address})
        topics = [NewTopic(self.prefix + name, count, 1) for name, count in PARTITIONS.items()]
        for made in admin.create_topics(topics).values():
            made.result()
        self.process: subprocess.Popen[bytes] | None = None
        self.sent = 0

    def configure(self, *, writes: bool = True, **settings: object) -> None:
        """The utility's configuration, of topics, with policy and staff as they are now. writes: whether topics are written."""
        topics = {"tier_changes_topic": "tier-changes", "dead_letter_topic": "dead-letters"} if writes else {}
        written = {name: self.prefix + topic for name, topic in topics.items()}
        text, given = (
            (self.utility.folder / "wattier.yaml").read_text(),
            {"idle_timeout_seconds": 4, **written, **settings},
        )
        (self.folder / "wattier.yaml").write_text(streaming_config(text, self.kafka.address, self.prefix, **given))
        for name in ("policy.yaml", "capacity.yaml"):
            if (self.utility.folder / name).exists():
                shutil.copy(self.utility.folder / name, self.folder)

    def start(self, *options: str, parallelism: int = 2, beam: tuple[str, ...] = ()) -> None:
        """Start the process, with another log for each time. beam: more of Beam's options."""
        command = [sys.executable, "-P", "-m", "pipelines", "stream", "--config", str(self.folder / "wattier.yaml")]
        command += ["--no-audit", "--json", "--cut-seconds", "1", "--publish-seconds", "30"]
        command += ["--flink", self.flink.about["page"], *options]
        command += ["--", *self.flink.options(streaming=True), *beam]
        command += [f"--parallelism={parallelism}", f"--sdk_worker_parallelism={parallelism}"]
        with (self.folder / f"stream-{uuid.uuid4().hex[:4]}.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def feed(self, paths: list[Path]) -> None:
        """Send files' rows."""
        self.sent += feed(paths, self.kafka.address, self.prefix)

    @property
    def standing(self) -> Generation:
        """What is published."""
        return Warehouse(str(self.folder / "warehouse")).load()

    @property
    def marts(self) -> Path:
        """The marts."""
        return self.folder / "warehouse" / "marts.duckdb"

    @property
    def rows_taken(self) -> int:
        """Messages up to where the publication goes."""
        return sum(self.standing.header.get("stream", {}).get("offsets", {}).values())

    def wait(self, within_s: float = 300.0) -> None:
        """Until all that was sent is published."""
        assert self.process is not None

        def there() -> bool:
            assert self.process is None or self.process.poll() is None, self.log
            return self.rows_taken == self.sent

        try:
            eventually(there, within_s, f"{self.sent} messages to be published")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.rows_taken} are; {self.log}") from None

    def wait_through(self, day: date, within_s: float = 240.0) -> None:
        """Until a service day is published."""
        wanted = (day - date(1970, 1, 1)).days
        eventually(lambda: (self.standing.through or 0) >= wanted, within_s, f"{day} to be published; {self.log}")

    @property
    def log(self) -> str:
        """What all processes said."""
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in self.folder.glob("stream-*.log"))

    def kill(self) -> None:
        """`kill -9` of the process that submitted the job and publishes."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Ask the process to stop; the job ends with it, or else is stopped by Flink."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)

    def end(self) -> None:
        """Kill the process and cancel the jobs, if a test left them."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for job in self.jobs:
            request = urllib.request.Request(f"{self.flink.about['page']}/jobs/{job}?mode=cancel", method="PATCH")
            urllib.request.urlopen(request, timeout=30).close()

    @property
    def jobs(self) -> list[str]:
        """Jobs of the cluster that run."""
        return [job["jid"] for job in self.flink.rest("/jobs/overview")["jobs"] if job["state"] == "RUNNING"]

    def changes(self) -> dict[str, dict[str, object]]:
        """What the topic of tier changes says, by its key: of repetitions the last."""
        return dict(self.messages(f"{self.prefix}tier-changes"))

    def messages(self, topic: str) -> list[tuple[str, dict[str, object]]]:
        """All messages of a topic: key, and value as JSON."""
        consumer = Consumer({"bootstrap.servers": self.kafka.address, "group.id": uuid.uuid4().hex})
        found = []
        partitions = consumer.list_topics(topic, 10).topics[topic].partitions
        for partition in partitions:
            _, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), 10)
            consumer.assign([TopicPartition(topic, partition, 0)])
            position = 0
            while position < high:
                message = consumer.poll(10)
                assert message is not None
                assert message.error() is None, message.error()
                position = message.offset() + 1
                found.append((message.key().decode(), json.loads(message.value())))
        consumer.close()
        return found

    def query(self, sql: str) -> list[tuple]:
        """Ask the marts."""
        with duckdb.connect(str(self.marts), read_only=True) as con:
            return con.execute(sql).fetchall()
