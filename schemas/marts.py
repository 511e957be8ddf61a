"""The marts: what a run publishes. Columns are only ever added within a major version."""

from __future__ import annotations

from typing import Literal

from schemas.actions import PLAN_CAPACITY, PLANNED_ACTIONS, SERVICE_ACTIONS
from schemas.credit import CREDIT, TENURE
from schemas.fields import COUNT, DAY, FLAG, ID, MINOR, PPM, PPM_LIMIT, TEXT, WH, Column, Relation
from schemas.inbound import ACCOUNTS as ACCOUNTS_IN
from schemas.inbound import BESIDE, CATEGORIES, CONDUCT_TYPES, DEMAND, EVENT_TYPES, KEPT, PERIODS
from schemas.keys import ACCOUNT, DATE
from schemas.ledger import LEDGER_FAULTS
from schemas.vee import JUDGED, READING_FAULTS, SEVERITIES

Valued = Literal["high", "mid_steady", "mid_large", "low_risk", "low_small", "abuse"]
Cause = Literal[
    "policy_changed", "new_ended", "stay_ended", "reference", "conduct", "lockout_ended", "payment", "due_date", "cutoff_moved",
    "own_use", "window_decay",
]  # fmt: skip

TIERS = ("high", "mid_steady", "mid_large", "low_risk", "low_small", "abuse", "new", "closed")
TIER_ORDER: tuple[Valued, ...] = ("abuse", "low_risk", "low_small", "mid_steady", "mid_large", "high")
"""Tiers from the lowest value to the highest, where a policy says nothing else; the others are neither above nor below."""

CLASSES = ("A", "B", "C")
RULES = ("cumulative_share", "top_fraction", "turnover_fraction")
CUT_RULES = (*RULES, "percentile")
SIDES = ("cut", "entry", "exit")
ORDERS = ("largest_first", "smallest_first")
DIMENSIONS = ("current_value", "potential", "credit", "stability", "loyalty", "scale")
SCORE_COLUMNS = {name: f"{name}_dimension_score" if name == "credit" else f"{name}_score" for name in DIMENSIONS}
"""Dimension of value -> its score as a column. `credit_score` is the scorecard's, a column of features."""

CAUSE_ORDER: tuple[Cause, ...] = (
    "policy_changed", "new_ended", "stay_ended", "reference", "conduct", "lockout_ended", "payment", "due_date", "cutoff_moved",
    "own_use", "window_decay",
)  # fmt: skip
"""What may move a tier, in the order in which it is put back to find the cause, where a policy states no other."""

CAUSES = (*CAUSE_ORDER, "closed", "opened", "correction")
"""Those, and what needs no finding out: an account was closed, or opened again; what was published is put right."""

ABUSE_STEPS_TAKEN = ("warn", "restrict", "release")
STEP_OF_REASON = {
    "tier_abuse": "warn", "warning_ended": "restrict", "inspection_passed": "release", "new_finding": "warn",
    "tier_left": "release", "account_closed": "release", "no_ladder": "release",
}  # fmt: skip
"""Why a step on the abuse ladder is taken -> the step."""

ABUSE_REASONS = tuple(STEP_OF_REASON)
WINDOWS = (7, 30, 90, 365)
"""Lengths of the rolling windows in days. The schema's version owns them; the policy picks among them."""

PERIOD_WINDOWS = (30, 90)
"""Those over which energy is summed by time-of-use period."""

VALUED_WINDOWS = (30, 365)
"""Those over which energy is valued by tariff."""

DEMAND_MONTHS = {"mtd": "the month up to the service day", "last_month": "the calendar month before"}
"""Calendar months that a maximum demand is told of."""

PROVISIONAL_WINDOWS = (30, 365)
"""Those over which provisional energy is summed."""

THEFT_DAYS, VIOLATION_DAYS = 730, 365
"""Days over which thefts and violations are counted."""


def _window(name: str, label: str) -> tuple[Column, ...]:
    return (
        Column(f"wh_{name}", WH, f"Energy over {label}", "Wh", minimum=0),
        Column(f"received_{name}", COUNT, f"Meter-days received over {label}", "meter-days", minimum=0),
        Column(f"expected_{name}", COUNT, f"Meter-days expected over {label}", "meter-days", minimum=0),
        Column(f"coverage_{name}_ppm", PPM, f"Received over expected, {label}; null where none is expected", "ppm",
               nullable=True, minimum=0),
    )  # fmt: skip


def _periods(days: int) -> tuple[Column, ...]:
    over = f"over the {days} days up to the service day"
    return (
        Column(f"period_wh_{days}d", WH, f"Energy told by period, {over}", "Wh", minimum=0),
        *(
            Column(f"{name}_share_{days}d_ppm", PPM, f"Part of it used in the {name} period; null where none is told", "ppm",
                   nullable=True, minimum=0, maximum=PPM_LIMIT)
            for name in PERIODS
        ),
        Column(f"reverse_wh_{days}d", WH, f"Energy fed in {over}", "Wh", minimum=0),
    )  # fmt: skip


def _valued(days: int) -> tuple[Column, ...]:
    over = f"over the {days} days up to the service day"
    return (
        Column(f"valued_wh_{days}d", WH, f"Energy that a price is known for, {over}", "Wh", minimum=0),
        Column(f"valued_{days}d_minor", MINOR, f"Estimated turnover: that energy at the prices of its days, {over}",
               "minor units", minimum=0),
    )  # fmt: skip


def _demand(month: str, label: str) -> tuple[Column, ...]:
    return (
        Column(f"max_demand_w_{month}", WH, f"Maximum demand of {label}: the highest of its days that tell one; null where none does",
               "W", nullable=True, minimum=0),
        Column(f"demand_days_{month}", COUNT, "Days of it that tell one of every meter received", "days", minimum=0, maximum=31),
        Column(f"load_factor_{month}_ppm", PPM, "Mean power of those days over the maximum demand; null where that is not known, or 0",
               "ppm", nullable=True, minimum=0),
    )  # fmt: skip


def _conduct() -> tuple[Column, ...]:
    since = {
        "theft": "theft confirmed",
        "tampering": "tampering",
        "violation": "usage violation",
        "inspection": "inspection passed",
    }
    return (
        *(
            Column(f"days_since_{name}", COUNT, f"Days since the latest {what}, 0 on its day; null where there is none", "days",
                   nullable=True, minimum=0)
            for name, what in since.items()
        ),
        Column(f"thefts_{THEFT_DAYS}d", COUNT, f"Thefts confirmed in the {THEFT_DAYS} days up to the service day", "events", minimum=0),
        Column(f"violations_{VIOLATION_DAYS}d", COUNT, f"Usage violations in the {VIOLATION_DAYS} days up to the service day",
               "events", minimum=0),
        Column("disconnected", COUNT, "1 while the latest disconnection has no reconnection on its day or later, else 0", minimum=0,
               maximum=1),
    )  # fmt: skip


def _provisional(days: int) -> Column:
    return Column(f"provisional_wh_{days}d", WH, f"Provisional energy over the {days} days up to the service day, no part of "
                  f"wh_{days}d", "Wh", minimum=0)  # fmt: skip


_WORTH = (
    Column("contribution_365d_minor", MINOR, "Worth of the energy of 365 days that a cost is known for, less its cost; null where none is",
           "minor units", nullable=True),
    Column("price_level_365d_milli", WH, "What a kWh that a price is known for comes to, over the 365 days; null where there is none",
           "thousandths of a minor unit per kWh", nullable=True, minimum=0),
)  # fmt: skip

_CAPACITY = (
    Column("capacity_va", WH, "Contracted capacity on the day; null where it is not known", "VA", nullable=True, minimum=0),
    Column("unused_capacity_ppm", PPM, "Part of it beyond the maximum demand of the month before, 1 W to a VA; null where either is not "
           "known, or the capacity is 0", "ppm", nullable=True, minimum=0, maximum=PPM_LIMIT),
)  # fmt: skip

_CONTINUITY = (
    Column("used_days_365d", COUNT, "Days with energy above 0 among the 365", "days", minimum=0, maximum=365),
    Column("continuity_365d_ppm", PPM, "Their part of the days of the 365 since the account was opened", "ppm", minimum=0,
           maximum=PPM_LIMIT),
)  # fmt: skip

DAILY_CONSUMPTION = Relation(
    "daily_consumption",
    "Energy per account and service day, summed over the account's meters; provisional where none was received.",
    (
        ACCOUNT,
        DATE,
        Column("energy_wh", WH, "Energy used on the day", "Wh", minimum=0),
        Column("meters_received", COUNT, "Meters with a counted reading of the total", "meters", minimum=0),
        Column("meters_expected", COUNT, "Meters assigned to the account", "meters", minimum=0),
        Column("meters_estimated", COUNT, "Meters whose reading is not actual", "meters", minimum=0),
        Column("meters_conflict", COUNT, "Meters with different energies under one revision", "meters", minimum=0),
        *(
            Column(f"{name}_wh", WH, f"{what}; null where no meter tells it", "Wh", nullable=True, minimum=0)
            for name, what in (*((p, f"Energy used in the {p} period") for p in PERIODS), ("reverse", "Energy fed in"))
        ),
        Column(
            BESIDE[DEMAND],
            WH,
            "Maximum demand: sum over the meters of the highest mean power of each; null where no meter tells it",
            "W",
            nullable=True,
            minimum=0,
        ),
        Column("as_read_wh", WH, "Energy as it was read, where a rule of VEE changed what counts; else null", "Wh", nullable=True,
               minimum=0),
        Column("provisional_wh", WH, "Energy of a like day, until a meter is received; null on other days, and part of no sum but "
               "provisional_wh_*", "Wh", nullable=True, minimum=0),
    ),
)  # fmt: skip

FEATURES = Relation(
    "features",
    "Rolling consumption and credit per account, as of the end of a service day.",
    (
        ACCOUNT,
        DATE,
        Column("category", TEXT, "Customer category on the day", values=CATEGORIES),
        *(column for days in WINDOWS for column in _window(f"{days}d", f"the {days} days up to the service day")),
        *_window("mtd", DEMAND_MONTHS["mtd"]),
        Column("days_90d", COUNT, "Days with any reading among the 90", "days", minimum=0, maximum=90),
        Column("cv_90d_ppm", PPM, "Coefficient of variation of daily energy over the 90 days; null without energy",
               "ppm", nullable=True, minimum=0),
        Column("wh_90d_year_ago", WH, "Energy over the same 90 days 365 days earlier", "Wh", minimum=0),
        Column("received_90d_year_ago", COUNT, "Meter-days received in them", "meter-days", minimum=0),
        Column("expected_90d_year_ago", COUNT, "Meter-days expected in them", "meter-days", minimum=0),
        Column("growth_90d_ppm", PPM, "Growth of the 90 days against the same days a year before; null where unknown",
               "ppm", nullable=True, minimum=-PPM_LIMIT, maximum=PPM_LIMIT**2),
        *(column for days in PERIOD_WINDOWS for column in _periods(days)),
        *(column for days in VALUED_WINDOWS for column in _valued(days)),
        *_WORTH,
        *(column for month, label in DEMAND_MONTHS.items() for column in _demand(month, label)),
        *_CAPACITY,
        *_CONTINUITY,
        *(_provisional(days) for days in PROVISIONAL_WINDOWS),
        *CREDIT,
        TENURE,
        *_conduct(),
        Column("credit_score", COUNT, "Credit score by the scorecard of the policy; null where it has none", "points", nullable=True,
               minimum=0, maximum=100),
    ),
)  # fmt: skip

CREDIT_SCORE_PARTS = Relation(
    "credit_score_parts",
    "What each credit score in `features` is made of: the parts of the scorecard, and its demerits.",
    (
        ACCOUNT,
        DATE,
        Column("part", TEXT, "The part of the scorecard, or the demerit", key=True),
        Column("column", TEXT, "The column of features that it goes by; null where a demerit goes by conditions alone", nullable=True),
        Column("value", WH, "Its value", "unit of the column", nullable=True),
        Column("points", COUNT, "Points before the weight; negative: taken off", "points", minimum=-100, maximum=100),
        Column("weight", COUNT, "Weight of the part; null: a demerit, which has none", nullable=True, minimum=1, maximum=100),
        Column("hundredths", COUNT, "What it adds to the score; all parts together, rounded down and at least 0, are the score",
               "hundredths of a point"),
    ),
)  # fmt: skip

SCORES = Relation(
    "scores",
    "Scores of the dimensions of value per account and service day; no rows for days whose policy has no dimensions.",
    (
        ACCOUNT,
        DATE,
        *(
            Column(column, COUNT, f"Score of the dimension {name} by the policy; null where it has no such dimension", "points",
                   nullable=True, minimum=0, maximum=100)
            for name, column in SCORE_COLUMNS.items()
        ),
    ),
)  # fmt: skip

SCORE_PARTS = Relation(
    "score_parts",
    "What each score in `scores` is made of.",
    (
        ACCOUNT,
        DATE,
        Column("dimension", TEXT, "The dimension of value", key=True, values=DIMENSIONS),
        Column("part", TEXT, "The part of it", key=True),
        Column("column", TEXT, "The column of features that it goes by"),
        Column("value", WH, "Its value", "unit of the column", nullable=True),
        Column("points", COUNT, "Points before the weight", "points", minimum=0, maximum=100),
        Column("weight", COUNT, "Weight; points by weight, added up and rounded down to hundredths, are the score", minimum=1,
               maximum=100),
    ),
)  # fmt: skip

CUTOFFS = Relation(
    "cutoffs",
    "Exact cut-offs per service day, metric and scope: ABC by each rule, class and side, and the percentiles that scores ask for.",
    (
        DATE,
        Column("metric", TEXT, "The feature that is ranked", key=True),
        Column("scope", TEXT, "Which accounts are ranked together: all, category=<name>, or region=<name>", key=True),
        Column("rule", TEXT, "ABC rule, or percentile", key=True, values=CUT_RULES),
        Column("class", TEXT, "The class the cut closes; P: of a percentile", key=True, values=("A", "B", "P")),
        Column("side", TEXT, "The plain cut, or the entry or exit threshold beside it", key=True, values=SIDES),
        Column("ranked", TEXT, "Who comes first in the ranking", key=True, values=ORDERS),
        Column("kind", TEXT, "Cut by share of the total or by count of customers", values=("share", "count")),
        Column("cut_num", WH, "The cut as a fraction: numerator", key=True, minimum=0),
        Column("cut_den", WH, "The cut as a fraction: denominator", key=True, minimum=1),
        Column("amount", WH, "Metric of the last account inside; null when none is", "unit of the metric", nullable=True),
        Column("boundary_account_id", ID, "The last account inside: ties at the amount are split by id", nullable=True,
               privacy="pseudonymous"),
        Column("inside_customers", WH, "Accounts inside", "accounts", minimum=0),
        Column("inside_total", WH, "Their sum of the metric; null for percentiles", "unit of the metric", nullable=True, minimum=0),
        Column("customers", WH, "Accounts ranked: those with a positive metric; for percentiles, with a known one", "accounts",
               minimum=0),
        Column("total", WH, "Sum of the metric over them; null for percentiles", "unit of the metric", nullable=True, minimum=0),
        Column("top20_share_ppm", PPM, "Share of the first fifth of the accounts; null for percentiles", "ppm", nullable=True,
               minimum=0, maximum=PPM_LIMIT),
        Column("gini_ppm", PPM, "Gini coefficient over value groups; null for percentiles", "ppm", nullable=True, minimum=0,
               maximum=PPM_LIMIT),
        Column("policy_version", TEXT, "Policy version in force"),
    ),
)  # fmt: skip

_TIER = (
    Column("tier", TEXT, "Value tier", values=TIERS),
    Column("abc", TEXT, "ABC class, with entry and exit thresholds applied; of a closed account the last one", values=CLASSES),
    Column("credit_grade", TEXT, "Credit grade; of a closed account the last one", values=CLASSES),
    Column("tier_since", DAY, "First day of the present run of this tier"),
    Column("rule", TEXT, "The tier rule that decided on the first day of the row; stay: a minimum stay did; one_notch: promotion by "
           "one tier at a time did; closed: the account was closed"),
    Column("policy_version", TEXT, "Policy version in force on the first day of the row"),
)  # fmt: skip
_VALID_FROM = Column("valid_from", DAY, "First service day of the row", key=True)

CUSTOMER_TIERS = Relation(
    "customer_tiers",
    "Tier history: one row per account and run of days with the same tier, class and credit grade (SCD2).",
    (
        ACCOUNT,
        _VALID_FROM,
        Column("valid_to", DAY, "Last service day of the row; null while it goes on", nullable=True),
        *_TIER,
    ),
)

CUSTOMER_TIERS_CURRENT = Relation(
    "customer_tiers_current",
    "The tier of every account on the last published service day; also of those that are closed.",
    (
        ACCOUNT,
        Column("valid_from", DAY, "First service day of the present tier, class and credit grade"),
        Column(
            "category", TEXT, "Customer category; null where the account is closed", nullable=True, values=CATEGORIES
        ),
        *_TIER,
    ),
)

TIER_MIGRATIONS = Relation(
    "tier_migrations",
    "Every change of tier from one service day to the next, and what caused it.",
    (
        ACCOUNT,
        DATE,
        Column("from_tier", TEXT, "Tier the day before", values=TIERS),
        Column("to_tier", TEXT, "Tier on the day", values=TIERS),
        Column("from_abc", TEXT, "ABC class the day before", values=CLASSES),
        Column("to_abc", TEXT, "ABC class on the day", values=CLASSES),
        Column("cause", TEXT, "What caused the change", values=CAUSES),
        Column("rule", TEXT, "The tier rule that decided, or one_notch or closed"),
        Column("policy_version", TEXT, "Policy version in force, whose cut-offs of the day decided"),
        Column("from_grade", TEXT, "Credit grade the day before", values=CLASSES),
        Column("to_grade", TEXT, "Credit grade on the day", values=CLASSES),
        Column("from_policy_version", TEXT, "Policy version in force the day before"),
        Column("metric_before", WH, "The metric that ABC classes go by, the day before; null where the account was opened again",
               "unit of the metric", nullable=True),
        Column("metric_after", WH, "The same on the day; null where the account was closed", "unit of the metric", nullable=True),
        Column("score_before", COUNT, "Credit score the day before; null where there was none", "points", nullable=True, minimum=0,
               maximum=100),
        Column("score_after", COUNT, "Credit score on the day; null where there is none", "points", nullable=True, minimum=0,
               maximum=100),
    ),
)  # fmt: skip

ABUSE_STEPS = Relation(
    "abuse_steps",
    "Every step on the abuse ladder, and why it was taken.",
    (
        ACCOUNT,
        DATE,
        Column("step", TEXT, "What applies from the day on: a warning, a restriction, or neither any more", values=ABUSE_STEPS_TAKEN),
        Column("from_step", TEXT, "What applied the day before; null: the account was not on the ladder", nullable=True,
               values=ABUSE_STEPS_TAKEN),
        Column("abuse_reason", TEXT, "Why the step was taken", values=ABUSE_REASONS),
        Column("policy_version", TEXT, "Policy version in force"),
    ),
)  # fmt: skip

PROVISIONAL_TIERS = Relation(
    "provisional_tiers",
    "What tiers would be since events came that no published service day holds yet; empty but for streams.",
    (
        ACCOUNT,
        Column("as_of", DAY, "Day as of which the tier holds"),
        Column("tier", TEXT, "Tier under the last cut-offs", values=TIERS),
        Column("from_tier", TEXT, "Tier told or published before", values=TIERS),
        Column("credit_grade", TEXT, "Credit grade on the day", values=CLASSES),
        Column("rule", TEXT, "The tier rule that decided, or stay"),
        Column("policy_version", TEXT, "Policy version in force"),
        Column(
            "event_id", ID, "Event of the ledger or of conduct that caused the change", key=True, privacy="pseudonymous"
        ),
        Column("source_part", TEXT, "Partition or file the event came with", key=True),
        Column("source_offset", WH, "Its offset", key=True, minimum=0),
        Column("append_ms", WH, "Kafka's time of the event, 0 where it came with a file", "ms since 1970", minimum=0),
        Column("base_date", DAY, "Service day whose cut-offs, classes and use were taken"),
    ),
)

TIER_RESTATEMENTS = Relation(
    "tier_restatements",
    "Tiers that an earlier publication gave otherwise: what a correction or late delivery changed.",
    (
        Column("generation", COUNT, "The publication that restated", key=True),
        ACCOUNT,
        Column("valid_from", DAY, "First service day of the restated stretch", key=True),
        Column("valid_to", DAY, "Last service day of the restated stretch"),
        Column("from_tier", TEXT, "Tier published before; null: none", nullable=True, values=TIERS),
        Column("to_tier", TEXT, "Tier published now; null: none", nullable=True, values=TIERS),
        Column(
            "cause",
            TEXT,
            "Why: deliveries changed the day, or the policy did. Withdrawn days count as a correction",
            values=("correction", "policy_changed"),
        ),
    ),
)

_OUTSIDE = (*TIERS, "none")
_MONTH = Column("month", DAY, "First day of the month", key=True)
_SCOPE = Column("scope", TEXT, "Which accounts: all, or category=<name>", key=True)

TIER_MIGRATION_MATRIX = Relation(
    "tier_migration_matrix",
    "Accounts by tier at the end of one month and at the end of the next.",
    (
        Column("month", DAY, "First day of the month the move ends in", key=True),
        Column("from_tier", TEXT, "Tier on the last published day of the month before; none: not in the population", key=True,
               values=_OUTSIDE),
        Column("to_tier", TEXT, "Tier on the last published day of the month; none: no longer in the population", key=True,
               values=_OUTSIDE),
        Column("accounts", WH, "Accounts that made the move", "accounts", minimum=1),
        Column("share_ppm", PPM, "Of the accounts of from_tier, by the cohort estimator; a row of the matrix adds up to 1,000,000",
               "ppm", minimum=0, maximum=PPM_LIMIT),
        Column("energy_wh", WH, "Their energy over the 365 days up to the later day; null where features does not hold it", "Wh",
               nullable=True, minimum=0),
        Column("turnover_minor", MINOR, "Billed to them over these days; null where features does not hold it", "minor units",
               nullable=True),
    ),
)  # fmt: skip

TIER_TRANSITION_RATES = Relation(
    "tier_transition_rates",
    "The duration (generator) estimator by month: migrations from day to day, over the days that accounts could make them.",
    (
        _MONTH,
        Column("from_tier", TEXT, "Tier the day before", key=True, values=TIERS),
        Column("to_tier", TEXT, "Tier on the day; from_tier itself: what leaves it for any other", key=True, values=TIERS),
        Column("migrations", WH, "Migrations of the month", "migrations", minimum=0),
        Column("account_days", WH, "Days on which accounts were in from_tier the day before, and in the population on the day",
               "account-days", minimum=1),
        Column("rate_year_ppm", PPM, "Migrations for each 365 account-days; of a tier to itself less the sum of its others",
               "ppm a year"),
    ),
)  # fmt: skip

TIER_TENURE = Relation(
    "tier_tenure",
    "How many accounts are in each tier at the end of a month, and how long they have been in it.",
    (
        _MONTH,
        _SCOPE,
        Column("tier", TEXT, "Tier on the last published day of the month", key=True, values=TIERS),
        Column("accounts", WH, "Accounts in it", "accounts", minimum=1),
        Column("tenure_days", WH, "Days that they have been in it on end, that day included, all together", "days", minimum=1),
        Column("mean_tenure_days", WH, "Of them on average", "days", minimum=1),
    ),
)  # fmt: skip

TIER_STABILITY = Relation(
    "tier_stability",
    "How much tiers moved in a month.",
    (
        _MONTH,
        _SCOPE,
        Column("migrations", WH, "Changes of tier from one day to the next", "migrations", minimum=0),
        Column("upgrades", WH, "To a tier of higher value", "migrations", minimum=0),
        Column("downgrades", WH, "To a tier of lower value", "migrations", minimum=0),
        Column("upgrade_ratio_ppm", PPM, "Upgrades over downgrades; null without a downgrade", "ppm", nullable=True, minimum=0),
        Column("flaps", WH, "Migrations back to the tier that was left at most 30 days before", "migrations", minimum=0),
        Column("flap_accounts", WH, "Accounts that made them", "accounts", minimum=0),
        Column("flap_rate_ppm", PPM, "Flaps over migrations; null without a migration", "ppm", nullable=True, minimum=0,
               maximum=PPM_LIMIT),
        Column("mobility_ppm", PPM, "Mobility index of the month's matrix (Shorrocks): 0, nobody moved, to 1,000,000, as if tiers were "
               "drawn anew; null without two tiers to leave", "ppm", nullable=True, minimum=0),
        Column("psi_month_micro", WH, "Population stability index of the tiers against the end of the month before; null without one",
               "millionths", nullable=True, minimum=0),
        Column("psi_year_micro", WH, "The same against the end of the month a year before; null without one", "millionths",
               nullable=True, minimum=0),
    ),
)  # fmt: skip

TIER_SHARES = Relation(
    "tier_shares",
    "What each tier has of accounts, energy and turnover, on the service days that features holds.",
    (
        DATE,
        _SCOPE,
        Column("tier", TEXT, "Tier on the day", key=True, values=TIERS),
        Column("accounts", WH, "Accounts in it", "accounts", minimum=1),
        Column("energy_wh", WH, "Their energy over the 365 days up to the service day", "Wh", minimum=0),
        Column("turnover_minor", MINOR, "Billed to them over these days", "minor units"),
        Column("accounts_ppm", PPM, "Share of the scope's accounts", "ppm", minimum=0, maximum=PPM_LIMIT),
        Column("energy_ppm", PPM, "Share of the scope's energy; null where that is 0", "ppm", nullable=True),
        Column("turnover_ppm", PPM, "Share of the scope's turnover; null where that is 0", "ppm", nullable=True),
    ),
)  # fmt: skip

PARETO = Relation(
    "pareto",
    "The Pareto (Lorenz) curve of the last published service day: what the largest accounts have of what ABC classes go by.",
    (
        DATE,
        Column("metric", TEXT, "The feature that is ranked", key=True),
        Column("scope", TEXT, "Which accounts are ranked together: all, or category=<name>", key=True),
        Column("percent", COUNT, "So much of the accounts, largest first", "percent of the accounts", key=True, minimum=1, maximum=100),
        Column("customers", WH, "Accounts, rounded up", "accounts", minimum=1),
        Column("amount_sum", WH, "Their sum of the metric", "unit of the metric", minimum=1),
        Column("share_ppm", PPM, "Share of the total", "ppm", minimum=0, maximum=PPM_LIMIT),
    ),
)  # fmt: skip

SERVICE_DAYS = Relation(
    "service_days",
    "The calendar: every published service day and how complete it is.",
    (
        DATE,
        Column("meters_expected", WH, "Meters assigned on the day", "meters", minimum=0),
        Column("meters_received", WH, "Meters with a counted reading", "meters", minimum=0),
        Column("coverage_ppm", PPM, "Received over expected; null where none is expected", "ppm", nullable=True, minimum=0),
        Column("status", TEXT, "closed, or provisional while coverage is below the policy's floor",
               values=("closed", "provisional")),
        Column("policy_version", TEXT, "Policy version in force"),
    ),
)  # fmt: skip

ACCOUNTS = Relation(
    "accounts",
    "The accounts dimension, effective-dated.",
    (
        *(column for column in ACCOUNTS_IN.columns if column.name != "revision"),
        Column("valid_to", DAY, "Last day the row holds; null: open", nullable=True),
    ),
)

CONDUCT_EVENTS = Relation(
    "conduct_events",
    "Conduct events that stand, as known now: of each the version with the highest revision, unless it was withdrawn.",
    (
        ACCOUNT,
        Column("event_id", ID, "Event, unique within the account", key=True, privacy="pseudonymous"),
        Column("event_type", TEXT, "Kind of event", values=CONDUCT_TYPES),
        Column("event_date", DAY, "Day it was found, or done"),
    ),
)

REJECTS = Relation(
    "rejects",
    "Every row not accepted, with its reason and where it came from.",
    (
        Column("source", TEXT, "Inbound source", key=True),
        Column("delivery", COUNT, "Sequence number of the delivery", key=True),
        Column("file", TEXT, "File it came from"),
        Column("row", WH, "Row in the file, the first data row being 1", key=True),
        Column("column", TEXT, "Column at fault; empty where the whole row is", key=True),
        Column("value", TEXT, "The value as delivered, cut at 200 characters", nullable=True, privacy="personal"),
        Column("reason", TEXT, "Reason code"),
    ),
)

PENDING = Relation(
    "pending",
    "Accepted rows that name an account or meter not known yet; they count once the reference data arrives.",
    (
        Column("source", TEXT, "Inbound source", key=True),
        Column("delivery", COUNT, "Sequence number of the delivery", key=True),
        Column("row", WH, "Row in the file", key=True),
        Column("name", ID, "The meter or account that is not known", privacy="pseudonymous"),
        Column("event_date", DAY, "Service day or event date of the row"),
        Column("reason", TEXT, "Reason code",
               values=("unknown_meter", "meter_not_assigned", "unknown_account")),
    ),
)  # fmt: skip

VEE_RESULTS = Relation(
    "vee_results",
    "Days whose energy trips a rule of VEE, and what counts in its place where the rule says so.",
    (
        ACCOUNT,
        DATE,
        Column("vee_rule", TEXT, "Rule", key=True, values=JUDGED),
        Column("severity", TEXT, "What is to come of it", values=SEVERITIES),
        Column("as_read_wh", WH, "Energy of the day as it was read", "Wh", minimum=0),
        Column(
            "limit_wh",
            WH,
            "What it is held against; of `unit_mismatch` the energy in the other unit; null where the rule has no limit",
            "Wh",
            nullable=True,
            minimum=0,
        ),
        Column(
            "after_wh",
            WH,
            "What counts in its place, by this rule; null where this rule changes nothing",
            "Wh",
            nullable=True,
            minimum=0,
        ),
        Column("policy_version", TEXT, "Policy version in force on the day"),
    ),
)

READING_EXCEPTIONS = Relation(
    "reading_exceptions",
    "Indexes that no energy follows from: two of one register, one after the other, whose days between have none; or one that its "
    "meter cannot show. Also maximum demands that no meter can have, and multipliers other than that of `meters`, which counts.",
    (
        Column("meter_id", ID, "Meter", key=True, privacy="pseudonymous"),
        Column("service_date", DAY, "Day that the index, of two the later one, closes", key=True),
        Column("register", TEXT, "Register, or maximum demand, or multiplier", key=True, values=KEPT),
        Column("reason", TEXT, "Reason code", values=READING_FAULTS),
        Column("opened_on", DAY, "Day that the earlier index closes; null where one index is at fault", nullable=True),
        Column(
            "step",
            WH,
            "Later index less earlier index, before the multiplier; of one index: less the modulus; of a demand: itself; of a "
            "multiplier: less that of `meters`, times",
            "thousandths of a Wh, of a W",
        ),
    ),
)

LEDGER_EXCEPTIONS = Relation(
    "ledger_exceptions",
    "Ledger events without an effect, or with an odd one, as of the last published service day.",
    (
        ACCOUNT,
        Column("event_id", ID, "Event", key=True, privacy="pseudonymous"),
        Column("reason", TEXT, "Reason code", key=True, values=tuple(LEDGER_FAULTS)),
        Column("event_type", TEXT, "Kind of event", values=EVENT_TYPES),
        Column("event_date", DAY, "Day of the event"),
        Column("amount_minor", MINOR, "Its amount, of the version that counts", "minor units"),
        Column("named_id", ID, "What it names: the event that a reversal takes back, the bill; null elsewhere", nullable=True,
               privacy="pseudonymous"),
        Column("closed_on", DAY, "The account's last day, where that is the reason; null elsewhere", nullable=True),
    ),
)  # fmt: skip

DATA_QUALITY_RESULTS = Relation(
    "data_quality_results",
    "Every expectation checked before a publication, and its outcome.",
    (
        Column("generation", COUNT, "The publication it was checked for", key=True),
        Column("suite", TEXT, "Suite: inbound, features, tiers", key=True),
        Column("relation", TEXT, "What was checked", key=True),
        Column("column", TEXT, "Column, empty for the relation as a whole", key=True),
        Column("expectation", TEXT, "What is expected, in plain words", key=True),
        Column("severity", TEXT, "warn or block", values=("warn", "block")),
        Column("success", FLAG, "Whether it held"),
        Column("observed", TEXT, "What was seen", nullable=True),
        Column("overridden", FLAG, "Published all the same by an operator's decision"),
    ),
)

PIPELINE_RUNS = Relation(
    "pipeline_runs",
    "The conservation ledger: for each publication and source, where every row went.",
    (
        Column("generation", COUNT, "The publication", key=True),
        Column("source", TEXT, "Inbound source", key=True),
        Column("started_at", TEXT, "Start of the run, UTC"),
        Column("files", COUNT, "Files taken in", "files", minimum=0),
        Column("files_redelivered", COUNT, "Files recognised as delivered before", "files", minimum=0),
        Column("rows_read", WH, "Rows in the files taken in", "rows", minimum=0),
        Column("rows_redriven", WH, "Rows that were pending before the run", "rows", minimum=0),
        Column("rows_accepted", WH, "Rows that count, or counted until a later revision", "rows", minimum=0),
        Column("rows_superseded", WH, "Rows another row of equal or higher revision stood against", "rows", minimum=0),
        Column("rows_rejected", WH, "Rows rejected", "rows", minimum=0),
        Column("rows_pending", WH, "Rows pending after the run", "rows", minimum=0),
        Column("through", DAY, "Last service day published; null: none yet", nullable=True),
        Column("wattier_version", TEXT, "Version of the software"),
    ),
)

MARTS = {
    relation.name: relation
    for relation in (
        DAILY_CONSUMPTION, FEATURES, CREDIT_SCORE_PARTS, SCORES, SCORE_PARTS, CUTOFFS, CUSTOMER_TIERS, CUSTOMER_TIERS_CURRENT,
        TIER_MIGRATIONS, ABUSE_STEPS, SERVICE_ACTIONS, PLANNED_ACTIONS, PLAN_CAPACITY,
        TIER_RESTATEMENTS, TIER_MIGRATION_MATRIX, TIER_TRANSITION_RATES, TIER_TENURE, TIER_STABILITY, TIER_SHARES, PARETO,
        SERVICE_DAYS, ACCOUNTS, CONDUCT_EVENTS, REJECTS, PENDING, READING_EXCEPTIONS,
        LEDGER_EXCEPTIONS,
        VEE_RESULTS,
        DATA_QUALITY_RESULTS, PIPELINE_RUNS, PROVISIONAL_TIERS,
    )
}  # fmt: skip
"""Every mart by name."""

VIEWS = (CREDIT_SCORE_PARTS.name, SCORE_PARTS.name)
"""Marts that are queries of other marts."""

RUN_METADATA = ("data_quality_results", "pipeline_runs", "provisional_tiers", "tier_restatements")
"""Marts that tell of runs, or of the moment; equal deliveries in other chunks give other rows."""
