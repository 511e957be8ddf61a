"""Which reading of a meter-day counts: merging is associative, commutative and idempotent, and equals the definition."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.kernels.readings import MeterDay, count_accepted, merge, reduce_rows

METERS = 4
Row = tuple[int, int, int, int]
ROW = st.tuples(st.integers(0, METERS - 1), st.integers(0, 2), st.sampled_from([0, 5, 7, 1 << 38]), st.integers(0, 2))
ROWS = st.lists(ROW, max_size=12)


def reduced(rows: list[Row]) -> tuple[np.ndarray, MeterDay]:
    slot, revision, energy, quality = zip(*rows, strict=True) if rows else ([], [], [], [])
    return reduce_rows(
        np.array(slot, np.int32), np.array(revision, np.int64), np.array(energy, np.int64), np.array(quality, np.int8)
    )


def taken_in(day: MeterDay, rows: list[Row]) -> MeterDay:
    return merge(day, *reduced(rows))


def listed(day: MeterDay) -> list[tuple[int, ...] | None]:
    """Per meter (revision, low, spread, quality); None where nothing was read."""
    columns = zip(day.revision.tolist(), day.low.tolist(), day.spread.tolist(), day.quality.tolist(), strict=True)
    return [state if read else None for state, read in zip(columns, day.read, strict=True)]


def defined(rows: list[Row]) -> list[tuple[int, ...] | None]:
    """By definition: the highest revision, the smallest energy under it, how far the largest lies above."""
    out: list[tuple[int, ...] | None] = []
    for meter in range(METERS):
        mine = [row[1:] for row in rows if row[0] == meter]
        top = max((revision for revision, _, _ in mine), default=None)
        best = sorted((energy, quality) for revision, energy, quality in mine if revision == top)
        out.append((top, best[0][0], best[-1][0] - best[0][0], best[0][1]) if top is not None else None)
    return out


@given(ROWS)
def test_taken_in_at_once_it_equals_the_definition(rows: list[Row]) -> None:
    assert listed(taken_in(MeterDay.empty(METERS), rows)) == defined(rows)


@given(ROWS, st.randoms(use_true_random=False), st.lists(st.integers(0, 12), max_size=3))
def test_any_order_and_any_split_give_the_same(rows: list[Row], random, cuts: list[int]) -> None:
    shuffled = random.sample(rows, len(rows))
    day, edges = MeterDay.empty(METERS), [0, *sorted(cuts), len(rows)]
    for start, end in pairwise(edges):
        day = taken_in(day, shuffled[start:end])
    assert listed(day) == defined(rows)


@given(ROWS, ROWS)
def test_twice_is_as_good_as_once(first: list[Row], second: list[Row]) -> None:
    once = taken_in(taken_in(MeterDay.empty(METERS), first), second)
    assert listed(taken_in(taken_in(once, second), first)) == listed(once)


@given(ROWS, ROWS)
def test_merging_changes_neither_side(first: list[Row], second: list[Row]) -> None:
    day = taken_in(MeterDay.empty(METERS), first)
    before = listed(day)
    taken_in(day, second)
    assert listed(day) == before


@given(ROWS)
def test_a_day_round_trips_through_its_block_and_grows(rows: list[Row]) -> None:
    day = taken_in(MeterDay.empty(METERS), rows)
    assert listed(MeterDay.from_batch(day.to_batch(), METERS)) == listed(day)
    assert listed(MeterDay.from_batch(day.to_batch(), METERS + 2)) == [*listed(day), None, None]


@given(ROWS, ROWS, st.lists(st.booleans(), min_size=METERS, max_size=METERS))
def test_every_row_is_accepted_superseded_or_pending(first: list[Row], second: list[Row], counts: list[bool]) -> None:
    before = taken_in(MeterDay.empty(METERS), first)
    after = taken_in(before, second)
    slot, revision, energy = (np.array([row[i] for row in second], np.int64) for i in range(3))
    accepted, superseded, pending = count_accepted(
        before, after, np.array(counts), slot, revision, energy, np.zeros(len(second), np.bool_)
    )
    assert pending.tolist() == [not counts[row[0]] for row in second]
    assert accepted + superseded + int(pending.sum()) == len(second)
    changed = [m for m in range(METERS) if counts[m] and _value(before, m) != _value(after, m)]
    assert accepted == len(changed)


def _value(day: MeterDay, meter: int) -> tuple[int, ...] | None:
    state = listed(day)[meter]
    return state[:2] if state else None


def test_worked_example() -> None:
    """7 kWh and 5 kWh under revision 1 are a conflict that 5 kWh wins; revision 2 settles it."""
    day = taken_in(MeterDay.empty(METERS), [(0, 1, 7000, 0), (0, 1, 5000, 1)])
    assert listed(day)[0] == (1, 5000, 2000, 1)
    assert listed(taken_in(day, [(0, 2, 6000, 2)]))[0] == (2, 6000, 0, 2)
