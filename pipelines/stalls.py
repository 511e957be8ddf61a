"""A source that stalls is told of: the cutter writes down who is waited for, the publisher says so after a while."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from transforms.kernels.windows import date_of
from transforms.storage import Store


@dataclass(frozen=True)
class Stall:
    """A partition that is waited for. since: unix seconds.

    day: last service day it has come to, None: none yet; others: the day others have come to, None: it is not about days,
    the partition shows no sign of life.
    """

    part: str
    since: int
    day: int | None = None
    others: int | None = None

    def __str__(self) -> str:
        since = f"since {datetime.fromtimestamp(self.since, UTC):%Y-%m-%d %H:%M:%S} UTC"
        if self.others is None:
            return f"{self.part} shows no sign of life {since}: its broker is away, or its worker is."
        come = f"has come to {date_of(self.day)}" if self.day is not None else "has brought no reading yet"
        return (
            f"{self.part} holds service days open {since}: it {come}, others to {date_of(self.others)}. See what feeds it; "
            "once it is silent for kafka.idle_timeout_seconds it is waited for no more."
        )


def stalls_path(folder: str) -> str:
    """Where the cutter writes who is waited for."""
    return f"{folder}/stalls.json"


def find_stalls(
    passed: Mapping[str, int | None], idle: Mapping[str, bool], moved: Mapping[str, float], marked: Mapping[str, float],
    silent_before: float,
) -> list[Stall]:  # fmt: skip
    """Who is waited for, by part.

    passed: last day that partitions of readings have come to, None: none yet; idle: whether they count as idle; moved: when that
    day last changed; marked: when any partition last showed a sign of life; silent_before: a sign before that is too old.

    >>> find_stalls({"a": 3, "b": 5, "c": 2}, {"c": True}, {"a": 70, "b": 90}, {"a": 99, "b": 99}, 0)
    [Stall(part='a', since=70, day=3, others=5)]
    """
    furthest = max((day for day in passed.values() if day is not None), default=None)
    out = [Stall(part, int(at)) for part, at in sorted(marked.items()) if at < silent_before]
    dead = {stall.part for stall in out}
    for part, day in sorted(passed.items()):
        behind = furthest is not None and (day is None or day < furthest)
        if behind and not idle.get(part) and part not in dead:
            out.append(Stall(part, int(moved[part]), day, furthest))
    return out


def write_stalls(store: Store, folder: str, stalls: list[Stall]) -> None:
    """Write down who is waited for."""
    store.write_json(stalls_path(folder), [asdict(stall) for stall in stalls])


def read_stalls(store: Store, folder: str) -> list[Stall]:
    """Who is waited for; nobody where nothing was written down yet."""
    try:
        return [Stall(**fields) for fields in json.loads(store.read_bytes(stalls_path(folder)))]
    except FileNotFoundError:
        return []


class StallWatch:
    """Tells of stalls that last for long, each once, and of their end."""

    def __init__(self, store: Store, folder: str, seconds: float) -> None:
        self.store, self.folder, self.seconds = store, folder, seconds
        self._told: dict[tuple[str, bool], int] = {}

    def look(self, now: float) -> Iterator[str]:
        """now: unix seconds. What is new to be told."""
        standing = {(stall.part, stall.others is None): stall for stall in read_stalls(self.store, self.folder)}
        for key in sorted(self._told.keys() - standing.keys()):
            del self._told[key]
            yield f"{key[0]} goes on."
        for key, stall in standing.items():
            if now - stall.since >= self.seconds and key not in self._told:
                self._told[key] = stall.since
                yield str(stall)
