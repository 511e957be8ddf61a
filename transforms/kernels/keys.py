"""Stable hashing of ids into shards.

An id falls into one of 4,096 virtual buckets for good; a shard is a range of buckets. Only the split into
ranges depends on the number of shards, and no result does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BUCKETS = 4096
SHARD_KEY: dict[str, str | None] = {
    "meter_readings": "meter_id",
    "register_readings": "meter_id",
    "meters": "account_id",
    "accounts": "account_id",
    "ledger_events": "account_id",
    "conduct_events": "account_id",
    "tariffs": None,
}
"""The column whose hash decides which shard a source's rows go to first; None: they go to every one."""


def answers(source: str, shard: int) -> bool:
    """Whether a shard counts and logs the rows of a source that it gets: of rows that go to every shard, the first does."""
    return SHARD_KEY[source] is not None or shard == 0


_SEED = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(h: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    h = (h ^ (h >> np.uint64(30))) * _MIX_1
    h = (h ^ (h >> np.uint64(27))) * _MIX_2
    return h ^ (h >> np.uint64(31))


def stable_hash(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """Hash text ids by their UTF-8 bytes, eight at a time, the same on every machine.

    ids: (n,) string without nulls. Returns (n,) uint64.

    >>> [hex(h) for h in stable_hash(pa.array(["A1", "A2"]))]
    ['0x214b8e539b47974b', '0x9c909aa8e987b129']
    """
    n = len(ids)
    if n == 0:
        return np.zeros(0, np.uint64)
    offsets = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset : ids.offset + n + 1].astype(np.int64)
    lengths = np.diff(offsets)
    start, data = offsets[0], ids.buffers()[2]
    text = np.frombuffer(data, np.uint8)[start : offsets[-1]] if data is not None else np.zeros(0, np.uint8)
    padded = np.concatenate([text, np.zeros(8, np.uint8)])
    words = np.ndarray((len(padded) - 7,), np.dtype("<u8"), buffer=padded.data, strides=(1,))
    position, left = offsets[:-1] - start, lengths.copy()
    h = _mix(lengths.astype(np.uint64) + _SEED)
    with np.errstate(over="ignore"):
        for _ in range(int((lengths.max() + 7) // 8)):
            bits = np.clip(left, 0, 8).astype(np.uint64) * np.uint64(8)
            keep = np.where(bits == 64, ~np.uint64(0), (np.uint64(1) << (bits & np.uint64(63))) - np.uint64(1))
            word = words[np.minimum(position, len(words) - 1)] & keep
            h = np.where(left > 0, _mix(h ^ word), h)
            position, left = position + 8, left - 8
    return h


def shard_of(ids: pa.Array, shards: int) -> npt.NDArray[np.int32]:
    """The shard of each id: its bucket times `shards`, over 4,096. ids: (n,) string; returns (n,) int32."""
    bucket = (stable_hash(ids) >> np.uint64(52)).astype(np.int64)
    return (bucket * shards // BUCKETS).astype(np.int32)
