"""Keys of shards that Flink spreads evenly over its subtasks.

Flink hashes a key into one of 128 key groups, and a subtask has a range of these. Small numbers fall badly: of the shards
0 to 7, three of eight subtasks have none and two have two. So the key of a shard is its number and a multiple of 4,096, the
smallest that falls into the middle of the shard's share of the key groups. A runner that spreads keys in another way takes
these as well as any.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import count

from transforms.kernels.keys import BUCKETS

KEY_GROUPS = 128
"""Flink's own number of them for a parallelism of up to 85."""

_MASK = (1 << 32) - 1


@lru_cache
def stream_keys(shards: int) -> tuple[int, ...]:
    """The key of each shard.

    >>> stream_keys(4)[:2], [key_group(key) for key in stream_keys(4)]
    ((561152, 61441), [16, 48, 80, 112])
    """
    return tuple(spread_key(shard, shard, shards) for shard in range(shards))


def spread_key(number: int, at: int, of: int) -> int:
    """A key for a number that falls into the middle of share `at` of `of` shares of the key groups.

    >>> key_group(spread_key(9, 1, 2))
    96
    """
    return _key(number, (2 * at + 1) * KEY_GROUPS // (2 * of))


def shard_of_key(key: int) -> int:
    """The shard that a key stands for."""
    return key % BUCKETS


def key_group(key: int) -> int:
    """Flink's key group of a key that Beam hands over as a whole number: murmur3 of the hash of its bytes' buffer.

    From `KeyGroupRangeAssignment` and `MathUtils.murmurHash` of Flink, and `ByteBuffer.hashCode` of Java.
    """
    code = 1
    for byte in reversed(_varint(key)):
        code = (31 * code + (byte - 256 if byte > 127 else byte)) & _MASK
    code = _rotated(code * 0xCC9E2D51 & _MASK, 15) * 0x1B873593 & _MASK
    code = (_rotated(code, 13) * 5 + 0xE6546B64 & _MASK) ^ 4
    code = (code ^ code >> 16) * 0x85EBCA6B & _MASK
    code = (code ^ code >> 13) * 0xC2B2AE35 & _MASK
    code ^= code >> 16
    return abs(code - (1 << 32) if code >> 31 else code) % KEY_GROUPS


def _key(shard: int, group: int) -> int:
    return next(key for key in count(shard, BUCKETS) if key_group(key) == group)


def _varint(value: int) -> bytes:
    """As Beam's coder of whole numbers writes it: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _rotated(code: int, by: int) -> int:
    return (code << by | code >> 32 - by) & _MASK
