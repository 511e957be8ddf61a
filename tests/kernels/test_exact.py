"""Integer arithmetic against Python's own integers, up to the limits that the docstrings state."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.kernels.exact import DAY_LIMIT_WH, ppm, segment_sums, square_parts, variation_ppm

RATIOS = st.lists(
    st.integers(1, (1 << 53) - 1).flatmap(
        lambda d: st.tuples(st.integers(max(-(d << 42), -(1 << 62)), min(d << 42, 1 << 62)), st.just(d))
    )
)
WINDOWS = st.lists(st.one_of(st.integers(0, DAY_LIMIT_WH), st.integers(0, 20)), min_size=1, max_size=90)


def variation(days: list[int]) -> int:
    """Definition: `isqrt((n*sum(x*x) - sum(x)^2) * 10^12 // sum(x)^2)`, in Python integers."""
    total = sum(days)
    return math.isqrt((len(days) * sum(x * x for x in days) - total**2) * 10**12 // total**2)


def kernel_variation(windows: list[list[int]]) -> list[int]:
    n, total = (np.array([f(days) for days in windows], np.int64) for f in (len, sum))
    parts = [[part.sum() for part in square_parts(np.array(days, np.int64))] for days in windows]
    return variation_ppm(n, total, *np.array(parts, np.int64).T).tolist()


@given(RATIOS)
def test_ppm_is_the_floor_of_the_exact_ratio(ratios: list[tuple[int, int]]) -> None:
    numerator, denominator = np.array(ratios, np.int64).reshape(-1, 2).T
    assert ppm(numerator, denominator).tolist() == [a * 1_000_000 // b for a, b in ratios]


@given(st.lists(st.integers(0, DAY_LIMIT_WH), min_size=1, max_size=365))
def test_square_parts_sum_to_the_sum_of_squares(days: list[int]) -> None:
    hh, hl, ll = (int(part.sum()) for part in square_parts(np.array(days, np.int64)))
    assert (hh << 48) + (hl << 25) + ll == sum(x * x for x in days)


def test_the_largest_days_of_a_year_do_not_overflow() -> None:
    hh, hl, ll = (int(part.sum()) for part in square_parts(np.full(365, DAY_LIMIT_WH - 1, np.int64)))
    assert (hh << 48) + (hl << 25) + ll == 365 * (DAY_LIMIT_WH - 1) ** 2


@given(st.lists(WINDOWS.filter(any), min_size=1, max_size=5))
def test_variation_equals_its_definition(windows: list[list[int]]) -> None:
    assert kernel_variation(windows) == [variation(days) for days in windows]


@pytest.mark.parametrize(
    "days",
    [
        [DAY_LIMIT_WH] * 90,
        [DAY_LIMIT_WH] + [0] * 89,
        [DAY_LIMIT_WH] * 89 + [DAY_LIMIT_WH - 1],
        [DAY_LIMIT_WH, DAY_LIMIT_WH - 2],
        [1, 3],  # exactly half its mean: 500000, where an estimate from below would give 499999
        [1] + [0] * 35,
        [7] * 30,
    ],
)
def test_variation_at_the_edges(days: list[int]) -> None:
    assert kernel_variation([days]) == [variation(days)]


@given(st.integers(1, 1 << 40), st.integers(1, 44), st.integers(1, 44))
def test_variation_that_is_a_whole_number_is_not_rounded_down(scale: int, a: int, b: int) -> None:
    days = [scale * a] * b + [0] * b  # a coefficient of variation of exactly 1
    assert kernel_variation([days]) == [1_000_000]


def test_worked_example_of_variation() -> None:
    """10 and 30 Wh: mean 20, deviation 10, so half the mean."""
    assert kernel_variation([[10, 30]]) == [500_000]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-(1 << 50), 1 << 50)).map(tuple)))
def test_segment_sums_equal_a_loop(rows: list[tuple[int, int]]) -> None:
    rows.sort()
    expected = [sum(value for segment, value in rows if segment == number) for number in range(7)]
    values, segment = np.array([v for _, v in rows], np.int64), np.array([s for s, _ in rows], np.int32)
    assert segment_sums(values, segment, 7).tolist() == expected
