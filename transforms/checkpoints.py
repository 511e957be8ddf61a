"""State that is kept by service day, and as of a day: what it is, and how long it is kept."""

from __future__ import annotations

from collections.abc import Iterable

from transforms.kernels.windows import date_of

TICK_DAYS = ("edited_block", "provisional_block")
"""State that a tick makes of a service day, for the days after it; dropped from the first day on that is made anew."""

TIER_INPUT = "tier_input"
"""By shard and service day, what tiers are made of: the columns of `features` that the policy reads."""

TIER_INPUT_PATCH = "tier_input_patch"
"""Of accounts that were put right since, the same."""

CLOCK = "@clock"
"""Ends the name of a column of tier inputs as of the day's clock; one that is left out is as at the day's end."""

PLAN_STATE = "plan_state"
"""As of a checkpoint, of no shard: who has a standing assignment, and who was planned lately."""

BY_DAY = (
    "day_block", "meter_block", "register_block", "period_block", "mart:reading_exceptions", TIER_INPUT_PATCH,
    "windows_patch", "tiers", "abuse_ladder", PLAN_STATE, *TICK_DAYS,
)  # fmt: skip
"""State kept by (shard, service day): a new entry takes the place of the day's old one."""

CARRIED_LEDGER = ("carried_base", "carried_index", "carried_changes", "carried_accounts", "carried_credit")
"""The ledger of a shard, as of a checkpoint: of the rows that were kept then, by their place."""

CARRIED_EXCEPTIONS = "carried_exceptions"
"""Ledger exceptions of a shard, as of a checkpoint."""

CHECKPOINT = (
    "windows", "windows_patch", *CARRIED_LEDGER, CARRIED_EXCEPTIONS, "tiers", "abuse_ladder",
)  # fmt: skip
"""State as of a day, from which a run can roll forward."""

REFERENCE_STATE = ("account_slots", "accounts", "population", "tariff_slots", "tariffs", "waiting_meters")
LEDGER_STATE = ("ledger", "closed_names", "log:ledger_events")
"""The ledger rows kept, and what is needed to find those that were let go."""

DAY_STATE = ("expected", "calendar", *LEDGER_STATE, "pending_ledger", "conduct", "pending_conduct", "day_block")
"""What an account shard goes on from: reference data, and what happened day by day."""

METER_STATE = (
    "meter_slots", "assignments", "pending_readings", "meter_block", "period_block", "log:meter_readings", "pending_registers",
    "register_block", "register_last", "log:register_readings", "mart:reading_exceptions",
)  # fmt: skip
"""What a meter shard goes on from."""

DAILY_CHECKPOINTS = 10
"""Checkpoints kept of the latest ticks; older ones are kept for the last day of a month only."""


def kept_checkpoints(days: Iterable[int]) -> set[int]:
    """Of the days that can be taken up again, those that are kept: the latest, and the ends of months.

    >>> kept_checkpoints([19752, 19753, *range(19760, 19770)]) == {19753, *range(19760, 19770)}
    True
    """
    some = sorted(set(days))
    return set(some[-DAILY_CHECKPOINTS:]) | {day for day in some if date_of(day + 1).day == 1}
