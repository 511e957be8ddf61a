"""Provisional tiers against the clerk and the row-by-row rules, and against the kernel that moves tiers on by a day."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.conditions import STAY
from schemas.marts import CLASSES, TIERS
from schemas.policy import Policy, parse_policy
from tests.kernels.test_conduct import findings
from tests.kernels.test_conduct import table as found_table
from tests.kernels.test_ledger import LONG, SHORT, START, number, table, worlds
from tests.kernels.test_tiers import POLICY, SIDES, DayLevels, Held, ruled
from tests.oracles.ledger import Event, features
from transforms.account_events import CONDUCT
from transforms.kernels.conduct import Conduct
from transforms.kernels.credit import credit_features
from transforms.kernels.ledger import Ledger
from transforms.kernels.provisional import ROWS, Base, Events, Part, latest_days, reclassify
from transforms.kernels.score import credit_score
from transforms.kernels.tiers import Facts, Memory, decide
from transforms.kernels.windows import date_of
from transforms.provisional_view import Findings

ACCOUNTS = 2
RULES: Policy = parse_policy(
    POLICY.replace("2015-01-01", "2023-02-01")
    .replace("column: on_time_365d_ppm, weight", "column: on_time_decayed_ppm, weight")
    .replace(
        "    credit_score: *score\n",
        "    credit_score: *score\n    credit_decay: {weights: [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]}\n",
    ),
    "policy.yaml",
)
CODE = st.integers(0, 2)
DAY = number(START) + 9
NOTHING_FOUND = Conduct(CONDUCT.kept.empty_table())
WORLDS = st.one_of(worlds(SHORT), worlds(LONG))


IDS = pa.array([f"A{n}" for n in range(ACCOUNTS)])


@st.composite
def bases(draw, day):
    """What is held of both accounts, and the same as the rules' oracle wants it."""
    growth = [draw(st.sampled_from([None, -1, 0, 7])) for _ in range(ACCOUNTS)]
    category = [draw(st.integers(0, 3)) for _ in range(ACCOUNTS)]
    tenure = [draw(st.sampled_from([100, 103, 104, 200])) for _ in range(ACCOUNTS)]
    tier, abc, grade = ([draw(code) for _ in range(ACCOUNTS)] for code in (st.integers(0, 6), CODE, CODE))
    since = [day - draw(st.integers(0, 5)) for _ in range(ACCOUNTS)]
    columns = {
        "growth_90d_ppm": np.ma.masked_array([g or 0 for g in growth], [g is None for g in growth]),
        "category": np.array(category, np.int8),
        "tenure_days": np.array(tenure, np.int32),
    }
    codes = *(np.array(some, np.int8) for some in (tier, abc, grade)), np.array(since, np.int32)
    names = ("residential", "commercial", "industrial", "agricultural")
    held = zip(growth, category, tenure, strict=True)
    rows = [{"growth_90d_ppm": g, "category": names[c], "tenure_days": t} for g, c, t in held]
    return Base(day, *codes, columns, IDS, {}), rows


def expected(base: Base, row: dict, slot: int, credit: dict, day: int) -> tuple[str, str, str, str]:
    """Tier, grade, rule and version by the page."""
    version, nothing = RULES.on(date_of(day)), {"days_since_violation": None}
    held = Held(TIERS[base.tier[slot]], CLASSES[base.abc[slot]], CLASSES[base.grade[slot]], int(day - base.since[slot]))
    found = ruled(version, {**row, **credit, **nothing}, CLASSES[base.abc[slot]], held)
    return found.tier, found.grade, found.rule, version.version


def told(outcome, at: int) -> tuple[str, str, str, str]:
    return TIERS[outcome.tier[at]], CLASSES[outcome.grade[at]], outcome.rule[at], outcome.version[at]


@settings(max_examples=150)
@given(rows=WORLDS, data=st.data())
def test_as_the_page_says_whatever_is_in_the_base_and_what_came_since(rows, data):
    base, held = data.draw(bases(DAY))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), min_size=2, max_size=4)))
    ledger = Events([Part.of(table(rows[: cuts[0]]))])
    later = Events()
    for first, last in zip(cuts, [*cuts[1:], len(rows)], strict=True):
        later.add(table(rows[first:last]))
    slots = np.array(data.draw(st.sampled_from([[0], [1], [0, 1]])))
    days = latest_days(base, slots, later.rows_of(slots))
    events = pa.concat_tables([ledger.rows_of(slots), later.rows_of(slots)])
    outcome = reclassify(base, RULES, events, NOTHING_FOUND, slots, days)
    for at, slot in enumerate(slots.tolist()):
        mine = [event for other, event in rows[cuts[0] :] if other == slot]
        day = max([base.day, *(number(event.event_date) for event in mine)])
        assert days[at] == day
        weights = RULES.on(date_of(day)).credit_decay.table()
        credit = features([event for other, event in rows if other == slot], date_of(day), weights=weights)
        assert told(outcome, at) == expected(base, held[slot], slot, credit, day)


@settings(max_examples=150)
@given(rows=WORLDS, data=st.data())
def test_as_a_whole_day_would_with_classes_held(rows, data):
    """The fold of a full day, given cut-offs under which every class stays, moves the accounts to the same tiers."""
    base, _ = data.draw(bases(DAY))
    day = base.day + data.draw(st.one_of(st.integers(1, 4), st.integers(1, 400)))
    slots = np.arange(ACCOUNTS)
    outcome = reclassify(base, RULES, table(rows), NOTHING_FOUND, slots, np.full(ACCOUNTS, day))
    version = RULES.on(date_of(day))
    columns = base.columns | credit_features(Ledger.at(table(rows), ACCOUNTS, day), version.credit_decay.table())
    columns |= NOTHING_FOUND.features(day, slots) | {"wh_7d": np.array([(9, 5, 1)[code] for code in base.abc])}
    columns["credit_score"] = credit_score(version.credit_score, columns, ACCOUNTS)
    levels = {side: 9 if side.startswith("a") else 5 for side in SIDES}
    memory = Memory(base.tier, base.abc, base.grade, np.int32(day) - base.since)
    found = decide(Facts(version, columns, DayLevels(levels)), memory)
    assert found.abc.tolist() == base.abc.tolist()
    assert (outcome.tier.tolist(), outcome.grade.tolist()) == (found.tier.tolist(), found.grade.tolist())


@given(rows=st.lists(findings, max_size=8), cut=st.integers(0, 8), slot=st.integers(0, ACCOUNTS - 1))
def test_what_was_found_since_counts_as_if_it_had_been_known(rows, cut, slot):
    held = Findings(found_table(rows[:cut]))
    held.add(found_table(rows[cut:]))
    mine = held.rows_of(np.array([slot]))
    assert sorted(map(str, mine.to_pylist())) == sorted(
        map(str, found_table([row for row in rows if row[0] == slot]).to_pylist())
    )
    whole = Conduct(found_table(rows))
    base = Base(DAY, *(np.zeros(ACCOUNTS, np.int8),) * 3, np.zeros(ACCOUNTS, np.int32), {}, IDS, {})
    (day,) = latest_days(base, np.array([slot]), mine).tolist()
    assert day == max([DAY, *(number(one.event_date) for at, one in rows if at == slot)])
    slots = np.array([slot])
    for name, column in held.conduct.features(day, slots).items():
        assert column.tolist() == whole.features(day, slots)[name].tolist()


@given(rows=WORLDS, sizes=st.lists(st.integers(1, 9), max_size=12), slots=st.sets(st.integers(0, 3)))
def test_events_are_found_by_account_however_they_were_added(rows, sizes, slots):
    whole, events, at = table(rows), Events([Part.of(table(rows[:3]))]), 3
    for size in sizes:
        events.add(whole.slice(at, size))
        at += size
    wanted = [row for row in whole.select(ROWS.names).slice(0, max(3, at)).to_pylist() if row["slot"] in slots]
    found = events.rows_of(np.array(sorted(slots), np.int64)).to_pylist()
    assert sorted(map(str, found)) == sorted(map(str, wanted))
    assert len(events.parts) <= 2 + max(1, at).bit_length()


def test_a_risk_counts_at_once_and_a_rise_waits_for_the_minimum_stay():
    growth = np.ma.masked_array([0, 0], [True, True])
    base = Base(DAY, np.array([1, 2], np.int8), np.array([0, 0], np.int8), np.array([1, 1], np.int8),
                np.array([DAY, DAY], np.int32),
                {"growth_90d_ppm": growth, "category": np.zeros(2, np.int8), "tenure_days": np.full(2, 200, np.int32)},
                IDS, {})  # fmt: skip
    bill = Event("c1", "charge", date_of(DAY - 5), 100, date_of(DAY - 2))
    slots = np.arange(ACCOUNTS)
    outcome = reclassify(base, RULES, table([(0, bill)]), NOTHING_FOUND, slots, np.full(ACCOUNTS, DAY))
    assert [told(outcome, at)[:3] for at in (0, 1)] == [("low_risk", "C", "risky"), ("mid_large", "B", STAY)]
    later = reclassify(base, RULES, table([(0, bill)]), NOTHING_FOUND, slots, np.full(ACCOUNTS, DAY + 3))
    assert told(later, 1)[:3] == ("high", "B", "steady")


SCORED = """    dimensions:
      - dimension: credit
        parts:
          - {part: owed, column: overdue_minor, weight: 60, bins: [{at_most: 0, points: 100}, {points: 0}]}
          - {part: grown, column: growth_90d_ppm, weight: 40, top: [{share: 1/2, points: 100}, {points: 0}], if_null: 0}
    tiers: ["""
DUE = "{rule: owing, tier: low_risk, immediate: true, when: [{column: credit_dimension_score, at_most: 40}]}, "


def test_scores_are_of_the_day_looked_at_and_the_percentiles_of_the_base():
    text = POLICY.replace("    tiers: [", SCORED + DUE)
    found = {("growth_90d_ppm", "largest_first", "all"): {(1, 2): (5, "A0")}}
    columns = {"growth_90d_ppm": np.ma.masked_array([5, 5], False), "category": np.zeros(2, np.int8)}
    codes = np.array([1, 1], np.int8), np.zeros(2, np.int8), np.ones(2, np.int8), np.full(2, DAY - 90, np.int32)
    base, slots = Base(DAY, *codes, columns, IDS, found), np.arange(ACCOUNTS)
    bills = [(at, Event("c1", "charge", date_of(DAY - 5), 100, date_of(DAY - 2))) for at in (0, 1)]
    paid = (0, Event("p1", "payment", date_of(DAY), 100))
    outcomes = [
        reclassify(base, parse_policy(text, "policy.yaml"), table(rows), NOTHING_FOUND, slots, np.full(ACCOUNTS, DAY))
        for rows in (bills, [*bills, paid])
    ]
    # both owe: 40 points and 0, the second being behind the boundary by its id; the first pays: 100 points
    assert [told(outcomes[0], at)[2] for at in (0, 1)] == ["owing", "owing"]
    assert told(outcomes[1], 0)[2] != "owing"
    assert told(outcomes[1], 1)[2] == "owing"
