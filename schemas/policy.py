"""The policy: one YAML file, versioned and effective-dated, that holds every rule of classification.

`policy_default.yaml` beside this module is the one that ships; its comments explain each line. What the rules mean
is defined in docs/explanation/definitions.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from schemas.document import fault_line, parse_document
from schemas.errors import ConfigError
from schemas.fields import Column
from schemas.inbound import CATEGORIES
from schemas.marts import CLASSES, FEATURES, PPM_LIMIT
from schemas.suites import expectations
from schemas.vee import Vee

Operator = Literal["at_least", "at_most", "above", "below", "equals", "one_of", "not_one_of"]
Rule = Literal["cumulative_share", "top_fraction", "turnover_fraction"]
Cls = Literal["A", "B"]
Side = Literal["cut", "entry", "exit"]
Kind = Literal["share", "count"]
Grade = Literal["A", "B", "C"]
Tier = Literal["high", "mid_steady", "mid_large", "low_risk", "low_small", "abuse"]

OPERATORS: tuple[Operator, ...] = ("at_least", "at_most", "above", "below", "equals", "one_of", "not_one_of")
ORDERED: tuple[Operator, ...] = ("at_least", "at_most", "above", "below")
"""Operators that compare by size; text columns take the others."""

STAY = "stay"
"""What the marts give as rule where a minimum stay kept the tier; no rule may be called that."""

METRICS = tuple(c.name for c in FEATURES.columns if c.type == pa.int64() and not c.nullable)
"""Features that accounts can be ranked by."""

NUMBERS = {c.name: c for c in FEATURES.columns if pa.types.is_integer(c.type)}
"""Features that a condition can compare."""

GRADE_CODES: Mapping[str, tuple[str, ...]] = {"category": CATEGORIES}
TIER_CODES: Mapping[str, tuple[str, ...]] = {**GRADE_CODES, "abc": CLASSES, "credit_grade": CLASSES}
"""Text columns that the conditions of credit grades, and of tier rules, can name; and their values."""

DENOMINATOR_LIMIT = 1_000_000
_PERCENT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?%", re.ASCII)
_RATIO = re.compile(r"([0-9]{1,9}) ?/ ?([0-9]{1,9})", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)

Codes = Mapping[str, tuple[str, ...]]
"""Text column -> its values."""

Fault = tuple[tuple[str | int, ...], object, str]
"""Path in the file, value there, what is allowed."""


def parse_share(value: object) -> Fraction:
    """A share as an exact fraction, above 0 and at most 1. Raises ValueError saying what is allowed.

    >>> parse_share("80 %"), parse_share("4/5"), parse_share("97.5%")
    (Fraction(4, 5), Fraction(4, 5), Fraction(39, 40))
    """
    text = value if isinstance(value, str) else ""
    share = Fraction(0)
    if match := _PERCENT.fullmatch(text):
        share = Fraction(match[1]) / 100
    elif (match := _RATIO.fullmatch(text)) and int(match[2]):
        share = Fraction(int(match[1]), int(match[2]))
    if not 0 < share <= 1:
        raise ValueError("write a share above 0 and at most 1, as '80 %' or '4/5'")
    if share.denominator > DENOMINATOR_LIMIT:
        raise ValueError(f"in lowest terms it is {share}; the denominator may be at most {DENOMINATOR_LIMIT}")
    return share


def _rule_name(value: str) -> str:
    if not _NAME.fullmatch(value) or value == STAY:
        raise ValueError(f"write a name of small letters, digits and _, other than {STAY!r}")
    return value


def _scalar(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a whole number or text")
    return value


Share = Annotated[Fraction, PlainValidator(parse_share), PlainSerializer(str)]
Scalar = Annotated[int | str, PlainValidator(_scalar)]
Ppm = Annotated[int, Field(ge=0, le=PPM_LIMIT)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Cut:
    """One cut to be made every day: `num/den` of the total (`share`) or of the customers (`count`), lowest terms."""

    rule: Rule
    cls: Cls
    side: Side
    kind: Kind
    num: int
    den: int


class Cuts(_Part):
    """Where class A and class B end."""

    A: Share
    B: Share


class Buffer(_Part):
    """The threshold to come in by, at or before the cut, and the one to go out by, at or behind it."""

    entry: Share
    exit: Share


class Buffers(_Part):
    """The buffers around both cuts."""

    A: Buffer
    B: Buffer


class Abc(_Part):
    """How accounts are ranked and cut into classes."""

    metric: str
    scope: Literal["all", "category"]
    rule: Rule
    cuts: Cuts
    buffers: Buffers


class Condition(_Part):
    """One comparison of a column, with exactly one operator. On a null it holds only with `or_null`."""

    column: str
    at_least: int | None = None
    at_most: int | None = None
    above: int | None = None
    below: int | None = None
    equals: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = None
    not_one_of: tuple[Scalar, ...] | None = None
    or_null: bool = False

    @property
    def op(self) -> Operator:
        """The operator."""
        return next(op for op in OPERATORS if getattr(self, op) is not None)

    @property
    def values(self) -> tuple[int | str, ...]:
        """What the column is compared with; one value, except for `one_of` and `not_one_of`."""
        value: int | str | tuple[int | str, ...] = getattr(self, self.op)
        return value if isinstance(value, tuple) else (value,)


class Conditional(_Part):
    """What applies where all its conditions hold. No conditions: otherwise."""

    when: tuple[Condition, ...] = ()


class CreditGrade(Conditional):
    """A credit grade and its conditions."""

    grade: Grade


class TierRule(Conditional):
    """A tier and its conditions. `immediate`: no minimum stay delays it."""

    rule: Annotated[str, AfterValidator(_rule_name)]
    tier: Tier
    immediate: bool = False


class PolicyVersion(_Part):
    """The rules in force from one service day on."""

    version: Annotated[str, Field(min_length=1, max_length=64)]
    effective_from: date
    abc: Abc
    credit_grades: tuple[CreditGrade, ...]
    tiers: tuple[TierRule, ...]
    min_stay_days: Annotated[int, Field(ge=0, le=3650)]
    vee: Vee | None = None

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


class DayClose(_Part):
    """When a service day counts as complete, and what becomes of one that is not."""

    coverage_floor_ppm: Ppm
    below_floor: Literal["hold", "provisional"]


class LedgerRules(_Part):
    """How credits are allocated. It is no part of a version: it re-allocates all that ever was."""

    allocation: Literal["fifo", "priority"] = "fifo"


class Audit(_Part):
    """What stops a publication. `severities`: suite, suite.relation or suite.relation.column -> warn or block."""

    reject_share_limit_ppm: Ppm
    severities: dict[str, Literal["warn", "block"]] = Field(default_factory=dict)


class Policy(_Part):
    """The whole policy file. `versions` ascends by `effective_from`."""

    versions: tuple[PolicyVersion, ...]
    day_close: DayClose
    audit: Audit
    ledger: LedgerRules = LedgerRules()

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


def _cut(rule: Rule, cls: Cls, side: Side, kind: Kind, at: Fraction) -> Cut:
    return Cut(rule, cls, side, kind, at.numerator, at.denominator)


def default_policy_text() -> str:
    """The policy file that ships, with its comments."""
    return resources.files("schemas").joinpath("policy_default.yaml").read_text("utf-8")


def load_policy(path: str | Path) -> Policy:
    """Read and check a policy file. Raises ConfigError naming file, path in it, value and what is allowed."""
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}. `wattier init` writes a policy file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text. Save it as UTF-8") from None
    return parse_policy(text, str(path))


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
        yield from _rules_faults(version.credit_grades, GRADE_CODES, (*path, "credit_grades"))
        yield from _rules_faults(version.tiers, TIER_CODES, (*path, "tiers"))
        names = [rule.rule for rule in version.tiers]
        for j, name in enumerate(names):
            if name in names[:j]:
                yield (*path, "tiers", j, "rule"), name, "another rule of this version has that name; give each its own"


def _abc_faults(abc: Abc, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """A tighter entry, a wider exit, and class A inside class B at every threshold."""
    if abc.metric not in METRICS:
        yield (*path, "metric"), abc.metric, f"must be one of {', '.join(METRICS)}"
    thresholds = [("cuts", abc.cuts.A, abc.cuts.B)]
    thresholds += [(side, getattr(abc.buffers.A, side), getattr(abc.buffers.B, side)) for side in ("entry", "exit")]
    for side, a, b in thresholds:
        if a > b:
            at = ("cuts", "A") if side == "cuts" else ("buffers", "A", side)
            yield (*path, *at), str(a), f"must be at most B's, {b}"
    for cls, cut, buffer in (("A", abc.cuts.A, abc.buffers.A), ("B", abc.cuts.B, abc.buffers.B)):
        if buffer.entry > cut:
            yield (*path, "buffers", cls, "entry"), str(buffer.entry), f"must be at most cuts.{cls}, {cut}"
        if buffer.exit < cut:
            yield (*path, "buffers", cls, "exit"), str(buffer.exit), f"must be at least cuts.{cls}, {cut}"


def _rules_faults(rules: Sequence[Conditional], codes: Codes, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """Every account must meet some rule, and every rule be reachable: the last, and only it, has no conditions."""
    if not rules:
        yield path, [], "at least one rule is needed, the last without `when`"
    for i, rule in enumerate(rules):
        last = i == len(rules) - 1
        if last and rule.when:
            yield (
                (*path, i, "when"),
                [c.column for c in rule.when],
                "the last rule must have no `when`: it takes all that is left",
            )
        if not last and not rule.when:
            yield (*path, i, "when"), [], "only the last rule may be without `when`; those after it are never reached"
        for j, condition in enumerate(rule.when):
            yield from _condition_faults(condition, codes, (*path, i, "when", j))


def _condition_faults(condition: Condition, codes: Codes, path: tuple[str | int, ...]) -> Iterator[Fault]:
    ops = [op for op in OPERATORS if getattr(condition, op) is not None]
    name, number = condition.column, NUMBERS.get(condition.column)
    if len(ops) != 1:
        yield path, ops, f"write exactly one of {', '.join(OPERATORS)}"
    elif number is None and name not in codes:
        yield (*path, "column"), name, f"must be one of {', '.join((*codes, *NUMBERS))}"
    elif number is None and condition.op in ORDERED:
        yield (*path, condition.op), condition.values[0], f"{name} is text; use equals, one_of or not_one_of"
    else:
        yield from _value_faults(condition, number, codes.get(name, ()), (*path, condition.op))
        if condition.or_null and not (number and number.nullable):
            yield (*path, "or_null"), True, f"{name} is never null; leave it out"


def _value_faults(
    condition: Condition, number: Column | None, codes: Sequence[str], path: tuple[str | int, ...]
) -> Iterator[Fault]:
    """Values that the column can never have make a condition that always, or never, holds."""
    if not condition.values:
        yield path, [], "name at least one value"
    for value in condition.values:
        if number is None:
            if value not in codes:
                yield path, value, f"must be one of {', '.join(codes)}"
            continue
        unit = f"a whole number of {number.unit}"
        low, high = number.minimum, number.maximum
        low, high = -(1 << 63) if low is None else low, (1 << 63) - 1 if high is None else high
        if not isinstance(value, int):
            yield path, value, f"must be {unit}"
        elif not low <= value <= high:
            yield path, value, f"must be {unit} from {low} to {high}, as {number.name} is"
