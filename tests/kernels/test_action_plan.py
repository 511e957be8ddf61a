"""The plan of scarce actions: its laws, held against brute force, and an example to check by hand."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.actions import ACTIONS, RESOURCES, STANDING
from schemas.capacity import parse_capacity
from schemas.strategy import Strategy
from transforms.kernels.action_plan import (
    LIMIT,
    Candidates,
    Given,
    Places,
    applying,
    counted,
    give_out,
    go_on,
    hand_on,
    may_rest,
    places,
)
from transforms.kernels.windows import date_of

BONUS = 300_000
BOOK = {  # action -> resource, days until again
    "account_manager": ("managers", None), "follow_up_call": ("calls", 3), "valley_tariff_offer": ("calls", 5),
    "dunning_notice": ("calls", 1),
}  # fmt: skip


def strategy(*rules: tuple[str, int], order: str = "priority_then_value", bonus: int = BONUS) -> Strategy:
    """rules: (action, priority)."""
    actions = [
        {"action": action, "reason": f"r{number}", "due_days": 1, "priority": priority, "resource": BOOK[action][0],
         "again_days": BOOK[action][1]}
        for number, (action, priority) in enumerate(rules)
    ]  # fmt: skip
    return Strategy.model_validate({"order": order, "keep_bonus_ppm": bonus, "actions": tuple(actions)}, strict=False)


CALLS = strategy(("dunning_notice", 1), ("follow_up_call", 2), ("valley_tariff_offer", 2))
CALLS_BY_VALUE = strategy(("dunning_notice", 1), ("follow_up_call", 2), ("valley_tariff_offer", 2), order="value")
MANAGERS = strategy(("account_manager", 2), ("account_manager", 3))

Wish = tuple[str, int, int]
"""Account, rule, value."""


def candidates(wishes: list[Wish]) -> Candidates:
    ids, rules, values = zip(*wishes, strict=True) if wishes else ((), (), ())
    return Candidates(pa.array(ids, pa.string()), np.array(rules, np.int8), np.array(values, np.int64))


def before(pairs: dict[tuple[str, str], int]) -> Given:
    """(account, action) -> day."""
    return Given(
        pa.array([account for account, _ in pairs], pa.string()),
        np.array([ACTIONS.index(action) for _, action in pairs], np.int8), np.array(list(pairs.values()), np.int32),
    )  # fmt: skip


def took(rules: Strategy, resource: str, day: int, free: int, wishes: list[Wish], given: Given) -> dict[str, int]:
    """Who gets a place: account -> rule."""
    found = candidates(wishes)
    done = give_out(rules, resource, day, Places(free, free), found, given)
    at = done.at[: done.placed]
    return dict(zip(found.account.take(pa.array(at)).to_pylist(), found.rule[at].tolist(), strict=True))


DAY = 20_000


@st.composite
def worlds(draw: st.DrawFn, rules: Strategy, resource: str) -> tuple[list[Wish], dict[tuple[str, str], int], int]:
    """Wishes of some accounts, what was given out before, and the places: with ties, zeros and negatives."""
    accounts = [f"a{n}" for n in range(draw(st.integers(1, 7)))]
    wishes, given_out = list[Wish](), dict[tuple[str, str], int]()
    for account in accounts:
        value = draw(st.sampled_from((0, 7, 8, 9, 10, 11, 12, -3, LIMIT * 2)))
        taken = set()
        for number, rule in enumerate(rules.actions):
            if rule.action not in taken and draw(st.booleans()):
                taken.add(rule.action)
                wishes.append((account, number, value))
            if draw(st.integers(0, 3)) == 0:
                since = DAY - (draw(st.integers(1, 30)) if resource == STANDING else draw(st.integers(1, 6)))
                given_out[account, rule.action] = since
    return draw(st.permutations(wishes)), given_out, draw(st.integers(0, 4))


BOTH = [(CALLS, "calls"), (CALLS_BY_VALUE, "calls"), (MANAGERS, "managers")]


def stands(rules: Strategy, resource: str, wish: Wish, given_out: dict[tuple[str, str], int]) -> tuple | None:
    """How a wish stands in the order, by the definition; None where it rests."""
    account, number, value = wish
    rule = rules.actions[number]
    since = given_out.get((account, rule.action))
    count = min(value, LIMIT)
    if resource == STANDING:
        count += max(count, 0) * BONUS // 1_000_000 if since is not None else 0
    elif since is not None and DAY - since < rule.again_days:
        return None
    key = (-count, rule.priority) if rules.order == "value" else (rule.priority, -count)
    return (*key, account, number)


@pytest.mark.parametrize(("rules", "resource"), BOTH)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_who_gets_a_place_is_who_comes_first_and_nobody_is_skipped(rules, resource, data):
    wishes, given_out, free = data.draw(worlds(rules, resource))
    got = took(rules, resource, DAY, free, wishes, before(given_out))
    assert len(got) <= free
    standing = {wish: key for wish in wishes if (key := stands(rules, resource, wish, given_out)) is not None}
    best = {account: min(key for wish, key in standing.items() if wish[0] == account) for account, *_ in standing}
    expected = sorted(best.values())[:free]
    assert sorted(best[account] for account in got) == expected
    assert all(got[key[2]] == key[3] for key in expected)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_no_other_plan_within_the_places_is_worth_more(data):
    """By value alone, where an account has one wish: against every choice of so many accounts."""
    values = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=7))
    wishes = [(f"a{n}", 0, value) for n, value in enumerate(values)]
    held = {(f"a{n}", "account_manager"): 1 for n in range(len(values)) if data.draw(st.booleans())}
    free = data.draw(st.integers(0, 4))
    rules = strategy(("account_manager", 1), order="value")
    worth = {a: v + (v * BONUS // 1_000_000 if (a, "account_manager") in held else 0) for a, _, v in wishes}
    best = max(sum(worth[a] for a in some) for k in range(free + 1) for some in combinations(worth, min(k, len(worth))))
    assert sum(worth[a] for a in took(rules, STANDING, DAY, free, wishes, before(held))) == best


@pytest.mark.parametrize(("rules", "resource"), BOTH)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_one_changed_account_changes_its_own_place_and_one_others_at_most(rules, resource, data):
    wishes, given_out, free = data.draw(worlds(rules, resource))
    who = data.draw(st.sampled_from([f"a{n}" for n in range(8)]))
    others = [wish for wish in wishes if wish[0] != who]
    again = [
        (who, number, data.draw(st.integers(-2, 20)))
        for number in range(len(rules.actions))
        if data.draw(st.booleans())
    ]
    again = again[:1] if resource == STANDING else again
    was = took(rules, resource, DAY, free, wishes, before(given_out))
    now = took(rules, resource, DAY, free, others + again, before(given_out))
    changed = {a for a in was.keys() | now.keys() if was.get(a) != now.get(a)}
    assert len(changed - {who}) <= 1
    assert len(changed) <= 2


@pytest.mark.parametrize(("rules", "resource"), BOTH)
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_another_place_takes_none_away(rules, resource, data):
    wishes, given_out, free = data.draw(worlds(rules, resource))
    fewer = took(rules, resource, DAY, free, wishes, before(given_out))
    assert fewer.items() <= took(rules, resource, DAY, free + 1, wishes, before(given_out)).items()


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_nobody_loses_a_manager_to_who_is_not_worth_the_bonus_more(data):
    wishes, given_out, free = data.draw(worlds(strategy(("account_manager", 1)), STANDING))
    rules, worth = strategy(("account_manager", 1)), {account: value for account, _, value in wishes}
    holders = [a for a, _ in given_out if a in worth][:free]
    held = before({(a, "account_manager"): 1 for a in holders})
    got = took(rules, STANDING, DAY, free, wishes, held)
    for loser in set(holders) - got.keys():
        for winner in got.keys() - set(holders):
            assert min(worth[winner], LIMIT) >= counted(np.array([worth[loser]]), np.array([True]), BONUS)[0]


@pytest.mark.parametrize(("rules", "resource"), BOTH)
@given(data=st.data(), shards=st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_what_shards_hand_on_gives_the_plan_of_all(rules, resource, data, shards):
    wishes, given_out, free = data.draw(worlds(rules, resource))
    usual = data.draw(st.integers(0, 2))
    of = {account: data.draw(st.integers(0, shards - 1)) for account, *_ in wishes}
    rests = sum(1 for day in given_out.values() if day > DAY - 6)
    handed = list[Wish]()
    for shard in range(shards):
        mine = [wish for wish in wishes if of[wish[0]] == shard]
        ids = sorted({account for account, *_ in mine})
        place = np.array([ids.index(account) for account, *_ in mine], np.int64)
        found, most = candidates(mine), free + usual + (0 if resource == STANDING else rests)
        kept = hand_on(rules, place, found.rule, found.value, most, standing=resource == STANDING)
        assert resource == STANDING or len({mine[at][0] for at in kept}) <= most
        handed += [mine[at] for at in kept]

    def order(some: list[Wish]) -> list[Wish]:
        found = candidates(some)
        done = give_out(rules, resource, DAY, Places(free, usual), found, before(given_out))
        return [some[at] for at in done.at]

    assert order(handed) == order(wishes)


def test_day_after_day_a_call_rests_and_a_manager_stays():
    """Two places. Calls go round; the managers' accounts change only for one worth 30 % more."""
    wishes = [("a", 1, 40), ("b", 1, 30), ("c", 1, 20), ("d", 1, 10)]
    given_out, days = Given.none(), []
    for day in range(DAY, DAY + 5):
        found = candidates(wishes)
        done = give_out(CALLS, "calls", day, Places(2, 2), found, given_out)
        given_out = go_on(CALLS, "calls", day, found, given_out, done)
        days.append((found.account.take(pa.array(done.at[: done.placed])).to_pylist(), done.resting))
    assert days == [(["a", "b"], 0), (["c", "d"], 2), ([], 4), (["a", "b"], 2), (["c", "d"], 2)]

    given_out, held = Given.none(), []
    for day, third in enumerate((10, 25, 26, 27), DAY):
        found = candidates([("a", 0, 40), ("b", 0, 20), ("c", 0, third)])
        done = give_out(MANAGERS, STANDING, day, Places(2, 2), found, given_out)
        given_out = go_on(MANAGERS, STANDING, day, found, given_out, done)
        held.append([*zip(given_out.account.to_pylist(), (given_out.since - DAY).tolist(), strict=True)])
    assert held == [[("a", 0), ("b", 0)], [("a", 0), ("b", 0)], [("a", 0), ("b", 0)], [("a", 0), ("c", 3)]]


def test_of_an_action_the_first_rule_that_holds_applies():
    text = [
        {
            "action": "hotline",
            "reason": "x",
            "due_days": 1,
            "priority": 1,
            "when": ({"column": "tier", "equals": "high"},),
        },
        {"action": "visit", "reason": "y", "due_days": 1, "priority": 1, "resource": "visits", "again_days": 2},
        {"action": "hotline", "reason": "z", "due_days": 1, "priority": 2},
    ]
    rules = Strategy.model_validate({"actions": tuple(text)})
    rows, which = applying(rules, [0, 2], {"tier": np.array([0, 1, 0], np.int8)}, 3)
    assert [*zip(rows.tolist(), which.tolist(), strict=True)] == [(0, 0), (2, 0), (1, 2)]
    assert len(applying(rules, [1], {}, 3)[0]) == 3


STAFF = parse_capacity(
    """
versions:
  - {effective_from: 2025-01-01, managers: {staff: 2, accounts_each: 10, visits_each: 3}, calls: 5, working_days: [mon, tue]}
  - {effective_from: 2025-01-08, inspectors: {staff: 2, inspections_each: 4}, calls: 0}
holidays: [2025-01-07]
""",
    "capacity.yaml",
)


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        ("2025-01-05", {"managers": (20, 20), "visits": (6, 6), "calls": (5, 5)}),  # for Monday, the 6th
        ("2025-01-06", {"managers": (20, 20), "visits": (0, 6), "calls": (0, 5)}),  # for the holiday
        ("2025-01-07", {"inspectors": (8, 8), "calls": (0, 0)}),  # for Wednesday, under the second version
        ("2024-01-01", {"managers": (20, 20), "visits": (6, 6), "calls": (5, 5)}),  # before the first version
    ],
)
def test_places_are_those_of_the_day_after(day, expected):
    number = int(np.datetime64(day).astype(int))
    assert str(date_of(number)) == day
    assert {name: (there.free, there.usual) for name, there in places(STAFF, number).items()} == expected
    assert set(expected) <= set(RESOURCES)


def test_no_more_may_rest_than_were_planned_within_the_longest_rest():
    sunday = int(np.datetime64("2025-01-05").astype(int))
    assert (
        may_rest(partial(places, STAFF), CALLS, "calls", sunday + 1) == 5
    )  # of five days four, and of these one for a working day
    assert may_rest(partial(places, STAFF), CALLS, "inspectors", sunday) == 0
    assert places(None, sunday) == {}
    assert may_rest(partial(places, None), CALLS, "calls", sunday) == 0
