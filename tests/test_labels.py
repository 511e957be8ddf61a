from __future__ import annotations

import pytest

from schemas.conditions import RESERVED
from schemas.labels import KINDS, LANGS, label, labels
from schemas.marts import CAUSES, CLASSES, MARTS, RULES, SIDES, TIERS
from schemas.policy import default_policy_text, parse_policy

CODED = sorted({(column.name, column.values) for mart in MARTS.values() for column in mart.columns if column.values})


@pytest.mark.parametrize(("column", "codes"), CODED)
def test_every_code_of_the_marts_has_a_label_in_both_languages(column, codes):
    for code in codes:
        assert set(labels()[KINDS[column]][code]) == set(LANGS)


@pytest.mark.parametrize(
    ("kind", "codes"),
    [("tier", TIERS), ("class", CLASSES), ("credit_grade", CLASSES), ("cause", CAUSES), ("abc_rule", RULES),
     ("side", SIDES)],
)  # fmt: skip
def test_no_kind_lacks_a_code(kind, codes):
    assert set(codes) <= set(labels()[kind])


def test_every_rule_of_the_default_policy_has_a_label():
    policy = parse_policy(default_policy_text(), "policy.yaml")
    names = {rule.rule for version in policy.versions for rule in version.tiers}
    assert names | set(RESERVED) == set(labels()["tier_rule"])


def test_every_reason_of_the_default_policy_has_a_label():
    strategies = [version.strategy for version in parse_policy(default_policy_text(), "policy.yaml").versions]
    assert {rule.reason for strategy in strategies for rule in strategy.actions} == set(labels()["action_reason"])


@pytest.mark.parametrize("lang", LANGS)
def test_labels_are_text_and_differ_within_a_kind(lang):
    for codes in labels().values():
        texts = [label_in[lang] for label_in in codes.values()]
        assert all(isinstance(text, str) and text.strip() == text and text for text in texts)
        assert len(set(texts)) == len(texts)


def test_a_rule_of_ones_own_is_shown_by_its_name():
    assert label("tier_rule", "our_own_rule", "zh") == "our_own_rule"
    assert label("tier", "high", "en") == "High value"
    with pytest.raises(KeyError):
        label("teir", "high")
