"""The landing folder: which files are there, which of them are new, and in which order they were delivered."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from pipelines.warehouse import DELIVERIES_SCHEMA
from schemas.errors import ConfigError
from schemas.mapping import SourceMapping
from transforms.kernels.files import delivery_known_at
from transforms.kernels.keys import SHARD_KEY
from transforms.kernels.parse import Delivery


@dataclass(frozen=True)
class Landed:
    """New deliveries in order, their sizes in bytes, files found delivered before by source, and the register after all."""

    deliveries: list[Delivery]
    sizes: list[int]
    redelivered: dict[str, int]
    register: pa.Table
    unmatched: int = 0


def discover(landing: str, sources: Mapping[str, SourceMapping], register: pa.Table, last: int | None = None) -> Landed:
    """Find what has landed and is not in the register.

    A file that was looked at and has its size and time of modification still is not read again. Of the others, a file counts
    as delivered before when a file of its source had the same content, under whatever name. A file that
    changed under its old name is a new delivery. New deliveries are numbered on from the register in order of
    (known at, file name), which does not depend on how many runs take them in; `last`: number of the last one before
    them, where that is not the register's. Raises FileFault, ConfigError.
    """
    fs, base = pafs.FileSystem.from_uri(landing) if "://" in landing else (pafs.LocalFileSystem(), landing)
    if fs.get_file_info(base).type != pafs.FileType.Directory:
        raise ConfigError(f"{landing}: the landing folder is not there. Make it, or set `landing` in wattier.yaml.")
    infos = sorted(
        (i for i in fs.get_file_info(pafs.FileSelector(base, recursive=True)) if i.type == pafs.FileType.File),
        key=lambda info: str(info.path),
    )
    known = set(zip(register["source"].to_pylist(), register["sha256"].to_pylist(), strict=True))
    looked_at = set(zip(*(register[n].to_pylist() for n in ("source", "uri", "bytes", "modified")), strict=True))
    named = [(info.path.removeprefix(base).lstrip("/"), info) for info in infos]
    fits_any = _matcher(*sources.values())
    unmatched = sum(not fits_any(name) for name, _ in named)
    candidates = []
    for source in (name for name in sources if name in SHARD_KEY):
        matches = _matcher(sources[source])
        for name, info in named:
            if not matches(name):
                continue
            uri = info.path if "://" not in landing else f"{landing.rstrip('/')}/{name}"
            if (source, uri, info.size, _modified(info)) not in looked_at:
                at = delivery_known_at(sources[source], uri, info.mtime)
                candidates.append((at, uri.rsplit("/", 1)[-1], source, uri, info))
    candidates.sort(key=lambda candidate: candidate[:4])
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(lambda candidate: _digest(fs, candidate[4].path), candidates))
    deliveries: list[Delivery] = []
    sizes: list[int] = []
    redelivered: dict[str, int] = {}
    rows = []
    last = (pc.max(register["seq"]).as_py() or 0) if last is None else last
    for (at, _, source, uri, info), sha in zip(candidates, digests, strict=True):
        again = (source, sha) in known
        known.add((source, sha))
        if again:
            redelivered[source] = redelivered.get(source, 0) + 1
        else:
            last += 1
            deliveries.append(Delivery(last, source, uri, sha, at))
            sizes.append(info.size)
        rows.append((0 if again else last, source, uri, sha, info.size, _modified(info), at.isoformat()))
    columns = [pa.array([row[i] for row in rows], f.type) for i, f in enumerate(DELIVERIES_SCHEMA)]
    new = pa.table(columns, schema=DELIVERIES_SCHEMA)
    return Landed(deliveries, sizes, redelivered, pa.concat_tables([register, new]), unmatched)


def _modified(info: pafs.FileInfo) -> int:
    return int(info.mtime_ns or 0)


def _matcher(*mappings: SourceMapping) -> Callable[[str], object]:
    """Whether a file name, relative to the landing folder, fits a pattern of the mappings."""
    if not any(mapping.files for mapping in mappings):
        return lambda name: None
    return re.compile("|".join(fnmatch.translate(p) for mapping in mappings for p in mapping.files)).match


def _digest(fs: pafs.FileSystem, path: str) -> str:
    hasher = hashlib.sha256()
    with fs.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(1 << 22):
            hasher.update(chunk)
    return hasher.hexdigest()
