"""Keys of shards: they stand for their shard, and fall evenly on Flink's subtasks."""

from __future__ import annotations

from collections import Counter

import pytest
from apache_beam.coders import VarIntCoder
from hypothesis import given
from hypothesis import strategies as st

from transforms.kernels import key_groups
from transforms.kernels.key_groups import KEY_GROUPS, key_group, shard_of_key, stream_keys


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 8, 17, 64, 200])
def test_a_key_stands_for_its_shard(shards):
    keys = stream_keys(shards)
    assert [shard_of_key(key) for key in keys] == list(range(shards))


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 8, 17, 64, 200])
@pytest.mark.parametrize("parallelism", [1, 2, 4, 8])
def test_no_subtask_has_two_shards_more_than_another(shards, parallelism):
    loads = Counter(key_group(key) * parallelism // KEY_GROUPS for key in stream_keys(shards))
    counts = [loads[subtask] for subtask in range(parallelism)]
    assert max(counts) - min(counts) <= 1


@given(st.integers(0, 2**62))
def test_a_key_is_written_as_beam_writes_it(key):
    assert key_groups._varint(key) == VarIntCoder().encode(key)


def test_key_groups_are_those_that_flink_gives():
    # What `assignToKeyGroup` of Flink 1.19 said of these bytes in a ByteBuffer.
    assert [key_group(key) for key in range(8)] == [123, 36, 29, 125, 102, 29, 93, 51]
