"""The abuse ladder against one account at a time, as the page says it."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.marts import ABUSE_REASONS, ABUSE_STEPS_TAKEN
from schemas.policy import AbuseLadder
from transforms.kernels.abuse import LADDER_COLUMNS, OFF, Standing, climb

ACCOUNTS = 4
LADDERS = (
    None,
    AbuseLadder(warn_days=2, restrict_days=3, release="inspection_passed"),
    AbuseLadder(warn_days=1, release="inspection_passed"),
    AbuseLadder(warn_days=1, release="tier_left"),
)
Today = dict[str, int | bool | None]
State = tuple[str, int] | None
"""Step, and since when; None: not on the ladder."""


def by_the_page(
    state: State, day: int, ladder: AbuseLadder | None, today: Today
) -> tuple[State, tuple[str, str] | None]:
    """What becomes of one account: its state, and the step and reason, if it takes one."""
    if ladder is None or not today["abuse"]:
        if state is None or state[0] == "release":
            return None, None
        reason = "account_closed" if not today["here"] else "no_ladder" if today["abuse"] else "tier_left"
        return None, ("release", reason)
    events = {name: None if today[name] is None else day - today[name] for name in LADDER_COLUMNS}
    found = max((on for name, on in events.items() if name != "days_since_inspection" and on is not None), default=None)
    inspected = events["days_since_inspection"]
    step = None
    if state is None:
        step = "warn", "tier_abuse"
    elif state[0] == "warn" and day - state[1] >= ladder.warn_days:
        step = "restrict", "warning_ended"
    elif (
        state[0] == "restrict"
        and ladder.release == "inspection_passed"
        and day - state[1] >= ladder.restrict_days
        and inspected is not None
        and inspected > state[1]
        and found is not None
        and inspected > found
    ):
        step = "release", "inspection_passed"
    elif state[0] == "release" and found is not None and found > state[1]:
        step = "warn", "new_finding"
    return ((step[0], day), step) if step else (state, None)


def days_of(seed: int) -> list[tuple[int, AbuseLadder | None, list[Today]]]:
    chance = Random(seed)
    last: list[dict[str, int | None]] = [dict.fromkeys(LADDER_COLUMNS) for _ in range(ACCOUNTS)]
    abuse = [False] * ACCOUNTS
    ladder = chance.choice(LADDERS)
    out = []
    for day in range(100, 125):
        rows: list[Today] = []
        for at in range(ACCOUNTS):
            for name in LADDER_COLUMNS:
                if chance.random() < 0.15:
                    last[at][name] = day
            abuse[at] = chance.random() < (0.9 if abuse[at] else 0.3)
            here = abuse[at] or chance.random() < 0.8
            rows.append(
                {"abuse": abuse[at], "here": here} | {n: None if d is None else day - d for n, d in last[at].items()}
            )
        ladder = chance.choice(LADDERS) if chance.random() < 0.1 else ladder
        out.append((day, ladder, rows))
    return out


def taken(seed: int):
    """Day by day: what the kernel has, and what the page says, of all accounts."""
    standing, states = Standing.empty(), [None] * ACCOUNTS
    for day, ladder, rows in days_of(seed):
        abusing = np.array([at for at, row in enumerate(rows) if row["abuse"]], np.int64)
        here = np.array([at for at, row in enumerate(rows) if row["here"]], np.int64)
        columns = {
            name: np.ma.masked_array(
                [rows[at][name] or 0 for at in abusing], [rows[at][name] is None for at in abusing]
            )
            for name in LADDER_COLUMNS
        }
        standing, steps = climb(standing, day, ladder, abusing, here, columns)
        told = {}
        for at, row in enumerate(rows):
            before = states[at]
            states[at], step = by_the_page(before, day, ladder, row)
            if step:
                told[at] = (*step, before and before[0])
        yield standing, steps, states, told


@given(st.integers(0, 1 << 32))
def test_every_step_and_whoever_stands_where_is_as_the_page_says(seed: int) -> None:
    for standing, steps, states, told in taken(seed):
        held = {
            int(slot): (ABUSE_STEPS_TAKEN[step], int(since))
            for slot, step, since in zip(standing.slot, standing.step, standing.since, strict=True)
        }
        assert held == {at: state for at, state in enumerate(states) if state}
        found = {
            int(slot): (ABUSE_STEPS_TAKEN[step], ABUSE_REASONS[why], None if was == OFF else ABUSE_STEPS_TAKEN[was])
            for slot, step, why, was in zip(steps.slot, steps.step, steps.reason, steps.from_step, strict=True)
        }
        assert found == told


def test_every_reason_occurs() -> None:
    seen = {why for seed in range(40) for *_, told in taken(seed) for _, why, _ in told.values()}
    assert seen == set(ABUSE_REASONS)


@pytest.mark.parametrize("name", LADDER_COLUMNS)
def test_the_ladder_goes_by_columns_of_the_mart(name: str) -> None:
    from schemas.marts import FEATURES

    assert FEATURES[name].nullable
