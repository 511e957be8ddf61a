"""Amounts are exact, and rounded once: against Python's fractions."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.inbound import PRICE_LIMIT_NANO
from transforms.kernels.valuation import lines, scaled_price

LINES = st.tuples(st.integers(0, 5), st.integers(0, 50 * 10**9), st.integers(0, 10**10))


@given(st.lists(LINES, max_size=40), st.sampled_from([0, 2, 3, 6, 9]))
def test_a_bill_is_the_sum_of_its_lines_rounded_once(some, digits):
    bill, energy, price = (np.array([line[at] for line in some], np.int64) for at in range(3))
    exact = [sum(Fraction(wh * nano, 10**12) for b, wh, nano in some if b == number) for number in range(6)]
    wanted = [floor(amount * 10**digits + Fraction(1, 2)) for amount in exact]
    assert lines(energy, price).by_bill(bill, 6).rounded(digits).tolist() == wanted


def test_halves_go_up_and_only_the_sum_is_rounded():
    """Two lines of 0.5 fen each are 1 fen; rounded line by line they would be 2."""
    one = lines(np.array([5, 5]), np.array([10**9, 10**9]))  # 5 Wh at 1 yuan for one kWh: half a fen
    assert one.rounded(2).tolist() == [1, 1]
    assert one.by_bill(np.array([0, 0]), 1).rounded(2).tolist() == [1]


def test_prices_beyond_the_limit_are_refused():
    with pytest.raises(ValueError, match="billionths of a major unit"):
        lines(np.array([1]), np.array([PRICE_LIMIT_NANO + 1]))


def test_a_factor_that_billionths_do_not_hold_is_refused():
    assert scaled_price(49_100_000, 980_000) == 48_118_000
    with pytest.raises(ValueError, match="no whole billionths"):
        scaled_price(1, 500_000)
