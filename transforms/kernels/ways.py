"""The least that would have to be otherwise for rules to decide otherwise: found by asking the rules.

options      x: 9 | 11      y: B | C           nearest first
tried        x 9, x 11, y B, y C, x 9 & y B, x 9 & y C, ...
outcome      of each, by the rules             for every outcome that is not the present one, the cheapest try
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.conditions import NUMBERS, Conditional
from schemas.policy import TIER_SCORES
from transforms.kernels.tiers import CODES, Columns

AT_ONCE = 3
"""Columns that are changed at once, at most."""

TRIES = 200_000
"""Tries beyond which no more columns are changed at once."""


@dataclass(frozen=True)
class Option:
    """Another value of a column. far: whether it takes what cannot be brought about, as more time having passed."""

    value: Any
    far: bool = False


Change = tuple[str, Option]
Options = Mapping[str, Sequence[Option]]
"""Column -> its other values, the nearest first."""


def thresholds(rules: Sequence[Conditional], column: str, value: int | None) -> list[int]:
    """Values of a column at which a rule may begin or cease to hold, by their distance from the present one.

    >>> from schemas.conditions import Condition
    >>> rule = Conditional(when=(Condition(column="cv_90d_ppm", at_most=70, exit=80),))
    >>> thresholds([rule], "cv_90d_ppm", 75)
    [71, 79, 70, 80, 69, 81]
    """
    known, found = (NUMBERS | TIER_SCORES).get(column), set[int]()
    for condition in (c for rule in rules for c in rule.when if c.column == column):
        for limit in (*condition.values, *condition.to_stay().values):
            found |= {int(limit) + step for step in (-1, 0, 1)}
    low, high = (known.minimum, known.maximum) if known else (None, None)
    fit = [n for n in found if (low is None or n >= low) and (high is None or n <= high) and n != value]
    return sorted(fit, key=lambda n: (abs(n - (value or 0)), n))


def least_changes(
    values: Mapping[str, Any], options: Options, decide: Callable[[Columns, int], Sequence[int]], now: int
) -> dict[int, tuple[Change, ...]]:
    """For each outcome but `now`, the least changes that lead to it: few that are far, then few, then small ones.

    values: column -> the present value, codes as numbers, None: null. decide: columns of (n,) and n -> (n,) outcomes.
    """
    best: dict[int, tuple[tuple[int, int, int], tuple[Change, ...]]] = {}
    for tries in _tries(options):
        columns = _columns(values, tries)
        for outcome, changes in zip(decide(columns, len(tries)), tries, strict=True):
            if outcome == now:
                continue
            small = sum(options[name].index(option) for name, option in changes)
            cost = sum(option.far for _, option in changes), len(changes), small
            if outcome not in best or cost < best[outcome][0]:
                best[int(outcome)] = cost, changes
    return {outcome: changes for outcome, (_, changes) in sorted(best.items(), key=lambda item: item[1][0])}


def _tries(options: Options) -> Iterator[list[tuple[Change, ...]]]:
    made = 0
    for k in range(1, AT_ONCE + 1):
        sets = list(itertools.combinations(options, k))
        made += sum(int(np.prod([len(options[name]) for name in names])) for names in sets)
        if made > TRIES:
            return
        tries = [
            tuple(zip(names, picked, strict=True))
            for names in sets
            for picked in itertools.product(*(options[name] for name in names))
        ]
        if tries:
            yield tries


def _columns(values: Mapping[str, Any], tries: Sequence[tuple[Change, ...]]) -> Columns:
    n, out = len(tries), dict[str, Any]()
    for name, value in values.items():
        kind = np.int8 if name in CODES else np.int64
        out[name] = np.ma.masked_array(np.full(n, 0 if value is None else value, kind), np.full(n, value is None))
    for at, changes in enumerate(tries):
        for name, option in changes:
            out[name][at] = option.value  # unmasks it
    return out
