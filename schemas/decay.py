"""How much a bill of the past year weighs, by its age in whole steps of 30 days: told as a half-life, or as a table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated

from pydantic import Field

from schemas.conditions import Fault, Part

STEP_DAYS = 30
"""Length of a step of age by which a bill's weight decays."""

STEPS = 365 // STEP_DAYS + 1
"""Steps of the ages at which a bill is looked at, of 1 to 365 days."""

SCALE_BITS = 20
"""A half-life gives a bill of the first step the weight 2^20."""

SUM_LIMIT = 1 << 40
"""Weights add up to less than this: some million bills of an account then stay within int64."""


class CreditDecay(Part):
    """A half-life in days, or one weight for each step, from the youngest bills on."""

    half_life_days: Annotated[int, Field(ge=STEP_DAYS, le=3650)] | None = None
    weights: tuple[Annotated[int, Field(ge=0)], ...] | None = None

    def table(self) -> tuple[int, ...]:
        """The weight of each step."""
        if self.half_life_days is None:
            return self.weights or ()
        return half_life_weights(self.half_life_days)


@cache
def half_life_weights(days: int) -> tuple[int, ...]:
    """2^20 halved once every `days` days, by steps, each rounded to a whole number, halves up.

    >>> half_life_weights(30)[:4], half_life_weights(180)[:3]
    ((1048576, 524288, 262144, 131072), (1048576, 934175, 832255))
    """
    return tuple((_root(SCALE_BITS * days + days - STEP_DAYS * step, days) + 1) // 2 for step in range(STEPS))


def _root(power: int, degree: int) -> int:
    """The whole part of the root: the largest x with x^degree <= 2^power. power: from 0 up.

    >>> _root(10, 3), _root(9, 3)
    (10, 8)
    """
    root = 0
    for bit in reversed(range(power // degree + 1)):
        if (root | 1 << bit) ** degree <= 1 << power:
            root |= 1 << bit
    return root


def decay_faults(decay: CreditDecay, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """Both ways of telling it, or none; a table that does not fit."""
    told = [name for name in ("half_life_days", "weights") if getattr(decay, name) is not None]
    if len(told) != 1:
        yield path, told, "write exactly one of half_life_days, weights"
    elif decay.weights is not None and (len(decay.weights) != STEPS or not 0 < sum(decay.weights) < SUM_LIMIT):
        allowed = f"must be {STEPS} whole numbers from 0 up, not all 0, that add up to less than {SUM_LIMIT}"
        yield (*path, "weights"), list(decay.weights), allowed
