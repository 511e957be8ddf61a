"""A half-life as a table of whole weights, against powers of two to sixty digits."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, localcontext
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.decay import SCALE_BITS, STEP_DAYS, STEPS, CreditDecay, half_life_weights
from schemas.policy import default_policy_text, parse_policy

SHIPPED = (
    1048576, 934175, 832255, 741455, 660561, 588493, 524288, 467088, 416128, 370728, 330281, 294247, 262144,
)  # fmt: skip


def test_the_policy_that_ships_halves_in_180_days():
    (version,) = parse_policy(default_policy_text(), "policy.yaml").versions
    assert version.credit_decay == CreditDecay(half_life_days=180)
    assert version.credit_decay.table() == SHIPPED


@given(st.integers(STEP_DAYS, 3650))
def test_weights_are_powers_of_two_rounded(days):
    with localcontext() as context:
        context.prec = 60
        powers = [Decimal(2) ** (SCALE_BITS - Decimal(STEP_DAYS * step) / days) for step in range(STEPS)]
        expected = [int(power.to_integral_value(ROUND_HALF_UP)) for power in powers]
    weights = half_life_weights(days)
    assert list(weights) == expected
    assert all(older <= younger for younger, older in pairwise(weights))
    assert weights[-1] > 0


@pytest.mark.parametrize("days", [0, STEP_DAYS - 1, 3651, 180.0, "180"])
def test_a_half_life_is_whole_days_within_bounds(days):
    with pytest.raises(ValidationError):
        CreditDecay(half_life_days=days)
