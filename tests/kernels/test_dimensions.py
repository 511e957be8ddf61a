"""Scores of the dimensions against the definition in plain Python, account by account."""

from __future__ import annotations

from datetime import date
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.inbound import CATEGORIES
from schemas.marts import SCORE_COLUMNS
from schemas.policy import default_policy_text, parse_policy
from tests.oracles.whole import World
from transforms.dimension_scores import scored
from transforms.kernels.dimensions import dimension_points, dimension_scores

TEXT = default_policy_text()
SMALL = """    dimensions:
      - dimension: potential
        parts:
          - part: growth
            column: growth_90d_ppm
            weight: 55
            scope: region
            top: [{share: 1/3, points: 91}, {share: 1/2, points: 47}, {points: 3}]
            if_null: 12
          - part: use
            column: wh_7d
            weight: 30
            scope: category
            order: smallest_first
            top: [{share: 20 %, points: 77}, {points: 5}]
          - {part: read, column: days_90d, weight: 15, bins: [{at_least: 2, points: 99}, {points: 1}]}
      - dimension: credit
        parts: [{part: score, column: credit_score, weight: 100, points: value, if_null: 50}]
      - dimension: scale
        parts: [{part: use, column: wh_7d, weight: 100, top: [{share: 1/3, points: 91}, {points: 0}]}]

"""
START, END = TEXT.index("    # 3. Dimensions"), TEXT.index("    # 4. Credit")
POLICY = parse_policy(TEXT[:START] + SMALL + TEXT[END:], "policy.yaml")
VERSION, DAY = POLICY.versions[0], date(2024, 1, 1)

ROW = st.fixed_dictionaries({
    "growth_90d_ppm": st.one_of(st.none(), st.integers(-2, 2)), "wh_7d": st.integers(0, 3), "days_90d": st.integers(0, 3),
    "credit_score": st.one_of(st.none(), st.integers(0, 100)), "category": st.sampled_from(CATEGORIES),
    "region": st.sampled_from([None, "N|=1", "n"]),
})  # fmt: skip
ROWS = st.dictionaries(st.text("aé~Z", min_size=1, max_size=3), ROW, max_size=9)


def world(rows):
    """What the oracle needs of one: the policy, and the accounts' regions."""
    out = SimpleNamespace(policy=POLICY, account=lambda account, day: rows[account])
    for name in ("percentiles", "scope", "scores", "points"):
        setattr(out, name, getattr(World, name).__get__(out))
    return out


def columns_of(rows):
    out = {
        "category": np.array([CATEGORIES.index(row["category"]) for row in rows.values()], np.int8),
        "region": np.array([row["region"] or "" for row in rows.values()], np.object_),
    }
    for name in ("growth_90d_ppm", "wh_7d", "days_90d", "credit_score"):
        values = [row[name] for row in rows.values()]
        out[name] = np.ma.masked_array([v or 0 for v in values], [v is None for v in values], dtype=np.int64)
    return out


def found_of(rows):
    out = {}
    for (metric, scope, *_, order, num, den), row in world(rows).percentiles(DAY, rows).items():
        out.setdefault((metric, order, scope), {})[num, den] = row["amount"], row["boundary_account_id"]
    return out


@given(ROWS)
def test_the_scores_are_the_definitions(rows):
    ids, found = pa.array(list(rows), pa.string()), found_of(rows)
    scores = dimension_scores(VERSION, columns_of(rows), ids, found)
    wanted = world(rows).scores(DAY, rows)
    assert set(scores) == {SCORE_COLUMNS[d.dimension] for d in VERSION.dimensions}
    for dimension in VERSION.dimensions:
        name = dimension.dimension
        assert scores[SCORE_COLUMNS[name]].tolist() == [wanted[account][name] for account in rows]
        points = dimension_points(VERSION, columns_of(rows), ids, found)[name]
        total = sum(part.weight * points[part.part] for part in dimension.parts)
        assert (total // 100).tolist() == scores[SCORE_COLUMNS[name]].tolist()


@given(ROWS, st.data())
def test_scores_of_some_accounts_are_theirs_among_all(rows, data):
    some = data.draw(st.lists(st.sampled_from(sorted(rows)), unique=True)) if rows else []
    found = found_of(rows)
    every = dimension_scores(VERSION, columns_of(rows), pa.array(list(rows), pa.string()), found)
    mine = dimension_scores(VERSION, columns_of({a: rows[a] for a in some}), pa.array(some, pa.string()), found)
    places = [list(rows).index(account) for account in some]
    for name, score in mine.items():
        assert score.tolist() == every[name][places].tolist()


def test_without_cut_offs_nobody_is_among_the_first():
    rows = {
        "a": {
            "growth_90d_ppm": 1,
            "wh_7d": 9,
            "days_90d": 2,
            "credit_score": 120,
            "category": "commercial",
            "region": "",
        }
    }
    columns = scored(VERSION, columns_of(rows), pa.array(["a"]), {})
    assert [int(columns[name][0]) for name in ("potential_score", "credit_dimension_score", "scale_score")] == [
        18,
        100,
        0,
    ]


FAULTS = [
    ("weight: 55", "weight: 54", "dimensions[0].parts", "the weights must add up to 100, not 99"),
    ("dimension: scale", "dimension: credit", "dimensions[2].dimension", "is there twice"),
    ("column: days_90d", "column: days", "dimensions[0].parts[2].column", "must be one of"),
    ("            if_null: 12\n", "", "dimensions[0].parts[0].if_null", "may be null: say how many points that gives"),
    ("share: 1/2", "share: 1/3", "dimensions[0].parts[0].top[1].share", "must be above that of the bin before, 1/3"),
    ("share: 20 %", "share: 100 %", "dimensions[0].parts[1].top[0].share", "must be below 100 %"),
    ("{share: 1/3, points: 91}, {points: 0}", "{share: 1/3, points: 9}", "dimensions[2].parts[0].top", "at least two bins"),
    ("points: value", "points: value, scope: all", "dimensions[1].parts[0].scope", "is only for a part with `top:`"),
    ("points: value,", "", "dimensions[1].parts[0]", "write exactly one of bins, top, points"),
    ("{part: read,", "{part: growth,", "dimensions[0].parts[2].part", "has that name"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "path", "allowed"), FAULTS)
def test_a_fault_of_dimensions_is_named_with_its_path(old, new, path, allowed):
    assert old in SMALL
    text = TEXT[:START] + SMALL.replace(old, new) + TEXT[END:]
    with pytest.raises(ConfigError) as error:
        parse_policy(text, "p.yaml")
    assert any(f"p.yaml: versions[0].{path}:" in line and allowed in line for line in str(error.value).splitlines())


RULE = "        when:\n          - {{column: {}, at_least: {}}}\n"


@pytest.mark.parametrize(
    ("column", "value", "allowed"),
    [("loyalty_score", 50, "needs its dimension"), ("scale_score", 101, "from 0 to 100"), ("value_score", 1, "must be one of")],
)  # fmt: skip
def test_a_rule_by_a_score_needs_its_dimension(column, value, allowed):
    old = "      - rule: small\n        tier: low_small\n"
    new = "      - rule: by_score\n        tier: high\n" + RULE.format(column, value) + old
    with pytest.raises(ConfigError, match=allowed):
        parse_policy((TEXT[:START] + SMALL + TEXT[END:]).replace(old, new), "p.yaml")
    with pytest.raises(ConfigError, match="must be one of"):  # no grade goes by a score of a dimension
        parse_policy(
            TEXT.replace("- {column: credit_score, at_least: 90, exit: 88}", "- {column: scale_score, at_least: 9}"),
            "p.yaml",
        )
    assert parse_policy(
        TEXT.replace(old, new.replace(f"{column}, at_least: {value}", "scale_score, at_least: 9")), "p.yaml"
    )
