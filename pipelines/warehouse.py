"""The warehouse: immutable generations, and one small pointer that says which of them stands.

    warehouse/
      current.json                the pointer: generation number and checksum of its header
      generations/000012/         header.json, entries.arrow (every file of state, log and marts), small tables
      data/000012-<attempt>/      what that run's workers wrote
      marts.duckdb                derived from the pointer; BI tools open this

A run commits state, accepted log, file register and marts at once by moving the pointer. What a run left behind that did
not get that far is never read, and `wattier gc` removes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Retention
from schemas.errors import Locked, StateError
from transforms.checkpoints import CHECKPOINT, PLAN_STATE, TICK_DAYS, TIER_INPUT, TIER_INPUT_PATCH, kept_checkpoints
from transforms.storage import Commit, Entry, Store, as_file, entries_from_batch, entries_to_batch, taken_up

FORMAT = 9
"""Version of the layout below; a warehouse of another one is refused, never guessed at."""

TICK_MARTS = (
    "mart:features", "mart:daily_consumption", "mart:customer_tiers", "mart:tier_migrations", "mart:abuse_steps",
    "mart:cutoffs", "mart:vee_results", "mart:planned_actions", "mart:plan_capacity", "mart:scores",
    "gone:features", "patch:features", "gone:daily_consumption", "patch:daily_consumption", "gone:scores", "patch:scores",
)  # fmt: skip
"""Marts by service day; a run that restates drops what they hold from its first day on."""

TICK_MADE = (*TICK_MARTS, *CHECKPOINT, PLAN_STATE, *TICK_DAYS, TIER_INPUT, TIER_INPUT_PATCH)

TAKEN_IN = ("log:", "mart:rejects")
"""Kinds of files that hold rows as they were taken in."""

STREAM = "stream.json"
"""Names the folder of the stream that was begun last."""

STREAM_FILES_STAY = timedelta(days=1)

COMMIT_POINTS = ("after_intake", "after_tick", "after_audit", "before_pointer", "after_pointer", "after_marts")


def commit_point(name: str) -> None:
    """A named moment of a run. Recovery tests set WATTIER_CRASH_AT to die here, as in a power failure."""
    assert name in COMMIT_POINTS
    if os.environ.get("WATTIER_CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)


DELIVERIES_SCHEMA = pa.schema(
    [
        ("seq", pa.int32()), ("source", pa.string()), ("uri", pa.string()), ("sha256", pa.string()), ("bytes", pa.int64()),
        ("modified", pa.int64()), ("known_at", pa.string()),
    ]
)  # fmt: skip
"""The file register. `seq` is 0 for a file whose content had been delivered before.

Stretches of topics are deliveries, too; there are many, and nobody looks among them for a file: they are in files of kind
`log:deliveries`, of the same columns.
"""


@dataclass(frozen=True)
class Generation:
    """One publication: its header, its files, its file register and its small tables."""

    number: int
    header: dict[str, Any]
    entries: tuple[Entry, ...]
    deliveries: pa.Table
    tables: dict[str, pa.Table]

    @classmethod
    def none(cls) -> Generation:
        """Before the first publication."""
        return cls(0, {}, (), DELIVERIES_SCHEMA.empty_table(), {})

    @property
    def through(self) -> int | None:
        """Number of the last service day published."""
        through: int | None = self.header.get("through")
        return through

    @property
    def last_delivery(self) -> int:
        """The highest number that was given to a delivery."""
        return int(max(self.header.get("last_delivery", 0), pc.max(self.deliveries["seq"]).as_py() or 0))

    def of(self, *kinds: str) -> list[Entry]:
        """Entries of some kinds."""
        return [entry for entry in self.entries if entry.kind in kinds]


@dataclass
class Draft:
    """The entries a run is putting together. fresh: files of rows taken in since the last publication, as they came."""

    entries: list[Entry]
    fresh: list[Entry] = field(default_factory=list)

    def apply(self, commits: Iterable[Commit]) -> None:
        """Take up what stages report, in the order of the stages."""
        for commit in commits:
            self.entries = taken_up(self.entries, commit)
            self.fresh += [entry for entry in commit.entries if entry.kind.startswith(TAKEN_IN)]

    def drop_from(self, day: int) -> None:
        """Drop what ticks made from a service day on, published or to go on from: it will be made anew."""
        for entry in self.entries:
            if entry.kind in TICK_MARTS and entry.first < day <= entry.last:
                raise StateError(f"{entry.path} spans service day number {day}; it cannot be restated from there")
        self.entries = [e for e in self.entries if not (e.kind in TICK_MADE and e.first >= day)]

    def unpublish(self) -> None:
        """Drop every service day that was published: none is left that counts."""
        kinds = (*TICK_MADE, "mart:customer_tiers_current", "mart:service_actions", "mart:ledger_exceptions")
        self.entries = [e for e in self.entries if e.kind not in kinds]

    def checkpoints(self) -> list[int]:
        """Day numbers that can be taken up again."""
        return sorted({entry.first for entry in self.entries if entry.kind == "windows"})

    def prune(self, keep: Retention, end: int) -> None:
        """Let go of checkpoints no longer needed, and of files of days that retention has passed. end: last day made."""
        kept = kept_checkpoints(self.checkpoints())
        days = dict.fromkeys((TIER_INPUT, TIER_INPUT_PATCH), keep.tier_inputs)
        for part in ("mart", "gone", "patch"):
            days |= {f"{part}:features": keep.features, f"{part}:daily_consumption": keep.daily_consumption}
            days |= {f"{part}:scores": keep.features}
        keep_from = {kind: end - number + 1 for kind, number in days.items()}
        self.entries = [
            e
            for e in self.entries
            if not (e.kind in (*CHECKPOINT, PLAN_STATE) and e.first not in kept)
            and not (e.last < keep_from.get(e.kind, e.last))
        ]


class Warehouse:
    """Opens, locks and publishes."""

    def __init__(self, root: str) -> None:
        self.store = Store(root)
        self.root = root

    @property
    def marts(self) -> Path:
        """The DuckDB file for readers."""
        return Path(self.root) / "marts.duckdb"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the warehouse for a run. The lock is the operating system's: it dies with its holder.

        Raises Locked where another run holds it.
        """
        path = Path(self.root)
        path.mkdir(parents=True, exist_ok=True)
        with (path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise Locked(
                    f"{self.root}: another run is at work ({file.read().strip() or 'unknown'}). Wait for it to end, "
                    "or stop it; a stopped run leaves the last publication as it was."
                ) from None
            file.seek(0)
            file.truncate()
            file.write(
                f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
            )
            file.flush()
            yield

    def check_currency(self, standing: Generation, asked: str | None) -> None:
        """Hold the currency that a configuration names against that of the amounts kept. Raises StateError."""
        held = standing.header.get("currency")
        if held is not None and asked is not None and held != asked:
            raise StateError(
                f"{self.root} holds amounts in {held}, sources.ledger_events.currency says {asked}. A ledger is kept in one "
                "currency: run into a new warehouse."
            )

    def check_shards(self, standing: Generation, asked: int) -> None:
        """Hold the number of shards that a configuration asks for against what is kept. Raises StateError."""
        held = standing.header.get("shards", asked)
        if held != asked:
            raise StateError(
                f"{self.root} is kept in {held} shards, the configuration says {asked}. Set `shards: {held}`, or run into a "
                "new warehouse: results do not depend on it."
            )

    def load(self) -> Generation:
        """The generation the pointer names; `Generation.none()` before the first. Raises StateError."""
        try:
            pointer = self.store.read_json("current.json")
        except FileNotFoundError:
            return Generation.none()
        return self.read(int(pointer["generation"]), pointer["header_sha256"])

    def read(self, number: int, sha256: str | None = None) -> Generation:
        """A generation by number. Raises StateError where it is damaged or of another layout."""
        folder = self.folder(number)
        try:
            raw = self.store.read_bytes(f"{folder}/header.json")
        except FileNotFoundError as error:
            raise StateError(f"{folder}/header.json is missing; restore it from a backup of the warehouse") from error
        if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
            raise StateError(f"{folder}/header.json is damaged: its checksum is not the pointer's")
        header = json.loads(raw)
        if header["format"] != FORMAT:
            raise StateError(
                f"the warehouse has layout {header['format']}, this version of wattier reads {FORMAT}: name another folder as "
                "`warehouse` in wattier.yaml, and run; it is made anew from what has landed"
            )
        tables = {name: self._read(folder, name, digest) for name, digest in header["tables"].items()}
        entries = tuple(entries_from_batch(tables.pop("entries")))
        return Generation(number, header, entries, tables.pop("deliveries"), tables)

    def _read(self, folder: str, name: str, digest: str) -> pa.Table:
        path = f"{folder}/{name}.arrow"
        if self.store.digest(path) != digest:
            raise StateError(f"{path} is damaged: its checksum is not its header's")
        return self.store.open_blocks(path).read_all()

    def folder(self, number: int) -> str:
        """Where a generation's own files lie."""
        return f"generations/{number:06d}"

    def write(self, generation: Generation) -> str:
        """Write a generation's files; nothing refers to them yet. Returns the header's checksum."""
        folder, digests = self.folder(generation.number), {}
        tables = {
            **generation.tables,
            "entries": pa.Table.from_batches([entries_to_batch(generation.entries)]),
            "deliveries": generation.deliveries,
        }
        for name, table in tables.items():
            data = as_file(table)
            self.store.write_bytes(f"{folder}/{name}.arrow", data)
            digests[name] = hashlib.sha256(data).hexdigest()
        raw = json.dumps({**generation.header, "format": FORMAT, "tables": digests}, sort_keys=True, indent=1).encode()
        self.store.write_bytes(f"{folder}/header.json", raw)
        return hashlib.sha256(raw).hexdigest()

    def point(self, number: int, header_sha256: str) -> None:
        """Move the pointer: from here on the generation stands.

        What it names is brought to the disk first, and the pointer itself after, so that it survives a loss of power.
        """
        os.sync()
        self.store.write_json("current.json", {"generation": number, "header_sha256": header_sha256})
        os.sync()

    def collect_garbage(self, keep: int) -> tuple[int, int]:
        """Remove what neither the standing generation nor the `keep - 1` before it need. Returns (files, bytes).

        Of the stream that was begun last, files stay for a day: its job may go back to a checkpoint that knows them. What
        it started from stays, too: without a checkpoint the job begins there again. A stream that may not publish any more,
        because a run has published since, keeps nothing.
        """
        standing = self.load()
        stream = standing.header.get("stream", {})
        begun = self.store.read_json(STREAM) if self.store.exists(STREAM) else None
        if begun and begun["folder"] != stream.get("folder") and begun["generation"] != standing.number:
            begun = None
        numbers = {*range(max(1, standing.number - keep + 1), standing.number + 1)}
        numbers |= {begun["generation"]} - {0} if begun else set()
        kept = [standing if n == standing.number else self._if_there(n) for n in numbers]
        needed = {entry.path for generation in kept if generation for entry in generation.entries}
        folders = {self.folder(n) for n in numbers}
        base, files, size = self.store.base.rstrip("/") + "/", 0, 0
        live = begun["folder"] + "/" if begun else None
        lately = datetime.now(UTC) - STREAM_FILES_STAY
        published = stream.get("epoch", 0) if begun and stream.get("folder") == begun["folder"] else 0
        taken_in = frozenset(standing.deliveries["sha256"].to_pylist())
        for info in self.store.files(""):
            path = str(info.path).removeprefix(base)
            if live and path.startswith(live):
                mine = path.removeprefix(live)
                if info.mtime > lately or (_lasts(mine, published) and mine.removeprefix("landed/") not in taken_in):
                    continue
            ours = path.startswith(("data/", "generations/", "current.json."))  # the last: of a write that was stopped
            if ours and path not in needed and (path.endswith(".tmp") or path.rsplit("/", 1)[0] not in folders):
                self.store.fs.delete_file(info.path)
                files, size = files + 1, size + info.size
        self._remove_empty_folders()
        return files, size

    def _if_there(self, number: int) -> Generation | None:
        try:
            return self.read(number)
        except (StateError, FileNotFoundError):
            return None

    def _remove_empty_folders(self) -> None:
        if self.store.local:
            for top in ("data", "generations"):
                for folder in sorted((Path(self.root) / top).rglob("*"), reverse=True):
                    if folder.is_dir() and not any(folder.iterdir()):
                        folder.rmdir()


def _lasts(path: str, published: int) -> bool:
    """Whether a stream needs a file of its folder as long as it is at work: its cuts, its start, what is not published."""
    head = path.split("/", maxsplit=1)[0]
    return not head[:8].isdigit() or int(head[:8]) > published


def stack(old: pa.Table | None, new: pa.Table) -> pa.Table:
    """A small table with rows added. Columns that an older version did not have are null in its rows."""
    return new if old is None else pa.concat_tables([old, new], promote_options="permissive").select(new.schema.names)
