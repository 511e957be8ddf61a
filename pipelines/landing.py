"""The landing folder: which files are there, which of them are new, and in which order they were delivered."""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from pipelines.warehouse import DELIVERIES_SCHEMA
from schemas.errors import ConfigError, FileFault
from schemas.mapping import SourceMapping
from transforms.kernels.files import delivery_known_at, faults_of
from transforms.kernels.keys import SHARD_KEY
from transforms.kernels.parse import Delivery
from transforms.storage import Store, chunks_of, digest

Keep = Callable[[Iterable[bytes]], str]
"""Keeps a copy of a file's bytes somewhere; gives their SHA-256."""


@dataclass(frozen=True)
class Landed:
    """New deliveries in order, their sizes in bytes, files found delivered before by source, and the register after all.

    aside: what is wrong with files that were left aside.
    """

    deliveries: list[Delivery]
    sizes: list[int]
    redelivered: dict[str, int]
    register: pa.Table
    unmatched: int = 0
    aside: tuple[str, ...] = ()


def discover(
    landing: str, sources: Mapping[str, SourceMapping], register: pa.Table, last: int | None = None,
    keep: Keep | None = None, settle_seconds: float = 0.0,
) -> Landed:  # fmt: skip
    """Find what has landed and is not in the register.

    A file that was looked at and has its size and time of modification still is not read again. Of the others, a file counts
    as delivered before when a file of its source had the same content, under whatever name. A file that
    changed under its old name is a new delivery. New deliveries are numbered on from the register in order of
    (known at, file name), which does not depend on how many runs take them in; `last`: number of the last one before
    them, where that is not the register's.

    keep: keeps a copy of what is new. Then a file that cannot be taken up is no reason to stop: it is left aside, with a row
    in the register that has no content and no number, until its size or time of modification is another.
    settle_seconds: a file that was written to less than so long ago may not be whole, and is not looked at yet.
    Raises FileFault where nothing is kept; ConfigError.
    """
    fs, base = open_landing(landing)
    infos = sorted(
        (i for i in fs.get_file_info(pafs.FileSelector(base, recursive=True)) if i.type == pafs.FileType.File),
        key=lambda info: str(info.path),
    )
    known = set(zip(register["source"].to_pylist(), register["sha256"].to_pylist(), strict=True))
    named = [(info.path.removeprefix(base).lstrip("/"), info) for info in infos]
    fits_any = _matcher(*sources.values())
    unmatched = sum(not fits_any(name) for name, _ in named)
    candidates, aside = [], []
    for source, uri, info in _not_looked_at(landing, sources, register, named):
        if settle_seconds and 0 <= time.time() - _modified(info) / 1e9 < settle_seconds:
            continue
        try:
            at = delivery_known_at(sources[source], uri, info.mtime)
        except FileFault as fault:
            if keep is None:
                raise
            aside.append((fault, source, uri, info))
        else:
            candidates.append((at, uri.rsplit("/", 1)[-1], source, uri, info))
    candidates.sort(key=lambda candidate: candidate[:4])
    with ThreadPoolExecutor(4) as pool:
        read = _kept(keep) if keep else digest
        digests = list(pool.map(lambda candidate: read(fs, candidate[4].path), candidates))
    deliveries: list[Delivery] = []
    sizes: list[int] = []
    redelivered: dict[str, int] = {}
    rows = []
    last = (pc.max(register["seq"]).as_py() or 0) if last is None else last
    for (at, _, source, uri, info), sha in zip(candidates, digests, strict=True):
        if isinstance(sha, FileFault):
            aside.append((sha, source, uri, info))
        if not isinstance(sha, str):
            continue
        again = (source, sha) in known
        known.add((source, sha))
        if again:
            redelivered[source] = redelivered.get(source, 0) + 1
        else:
            last += 1
            deliveries.append(Delivery(last, source, uri, sha, at))
            sizes.append(info.size)
        rows.append((0 if again else last, source, uri, sha, info.size, _modified(info), at.isoformat()))
    rows += [(0, source, uri, "", info.size, _modified(info), "") for _, source, uri, info in aside]
    columns = [pa.array([row[i] for row in rows], f.type) for i, f in enumerate(DELIVERIES_SCHEMA)]
    new = pa.table(columns, schema=DELIVERIES_SCHEMA)
    told = tuple(str(fault) for fault, *_ in aside)
    return Landed(deliveries, sizes, redelivered, pa.concat_tables([register, new]), unmatched, told)


def open_landing(landing: str) -> tuple[pafs.FileSystem, str]:
    """The landing folder's file system, and its path there. Raises ConfigError."""
    fs, base = pafs.FileSystem.from_uri(landing) if "://" in landing else (pafs.LocalFileSystem(), landing)
    if fs.get_file_info(base).type != pafs.FileType.Directory:
        raise ConfigError(f"{landing}: the landing folder is not there. Make it, or set `landing` in wattier.yaml.")
    return fs, base


def _not_looked_at(
    landing: str, sources: Mapping[str, SourceMapping], register: pa.Table, named: Sequence[tuple[str, pafs.FileInfo]]
) -> Iterator[tuple[str, str, pafs.FileInfo]]:
    """Source, path or URL, and file, of the files of each source that the register does not have as they are."""
    looked_at = set(zip(*(register[n].to_pylist() for n in ("source", "uri", "bytes", "modified")), strict=True))
    for source in (name for name in sources if name in SHARD_KEY):
        matches = _matcher(sources[source])
        for name, info in named:
            uri = info.path if "://" not in landing else f"{landing.rstrip('/')}/{name}"
            if matches(name) and (source, uri, info.size, _modified(info)) not in looked_at:
                yield source, uri, info


def keep_below(store: Store, folder: str) -> Keep:
    """Keeps copies of landed files below a folder, by the SHA-256 of their content."""
    return lambda chunks: store.keep(folder, chunks)


def _kept(keep: Keep) -> Callable[[pafs.FileSystem, str], str | FileFault | None]:
    """Keep a file; what is wrong with one that cannot be read, and None for one that is gone again."""

    def chunks(fs: pafs.FileSystem, path: str) -> Iterator[bytes]:
        with faults_of(path):
            yield from chunks_of(fs, path)

    def kept(fs: pafs.FileSystem, path: str) -> str | FileFault | None:
        try:
            return keep(chunks(fs, path))
        except FileFault as fault:
            return fault if fs.get_file_info(path).type == pafs.FileType.File else None

    return kept


def _modified(info: pafs.FileInfo) -> int:
    return int(info.mtime_ns or 0)


def _matcher(*mappings: SourceMapping) -> Callable[[str], object]:
    """Whether a file name, relative to the landing folder, fits a pattern of the mappings."""
    if not any(mapping.files for mapping in mappings):
        return lambda name: None
    return re.compile("|".join(fnmatch.translate(p) for mapping in mappings for p in mapping.files)).match
