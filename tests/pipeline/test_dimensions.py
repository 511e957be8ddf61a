"""Dimensions of value as published: percentiles, scores and their parts, and tiers that go by them."""

from __future__ import annotations

from datetime import date, timedelta

import duckdb
import pytest

import pipelines.restate
from pipelines.verify import verify
from pipelines.warehouse import Warehouse
from tests.pipeline.bureau import POLICY, Bureau
from tests.pipeline.streams import Epochs
from tests.pipeline.worlds import account, ledger, meter, reading

LONG_AGO = date(2020, 1, 1)

DIMENSIONS = """    dimensions:
      - dimension: current_value
        parts:
          - {part: use, column: wh_7d, weight: 70, top: [{share: 20 %, points: 100}, {share: 50 %, points: 60}, {points: 20}]}
          - {part: in_region, column: wh_30d, weight: 30, scope: region, top: [{share: 1/2, points: 100}, {points: 0}]}
      - dimension: credit
        parts: [{part: score, column: credit_score, weight: 100, points: value, if_null: 50}]
      - dimension: stability
        parts:
          - part: steady
            column: cv_90d_ppm
            weight: 100
            order: smallest_first
            scope: category
            top: [{share: 1/3, points: 90}, {points: 30}]
            if_null: 10
"""
BY_SCORE = "      - {rule: valued, tier: high, when: [{column: current_value_score, at_least: 70}]}\n"


def dimensioned(text=POLICY):
    """A policy with dimensions, and a tier rule by one."""
    text = text.replace("    credit_grades:\n", DIMENSIONS + "    credit_grades:\n")
    return text.replace("      - {rule: unsteady", BY_SCORE + "      - {rule: unsteady")


def day(n):
    return date(2023, 3, 6) + timedelta(days=n)


USE = {"a": 900, "b": 900, "c": 400, "d": 100, "e": 0, "f": 100}
REGIONS = {"a": "N|orth=1", "b": "N|orth=1", "c": "", "d": "", "e": "<s>'\"", "f": "N|orth=1"}


def landed(last, more=()):
    people = [
        account(name, LONG_AGO, "industrial" if name in "abc" else "residential", region=REGIONS[name]) for name in USE
    ]
    meters = [meter(f"m-{name}", name, LONG_AGO) for name in USE]
    used = [
        reading(f"m-{name}", day(n), wh * (1 + n % (1 + i)), 1)
        for n in range(last + 1)
        for i, (name, wh) in enumerate(USE.items())
    ]
    return [*people, *meters, *used, *more]


@pytest.fixture
def bureau(tmp_path):
    return Bureau(tmp_path / "bureau", policy=dimensioned())


def test_scores_follow_from_exact_percentiles_per_scope(bureau):
    bureau.land_all(landed(4))
    bureau.run()
    bureau.check()
    cut = "SELECT scope, cut_num, cut_den, amount, boundary_account_id, inside_customers, customers FROM cutoffs"
    use = bureau.query(
        f"{cut} WHERE rule = 'percentile' AND metric = 'wh_7d' AND service_date = '{day(0)}' ORDER BY ALL"
    )
    assert use == [("all", 1, 2, 400, "c", 3, 6), ("all", 1, 5, 900, "b", 2, 6)]
    scopes = bureau.query("SELECT DISTINCT scope FROM cutoffs WHERE rule = 'percentile' ORDER BY ALL")
    named = {f"region={name}" for name in REGIONS.values()}
    assert {scope for (scope,) in scopes} == {"all", "category=industrial", "category=residential", *named}
    scores = bureau.query(
        f"SELECT account_id, current_value_score, potential_score FROM scores WHERE service_date = '{day(0)}' ORDER BY 1"
    )
    assert scores == [
        ("a", 100, None),
        ("b", 100, None),
        ("c", 72, None),
        ("d", 14, None),
        ("e", 44, None),
        ("f", 14, None),
    ]
    parts = bureau.query(
        "SELECT account_id, service_date, dimension, sum(points * weight) // 100 FROM score_parts GROUP BY ALL"
    )
    told = "UNPIVOT (SELECT account_id, service_date, current_value_score AS current_value, credit_dimension_score AS credit, "
    told += "stability_score AS stability FROM scores) ON current_value, credit, stability"
    assert sorted(parts) == sorted(bureau.query(told))
    assert len(parts) == 3 * len(USE) * 5
    assert bureau.query("SELECT account_id FROM customer_tiers_current WHERE rule = 'valued'")

    changed = "IF(account_id = 'a', current_value_score - 1, current_value_score) AS current_value_score"
    for statement, differs in ((f"SELECT * REPLACE ({changed}) FROM scores", (5, 0)), ("FROM scores LIMIT 0", (0, 30))):
        with duckdb.connect(str(bureau.folder / "warehouse" / "marts.duckdb")) as con:
            con.execute(f"CREATE TABLE other AS {statement}; DROP {'VIEW' if differs[0] else 'TABLE'} scores CASCADE")
            con.execute("ALTER TABLE other RENAME TO scores")
        found = verify(str(bureau.folder / "warehouse" / "marts.duckdb"), bureau.config.policy, all_days=True).marts
        assert [(one.values, one.missing) for one in found if one.mismatches] == [differs]


@pytest.mark.slow
def test_corrections_move_percentiles_and_a_stream_goes_on_alike(bureau, monkeypatch):
    """By account, in a run: use, then a region and a bill. Then by epochs of a stream."""
    monkeypatch.setattr(pipelines.restate, "MOST_PPM", 10**9)
    bureau.land_all(landed(12, [ledger("c", "b1", "charge", day(3), 5_000, day(4), "B1")]))
    bureau.run()
    before = bureau.query("FROM scores")
    bureau.land_all([reading("m-d", day(8), 90_000, 2), reading("m-e", day(9), 700, 2)])
    assert bureau.run().restated_from == day(8)
    changed = set(bureau.query("FROM scores")) - set(before)
    assert {name for name, *_ in changed} - {"d", "e"}, "others were passed over"
    assert {entry.kind for entry in Warehouse(bureau.config.warehouse).load().entries} >= {
        "patch:scores",
        "gone:scores",
    }
    bureau.check()
    moved = account("c", LONG_AGO, "industrial", region="N|orth=1", revision=2)
    bureau.land_all([moved, ledger("c", "p1", "payment", day(10), 5_000, bill="B1")])
    bureau.run()
    epochs = Epochs(bureau)
    later = [reading(f"m-{name}", day(n), wh * n, 1) for n in (13, 14) for name, wh in USE.items()]
    epochs.take_all(
        [[*later, ledger("a", "b2", "charge", day(13), 900, day(13), "B2")], [reading("m-f", day(11), 5, 2)]]
    )
    bureau.check()
