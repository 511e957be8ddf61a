"""A base with a patch laid over it is what it would have been, had it been written so at first."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.kernels.order_statistics import inside
from transforms.patches import OUT, Concerned, laid_over, merged, stretches
from transforms.restate_tiers import passed_over

ROWS = st.dictionaries(
    st.integers(0, 30), st.tuples(st.integers(0, 3), st.none() | st.integers(-(2**62), 2**62)), max_size=20
)
"""Tier inputs by slot: category and a column with nulls."""


def block(rows: dict[int, tuple[int, int | None]]) -> pa.RecordBatch:
    slots = sorted(rows)
    columns = [
        pa.array(slots, pa.int32()),
        pa.array([rows[slot][0] for slot in slots], pa.int8()),
        pa.array([rows[slot][1] for slot in slots], pa.int64()),
    ]
    return pa.record_batch(columns, names=["slot", "category", "wh_30d"])


@given(base=ROWS, patch=ROWS, gone=st.sets(st.integers(0, 30), max_size=5))
def test_a_patch_puts_rows_in_takes_rows_out_and_leaves_the_others(base, patch, gone):
    put_right = {**patch, **dict.fromkeys(gone, (OUT, None))}
    wanted = {slot: row for slot, row in {**base, **put_right}.items() if row[0] != OUT}
    assert laid_over(block(base), block(put_right)).equals(block(wanted))


@given(patches=st.lists(ROWS, min_size=1, max_size=4))
def test_of_several_patches_the_later_one_holds(patches):
    held, wanted = block({}), {}
    for patch in patches:
        held = merged(held, pa.Table.from_batches([block(patch)])).to_batches()
        held = held[0] if held else block({})
        wanted |= patch
    assert held.equals(block(wanted))


@given(data=st.data())
def test_stretches_lie_between_checkpoints_and_hold_every_day_once(data):
    ends = sorted(data.draw(st.sets(st.integers(0, 60), min_size=2)))
    last = data.draw(st.sampled_from(ends[1:]))
    first = data.draw(st.integers(ends[0] + 1, last))
    found = list(stretches(ends, first, last))
    assert [day for a, b in found for day in range(a, b + 1)] == list(range(found[0][0], last + 1))
    assert found[0][0] <= first
    assert all(b in ends and a - 1 in ends for a, b in found)


CUT = st.none() | st.tuples(st.integers(1, 9), st.sampled_from(["b", "d", "f"]))


@given(
    values=st.lists(st.integers(-1, 10), min_size=7, max_size=7),
    was=st.dictionaries(st.sampled_from(["A", "B"]), CUT, min_size=2),
    now=st.dictionaries(st.sampled_from(["A", "B"]), CUT, min_size=2),
)
def test_whoever_changes_sides_is_among_those_passed_over(values, was, now):
    ids, amounts = pa.array(list("abcdefg")), np.array(values, np.int64)
    old, new = ({(cls, "cut"): cut or (None, None) for cls, cut in cuts.items()} for cuts in (was, now))
    passed = passed_over(amounts, old, new)
    for key in old:
        changes = inside(amounts, ids, *old[key]) != inside(amounts, ids, *new[key])
        assert not (changes & ~passed).any()
    if old == new:
        assert not passed.any()


def test_a_ranking_that_only_one_of_two_has_passes_over_everybody():
    values = np.arange(3, dtype=np.int64)
    cuts = {("A", "cut"): (2, "a")}
    assert passed_over(values, None, cuts).all()
    assert passed_over(values, cuts, None).all()
    assert not passed_over(values, None, None).any()


@pytest.mark.parametrize(("day", "positions"), [(9, []), (10, [0]), (11, [0, 1]), (12, [1]), (13, [])])
def test_whose_own_readings_of_a_day_differ(day, positions):
    who = Concerned(np.array([4, 7]), np.array([[4, 10, 11], [7, 11, 12]]))
    assert who.read_on(day).tolist() == positions
