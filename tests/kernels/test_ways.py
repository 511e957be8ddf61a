"""The least changes that lead to other outcomes: they do, and nothing smaller does."""

from __future__ import annotations

import doctest

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import transforms.kernels.ways
from schemas.conditions import Condition
from schemas.policy import TierRule
from transforms.kernels.tiers import first_match
from transforms.kernels.ways import Option, least_changes, thresholds

COLUMNS = ("cv_90d_ppm", "growth_90d_ppm", "oldest_overdue_days")


def test_doctests():
    assert doctest.testmod(transforms.kernels.ways).failed == 0


def decider(rules):
    def decide(columns, n):
        return first_match(rules, columns, n)

    return decide


conditions = st.builds(
    lambda column, op, limit: Condition(**{"column": column, op: limit}),
    st.sampled_from(COLUMNS), st.sampled_from(["at_least", "at_most", "above", "below"]), st.integers(0, 9),
)  # fmt: skip
rule_lists = st.lists(st.lists(conditions, min_size=1, max_size=2), min_size=1, max_size=4).map(
    lambda whens: [
        TierRule(rule=f"r{i}", tier="high", when=tuple(when)) for i, when in enumerate([*whens, []])
    ]
)  # fmt: skip
accounts = st.fixed_dictionaries({name: st.none() | st.integers(0, 9) for name in COLUMNS})


@given(rule_lists, accounts)
def test_each_way_leads_there_and_no_change_of_fewer_columns_does(rules, values):
    decide = decider(rules)

    def outcome(some):
        columns = {n: np.ma.masked_array([v or 0], [v is None]) for n, v in some.items()}
        return int(decide(columns, 1)[0])

    now = outcome(values)
    options = {name: [Option(n) for n in thresholds(rules, name, values[name])] for name in COLUMNS}
    found = least_changes(values, options, decide, now)
    for reached, changes in found.items():
        assert outcome(values | {name: option.value for name, option in changes}) == reached != now
    for name in COLUMNS:
        for other in range(-1, 11):
            reached = outcome(values | {name: other})
            if other != values[name] and reached != now and other >= 0:
                assert len(found[reached]) == 1


def test_what_cannot_be_brought_about_comes_last():
    rules = [
        TierRule(rule="late", tier="abuse", when=(Condition(column="oldest_overdue_days", at_least=5),)),
        TierRule(rule="rest", tier="high"),
    ]
    values = {"oldest_overdue_days": 3, "cv_90d_ppm": None, "growth_90d_ppm": 0}
    options = {"oldest_overdue_days": [Option(5, far=True), Option(6)]}
    (changes,) = least_changes(values, options, decider(rules), 1).values()
    assert changes == (("oldest_overdue_days", Option(6)),)
