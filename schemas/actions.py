"""Service actions: what there is to do for a customer, what it takes, and the marts that say what is planned."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from schemas.fields import COUNT, DAY, FLAG, TEXT, WH, Column, Relation
from schemas.keys import ACCOUNT, DATE

Action = Literal[
    "account_manager", "visit", "outage_notice", "one_stop_service", "hotline", "follow_up_call", "valley_tariff_offer",
    "credit_supervision", "prepayment_meter", "meter_inspection", "dunning_reminder", "dunning_notice", "dunning_final",
    "restriction", "release",
]  # fmt: skip
Resource = Literal["managers", "visits", "inspectors", "calls"]
ACTIONS: tuple[str, ...] = get_args(Action)
RESOURCES: tuple[str, ...] = get_args(Resource)
"""What an action may take a place of. Of managers there are so many at a time, of the others so many a day."""

STANDING = "managers"
"""The resource whose places are held from day to day."""

NOT_PLANNED = ("no_place", "day_off")
"""Why who stands in the order is not planned: all places went to others before it; nobody works on the day."""

ABUSE_STEP = "abuse_step"
"""What conditions of a strategy call the step of the abuse ladder that is in force."""

LONGEST_REST = 366
"""Days within which an action is not done again, at most."""

_RESOURCE = Column("resource", TEXT, "What it takes a place of", values=RESOURCES)
_ACTION = (
    Column("action", TEXT, "What to do", key=True, values=ACTIONS),
    Column("action_reason", TEXT, "Why, by the name that the policy gives it"),
    Column("due_date", DAY, "Day by which it is to be done"),
    Column("priority", COUNT, "Priority, 1 being the highest", minimum=1, maximum=9),
)
_VALUE = Column("value", WH, "What the account is worth, by the column that the strategy names", "unit of the column")
_VERSION = Column("policy_version", TEXT, "Policy version in force")
_RANK = Column(
    "rank", COUNT, "Place in the order of those who want a place of the resource, 1 being the first", minimum=1
)

SERVICE_ACTIONS = Relation(
    "service_actions",
    "What to do for each customer on the day after the last published service day; also those next in order, who get no place.",
    (
        ACCOUNT,
        replace(DATE, meaning="The last published service day, that it follows from", key=False),
        *_ACTION,
        replace(_RESOURCE, meaning="What it takes a place of; null: of nothing", nullable=True),
        _VALUE,
        Column("planned", FLAG, "Whether it is to be done; of what takes no limited place, always"),
        Column("not_planned_reason", TEXT, "Why it is not planned; null where it is", nullable=True, values=NOT_PLANNED),
        Column("since", DAY, "First day of a standing assignment; null elsewhere", nullable=True),
        replace(_RANK, meaning=f"{_RANK.meaning}; null where places are not limited", nullable=True),
        _VERSION,
    ),
)  # fmt: skip

PLANNED_ACTIONS = Relation(
    "planned_actions",
    "Every place of a limited resource that was given out, day by day; standing assignments on each of their days.",
    (
        ACCOUNT,
        DATE,
        *_ACTION,
        _RESOURCE,
        _VALUE,
        Column("since", DAY, "First day of the standing assignment; else the service day"),
        _RANK,
        _VERSION,
    ),
)

PLAN_CAPACITY = Relation(
    "plan_capacity",
    "The places of each limited resource by service day: how many there are, who is a candidate for one, who rests, who gets one.",
    (
        DATE,
        replace(_RESOURCE, key=True),
        Column("capacity", WH, "Places on the day after, that the plan is for", "places", minimum=0),
        Column("candidates", WH, "Accounts that an action which takes one applies to, resting or not", "accounts", minimum=0),
        Column("resting", WH, "Accounts for whom such an action was planned lately, and is not to be yet", "accounts", minimum=0),
        Column("planned", WH, "Accounts that get one", "accounts", minimum=0),
        Column("value_candidates", WH, "Value of the candidates", "unit of the column"),
        Column("value_planned", WH, "Value of those planned", "unit of the column"),
        Column("cut_value", WH, "Value of the last one planned; null where none is", "unit of the column", nullable=True),
        _VERSION,
    ),
)  # fmt: skip
