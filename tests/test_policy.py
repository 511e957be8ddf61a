from __future__ import annotations

import copy
import doctest
import pickle
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas.document
import schemas.rankings
from pipelines.plan import policy_change, policy_state
from schemas.dimensions import DimensionName
from schemas.errors import ConfigError
from schemas.marts import (
    CAUSE_ORDER,
    CLASSES,
    CUT_RULES,
    DIMENSIONS,
    FEATURES,
    ORDERS,
    RULES,
    SIDES,
    TIER_ORDER,
    TIERS,
    Cause,
    Valued,
)
from schemas.policy import (
    EVENT_FIRST,
    METRICS,
    Grade,
    PolicyVersion,
    Rule,
    Tier,
    default_policy_text,
    load_policy,
    parse_policy,
)
from schemas.rankings import Cut, CutClass, CutRule, Order, Side, parse_share

TEXT = default_policy_text()
EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
DOCUMENT = yaml.safe_load(TEXT)
RULE_PATH, STABLE = "versions[0].tiers[7]", "versions[0].tiers[5]"


def mutated(old: str, new: str) -> str:
    """The default policy with one thing changed, comments aside."""
    plain = "\n".join(line for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
    assert old in plain
    return plain.replace(old, new, 1)


def with_version(**changes: object) -> str:
    """The default policy with a second version: the first one with these keys changed."""
    document = copy.deepcopy(DOCUMENT)
    document["versions"].append({**document["versions"][0], **changes})
    return yaml.safe_dump(document)


def with_abc(rule: str, a: str, b: str = "95 %") -> str:
    """The default policy by another rule, without buffers."""
    document = copy.deepcopy(DOCUMENT)
    buffers = {"A": {"entry": a, "exit": a}, "B": {"entry": b, "exit": b}}
    document["versions"][0]["abc"].update(rule=rule, cuts={"A": a, "B": b}, buffers=buffers)
    return yaml.safe_dump(document)


def test_the_codes_of_the_policy_are_those_of_the_marts():
    assert get_args(Rule) == RULES
    assert (*get_args(Tier), "closed") == TIERS
    assert sorted(get_args(Valued)) == sorted(TIER_ORDER) == sorted(set(get_args(Tier)) - {"new"})
    assert get_args(Cause) == CAUSE_ORDER
    assert get_args(Grade) == CLASSES
    assert get_args(Side) == SIDES
    assert set(get_args(CutClass)) == {"A", "B", "P"}
    assert get_args(CutRule) == CUT_RULES
    assert get_args(Order) == ORDERS
    assert get_args(DimensionName) == DIMENSIONS


def test_nobody_stays_in_a_tier_that_no_rule_lets_him_into():
    document = copy.deepcopy(DOCUMENT)
    small = {"column": "cv_90d_ppm", "at_most": 100}
    dead = [
        {"rule": "even", "tier": "high", "when": [small]},
        {"rule": "evener", "tier": "mid_large", "when": [{**small, "exit": 120}]},
        {"rule": "rest", "tier": "low_small"},
    ]
    document["versions"][0] |= {"tiers": dead, "abuse_ladder": None}
    path = "versions\\[0\\].tiers\\[1\\].when: \\[.cv_90d_ppm.\\]: is never reached"
    with pytest.raises(ConfigError, match=path):
        parse_policy(yaml.safe_dump(document), "policy.yaml")
    dead.insert(0, {"rule": "first", "tier": "mid_large", "when": [{"column": "wh_7d", "at_least": 7}]})
    parse_policy(yaml.safe_dump(document), "policy.yaml")  # who is mid_large by another rule may stay by its exit


def test_a_rule_by_a_grade_that_nobody_gets_is_refused():
    document = copy.deepcopy(DOCUMENT)
    document["versions"][0] |= {"credit_grades": [{"grade": "B"}]}
    with pytest.raises(ConfigError, match=r"tiers\[3\].when: .*: no account meets all of these conditions"):
        parse_policy(yaml.safe_dump(document), "policy.yaml")


def test_what_a_day_brings_is_put_back_before_its_clock():
    for event, clock in EVENT_FIRST:
        order = list(CAUSE_ORDER)
        i, j = order.index(event), order.index(clock)
        order[i], order[j] = clock, event
        with pytest.raises(
            ConfigError, match=f"cause_order: '{clock}': must come after {event}: today's events are not"
        ):
            parse_policy(with_version(version="2", effective_from="2026-01-01", cause_order=order), "policy.yaml")


def test_the_default_policy_says_in_words_what_holds_without_them():
    (version,) = parse_policy(TEXT, "policy.yaml").versions
    fields = PolicyVersion.model_fields
    assert version.cause_order == fields["cause_order"].default
    assert version.tier_order == fields["tier_order"].default
    assert version.one_notch == fields["one_notch"].default


def test_default_policy_is_the_one_that_the_issue_names():
    policy = parse_policy(TEXT, "policy.yaml")
    (version,) = policy.versions
    assert (version.abc.rule, version.abc.metric, version.abc.scope) == ("cumulative_share", "wh_365d", "all")
    assert str(version.abc.cuts.A) == "4/5"
    assert str(version.abc.cuts.B) == "19/20"
    assert version.min_stay_days == 30
    assert [rule.when[0].values for rule in version.credit_grades if rule.when] == [
        (730,),
        (730,),
        (365,),
        (365,),
        (90,),
        (70,),
    ]
    assert [grade.grade for grade in version.credit_grades] == ["C", "C", "C", "B", "A", "B", "C"]
    assert {rule.tier for rule in version.tiers} == {*TIERS} - {"closed"}
    assert [rule.rule for rule in version.tiers if rule.immediate] == [
        "abuse",
        "tampering",
        "malicious_arrears",
        "large_bad_credit",
    ]


def test_a_condition_has_one_operator_and_its_values():
    (version,) = parse_policy(TEXT, "policy.yaml").versions
    first = version.tiers[3].when[0]
    assert (first.column, first.op, first.values, first.or_null) == ("abc", "one_of", ("A", "B"), False)
    growth = version.tiers[5].when[3]
    assert (growth.column, growth.op, growth.values, growth.or_null) == ("growth_90d_ppm", "at_least", (-300000,), True)
    zero = version.credit_grades[4].when[1]
    assert (zero.op, zero.values) == ("equals", (0,))


def test_a_ladder_wants_a_rule_that_yields_abuse():
    with pytest.raises(
        ConfigError, match=r"versions\[0\]\.abuse_ladder: .*no rule of this version yields the tier abuse"
    ):
        parse_policy(TEXT.replace("tier: abuse", "tier: low_risk"), "policy.yaml")


def test_the_receivables_are_scored_by_the_scorecard_that_ships():
    """As the example's README says: nothing in it was fitted to the invoices."""
    (version,) = load_policy(EXAMPLES / "receivables" / "policy.yaml").versions
    (shipped,) = parse_policy(TEXT, "policy.yaml").versions
    assert version.credit_score == shipped.credit_score is not None
    assert (
        "policy.yaml` has the scorecard that ships, as it ships" in (EXAMPLES / "receivables" / "README.md").read_text()
    )


def test_cuts_of_the_default_policy():
    (version,) = parse_policy(TEXT, "policy.yaml").versions
    assert set(version.cuts()) == {
        Cut("cumulative_share", "A", "cut", "share", 4, 5),
        Cut("cumulative_share", "A", "entry", "share", 39, 50),
        Cut("cumulative_share", "A", "exit", "share", 41, 50),
        Cut("cumulative_share", "B", "cut", "share", 19, 20),
        Cut("cumulative_share", "B", "entry", "share", 93, 100),
        Cut("cumulative_share", "B", "exit", "share", 97, 100),
        Cut("top_fraction", "A", "cut", "count", 1, 3),
        Cut("top_fraction", "B", "cut", "share", 19, 20),
        Cut("turnover_fraction", "A", "cut", "share", 1, 3),
        Cut("turnover_fraction", "B", "cut", "share", 19, 20),
    }
    assert len(version.cuts()) == 10


@pytest.mark.parametrize(
    ("rule", "kind", "others"),
    [
        ("top_fraction", "count", {("cumulative_share", 4, 5), ("turnover_fraction", 1, 3)}),
        ("turnover_fraction", "share", {("cumulative_share", 4, 5), ("top_fraction", 1, 3)}),
    ],
)
def test_cuts_of_another_rule(rule, kind, others):
    (version,) = parse_policy(with_abc(rule, "1/4", "90 %"), "policy.yaml").versions
    cuts = version.cuts()
    own = {(c.cls, c.side, c.kind, c.num, c.den) for c in cuts if c.rule == rule}
    assert own == {("A", side, kind, 1, 4) for side in SIDES} | {("B", side, "share", 9, 10) for side in SIDES}
    assert {(c.rule, c.num, c.den) for c in cuts if c.rule != rule and c.cls == "A"} == others
    assert {(c.num, c.den) for c in cuts if c.cls == "B"} == {(9, 10)}


@pytest.mark.parametrize(
    ("text", "share"),
    [("80 %", (4, 5)), ("80%", (4, 5)), ("4/5", (4, 5)), ("8 / 10", (4, 5)), ("97.5 %", (39, 40)), ("100 %", (1, 1))],
)
def test_shares_are_exact(text, share):
    assert parse_share(text) == Fraction(*share)


@pytest.mark.parametrize(
    "value",
    [0.8, 1, True, None, "0.8", "0 %", "101 %", "3/2", "1/0", "-1/2", "80", "80 %%", "８０%", "1e1%", "1/1000001"],
)
def test_what_is_no_share(value):
    with pytest.raises(ValueError, match=r"above 0 and at most 1|denominator"):
        parse_share(value)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_ratio_is_taken_as_it_is(p, q):
    p, q = sorted((p, q))
    assert parse_share(f"{p}/{q}") == Fraction(p, q)


def test_versions_by_day():
    policy = parse_policy(with_version(version="2", effective_from=date(2024, 3, 1)), "policy.yaml")
    assert policy.on(date(1990, 1, 1)).version == "1"
    assert policy.on(date(2024, 2, 29)).version == "1"
    assert policy.on(date(2024, 3, 1)).version == "2"
    assert policy.on(date(2030, 1, 1)).version == "2"


@settings(max_examples=20)
@given(
    st.lists(st.dates(date(2001, 1, 1), date(2030, 1, 1)), unique=True, max_size=4),
    st.dates(date(1999, 1, 1), date(2031, 1, 1)),
)
def test_the_version_in_force_is_the_latest_begun(starts, day):
    document = copy.deepcopy(DOCUMENT)
    first = document["versions"][0]
    days = [first["effective_from"], *sorted(starts)]
    document["versions"] = [{**first, "version": str(start), "effective_from": start} for start in days]
    policy = parse_policy(yaml.safe_dump(document), "policy.yaml")
    begun = [start for start in days if start <= day] or days[:1]
    assert policy.on(day).version == str(max(begun))


def test_digest_is_of_the_content():
    digest = parse_policy(TEXT, "policy.yaml").digest()
    assert len(digest) == 64
    assert parse_policy(yaml.safe_dump(DOCUMENT), "other.yaml").digest() == digest
    assert parse_policy(mutated("80 %", "4/5"), "policy.yaml").digest() == digest
    for old, new in [("80 %", "79 %"), ("min_stay_days: 30", "min_stay_days: 31"), ("hold", "provisional")]:
        assert parse_policy(mutated(old, new), "policy.yaml").digest() != digest


def test_no_day_is_made_anew_for_another_horizon():
    was, longer, served = (
        parse_policy(TEXT.replace(*change), "policy.yaml")
        for change in (
            ("", ""),
            ("horizon_days: 800", "horizon_days: 900"),
            ("allocation: fifo", "allocation: priority"),
        )
    )
    assert policy_change(policy_state(was), longer) is None
    assert policy_change(policy_state(was), served) is not None


def test_policy_survives_pickling():
    policy = parse_policy(TEXT, "policy.yaml")
    again = pickle.loads(pickle.dumps(policy))
    assert again == policy
    assert again.digest() == policy.digest()


CARD = "versions[0].credit_score"
DECAY = "versions[0].credit_decay"
FAULTS = [
    ("{A: 80 %, B: 95 %}", "{A: 0.8, B: 95 %}", "versions[0].abc.cuts.A: 0.8: write a share"),
    ("{A: 80 %, B: 95 %}", "{A: 80 %, B: 195 %}", "versions[0].abc.cuts.B: '195 %': write a share"),
    ("{A: 80 %, B: 95 %}", "{A: 80 %}", "versions[0].abc.cuts.B: is missing"),
    ("entry: 78 %", "entry: 81 %", "versions[0].abc.buffers.A.entry: '81 %': must be at most cuts.A, 80 %"),
    ("exit: 97 %", "exit: 94 %", "versions[0].abc.buffers.B.exit: '94 %': must be at least cuts.B, 95 %"),
    ("exit: 82 %", "exit: 98 %", "versions[0].abc.buffers.A.exit: '98 %': must be at most B's, 97 %"),
    ("{A: 80 %, B: 95 %}", "{A: 96 %, B: 95 %}", "versions[0].abc.cuts.A: '96 %': must be at most B's, 95 %"),
    (
        "metric: wh_365d",
        "metric: wh_366d",
        "versions[0].abc.metric: 'wh_366d': did you mean 'wh_365d'? It must be one of wh_7d, ",
    ),
    ("metric: wh_365d", "metric: growth_90d_ppm", "versions[0].abc.metric: 'growth_90d_ppm': must be one of wh_7d, "),
    ("horizon_days: 800", "horizon_days: 399", "ledger.horizon_days: 399: must be greater than or equal to 400"),
    ("scope: all", "scope: al", "versions[0].abc.scope: 'al': must be 'all' or 'category'"),
    ("rule: cumulative_share", "rule: share", "versions[0].abc.rule: 'share': must be 'cumulative_share', "),
    ("scope: all", "scop: all", "versions[0].abc.scop: 'all': no such key; there are metric, scope, rule,"),
    ("effective_from: 2000-01-01", "effective_from: soon", "versions[0].effective_from: 'soon': must be a day"),
    ("effective_from: 2000-01-01", "effective_from: 20000101", "versions[0].effective_from: 20000101: must be a day"),
    (
        "effective_from: 2000-01-01",
        "effective_from: 2000-02-31",
        "versions[0].effective_from: '2000-02-31': must be a day",
    ),
    ('version: "1"', "version: 1", "versions[0].version: 1: must be text"),
    ("min_stay_days: 30", "min_stay_days: 3.5", "versions[0].min_stay_days: 3.5: must be a whole number"),
    ("min_stay_days: 30", "min_stay_days: -1", "versions[0].min_stay_days: -1: must be greater than or equal to 0"),
    ("below_floor: hold", "below_floor: wait", "day_close.below_floor: 'wait': must be 'hold' or 'provisional'"),
    ("coverage_floor_ppm: 900000", "coverage_floor_ppm: 0.9", "day_close.coverage_floor_ppm: 0.9: must be a whole"),
    ("coverage_floor_ppm: 900000", "coverage_floor_ppm: 9000000", "day_close.coverage_floor_ppm: 9000000: must be"),
    ("severities: {}", "severities: {tierz: warn}", "audit.severities: 'tierz' names no expectation"),
    ("severities: {}", "severities: {tiers: wan}", "audit.severities.tiers: 'wan': must be 'warn' or 'block'"),
    ("day_close:", "day_clse:", "day_close: is missing"),
    ("tier: mid_large", "tier: large", "versions[0].tiers[6].tier: 'large': must be 'high', "),
    ("grade: C", "grade: D", "versions[0].credit_grades[0].grade: 'D': must be 'A', 'B' or 'C'"),
    ("rule: average", "rule: stay", f"{RULE_PATH}.rule: 'stay': write a name"),
    ("rule: average", "rule: Average", f"{RULE_PATH}.rule: 'Average': write a name"),
    ("rule: average", "rule: large", f"{RULE_PATH}.rule: 'large': another rule"),
    ("warn_days: 15", "warn_days: 0", "versions[0].abuse_ladder.warn_days: 0: must be"),
    (
        "release: inspection_passed",
        "release: soon",
        "versions[0].abuse_ladder.release: 'soon': must be 'inspection_passed' or",
    ),
    (
        "release: inspection_passed",
        "release: tier_left",
        "versions[0].abuse_ladder.restrict_days: 30: is only for release",
    ),
    ("immediate: true", "immediate: 1", "versions[0].tiers[0].immediate: 1: must be true or false"),
    ("abc, equals: B", "abd, equals: B", f"{RULE_PATH}.when[0].column: 'abd': must be one of category, abc, "),
    ("abc, equals: B", "abc", f"{RULE_PATH}.when[0]: []: write exactly one of at_least, "),
    ("abc, equals: B", "abc, equals: B, one_of: [A]", f'{RULE_PATH}.when[0]: ["equals", "one_of"]: write exactly one'),
    ("abc, equals: B", "abc, equal: B", f"{RULE_PATH}.when[0].equal: 'B': no such key; there are column, at_least"),
    ("abc, equals: B", "abc, at_least: 1", f"{RULE_PATH}.when[0].at_least: 1: abc is text"),
    ("abc, equals: B", "abc, equals: D", f"{RULE_PATH}.when[0].equals: 'D': must be one of A, B, C"),
    ("abc, equals: B", "abc, one_of: []", f"{RULE_PATH}.when[0].one_of: []: name at least one value"),
    ("abc, equals: B", "abc, one_of: B", f"{RULE_PATH}.when[0].one_of: 'B': must be a list"),
    ("abc, equals: B", "wh_30d, equals: B", f"{RULE_PATH}.when[0].equals: 'B': must be a whole number of Wh"),
    ("abc, equals: B", "wh_30d, equals: 1.5", f"{RULE_PATH}.when[0].equals: 1.5: must be a whole number or text"),
    ("abc, equals: B", "wh_30d, above: 1.5", f"{RULE_PATH}.when[0].above: 1.5: must be a whole number"),
    ("abc, equals: B", "wh_30d, above: -1", f"{RULE_PATH}.when[0].above: -1: must be a whole number of Wh from 0"),
    ("abc, equals: B", "wh_30d, above: 1, or_null: true", f"{RULE_PATH}.when[0].or_null: true: wh_30d is never null"),
    ("abc, equals: B", "account_id, equals: B", f"{RULE_PATH}.when[0].column: 'account_id': must be one of category"),
    ("- {column: abc, equals: B}", "- abc", f"{RULE_PATH}.when[0]: 'abc': must be a mapping with the keys column, "),
    (
        "oldest_overdue_days, above: 90",
        "abc, equals: A",
        "versions[0].credit_score.demerits[1].when[0].column: 'abc': must be",
    ),
    ("overdue_minor, equals: 0", "abc, equals: A", "versions[0].credit_grades[4].when[1].column: 'abc': must be"),
    (
        "exit: 68}\n      - grade: C\n",
        "exit: 68}\n",
        'versions[0].credit_grades[5].when: ["credit_score"]: the last rule must have no `when`: it takes all that is left; now '
        "none is met by an account with days_since_theft 730, days_since_tampering 730, days_since_violation 365, tenure_days 365, "
        "credit_score 0",
    ),
    (
        "grade: B\n        when:\n          - {column: credit_score, at_least: 70, exit: 68}",
        "grade: B\n        when:\n          - {column: tenure_days, at_most: 364}",
        'versions[0].credit_grades[5].when: ["tenure_days"]: is never reached: rules before it take all that it would, as rule '
        "0 an account with tenure_days 0, days_since_theft 0",
    ),
    (
        "abc, equals: B",
        "abc, one_of: [A]",
        f'{RULE_PATH}.when: ["abc"]: is never reached: rules before it take all that it would, as rule 0 an account with abc A, ',
    ),
    (
        "- {column: growth_90d_ppm, at_least: 500000}",
        "- {column: growth_90d_ppm, at_least: 500000}\n          - {column: growth_90d_ppm, below: 9}",
        'versions[0].tiers[8].when: ["credit_grade", "growth_90d_ppm", "growth_90d_ppm", "days_90d", "received_90...: no account '
        "meets all of these conditions",
    ),
    (
        "at_least: 90, exit: 88",
        "at_least: 90, exit: 91",
        "versions[0].credit_grades[4].when[0].exit: 91: must be at most 90, as `at_least`",
    ),
    (
        "at_most: 700000, exit: 750000",
        "at_most: 700000, exit: 1",
        f"{STABLE}.when[2].exit: 1: must be at least 700000, as `at_most` says",
    ),
    (
        "at_most: 700000, exit: 750000",
        "at_most: 700000, exit: yes",
        f"{STABLE}.when[2].exit: true: must be a whole number",
    ),
    (
        "abc, equals: A",
        "abc, equals: A, exit: 3",
        f"{STABLE}.when[0].exit: 3: needs one of at_least, at_most, above, below",
    ),
    (
        "at_least: 90, exit: 88",
        "at_least: 90, exit: -1",
        "versions[0].credit_grades[4].when[0].exit: -1: must be a whole number of points",
    ),
    (
        "oldest_overdue_days, above: 365",
        "oldest_overdue_days, above: 365, exit: 300",
        "versions[0].credit_score.demerits[2].when[0].exit: 300: is for the rules of grades and tiers",
    ),
    ("tier_order: [abuse,", "tier_order: [high, abuse,", "versions[0].tier_order[6]: 'high': stands there already"),
    ("tier_order: [abuse,", "tier_order: [new, abuse,", "versions[0].tier_order[0]: 'new': must be 'high', "),
    (
        "one_notch: []",
        "one_notch: [high, low_small]",
        'versions[0].one_notch: ["high", "low_small"]: must go upwards, as tier_order',
    ),
    ("one_notch: []", "one_notch: [high, high]", "versions[0].one_notch[1]: 'high': stands there already"),
    ("- reference  ", "- payment  ", "versions[0].cause_order: ["),
    ("- payment  ", "- due_date  ", "versions[0].cause_order: ["),
    ("      - grade: A\n", "      - grade: B\n      - grade: A\n", "versions[0].credit_grades[4].when: []: only the"),
    (
        "{half_life_days: 180}",
        "{half_life_days: 29}",
        f"{DECAY}.half_life_days: 29: must be greater than or equal to 30",
    ),
    ("{half_life_days: 180}", "{half_life_days: 90.0}", f"{DECAY}.half_life_days: 90.0: must be a whole number"),
    (
        "{half_life_days: 180}",
        "{half_life: 90}",
        f"{DECAY}.half_life: 90: no such key; there are half_life_days, weights",
    ),
    ("{half_life_days: 180}", "{}", f"{DECAY}: []: write exactly one of half_life_days, weights"),
    (
        "{half_life_days: 180}",
        f"{{half_life_days: 180, weights: {[1] * 13}}}",
        f'{DECAY}: ["half_life_days", "weights"]: write exactly one',
    ),
    (
        "{half_life_days: 180}",
        "{weights: [1, 1]}",
        f"{DECAY}.weights: [1, 1]: must be 13 whole numbers from 0 up, not all 0",
    ),
    ("{half_life_days: 180}", f"{{weights: {[0] * 13}}}", f"{DECAY}.weights: {[0] * 13}: must be 13 whole numbers"),
    (
        "{half_life_days: 180}",
        f"{{weights: {[1 << 40] + [0] * 12}}}",
        f"{DECAY}.weights: {[1 << 40] + [0] * 12}: must be 13 whole",
    ),
    ("{half_life_days: 180}", "{weights: [1, -1]}", f"{DECAY}.weights[1]: -1: must be greater than or equal to 0"),
    ("{half_life_days: 180}", "{weights: [1, 0.5]}", f"{DECAY}.weights[1]: 0.5: must be a whole number"),
    ("{half_life_days: 180}", "{weights: 1}", f"{DECAY}.weights: 1: must be a list"),
    ("weight: 50", "weight: 49", f"{CARD}.parts: [49, 20, 25, 5]: the weights must add up to 100, not 99"),
    ("weight: 50", "weight: 0", f"{CARD}.parts[0].weight: 0: must be greater than or equal to 1"),
    ("part: delay", "part: punctuality", f"{CARD}.parts[1].part: 'punctuality': another part or demerit has that name"),
    ("demerit: bad_debt", "demerit: delay", f"{CARD}.demerits[1].demerit: 'delay': another part or demerit"),
    (
        "column: oldest_overdue_days\n",
        "column: credit_score\n",
        f"{CARD}.parts[3].column: 'credit_score': must be one of wh_7d",
    ),
    (
        "points: 5, per: bounced_365d",
        "points: 5, per: category",
        f"{CARD}.demerits[0].per: 'category': must be one of wh_7d",
    ),
    (
        "oldest_overdue_days, above: 90",
        "credit_score, at_least: 1",
        f"{CARD}.demerits[1].when[0].column: 'credit_score': must",
    ),
    ("          if_null: 75\n", "", f"{CARD}.parts[0].if_null: null: on_time_decayed_ppm may be null: say how many"),
    (
        "oldest_overdue_days\n          weight: 5",
        "oldest_overdue_days\n          if_null: 1\n          weight: 5",
        f"{CARD}.parts[3].if_null: 1: oldest_overdue_days is",
    ),
    ("            - {points: 20}\n", "", f'{CARD}.parts[0].bins[3]: {{"at_least": 700000}}: the last bin must have no'),
    ("{at_least: 900000, points: 90}", "{points: 90}", f"{CARD}.parts[0].bins[1]: {{}}: write exactly one of at_least"),
    (
        "{at_least: 900000, points: 90}",
        "{at_least: 950000, points: 90}",
        f"{CARD}.parts[0].bins[1].at_least: 950000: is never",
    ),
    (
        "{at_most: 5000, points: 85}",
        "{at_most: 999, points: 85}",
        f"{CARD}.parts[1].bins[1].at_most: 999: is never reached",
    ),
    (
        "{at_least: 900000, points: 90}",
        "{at_most: 5, points: 90}",
        f"{CARD}.parts[0].bins[1].at_most: 5: all bins of a part",
    ),
    ("points: 100}", "points: 101}", f"{CARD}.parts[0].bins[0].points: 101: must be less than or equal to 100"),
]


def test_a_rule_by_the_score_needs_a_scorecard():
    start, end = TEXT.index("    credit_score:\n"), TEXT.index("    # 3. Dimensions")
    with pytest.raises(ConfigError) as raised:
        parse_policy(TEXT[:start] + TEXT[end:], "policy.yaml")
    for path in ("credit_grades[4].when[0].column", "dimensions[2].parts[0].column"):
        assert f"versions[0].{path}: 'credit_score': needs a scorecard: add `credit_score:`" in str(raised.value)


@pytest.mark.parametrize(("old", "new", "message"), FAULTS)
def test_a_fault_is_named_with_its_path_value_and_what_is_allowed(old, new, message):
    with pytest.raises(ConfigError) as raised:
        parse_policy(mutated(old, new), "policy.yaml")
    assert f"policy.yaml: {message}" in str(raised.value)
    assert "versions: [" not in str(raised.value), "only the fault itself is named"


def test_all_faults_are_named_at_once():
    text = mutated("scope: all", "scope: al").replace("min_stay_days: 30", "min_stay_days: no")
    with pytest.raises(ConfigError) as raised:
        parse_policy(text, "policy.yaml")
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"effective_from": date(2024, 3, 1)}, "versions[1].version: '1': another version"),
        ({"version": "2"}, "versions[1].effective_from: '2000-01-01': must be later than 2000-01-01"),
        ({"version": "2", "effective_from": date(1999, 1, 1)}, "versions[1].effective_from: '1999-01-01': must be"),
    ],
)
def test_versions_ascend_and_differ(changes, message):
    with pytest.raises(ConfigError) as raised:
        parse_policy(with_version(**changes), "policy.yaml")
    assert f"policy.yaml: {message}" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "policy.yaml: must be a mapping with the keys versions, day_close, audit"),
        ("- 1", "policy.yaml: must be a mapping with the keys versions, day_close, audit"),
        ("a: [1", "policy.yaml: line 1, column 6: "),
        ("a: {b: 1, b: 2}", "policy.yaml: line 1, column 11: the key 'b' stands twice"),
        ("a: !!python/object:os.system x", "policy.yaml: line 1, column 4: "),
    ],
)
def test_what_is_no_policy_at_all(text, message):
    with pytest.raises(ConfigError) as raised:
        parse_policy(text, "policy.yaml")
    assert str(raised.value).startswith(message)


def test_no_versions():
    document = {**DOCUMENT, "versions": []}
    with pytest.raises(ConfigError, match=r"versions: \[\]: at least one version is needed"):
        parse_policy(yaml.safe_dump(document), "policy.yaml")


def test_load_policy(tmp_path):
    path = tmp_path / "policy.yaml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy(path)
    path.write_bytes(b"versions: \xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_policy(str(path))
    path.write_text(TEXT, "utf-8")
    assert load_policy(path) == parse_policy(TEXT, "policy.yaml")


@given(st.text(max_size=200))
def test_any_text_gives_a_policy_or_a_config_error(text):
    with pytest.raises(ConfigError):
        parse_policy(text, "policy.yaml")


PARTS = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=20)
@given(PARTS, st.sampled_from(["versions", "day_close", "audit"]))
def test_any_document_in_the_place_of_a_part_gives_a_config_error(part, key):
    with pytest.raises(ConfigError):
        parse_policy(yaml.safe_dump({**DOCUMENT, key: part}), "policy.yaml")


def test_metrics_are_whole_amounts_without_nulls():
    assert "wh_365d" in METRICS
    assert "billed_365d_minor" in METRICS
    assert not any(FEATURES[name].nullable for name in METRICS)


def test_a_day_after_the_last_version_has_the_last():
    policy = parse_policy(TEXT, "policy.yaml")
    assert policy.on(policy.versions[-1].effective_from + timedelta(days=36500)) == policy.versions[-1]


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ("frozen: {severity: flag", "frozen: {severity: reject", "'flag' or 'off'"),
        ("sum_check: {severity: flag", "sum_check: {severity: estimate", "'flag', 'reject' or 'off'"),
        ("spike: {severity: flag", "spike: {severity: drop", "'flag', 'estimate', 'reject' or 'off'"),
    ],
)
def test_a_rule_takes_the_severities_that_it_can_have(old, new, allowed):
    name = old.split(":")[0]
    with pytest.raises(ConfigError) as raised:
        parse_policy(mutated(old, new), "policy.yaml")
    value = new.rsplit(" ", 1)[1]
    assert str(raised.value) == f"policy.yaml: versions[0].vee.{name}.severity: {value!r}: must be {allowed}"


def test_too_little_is_less_than_the_smallest_like_day():
    with pytest.raises(ConfigError, match=r"versions\[0\]\.vee\.low\.factor_ppm: 1000001: "):
        parse_policy(
            mutated("low: {severity: flag, factor_ppm: 100000", "low: {severity: flag, factor_ppm: 1000001"), "p"
        )


@pytest.mark.parametrize("module", [schemas.document, schemas.rankings])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0
