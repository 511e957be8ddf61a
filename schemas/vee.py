"""The rules of VEE (validation, estimation, editing): what each looks at, its parameters, and what comes of it.

Rules on what an account used on one day, beside its own days before, are the policy's to set (`vee:` of a version). Rules on rows
and registers are not: they follow from what a reading is.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["flag", "estimate", "reject", "off"]
Rejecting = Literal["flag", "reject", "off"]
Flagging = Literal["flag", "off"]
SEVERITIES = ("flag", "estimate", "reject")
"""What may come of a day that trips a rule, the weakest first."""

Factor = Annotated[int, Field(ge=1, le=1_000_000_000)]
Part = Annotated[int, Field(ge=1, le=1_000_000)]
Wh = Annotated[int, Field(ge=0, le=1 << 44)]

UNIT_TOLERANCE_PPM = 500_000
"""The widest tolerance around a thousand times."""

LIKE_DAYS = (7, 14, 21, 28)
"""Days back of the same weekday that a day is held against."""

RUN_DAYS = 7
"""The longest run of days that a rule can ask for."""


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    severity: Severity = "flag"


class Above(_Rule):
    """A day held against like days. like_days: how many of the four must have been read."""

    factor_ppm: Factor
    at_least_wh: Wh
    like_days: Annotated[int, Field(ge=1, le=4)] = 2


class Below(Above):
    """The same, for too little."""

    factor_ppm: Part


class OtherUnit(_Rule):
    """A day held against a thousand times the like days, and a thousandth. like_days: how many of the four must fit."""

    tolerance_ppm: Annotated[int, Field(ge=0, le=UNIT_TOLERANCE_PPM)]
    at_least_wh: Annotated[int, Field(ge=1, le=1 << 44)]
    like_days: Annotated[int, Field(ge=1, le=4)] = 2


class Capacity(_Rule):
    """A day held against the contracted capacity."""

    factor_ppm: Factor = 1_200_000


class RunOfDays(_Rule):
    """Days in a row. Which of them is wrong is not known, so that none is changed."""

    severity: Flagging = "flag"
    days: Annotated[int, Field(ge=2, le=RUN_DAYS)]


class SumCheck(_Rule):
    """The total held against its periods. The larger tolerance counts."""

    severity: Rejecting = "flag"
    tolerance_ppm: Annotated[int, Field(ge=0, le=1_000_000)] = 5_000
    tolerance_wh: Wh = 10


class Inactive(_Rule):
    """A day without an account in the population."""

    severity: Rejecting = "flag"


class Vee(BaseModel):
    """The rules that a policy sets. One that is not named is off."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    unit_mismatch: OtherUnit | None = None
    spike: Above | None = None
    low: Below | None = None
    capacity: Capacity | None = None
    frozen: RunOfDays | None = None
    zero_use: RunOfDays | None = None
    prolonged_estimation: RunOfDays | None = None
    inactive_use: Inactive | None = None
    sum_check: SumCheck | None = None

    def on(self) -> dict[str, _Rule]:
        """The rules that are not off, by name, in the order of `VEE_RULES`."""
        named = {name: getattr(self, name) for name in VEE_RULES}
        return {name: rule for name, rule in named.items() if rule is not None and rule.severity != "off"}

    @classmethod
    def severities(cls, name: str) -> tuple[str, ...]:
        """What may come of a day that trips a rule."""
        rule = next(kind for kind in get_args(cls.model_fields[name].annotation) if kind is not type(None))
        return tuple(said for said in get_args(rule.model_fields["severity"].annotation) if said != "off")


VEE_RULES: dict[str, str] = {
    "unit_mismatch": "The day's energy is a thousand times that of at least `like_days` of the like days 7, 14, 21 and 28 days "
    "before, within `tolerance_ppm`; or a thousandth, where all meters expected that day were received. The larger of the two is "
    "at least `at_least_wh`. kWh read as Wh, or MWh as kWh, show here. Limit: the energy in the other unit.",
    "spike": "The day's energy is above `factor_ppm` of the largest of the like days 7, 14, 21 and 28 days before, and above "
    "`at_least_wh`. At least `like_days` of them were read. Limit: the larger of the two.",
    "low": "The day's energy is below `factor_ppm` of the smallest of the like days, of which at least `like_days` were read and "
    "which is at least `at_least_wh`; all meters expected that day were received. Limit: that part of it.",
    "capacity": "The day's energy is above 24 hours of the contracted capacity (`capacity_va` of the account) times `factor_ppm`. "
    "Limit: that.",
    "frozen": "The same energy, not 0, on `days` days in a row. Named on the day that makes them so many.",
    "zero_use": "No energy on `days` days in a row, on each of which all meters expected were received, after a day with some. "
    "Named on the day that makes them so many.",
    "prolonged_estimation": "A value that is not `actual` on `days` days in a row. Named on the day that makes them so many.",
    "inactive_use": "Energy on a day on which the account is not in the population: before it was opened or after it was closed.",
    "sum_check": "The day's energy differs from the sum of its periods by more than `tolerance_wh`, and more than "
    "`tolerance_ppm` of it, where each period that is told is told by all meters received. A swapped order of registers "
    "shows here. Limit: the larger tolerance.",
}
"""Rules that a policy sets -> what trips them."""

DAY_LIMIT = "day_limit"
JUDGED = (*VEE_RULES, DAY_LIMIT)
"""Rules that an account's day is held against, in order: those that a policy sets, and one that always holds."""

READING_FAULTS = (
    "register_decrease", "implausible_step", "index_beyond_modulus", "implausible_demand", "gap_too_long", "multiplier_mismatch",
)  # fmt: skip
"""What `reading_exceptions` names: of two indexes, of one, or of a multiplier."""

FIXED_RULES: dict[str, tuple[str, str]] = {
    "duplicate": ("Several values for one meter, day and register.", "The highest revision counts; the others are `superseded`. "
                  "Under one revision the smallest value counts, and `meters_conflict` tells of it."),
    "register_decrease": ("An index below the one before, and neither an exchange nor a register that turned over.",
                          "The days between have no energy; `reading_exceptions` names the pair."),
    "implausible_step": ("An index that rises by more than 2^38 Wh a day, or by more than 32 times that.",
                         "The days between have no energy; `reading_exceptions` names the pair."),
    "gap_too_long": ("Two indexes of a register, one after the other, that are more than 800 days apart: such as one at the "
                     "installation years ago and the first that is delivered.",
                     "The days between have no energy; `reading_exceptions` names the pair."),
    "index_beyond_modulus": ("An index at or above the modulus of its meter: its registers turn over before.",
                             "No energy is counted from it: its day is shared like a day that was not read; "
                             "`reading_exceptions` names it. In the `meters` reference: the row is in `rejects`."),
    "implausible_demand": ("A maximum demand shown that is, with the multiplier, above 2^37 W.",
                           "It does not count; `reading_exceptions` names it."),
    DAY_LIMIT: ("An account's meters together: 2^44 Wh on a day or more, or maximum demands of 2^43 W or more. Sums of a year "
                "would not be exact any more.", "The day does not count, as by `reject`; `vee_results` names it."),
    "multiplier_mismatch": ("A multiplier told with a register reading that is not the one of the `meters` reference on that day.",
                            "The multiplier of the reference counts; `reading_exceptions` names the reading, until one is mended."),
    "unknown_meter": ("A reading of a meter, or on a day, that the `meters` reference does not tell of.",
                      "It waits in `pending`, and counts when the reference tells of it."),
    "off_midnight": ("A time of day too far from midnight: see `within_minutes` in the mapping.", "The row is in `rejects`."),
    "out_of_range": ("Negative energy or index, or one beyond what any meter shows.", "The row is in `rejects`."),
}  # fmt: skip
"""Rules that no policy sets -> what trips them, and what comes of it."""
