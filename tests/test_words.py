"""Figures as people read them, and texts of foreign origin that do nothing."""

from __future__ import annotations

import doctest

import pytest

import pipelines.words
from pipelines.words import amount, for_spreadsheet, inert, table
from schemas.conditions import NUMBERS
from schemas.labels import LANGS, labels
from schemas.policy import default_policy_text, parse_policy


def test_doctests():
    assert doctest.testmod(pipelines.words).failed == 0


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@x", "\t=1", " =1", "\r=1"])
def test_no_id_is_a_formula(text):
    assert for_spreadsheet(text).startswith("'")


@pytest.mark.parametrize("text", ["\x1b]0;owned\x07", "a\nb", "\u202eabc", "\x9b2J", "\u2028"])
def test_no_id_commands_the_terminal(text):
    assert inert(text).isprintable()


@pytest.mark.parametrize("lang", LANGS)
def test_every_feature_has_a_label_and_its_unit_words(lang):
    assert sorted(name for name in NUMBERS if lang not in labels()["feature"].get(name, {})) == []
    assert all(amount(1, column.unit, lang) for column in NUMBERS.values())


@pytest.mark.parametrize("lang", LANGS)
def test_every_part_of_a_score_of_the_policy_that_ships_has_a_label(lang):
    (version,) = parse_policy(default_policy_text(), "policy.yaml").versions
    parts = {part.part for dimension in version.dimensions for part in dimension.parts}
    parts |= {part.part for part in version.credit_score.parts} | {d.demerit for d in version.credit_score.demerits}
    assert {part for part in parts if lang not in labels()["score_part"].get(part, {})} == set()


def test_chinese_takes_two_places():
    assert table([["级别", "1"], ["ab", "12"]], frozenset((1,)), "") == ["级别   1", "ab    12"]
