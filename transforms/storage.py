"""Files below one root: immutable, written under a temporary name and then renamed, addressed by relative path.

The root is a path or a URL of any Arrow file system. State is Arrow IPC (memory-mapped where the root is local), marts
and logs are Parquet.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from schemas.errors import StateError
from transforms.checkpoints import BY_DAY

WHOLE = -1
"""`part` of an entry that means the whole file; `shard` of one that belongs to none."""

ENTRY_SCHEMA = pa.schema(
    [
        ("kind", pa.string()), ("shard", pa.int32()), ("first", pa.int32()), ("last", pa.int32()), ("path", pa.string()),
        ("part", pa.int32()), ("rows", pa.int64()), ("bytes", pa.int64()), ("sha256", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One file, or one part of a file, that a generation consists of.

    kind: what it is (`day_block`, `mart:features`, ...); shard: or -1; first, last: service day numbers it covers, or -1;
    path: relative to the root; part: record batch or row group within the file, or -1 for all of it.
    """

    kind: str
    shard: int
    first: int
    last: int
    path: str
    part: int
    rows: int
    bytes: int
    sha256: str


def entries_to_batch(entries: Sequence[Entry]) -> pa.RecordBatch:
    """Entries as a block, schema `ENTRY_SCHEMA`."""
    columns = [[getattr(entry, field.name) for entry in entries] for field in ENTRY_SCHEMA]
    return pa.record_batch(
        [pa.array(c, f.type) for c, f in zip(columns, ENTRY_SCHEMA, strict=True)], schema=ENTRY_SCHEMA
    )


def entries_from_batch(batch: pa.RecordBatch | pa.Table) -> list[Entry]:
    """The inverse of `entries_to_batch`."""
    columns = [batch.column(field.name).to_pylist() for field in ENTRY_SCHEMA]
    return [Entry(*values) for values in zip(*columns, strict=True)]


def coded(schema: pa.Schema) -> list[str]:
    """The text columns worth a Parquet dictionary: codes and names, not ids, which hardly repeat within a file."""
    return [f.name for f in schema if pa.types.is_string(f.type) and not f.name.endswith("_id")]


def as_file(table: pa.Table) -> pa.Buffer:
    """A table as an Arrow IPC file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def chunks_of(fs: pafs.FileSystem, path: str) -> Iterator[bytes]:
    """A file's bytes as they are, some MiB at a time."""
    with fs.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(1 << 22):
            yield bytes(chunk)


def digest(fs: pafs.FileSystem, path: str) -> str:
    """SHA-256 of a file's content, as hex."""
    hasher = hashlib.sha256()
    for chunk in chunks_of(fs, path):
        hasher.update(chunk)
    return hasher.hexdigest()


OPEN_FILES = 16
"""Files of blocks that a store keeps open."""


class Store:
    """Reads and writes below `root`. Cheap to make, safe to pickle."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._open()

    def _open(self) -> None:
        self._open_files: dict[tuple[str, int | None], pa.ipc.RecordBatchFileReader] = {}
        if "://" in self.root:
            self.fs, self.base = pafs.FileSystem.from_uri(self.root)
        else:
            self.fs, self.base = pafs.LocalFileSystem(), self.root

    def __getstate__(self) -> dict[str, str]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.root = state["root"]
        self._open()

    @property
    def local(self) -> bool:
        """Whether the root is on the local file system."""
        return isinstance(self.fs, pafs.LocalFileSystem)

    def full(self, path: str) -> str:
        """The path as the file system wants it."""
        return posixpath.join(self.base, path)

    def write_bytes(self, path: str, data: bytes | pa.Buffer) -> None:
        """Write a file so that it is there whole or not at all."""
        target = self.full(path)
        if self.local:
            self.fs.create_dir(posixpath.dirname(target), recursive=True)
            temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
            with self.fs.open_output_stream(temporary) as out:
                out.write(data)
            self.fs.move(temporary, target)
        else:
            with self.fs.open_output_stream(target) as out:
                out.write(data)

    def create_bytes(self, path: str, data: bytes) -> None:
        """Write a file unless it is there: of several writers, one wins. The root must be local."""
        target = self.full(path)
        self.fs.create_dir(posixpath.dirname(target), recursive=True)
        temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        with self.fs.open_output_stream(temporary) as out:
            out.write(data)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, target)
        self.fs.delete_file(temporary)

    def keep(self, folder: str, chunks: Iterable[bytes]) -> str:
        """Write content below a folder under its own SHA-256, and return that: it is never written twice, nor changed."""
        temporary = self.full(f"{folder}/{uuid.uuid4().hex}.tmp")
        if self.local:
            self.fs.create_dir(posixpath.dirname(temporary), recursive=True)
        hasher = hashlib.sha256()
        try:
            with self.fs.open_output_stream(temporary, compression=None) as out:
                for chunk in chunks:
                    hasher.update(chunk)
                    out.write(chunk)
            self.fs.move(temporary, self.full(f"{folder}/{hasher.hexdigest()}"))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                self.fs.delete_file(temporary)
            raise
        return hasher.hexdigest()

    def read_bytes(self, path: str) -> bytes:
        """The content of a file; FileNotFoundError where it is not there."""
        with self.fs.open_input_stream(self.full(path)) as stream:
            return bytes(stream.read())

    def exists(self, path: str) -> bool:
        """Whether a file is there."""
        return bool(self.fs.get_file_info(self.full(path)).type == pafs.FileType.File)

    def write_json(self, path: str, value: Any) -> None:
        """Write a small JSON document."""
        self.write_bytes(path, json.dumps(value, sort_keys=True).encode())

    def read_json(self, path: str) -> Any:
        """Read a JSON document."""
        return json.loads(self.read_bytes(path))

    def files(self, path: str) -> list[pafs.FileInfo]:
        """All files below a folder; empty where the folder is not there."""
        selector = pafs.FileSelector(self.full(path), allow_not_found=True, recursive=True)
        return [info for info in self.fs.get_file_info(selector) if info.type == pafs.FileType.File]

    def records(self, path: str) -> Iterator[dict[str, Any]]:
        """The JSON files below a folder, in order of their names; one that is being written is not there yet."""
        for info in sorted(self.files(path), key=lambda info: str(info.path)):
            if info.path.endswith(".json"):
                yield json.loads(self.fs.open_input_stream(info.path).read())

    def write_blocks(
        self, path: str, kind: str, shard: int, blocks: Iterable[tuple[int, pa.RecordBatch]], *, compress: bool = True
    ) -> list[Entry]:
        """Write blocks, each of one service day, as one Arrow IPC file; one entry a block.

        blocks: (day number or -1, RecordBatch), all of one schema. No blocks: no file, no entries.
        """
        items = list(blocks)
        if not items:
            return []
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4" if compress else None)
        with pa.ipc.new_file(sink, items[0][1].schema, options=options) as writer:
            for _, batch in items:
                writer.write_batch(batch)
        size, digest = self._finish(path, sink)
        whole = Entry(kind, shard, -1, -1, path, WHOLE, 0, size, digest)
        if len(items) == 1 and items[0][0] < 0:
            return [replace(whole, rows=items[0][1].num_rows)]
        return [
            replace(whole, first=day, last=day, part=part, rows=batch.num_rows)
            for part, (day, batch) in enumerate(items)
        ]

    def write_parquet(
        self, path: str, kind: str, shard: int, table: pa.Table, days: tuple[int, int] = (-1, -1)
    ) -> Entry:
        """Write a table as one Parquet file; `days` are the first and last service day in it."""
        sink = pa.BufferOutputStream()
        pq.write_table(
            table, sink, compression="zstd", compression_level=1, use_dictionary=coded(table.schema), store_schema=True
        )
        return self.finish(path, kind, shard, sink, days, table.num_rows)

    def finish(
        self, path: str, kind: str, shard: int, sink: pa.BufferOutputStream, days: tuple[int, int], rows: int
    ) -> Entry:
        """Write out what was collected in a buffer."""
        size, digest = self._finish(path, sink)
        return Entry(kind, shard, *days, path, WHOLE, rows, size, digest)

    def _finish(self, path: str, sink: pa.BufferOutputStream) -> tuple[int, str]:
        data = sink.getvalue()
        self.write_bytes(path, data)
        return data.size, hashlib.sha256(data).hexdigest()

    def open_blocks(self, path: str, columns: int | None = None) -> pa.ipc.RecordBatchFileReader:
        """Open an Arrow IPC file, memory-mapped where the store is local. columns: read only so many, the first ones."""
        options = pa.ipc.IpcReadOptions(included_fields=None if columns is None else list(range(columns)))
        try:
            source = pa.memory_map(self.full(path)) if self.local else self.fs.open_input_file(self.full(path))
            return pa.ipc.open_file(source, options=options)
        except (OSError, pa.ArrowInvalid) as error:
            raise StateError(
                f"{path}: cannot be read as state ({error}). Restore the file, or rebuild the warehouse."
            ) from error

    def read_block(self, entry: Entry, columns: int | None = None) -> pa.RecordBatch:
        """The block an entry points at, or the first so many of its columns.

        Files are immutable, so those read last stay open: days share files.
        """
        key = entry.path, columns
        reader = self._open_files.pop(key, None) or self.open_blocks(*key)
        self._open_files[key] = reader
        while len(self._open_files) > OPEN_FILES:
            del self._open_files[next(iter(self._open_files))]
        return reader.get_batch(max(entry.part, 0))

    def read_table(self, entry: Entry) -> pa.Table:
        """All blocks of an Arrow IPC file as one table."""
        return self.open_blocks(entry.path).read_all()

    def read_parquet(self, entry: Entry, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file, or some of its columns."""
        return pq.read_table(self.full(entry.path), filesystem=self.fs, columns=columns, partitioning=None)

    def read_day(self, entry: Entry, day: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of the rows of one service day of a Parquet file that has several. day: its number."""
        of_day = [("service_date", "=", pa.scalar(day, pa.int32()).cast(pa.date32()))]
        return pq.read_table(
            self.full(entry.path), filesystem=self.fs, columns=list(columns), filters=of_day, partitioning=None
        )

    def digest(self, path: str) -> str:
        """SHA-256 of a file's content, as hex."""
        return digest(self.fs, self.full(path))


def commit_path(folder: str, stage: str, shard: int) -> str:
    """Where a stage reports what it did for a shard, or for a delivery."""
    return f"{folder}/commits/{stage}-{shard:06d}.json"


@dataclass(frozen=True)
class Commit:
    """What one stage did for one shard, or one delivery: files written, files no longer needed, counts.

    replaces: kinds (with this shard) whose earlier entries the new ones take the place of, all of them;
    a kind not named there is only added to. counts: source -> outcome -> rows. restate_from: earliest service day
    whose published figures may change, or None. merged: files that hold what those of the paths `drops` held. concerns: files
    that name the accounts whose figures may change (`transforms.patches`); others_from: earliest service day of changes that they
    do not name. process: the worker that did it.
    """

    stage: str
    shard: int
    entries: tuple[Entry, ...]
    replaces: tuple[str, ...] = ()
    counts: dict[str, dict[str, int]] | None = None
    restate_from: int | None = None
    merged: tuple[Entry, ...] = ()
    concerns: tuple[Entry, ...] = ()
    others_from: int | None = None
    drops: tuple[str, ...] = ()
    process: int = field(default_factory=os.getpid)

    def write(self, store: Store, folder: str) -> None:
        """Write the commit record; a stage that runs again overwrites it."""
        value = asdict(self)
        for name in ("entries", "merged", "concerns"):
            value[name] = [list(asdict(entry).values()) for entry in getattr(self, name)]
        store.write_json(commit_path(folder, self.stage, self.shard), value)

    @classmethod
    def read_all(cls, store: Store, folder: str) -> Iterator[Commit]:
        """All commit records below a run's folder."""
        for value in store.records(f"{folder}/commits"):
            for name in ("entries", "merged", "concerns"):
                value[name] = tuple(Entry(*fields) for fields in value.get(name, ()))
            value["replaces"], value["drops"] = tuple(value["replaces"]), tuple(value.get("drops", ()))
            yield cls(**value)


def taken_up(entries: Sequence[Entry], commit: Commit) -> list[Entry]:
    """Entries after what a stage reports: its own replace those of its shard, by service day or by kind, or are added."""
    days, drops = {(e.kind, e.first) for e in commit.entries if e.kind in BY_DAY}, set(commit.drops)
    kept = list(entries)
    if days or commit.replaces or drops:
        kept = [
            e
            for e in entries
            if e.shard != commit.shard
            or not (e.kind in commit.replaces or (e.kind, e.first) in days or e.path in drops)
        ]
    return [*kept, *commit.merged, *commit.entries]
