"""Landed CSV files as messages: one JSON object a row, numbers as numbers, with the text they were delivered in."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import Producer

FOLDERS = {
    "accounts": "accounts", "meters": "meters", "ledger": "ledger-events", "conduct": "conduct-events",
    "readings": "meter-readings",
    "registers": "register-readings", "tariffs": "tariffs",
}  # fmt: skip
NUMBERS = {
    "energy_kwh", "amount_yuan", "yuan_per_kwh", "revision", "capacity_kva", "power_consumption", "amount", "high", "low",
    "R", "R2", "R4", "MD", "VERSION",
}  # fmt: skip
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")


def message(row: dict[str, str]) -> bytes:
    """A row as JSON. An empty field is left out; a number keeps its digits."""
    parts = [
        f"{json.dumps(name)}:{value if name in NUMBERS and _NUMBER.fullmatch(value) else json.dumps(value)}"
        for name, value in row.items()
        if value
    ]
    return ("{" + ",".join(parts) + "}").encode()


def days_of(landing: Path) -> dict[str, list[Path]]:
    """Landed files by the day in their names, ascending."""
    found: dict[str, list[Path]] = {}
    for path in sorted(landing.glob("*/*.csv")):
        found.setdefault(path.stem.rsplit("-", 1)[1], []).append(path)
    return dict(sorted(found.items()))


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def feed(paths: Iterable[Path], address: str, prefix: str = "") -> int:
    """Send the rows of files to their topics, by their first column, as of the day in each file's name. Returns how many."""
    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    sent = 0
    for path in sorted(paths, key=lambda path: (list(FOLDERS).index(path.parent.name), path.name)):
        day = datetime.strptime(path.stem.rsplit("-", 1)[1], "%Y%m%d").replace(tzinfo=UTC)
        at, topic = int(day.timestamp() * 1000), prefix + FOLDERS[path.parent.name]
        for row in rows_of(path):
            while True:
                try:
                    producer.produce(topic, message(row), key=next(iter(row.values())), timestamp=at)
                    break
                except BufferError:
                    producer.poll(0.1)
            sent += 1
            if sent % 10_000 == 0:
                producer.poll(0)
    producer.flush()
    return sent


def streaming_config(text: str, address: str, prefix: str = "", **settings: object) -> str:
    """A configuration that reads topics in place of files."""
    for folder, topic in FOLDERS.items():
        text = text.replace(f'files: "{folder}/{folder}-*"', f"topics: {prefix}{topic}")
    text = re.sub(r"\n    known_at: .*", "", text)
    lines = "".join(f"\n  {name}: {value}" for name, value in settings.items())
    return text + f"\nkafka:\n  bootstrap_servers: {address}{lines}\n"
