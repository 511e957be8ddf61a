"""What has to hold before a publication, as plain data generated from the schemas.

Three suites, one a gate: `inbound` (the rows a run accepts), `features`, and `tiers` (tiers, migrations, abuse steps, cut-offs).
An expectation says what it wants in plain English; `pipelines/audit.py` checks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeGuard

from schemas.actions import PLAN_CAPACITY, PLANNED_ACTIONS, SERVICE_ACTIONS
from schemas.errors import ConfigError
from schemas.fields import Column, Relation
from schemas.inbound import SOURCES
from schemas.marts import (
    ABUSE_STEPS,
    CUSTOMER_TIERS_CURRENT,
    CUTOFFS,
    DAILY_CONSUMPTION,
    FEATURES,
    SCORES,
    STEP_OF_REASON,
    TIER_MIGRATIONS,
)

Severity = Literal["warn", "block"]
Kind = Literal[
    "not_null",  # the column is never null
    "minimum",  # kwargs: minimum
    "maximum",  # kwargs: maximum
    "values",  # kwargs: values
    "differs",  # kwargs: other, a column with another value in the same row
    "leads_to",  # kwargs: other, a column; pairs, the (value, value of other) that fit
    "at_most",  # kwargs: other, a column that is nowhere below this one
    "unique",  # kwargs: columns that together name one row
    "present_in",  # kwargs: other (relation), column; rows of the last service day only
    "ordered",  # kwargs: value (a column) never falls along by (a key column) in this order; where: {column: value}
    "reject_share",  # kwargs: limit_ppm
]

SUITES = ("inbound", "features", "tiers")
SEVERITIES: tuple[Severity, ...] = ("warn", "block")


@dataclass(frozen=True)
class Expectation:
    """One thing that must hold of a relation or one of its columns (`column` is empty for the whole relation)."""

    suite: str
    relation: str
    column: str
    kind: Kind
    words: str
    severity: Severity = "block"
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def id(self) -> str:
        """The name an operator overrides it by: `features.wh_365d.minimum`; one relation stands in one suite only."""
        return ".".join(part for part in (self.relation, self.column, self.kind) if part)


def expectations(reject_share_limit_ppm: int, severities: Mapping[str, str] | None = None) -> tuple[Expectation, ...]:
    """All expectations, with the policy's limit and severities.

    severities: `suite`, `suite.relation` or `suite.relation.column` -> warn or block; the longest name that fits
    decides, and block where none does. Raises ConfigError for a name or a severity that does not exist.
    """
    plain = tuple(_all(reject_share_limit_ppm))
    wanted: dict[str, Severity] = {}
    known = {name for expectation in plain for name in _scopes(expectation)}
    for name, value in (severities or {}).items():
        if name not in known:
            raise ConfigError(
                f"severities: {name!r} names no expectation. Allowed: {', '.join(SUITES)}, then .relation, then .column"
            )
        if not _is_severity(value):
            raise ConfigError(f"severities.{name}: {value!r} is not a severity. Allowed: {', '.join(SEVERITIES)}")
        wanted[name] = value
    return tuple(_with_severity(expectation, wanted) for expectation in plain)


def percent(ppm: int) -> str:
    """Parts per million as a percentage, exactly.

    >>> percent(10_000), percent(12_500), percent(1)
    ('1 %', '1.25 %', '0.0001 %')
    """
    whole, rest = divmod(ppm, 10_000)
    return f"{whole}.{rest:04d}".rstrip("0").rstrip(".") + " %"


def _is_severity(value: str) -> TypeGuard[Severity]:
    return value in SEVERITIES


def _scopes(expectation: Expectation) -> Iterator[str]:
    """The names a severity may be given under, the longest first."""
    relation = f"{expectation.suite}.{expectation.relation}"
    if expectation.column:
        yield f"{relation}.{expectation.column}"
    yield relation
    yield expectation.suite


def _with_severity(expectation: Expectation, severities: Mapping[str, Severity]) -> Expectation:
    value: Severity = next((severities[name] for name in _scopes(expectation) if name in severities), "block")
    return replace(expectation, severity=value)


def _all(reject_share_limit_ppm: int) -> Iterator[Expectation]:
    for source in SOURCES.values():
        yield from _columns("inbound", source)
        yield Expectation(
            "inbound", source.name, "", "reject_share",
            f"at most {percent(reject_share_limit_ppm)} of the rows of {source.name} are rejected",
            kwargs={"limit_ppm": reject_share_limit_ppm},
        )  # fmt: skip
    for relation in (DAILY_CONSUMPTION, FEATURES):
        yield from _columns("features", relation)
        yield _unique("features", relation, relation.keys)
    for relation in (CUSTOMER_TIERS_CURRENT, TIER_MIGRATIONS, ABUSE_STEPS, CUTOFFS, SCORES):
        yield from _columns("tiers", relation)
    for relation in (SERVICE_ACTIONS, PLANNED_ACTIONS, PLAN_CAPACITY):
        yield from _columns("tiers", relation)
        yield _unique("tiers", relation, relation.keys)
    yield Expectation(
        "tiers", PLAN_CAPACITY.name, "planned", "at_most", f"{PLAN_CAPACITY.name}.planned is never above capacity",
        kwargs={"other": "capacity"},
    )  # fmt: skip
    yield from _tiers()


def _columns(suite: str, relation: Relation) -> Iterator[Expectation]:
    """What the schema says of each column: null, bounds, closed set of values."""
    for column in relation.columns:
        yield from _column(suite, f"{relation.name}.{column.name}", relation, column)


def _column(suite: str, full: str, relation: Relation, column: Column) -> Iterator[Expectation]:
    unit = f" {column.unit}" if column.unit else ""
    if not column.nullable:
        yield Expectation(suite, relation.name, column.name, "not_null", f"{full} is never empty")
    if column.minimum is not None:
        yield Expectation(
            suite, relation.name, column.name, "minimum", f"{full} is never below {column.minimum}{unit}",
            kwargs={"minimum": column.minimum},
        )  # fmt: skip
    if column.maximum is not None:
        yield Expectation(
            suite, relation.name, column.name, "maximum", f"{full} is never above {column.maximum}{unit}",
            kwargs={"maximum": column.maximum},
        )  # fmt: skip
    if column.values:
        yield Expectation(
            suite, relation.name, column.name, "values", f"{full} is one of {', '.join(column.values)}",
            kwargs={"values": column.values},
        )  # fmt: skip


def _unique(suite: str, relation: Relation, columns: tuple[str, ...], why: str = "") -> Expectation:
    words = f"{relation.name} has one row per {', '.join(columns)}{why}"
    return Expectation(suite, relation.name, "", "unique", words, kwargs={"columns": columns})


_CUT = ("ranked", "cut_num", "cut_den")
"""Key columns of cut-offs that tell percentiles of one ranking apart, and not the thresholds of a class."""


def _tiers() -> Iterator[Expectation]:
    tiers, moves, cutoffs = CUSTOMER_TIERS_CURRENT.name, TIER_MIGRATIONS.name, CUTOFFS.name
    steps = ABUSE_STEPS.name
    yield _unique("tiers", CUSTOMER_TIERS_CURRENT, CUSTOMER_TIERS_CURRENT.keys, ": an account has exactly one tier")
    yield _unique("tiers", TIER_MIGRATIONS, TIER_MIGRATIONS.keys)
    yield _unique("tiers", ABUSE_STEPS, ABUSE_STEPS.keys, ": an account takes one step a day at most")
    yield _unique("tiers", CUTOFFS, CUTOFFS.keys)
    yield _unique("tiers", SCORES, SCORES.keys)
    yield Expectation(
        "tiers", tiers, "", "present_in",
        f"every account of {FEATURES.name} on the last service day is in {tiers}",
        kwargs={"other": FEATURES.name, "column": "account_id"},
    )  # fmt: skip
    yield Expectation(
        "tiers", tiers, "tier_since", "at_most", f"{tiers}.tier_since is never after valid_from",
        kwargs={"other": "valid_from"},
    )  # fmt: skip
    yield Expectation(
        "tiers", moves, "to_tier", "differs", f"{moves}.to_tier differs from from_tier", kwargs={"other": "from_tier"}
    )
    yield Expectation(
        "tiers", steps, "step", "differs", f"{steps}.step differs from from_step", kwargs={"other": "from_step"}
    )
    yield Expectation(
        "tiers", steps, "abuse_reason", "leads_to", f"{steps}.abuse_reason is one that leads to the step",
        kwargs={"other": "step", "pairs": tuple(STEP_OF_REASON.items())},
    )  # fmt: skip
    for inside, ranked in (("inside_customers", "customers"), ("inside_total", "total")):
        yield Expectation(
            "tiers", cutoffs, inside, "at_most", f"{cutoffs}.{inside} is never above {ranked}",
            kwargs={"other": ranked},
        )  # fmt: skip
    yield Expectation(
        "tiers", cutoffs, "side", "ordered",
        f"{cutoffs}: the entry to a class takes in no more accounts than its cut, the cut no more than its exit",
        kwargs={"by": "side", "order": ("entry", "cut", "exit"), "value": "inside_customers", "apart": _CUT},
    )  # fmt: skip
    yield Expectation(
        "tiers", cutoffs, "class", "ordered",
        f"{cutoffs}: class A lies inside class B where both are cut by share",
        kwargs={"by": "class", "order": ("A", "B"), "value": "inside_customers", "where": {"kind": "share"}, "apart": _CUT},
    )  # fmt: skip
