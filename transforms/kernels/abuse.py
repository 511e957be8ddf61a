"""The abuse ladder: warn, restrict, release. Who is on it, and the steps of a day.

The rules are in docs/explanation/definitions.md, "The abuse ladder". Few accounts are in the tier `abuse`, so the ladder holds
those alone.

             tier is abuse            warn_days later               an inspection, or the tier is left
    (off) ------------------> warn --------------------> restrict ------------------------------------> release
                               ^                                                                          |
                               '------------------------ a theft or tampering after it -------------------'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.marts import ABUSE_REASONS, ABUSE_STEPS_TAKEN
from schemas.policy import AbuseLadder

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

OFF: Final = -1
"""Step of an account that is not on the ladder."""

WARN, RESTRICT, RELEASE = (ABUSE_STEPS_TAKEN.index(name) for name in ("warn", "restrict", "release"))
_TIER_ABUSE, _WARNED, _INSPECTED, _FOUND, _LEFT, _CLOSED, _NO_LADDER = (
    ABUSE_REASONS.index(name)
    for name in (
        "tier_abuse", "warning_ended", "inspection_passed", "new_finding", "tier_left", "account_closed", "no_ladder",
    )
)  # fmt: skip

FINDINGS: Final = ("days_since_theft", "days_since_tampering")
INSPECTION: Final = "days_since_inspection"
LADDER_COLUMNS: Final = (*FINDINGS, INSPECTION)
"""Columns of `features` that the ladder goes by."""

_LONG_AGO: Final = -(1 << 31)


@dataclass(frozen=True)
class Standing:
    """Who is on the ladder as of a day. slot: (k,) ascending; step: (k,) places in `ABUSE_STEPS_TAKEN`; since: (k,) day numbers."""

    slot: Int64
    step: Int8
    since: Int32

    @classmethod
    def empty(cls) -> Standing:
        """Nobody is."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int8), np.zeros(0, np.int32))


@dataclass(frozen=True)
class Steps:
    """Steps taken on one day. All (k,); from_step: `OFF` where the account was not on the ladder."""

    slot: Int64
    step: Int8
    from_step: Int8
    reason: Int8


def climb(
    before: Standing,
    day: int,
    ladder: AbuseLadder | None,
    abusing: Int64,
    population: Int64,
    columns: Mapping[str, Any],
) -> tuple[Standing, Steps]:
    """Move the ladder on by one service day.

    ladder: of the policy in force, None: it has none. abusing: (m,) slots in the tier `abuse` on the day, ascending;
    columns: `LADDER_COLUMNS` of these, (m,) each, masked where null. population: slots in the population.
    """
    slot = np.union1d(before.slot, abusing).astype(np.int64)
    step, since = np.full(len(slot), OFF, np.int8), np.full(len(slot), day, np.int32)
    was = np.searchsorted(slot, before.slot)
    step[was], since[was] = before.step, before.since
    abuse = np.isin(slot, abusing)

    def last(names: tuple[str, ...]) -> Int64:
        """Day of the latest event of some kinds; `_LONG_AGO` where there is none."""
        latest = np.full(len(slot), _LONG_AGO, np.int64)
        for name in names:
            days = np.ma.asarray(columns[name])
            latest[abuse] = np.maximum(latest[abuse], np.where(np.ma.getmaskarray(days), _LONG_AGO, day - days.data))
        return latest

    to, reason = step.copy(), np.full(len(slot), -1, np.int8)
    climbs = abuse if ladder else np.zeros(len(slot), np.bool_)
    taken: list[tuple[Any, int, int]] = [
        (~climbs & ((step == WARN) | (step == RESTRICT)), RELEASE, _LEFT if ladder else _NO_LADDER)
    ]
    if ladder:
        found, stood = last(FINDINGS), day - since
        inspected = (last((INSPECTION,)) > np.maximum(found, since)) & (found > _LONG_AGO)
        taken += [
            (climbs & (step == OFF), WARN, _TIER_ABUSE),
            (climbs & (step == WARN) & (stood >= ladder.warn_days), RESTRICT, _WARNED),
            (climbs & (step == RELEASE) & (found > since), WARN, _FOUND),
        ]
        if ladder.release == "inspection_passed":
            ends = climbs & (step == RESTRICT) & (stood >= ladder.restrict_days) & inspected
            taken.append((ends, RELEASE, _INSPECTED))
    for where, into, why in taken:
        to[where], reason[where] = into, why
    if not ladder:
        reason[(reason == _NO_LADDER) & ~abuse] = _LEFT
    reason[(reason == _LEFT) & ~np.isin(slot, population)] = _CLOSED

    moved = reason >= 0
    since[moved] = day
    steps = Steps(slot[moved], to[moved], step[moved], reason[moved])
    return Standing(slot[climbs], to[climbs], since[climbs]), steps
