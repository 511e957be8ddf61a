"""The policy: one YAML file, versioned and effective-dated, that holds every rule of classification.

`policy_default.yaml` beside this module is the one that ships; its comments explain each line. What the rules mean
is defined in docs/explanation/definitions.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import date
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import AfterValidator, Field

from schemas.actions import ABUSE_STEP
from schemas.capacity import Capacity
from schemas.conditions import MOST_RULES, NUMBERS, Codes, Conditional, Fault, Part, rule_name
from schemas.decay import CreditDecay, decay_faults
from schemas.dimensions import Dimension, dimension_faults, percentile_rankings, score_faults, scores_as_columns
from schemas.document import fault_line, one_of, parse_document, read_text
from schemas.errors import ConfigError
from schemas.fields import PPM_LIMIT
from schemas.inbound import CATEGORIES
from schemas.marts import (
    ABUSE_STEPS_TAKEN,
    CAUSE_ORDER,
    CLASSES,
    FEATURES,
    SCORE_COLUMNS,
    TIER_ORDER,
    TIERS,
    Cause,
    Valued,
)
from schemas.rankings import Cut, CutClass, Kind, Ranking, Share, Side, share_text
from schemas.rule_space import rules_faults
from schemas.scorecard import SCORE, CreditScore, scorecard_faults
from schemas.strategy import Strategy, strategy_faults
from schemas.suites import expectations
from schemas.vee import Vee

Rule = Literal["cumulative_share", "top_fraction", "turnover_fraction"]
Grade = Literal["A", "B", "C"]
Tier = Literal["high", "mid_steady", "mid_large", "low_risk", "low_small", "abuse", "new"]

METRICS = tuple(c.name for c in FEATURES.columns if c.type == pa.int64() and not c.nullable)
"""Features that accounts can be ranked by."""

SCORE_CODES: Codes = {"category": CATEGORIES}
GRADE_CODES: Codes = {**SCORE_CODES, "credit_grade_before": CLASSES}
TIER_CODES: Codes = {**SCORE_CODES, "abc": CLASSES, "credit_grade": CLASSES}
ACTION_CODES: Codes = {**TIER_CODES, "tier": TIERS, ABUSE_STEP: ABUSE_STEPS_TAKEN}
"""Text columns that conditions can name, and their values: of the scorecard, of credit grades, tier rules and service actions."""

EVENT_FIRST = (
    ("conduct", "lockout_ended"), ("payment", "due_date"), ("payment", "window_decay"), ("own_use", "window_decay"),
)  # fmt: skip
"""What a day brings, and what its clock does: there is no yesterday's clock with today's events."""

TIER_SCORES = scores_as_columns()
"""The scores of the dimensions, which the rules of tiers and actions can name."""

Ppm = Annotated[int, Field(ge=0, le=PPM_LIMIT)]


class Cuts(Part):
    """Where class A and class B end."""

    A: Share
    B: Share


class Buffer(Part):
    """The threshold to come in by, at or before the cut, and the one to go out by, at or behind it."""

    entry: Share
    exit: Share


class Buffers(Part):
    """The buffers around both cuts."""

    A: Buffer
    B: Buffer


class Abc(Part):
    """How accounts are ranked and cut into classes."""

    metric: str
    scope: Literal["all", "category"]
    rule: Rule
    cuts: Cuts
    buffers: Buffers


class CreditGrade(Conditional):
    """A credit grade and its conditions."""

    grade: Grade


class TierRule(Conditional):
    """A tier and its conditions. `immediate`: no minimum stay delays it."""

    rule: Annotated[str, AfterValidator(rule_name)]
    tier: Tier
    immediate: bool = False


class AbuseLadder(Part):
    """Dwell times of accounts in the tier `abuse`, and what ends a restriction besides that the tier is left.

    warn_days: a warning stands so long. restrict_days: an inspection ends a restriction after so long at the earliest.
    """

    warn_days: Annotated[int, Field(ge=1, le=3650)]
    restrict_days: Annotated[int, Field(ge=0, le=3650)] = 0
    release: Literal["inspection_passed", "tier_left"]


class PolicyVersion(Part):
    """The rules in force from one service day on.

    tier_order: tiers from the lowest value to the highest, for what counts as up and down; one_notch: tiers that are climbed one at
    a time, the lowest first; cause_order: what is put back to the day before, one by one, to find the cause of a migration.
    """

    version: Annotated[str, Field(min_length=1, max_length=64)]
    effective_from: date
    abc: Abc
    credit_decay: CreditDecay = CreditDecay(half_life_days=180)
    credit_score: CreditScore | None = None
    dimensions: tuple[Dimension, ...] | None = None
    credit_grades: Annotated[tuple[CreditGrade, ...], Field(max_length=MOST_RULES)]
    tiers: Annotated[tuple[TierRule, ...], Field(max_length=MOST_RULES)]
    min_stay_days: Annotated[int, Field(ge=0, le=3650)]
    tier_order: tuple[Valued, ...] = TIER_ORDER
    one_notch: tuple[Valued, ...] = ()
    cause_order: tuple[Cause, ...] = CAUSE_ORDER
    abuse_ladder: AbuseLadder | None = None
    strategy: Strategy | None = None
    vee: Vee | None = None

    def reads(self) -> frozenset[str]:
        """The columns that the rules of grades and tiers name."""
        return frozenset(c.column for rule in (*self.credit_grades, *self.tiers) for c in rule.when)

    def columns(self) -> frozenset[str]:
        """The columns of features, and codes, that tiers are made of: by the rules, and by the parts of the dimensions."""
        scores = {part.column for dimension in self.dimensions or () for part in dimension.parts}
        return (self.reads() - set(SCORE_COLUMNS.values())) | scores

    def value_column(self) -> str:
        """The feature that accounts count by where places are few."""
        named = self.strategy.value if self.strategy else None
        return named or self.abc.metric

    def ranks_as(self, other: PolicyVersion) -> bool:
        """Whether both cut alike, so that the cut-offs of one are those that the other would make."""
        made = self.rankings(), self.credit_score, self.credit_decay
        return made == (other.rankings(), other.credit_score, other.credit_decay)

    def rankings(self) -> tuple[Ranking, ...]:
        """What is ranked every day: the metric of ABC first, then what the dimensions cut by percentiles."""
        abc = Ranking(self.abc.metric, self.abc.scope, self.cuts())
        return (abc, *percentile_rankings(self.dimensions or ()))

    def cuts(self) -> tuple[Cut, ...]:
        """The A and B cut of all three rules, and entry and exit beside those of this version's own rule.

        The marts show all three rules side by side. One that is not the version's own has its customary A cut
        (80 % of the total; a third of the customers; a third of the total) and the version's B cut.
        """
        cuts: list[Cut] = []
        for rule, kind, customary in _RULES:
            own = rule == self.abc.rule
            first = self.abc.cuts.A if own else customary
            cuts += [_cut(rule, "A", "cut", kind, first), _cut(rule, "B", "cut", "share", self.abc.cuts.B)]
            if own:
                a, b = self.abc.buffers.A, self.abc.buffers.B
                cuts += [_cut(rule, "A", "entry", kind, a.entry), _cut(rule, "A", "exit", kind, a.exit)]
                cuts += [_cut(rule, "B", "entry", "share", b.entry), _cut(rule, "B", "exit", "share", b.exit)]
        return tuple(cuts)


class DayClose(Part):
    """When a service day counts as complete, and what becomes of one that is not."""

    coverage_floor_ppm: Ppm
    below_floor: Literal["hold", "provisional"]


class LedgerRules(Part):
    """How credits are allocated. It is no part of a version: it re-allocates all that ever was.

    horizon_days: how long what was settled is kept at hand; no figure depends on it. More than figures look back, a year.
    """

    allocation: Literal["fifo", "priority"] = "fifo"
    horizon_days: Annotated[int, Field(ge=400, le=36500)] = 800


class Audit(Part):
    """What stops a publication. `severities`: suite, suite.relation or suite.relation.column -> warn or block."""

    reject_share_limit_ppm: Ppm
    severities: dict[str, Literal["warn", "block"]] = Field(default_factory=dict)


class Policy(Part):
    """The whole policy file, and the capacity file beside it. `versions` ascends by `effective_from`."""

    versions: tuple[PolicyVersion, ...]
    day_close: DayClose
    audit: Audit
    ledger: LedgerRules = LedgerRules()
    capacity: Capacity | None = None

    def ranks_by_region(self) -> bool:
        """Whether some version ranks accounts within their regions."""
        return any(ranking.by == "region" for version in self.versions for ranking in version.rankings())

    def on(self, day: date) -> PolicyVersion:
        """The version in force on a service day; days before the first version have the first."""
        in_force = [version for version in self.versions if version.effective_from <= day]
        return in_force[-1] if in_force else self.versions[0]

    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal: the same for '80 %' and '4/5', and for any layout or comments."""
        content = self.model_dump(mode="json", exclude_none=True)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


_RULES: tuple[tuple[Rule, Kind, Fraction], ...] = (
    ("cumulative_share", "share", Fraction(4, 5)),
    ("top_fraction", "count", Fraction(1, 3)),
    ("turnover_fraction", "share", Fraction(1, 3)),
)
"""Each ABC rule, how it makes its A cut, and where it customarily does."""


def _cut(rule: Rule, cls: CutClass, side: Side, kind: Kind, at: Fraction) -> Cut:
    return Cut(rule, cls, side, kind, at.numerator, at.denominator)


def default_policy_text() -> str:
    """The policy file that ships, with its comments."""
    return resources.files("schemas").joinpath("policy_default.yaml").read_text("utf-8")


def load_policy(path: str | Path) -> Policy:
    """Read and check a policy file. Raises ConfigError naming file, path in it, value and what is allowed."""
    return parse_policy(read_text(Path(path), "policy"), str(path))


def parse_policy(text: str, name: str) -> Policy:
    """Check the text of a policy file; messages call it `name`. Raises ConfigError with one line per fault."""
    policy = parse_document(text, name, Policy)
    faults = [fault_line(name, *fault) for fault in _policy_faults(policy)]
    try:
        expectations(policy.audit.reject_share_limit_ppm, policy.audit.severities)
    except ConfigError as error:
        faults.append(f"{name}: audit.{error}")
    if faults:
        raise ConfigError("\n".join(faults))
    return policy


def _policy_faults(policy: Policy) -> Iterator[Fault]:
    """Faults that span several keys; the model has checked each by itself."""
    if policy.capacity is not None:
        yield ("capacity",), "...", "has a file of its own: name it as `capacity` in wattier.yaml"
    if not policy.versions:
        yield ("versions",), [], "at least one version is needed"
    for i, version in enumerate(policy.versions):
        before, path = policy.versions[:i], ("versions", i)
        if version.version in {other.version for other in before}:
            yield (*path, "version"), version.version, "another version has that name; give each its own"
        if before and version.effective_from <= before[-1].effective_from:
            allowed = f"must be later than {before[-1].effective_from}, that of the version before"
            yield (*path, "effective_from"), str(version.effective_from), allowed
        yield from _abc_faults(version.abc, (*path, "abc"))
        yield from decay_faults(version.credit_decay, (*path, "credit_decay"))
        if version.credit_score is not None:
            yield from scorecard_faults(version.credit_score, SCORE_CODES, (*path, "credit_score"))
        yield from _without_score(version, path)
        yield from dimension_faults(version.dimensions, version.credit_score is not None, (*path, "dimensions"))
        yield from rules_faults(version.credit_grades, GRADE_CODES, (*path, "credit_grades"))
        graded = tuple(grade for grade in CLASSES if any(rule.grade == grade for rule in version.credit_grades))
        yield from rules_faults(
            version.tiers, TIER_CODES, (*path, "tiers"), NUMBERS | TIER_SCORES, {"credit_grade": graded}
        )
        for j, rule in enumerate(version.tiers):
            yield from score_faults(rule.when, version.dimensions or (), (*path, "tiers", j, "when"))
        yield from _order_faults(version, path)
        yield from _ladder_faults(version, (*path, "abuse_ladder"))
        if version.strategy is not None:
            yield from strategy_faults(
                version.strategy, METRICS, ACTION_CODES, NUMBERS | TIER_SCORES, (*path, "strategy")
            )
            for j, action in enumerate(version.strategy.actions):
                yield from score_faults(
                    action.when, version.dimensions or (), (*path, "strategy", "actions", j, "when")
                )
        names = [rule.rule for rule in version.tiers]
        for j, name in enumerate(names):
            if name in names[:j]:
                yield (*path, "tiers", j, "rule"), name, "another rule of this version has that name; give each its own"


def _without_score(version: PolicyVersion, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """A rule by the score needs a scorecard; else the column is always null."""
    if version.credit_score is None:
        rules: list[tuple[tuple[str, ...], Sequence[Conditional]]] = [
            (("credit_grades",), version.credit_grades), (("tiers",), version.tiers),
            (("strategy", "actions"), version.strategy.actions if version.strategy else ()),
        ]  # fmt: skip
        for name, some in rules:
            for i, rule in enumerate(some):
                for j, condition in enumerate(rule.when):
                    if condition.column == SCORE:
                        yield (*path, *name, i, "when", j, "column"), SCORE, "needs a scorecard: add `credit_score:`"


def _order_faults(version: PolicyVersion, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """Each tier and cause stands once, all causes do, and events go before the clock."""
    for name in ("tier_order", "one_notch"):
        tiers = getattr(version, name)
        for i, tier in enumerate(tiers):
            if tier in tiers[:i]:
                yield (*path, name, i), tier, "stands there already; name each tier once"
    climbed = [tier for tier in version.tier_order if tier in version.one_notch]
    if not any(version.one_notch.count(tier) > 1 for tier in version.one_notch) and climbed != list(version.one_notch):
        yield (
            (*path, "one_notch"),
            list(version.one_notch),
            f"must go upwards, as tier_order does: {', '.join(climbed)}",
        )
    causes = version.cause_order
    if sorted(causes) != sorted(CAUSE_ORDER):
        yield (*path, "cause_order"), list(causes), f"must name each of {', '.join(CAUSE_ORDER)} once"
        return
    for event, clock in EVENT_FIRST:
        if causes.index(event) > causes.index(clock):
            yield (*path, "cause_order"), clock, f"must come after {event}: today's events are not yesterday's"


def _ladder_faults(version: PolicyVersion, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """A ladder that nobody is on, and a dwell that nothing ends."""
    ladder = version.abuse_ladder
    if ladder is None:
        return
    if all(rule.tier != "abuse" for rule in version.tiers):
        yield path, "abuse_ladder", "no rule of this version yields the tier abuse; leave it out, or add one"
    if ladder.release == "tier_left" and ladder.restrict_days:
        yield (*path, "restrict_days"), ladder.restrict_days, "is only for release: inspection_passed; leave it out"


def _abc_faults(abc: Abc, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """A tighter entry, a wider exit, and class A inside class B at every threshold."""
    if abc.metric not in METRICS:
        yield (*path, "metric"), abc.metric, one_of(abc.metric, METRICS)
    thresholds = [("cuts", abc.cuts.A, abc.cuts.B)]
    thresholds += [(side, getattr(abc.buffers.A, side), getattr(abc.buffers.B, side)) for side in ("entry", "exit")]
    for side, a, b in thresholds:
        if a > b:
            at = ("cuts", "A") if side == "cuts" else ("buffers", "A", side)
            yield (*path, *at), share_text(a), f"must be at most B's, {share_text(b)}"
    for cls, cut, buffer in (("A", abc.cuts.A, abc.buffers.A), ("B", abc.cuts.B, abc.buffers.B)):
        for side, wrong, most in (("entry", buffer.entry > cut, "at most"), ("exit", buffer.exit < cut, "at least")):
            if wrong:
                allowed = f"must be {most} cuts.{cls}, {share_text(cut)}"
                yield (*path, "buffers", cls, side), share_text(getattr(buffer, side)), allowed
