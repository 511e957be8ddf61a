"""Hashing of ids: fixed values, whatever the slice, and shards that are ranges of buckets."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.kernels.keys import BUCKETS, shard_of, stable_hash

IDS = st.lists(st.text(max_size=40))
MASK = (1 << 64) - 1


def reference(text: str) -> int:
    """The same hash in Python integers: the length, then the bytes, eight at a time, little-endian."""

    def mix(h: int) -> int:
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & MASK
        h = (h ^ h >> 27) * 0x94D049BB133111EB & MASK
        return h ^ h >> 31

    data = text.encode()
    h = mix(len(data) + 0x9E3779B97F4A7C15 & MASK)
    for start in range(0, len(data), 8):
        h = mix(h ^ int.from_bytes(data[start : start + 8], "little"))
    return h


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0xE220A8397B1DCDAF),
        ("A1", 0x214B8E539B47974B),
        ("12345678", 0x82177327E1E4DAAC),
        ("123456789", 0xB0F00539162B363B),
        ("户号0001", 0xCE50FEECE5A82A41),
    ],
)
def test_values_are_fixed_for_good(text: str, value: int) -> None:
    assert reference(text) == value
    assert stable_hash(pa.array([text])).tolist() == [value]


@given(IDS)
def test_equals_the_reference(ids: list[str]) -> None:
    assert stable_hash(pa.array(ids, pa.string())).tolist() == [reference(text) for text in ids]


@given(IDS, st.integers(0, 10), st.integers(0, 10))
def test_a_slice_hashes_like_its_part_of_the_whole(ids: list[str], start: int, length: int) -> None:
    whole = pa.array(ids, pa.string())
    np.testing.assert_array_equal(stable_hash(whole.slice(start, length)), stable_hash(whole)[start : start + length])


def test_what_lies_behind_a_slice_does_not_matter() -> None:
    assert stable_hash(pa.array(["ab", "cdefghijk"]).slice(0, 1)).tolist() == stable_hash(pa.array(["ab"])).tolist()


@given(IDS, st.integers(1, BUCKETS))
def test_a_shard_is_a_range_of_buckets(ids: list[str], shards: int) -> None:
    column = pa.array(ids, pa.string())
    bucket, shard = shard_of(column, BUCKETS), shard_of(column, shards)
    assert ((shard >= 0) & (shard < shards)).all()
    order = np.argsort(bucket, kind="stable")
    assert (np.diff(shard[order]) >= 0).all()


def test_ids_in_a_row_spread_evenly() -> None:
    shard = shard_of(pa.array([f"A{number:09d}" for number in range(64_000)]), 64)
    counts = np.bincount(shard, minlength=64)
    assert counts.min() > 800
    assert counts.max() < 1200
