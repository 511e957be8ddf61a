"""A local Kafka broker with the pipeline's topics: `python infra/kafka/broker.py up|status|down`.

One node, KRaft, loopback only. It is not started again by itself when it ends: `up` does that, on the same data.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
import tomllib
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from infra import commands, fetch
from infra.processes import Failed, Part, Run, accepts, free, wait_for

HERE = Path(__file__).resolve().parent
NAME = "broker"

LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = Out
appender.out.name = Out
appender.out.type = Console
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSSX}{UTC} %-5p %c{1} - %m%n
"""


@dataclass(frozen=True)
class Broker:
    """A local broker: where it keeps its files, its ports, and the partitions of each topic."""

    folder: Path
    port: int
    controller_port: int
    heap: str
    topics: Mapping[str, int]
    config: Mapping[str, str]


def up(broker: Broker, timeout_s: float = 60.0) -> dict[str, Any]:
    """Start the broker on what data there is, wait until it answers, create missing topics; where things are."""
    run = Run(broker.folder)
    with run.lock():
        began = time.monotonic()
        running = run.pid(NAME) is not None
        if running and run.saved()[1].get("address") != _about(broker)["address"]:
            raise Failed(f"{run.folder} is up at another port; `down` first, or name another --run-dir")
        if not running:
            _start(run, broker)
        try:
            # The socket is open before the broker has read its log: the topic command is the real question.
            wait_for(lambda: accepts(broker.port) or _dead(run), timeout_s, f"the broker at port {broker.port}")
            topics = _create_topics(run, broker)
        except Failed as failure:
            if not running:
                run.stop(grace_s=5.0)
                run.forget()
            raise Failed(f"{failure}; log: {run.log(NAME)}") from None
        about = _about(broker) | {"topics": topics}
        run.save(run.saved()[0], about)
        return about | {"already_up": running, "seconds": round(time.monotonic() - began, 1)}


def down(folder: Path, *, wipe: bool = False) -> bool:
    """Stop the broker; its data stays unless `wipe`. Whether there was anything."""
    run = Run(folder)
    with run.lock():
        found = bool(run.members())
        run.stop(grace_s=30.0)
        run.forget()
        if wipe:
            shutil.rmtree(folder / "data", ignore_errors=True)
        return found


def status(folder: Path) -> dict[str, Any]:
    """The broker's pid and where it is."""
    run = Run(folder)
    about = run.saved()[1]
    return {
        "up": bool(run.pid(NAME)) and accepts(int(about["address"].rpartition(":")[2])),
        "pid": run.pid(NAME),
    } | about


def server_properties(broker: Broker) -> dict[str, str]:
    """One node that is broker and controller, and listens on the loopback interface."""
    controller = f"localhost:{broker.controller_port}"
    return {
        **broker.config,
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://localhost:{broker.port},CONTROLLER://{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(broker.folder / "data" / "kafka"),
    }


# ---- how ------------------------------------------------------------------------------------------------------------


def _start(run: Run, broker: Broker) -> None:
    """Write the configuration, format the storage once, start the process."""
    run.stop(grace_s=10.0)
    if taken := [port for port in (broker.port, broker.controller_port) if not free(port)]:
        raise Failed(f"ports {taken} are in use; --port takes another")
    java = [fetch.java(), "-cp", f"{fetch.kafka_jars(fetch.cache_dir())}/*"]
    properties = run.path("conf", "server.properties")
    properties.write_text("".join(f"{key}={value}\n" for key, value in server_properties(broker).items()))
    data = run.path("data", "kafka")
    logging = run.path("conf", "log4j2.properties")
    logging.write_text(LOGGING)
    if not (data / "meta.properties").exists():
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        _tool(java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "--config", str(properties))
    options = [f"-Xmx{broker.heap}", f"-Xms{broker.heap}", f"-Dlog4j2.configurationFile={logging}", *java[1:]]
    part = Part(NAME, [java[0], *options, "kafka.Kafka", str(properties)])
    run.save([part], _about(broker))
    run.start(part)


def _create_topics(run: Run, broker: Broker) -> dict[str, int]:
    """Create what is missing with Kafka's own command; the partitions of every topic."""
    java = [fetch.java(), "-cp", f"{fetch.kafka_jars(fetch.cache_dir())}/*"]
    server = ["--bootstrap-server", f"localhost:{broker.port}"]
    command = "org.apache.kafka.tools.TopicCommand"
    there = _topics(_tool(java, command, "--describe", *server))
    for topic, partitions in broker.topics.items():
        if topic not in there:
            _tool(java, command, "--create", "--topic", topic, "--partitions", str(partitions), *server)
    if _dead(run):
        raise Failed("the broker ended")
    return there | {topic: n for topic, n in broker.topics.items() if topic not in there}


def _topics(described: str) -> dict[str, int]:
    """Topic to partitions, from what `--describe` prints."""
    found = re.findall(r"^Topic: (\S+)\s.*PartitionCount: (\d+)", described, re.MULTILINE)
    return {topic: int(n) for topic, n in found if not topic.startswith("__")}


def _dead(run: Run) -> bool:
    return run.pid(NAME) is None


def _tool(java: list[str], main: str, *arguments: str) -> str:
    """Run one of Kafka's commands; what it prints."""
    done = subprocess.run([*java, main, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line or "xception" in line]
        raise Failed(f"{main.rpartition('.')[2]} {arguments[0]}: {(lines or ['failed'])[0].strip()}")
    return done.stdout


def _about(broker: Broker) -> dict[str, Any]:
    """Where things are, for people and for scripts."""
    folder = broker.folder
    return {
        "address": f"localhost:{broker.port}",
        "log": str(folder / "logs" / f"{NAME}.out"),
        "data": str(folder / "data" / "kafka"),
        "topics": dict(broker.topics),
    }


# ---- command line -----------------------------------------------------------------------------------------------------


def settings() -> dict[str, Any]:
    """The [kafka] table of settings.toml."""
    content: dict[str, Any] = tomllib.loads((HERE.parent / "settings.toml").read_text())["kafka"]
    return content


def topic(text: str) -> tuple[str, int]:
    """`name:partitions`, or `name` for one partition."""
    name, _, partitions = text.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) or not re.fullmatch(r"[1-9][0-9]*|", partitions):
        raise argparse.ArgumentTypeError(f"{text!r} is not name:partitions")
    return name, int(partitions or 1)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    given = settings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("--run-dir", type=Path, default=Path(".infra/kafka"), help="conf, logs, pids, data")
    parser.add_argument("--json", action="store_true", help="say it as JSON")
    parser.add_argument("--port", type=int, default=given["port"])
    parser.add_argument("--controller-port", type=int, help="default: the next after --port")
    parser.add_argument("--heap", default=given["heap"])
    parser.add_argument(
        "--topic", type=topic, action="append", metavar="NAME:PARTITIONS", help="besides the usual ones"
    )
    parser.add_argument("--wipe", action="store_true", help="with down: remove the data, too")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    return parser.parse_args(arguments)


def broker_of(chosen: argparse.Namespace) -> Broker:
    """The broker that the command line asks for."""
    given = settings()
    return Broker(
        folder=chosen.run_dir.resolve(),
        port=chosen.port,
        controller_port=chosen.controller_port or chosen.port + 1,
        heap=chosen.heap,
        topics=given["topics"] | dict(chosen.topic or []),
        config=given["config"],
    )


def _text(about: dict[str, Any]) -> str:
    first = "already up" if about["already_up"] else f"up after {about['seconds']:.0f} s"
    lines = [f"Kafka is {first}.", *(f"  {name:<9} {about[name]}" for name in ("address", "log", "data"))]
    return "\n".join([*lines, "  topics    " + " ".join(f"{name}:{n}" for name, n in about["topics"].items())])


def main() -> int:
    """Do what the command line says; the exit code."""
    chosen = parse()
    folder = chosen.run_dir.resolve()
    return commands.answer(
        "broker.py",
        chosen,
        lambda: up(broker_of(chosen), chosen.timeout),
        lambda: down(folder, wipe=chosen.wipe),
        lambda: status(folder),
        _text,
    )


if __name__ == "__main__":
    sys.exit(main())
