"""`wattier verify` on small published marts: right ones pass, and whatever is changed in them is found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import pytest

from pipelines import oracle
from pipelines.verify import COMPARED, OF_TIERS, _differs, verify
from schemas import ddl
from schemas.errors import StateError
from schemas.marts import MARTS
from tests.oracles.worlds import account, day, event, fill, meter, policy, reading, readings, table


@pytest.fixture
def published(right_publication, tmp_path):
    """A copy of the right publication, to change."""
    return Path(shutil.copy(right_publication, tmp_path / "marts.duckdb"))


@pytest.fixture(scope="module")
def right_publication(tmp_path_factory):
    """Three accounts over nine days, the marts as tables of their schema."""
    path = tmp_path_factory.mktemp("right") / "marts.duckdb"
    with duckdb.connect(str(path)) as con:
        fill(
            con,
            [account("1"), account("2", category="residential"), account("3", opened_on="2016-01-03")],
            [meter("m1", "1"), meter("m2", "2"), meter("m3", "3")],
            [
                *readings("m1", "2016-01-01", [60] * 9),
                *readings("m2", "2016-01-01", [40] * 5 + [200] * 4),
                *readings("m3", "2016-01-03", [1, None, 3, 4, 5, 6, 7]),
                reading("m4", "2016-01-01", 5),
            ],
            [
                event("1", "b", "charge", "2016-01-01", 10, "2016-01-03"),
                event("1", "p", "payment", "2016-01-06", 10),
            ],
        )
        oracle.recompute(con, policy(), day("2016-01-01"), day("2016-01-09"))
        for name in COMPARED:
            con.execute(ddl.create_table(MARTS[name]))
            con.execute(f"INSERT INTO {name} BY NAME SELECT {ddl.column_names(MARTS[name])} FROM oracle.{name}")
        con.execute("DROP SCHEMA oracle CASCADE")
    return path


def change(path, *statements):
    with duckdb.connect(str(path)) as con:
        for statement in statements:
            con.execute(statement)


def lines(path, **options):
    report = verify(str(path), policy(), **({"all_days": True} | options))
    assert report.ok == (not report.differences)
    return [str(difference) for difference in report.differences]


def test_a_right_publication_has_no_mismatch(published):
    before = published.read_bytes()
    report = verify(str(published), policy(), all_days=True)
    assert report.ok
    assert report.mismatches == 0
    rows = {result.mart: (result.days, result.rows) for result in report.marts}
    assert rows["features"] == (9, 9 + 9 + 7)
    assert rows["cutoffs"] == (9, 9 * 10)
    assert rows["pending"] == (None, 1)
    assert set(rows) == set(COMPARED)
    assert published.read_bytes() == before
    assert str(report).startswith("Recomputed from the accepted events: 2016-01-01 to 2016-01-09, all accounts.")
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


CHANGES = [
    (
        "UPDATE features SET wh_30d = wh_30d + 1 WHERE account_id = '1' AND service_date = '2016-01-05'",
        "features 2016-01-05 account 1: wh_30d is 301, expected 300",
    ),
    (
        "UPDATE features SET growth_90d_ppm = 0 WHERE account_id = '1' AND service_date = '2016-01-05'",
        "features 2016-01-05 account 1: growth_90d_ppm is 0, expected empty",
    ),
    (
        "UPDATE customer_tiers SET tier = 'abuse' WHERE account_id = '3'",
        "customer_tiers account 3 valid_from 2016-01-03: tier is abuse, expected low_small",
    ),
    (
        "UPDATE cutoffs SET amount = 59 WHERE service_date = '2016-01-01' AND rule LIKE 'top%' AND class = 'A'",
        "cutoffs 2016-01-01 metric wh_7d scope all rule top_fraction class A side cut "
        "ranked largest_first cut_num 1 cut_den 3: amount is 59, expected 60",
    ),
    (
        "DELETE FROM features WHERE account_id = '2' AND service_date = '2016-01-09'",
        "features 2016-01-09 account 2: the row is missing",
    ),
    (
        "INSERT INTO tier_migrations SELECT * FROM tier_migrations WHERE account_id = '1' ORDER BY ALL LIMIT 1",
        "tier_migrations 2016-01-04 account 1: the row should not be there",
    ),
    (
        "UPDATE accepted_readings SET energy_wh = 39 WHERE meter_id = 'm2' AND service_date = '2016-01-01'",
        "daily_consumption 2016-01-01 account 2: energy_wh is 40, expected 39",
    ),
    ("DELETE FROM pending", "pending source meter_readings delivery 1 row 25: the row is missing"),
    (
        "UPDATE tier_stability SET flaps = flaps + 1 WHERE scope = 'all'",
        "tier_stability month 2016-01-01 scope all: flaps is 2, expected 1",
    ),
    (
        "UPDATE tier_transition_rates SET account_days = account_days + 1 WHERE from_tier = to_tier AND from_tier = 'high'",
        "tier_transition_rates month 2016-01-01 from_tier high to_tier high: account_days is 9, expected 8",
    ),
    (
        "UPDATE tier_shares SET energy_ppm = 0 WHERE service_date = '2016-01-01' AND scope = 'category=residential'",
        "tier_shares 2016-01-01 scope category=residential tier mid_steady: energy_ppm is 0, expected 1000000",
    ),
    (
        "UPDATE pareto SET share_ppm = share_ppm - 1 WHERE percent = 100",
        "pareto 2016-01-09 metric wh_7d scope all percent 100: share_ppm is 999999, expected 1000000",
    ),
    ("UPDATE service_days SET status = 'provisional' WHERE service_date = '2016-01-02'",
     "service_days 2016-01-02: status is provisional, expected closed"),
]  # fmt: skip
"""What is done to the marts, and what verify says of it."""


def test_what_is_changed_is_named(published):
    change(published, *(statement for statement, _ in CHANGES))
    assert {line for _, line in CHANGES} - set(lines(published)) == set()


def test_figures_made_of_logarithms_may_be_a_millionth_apart():
    with duckdb.connect() as con:
        for published, told, found in (
            (5, 6, False),
            (5, 4, False),
            (5, 7, True),
            (None, 5, True),
            (None, None, False),
        ):
            for name, value in (("one", published), ("two", told)):
                made = f"CREATE OR REPLACE TABLE {name} AS SELECT ?::BIGINT AS psi_month_micro, ?::BIGINT AS flaps"
                con.execute(made, [value, value])
            for column, differs in (("psi_month_micro", found), ("flaps", published != told)):
                assert con.execute(f"SELECT {_differs(column)} FROM one p, two o").fetchall() == [(differs,)]


def test_a_whole_day_that_is_missing_is_found(published):
    change(published, "DELETE FROM features WHERE service_date = '2016-01-08'")
    assert lines(published) == [f"features 2016-01-08 account {n}: the row is missing" for n in (1, 2, 3)]


def test_a_first_day_too_late_is_found(published):
    change(published, "DELETE FROM service_days WHERE service_date = '2016-01-01'")
    assert lines(published) == ["service_days 2016-01-01: the row is missing"]


def test_older_days_may_be_left_out_of_marts_by_day(published):
    change(published, *(f"DELETE FROM {mart} WHERE service_date < '2016-01-08'" for mart in ("features", "cutoffs")))
    report = verify(str(published), policy(), all_days=True)
    assert report.ok
    assert {r.mart: r.days for r in report.marts if r.days} == {
        "service_days": 9, "daily_consumption": 9, "features": 2, "cutoffs": 2, "scores": 2, "tier_shares": 9,
    }  # fmt: skip


def test_a_sample_compares_its_accounts_and_all_cutoffs(published):
    change(
        published,
        "UPDATE cutoffs SET gini_ppm = 7 WHERE service_date = '2016-01-01' AND rule = 'top_fraction' AND class = 'A'",
        "UPDATE features SET wh_7d = 999 WHERE service_date = '2016-01-05'",
    )
    report = verify(str(published), policy(), sample=2)
    assert report.accounts == 2
    rows = {result.mart: result.values for result in report.marts}
    assert (rows["cutoffs"], rows["features"]) == (1, 2)
    assert rows.keys().isdisjoint(OF_TIERS)
    assert report.differences == verify(str(published), policy(), sample=2).differences


def test_mismatches_are_stored(published, tmp_path):
    change(published, "UPDATE features SET wh_7d = 999 WHERE service_date = '2016-01-05'")
    verify(str(published), policy(), all_days=True, store=tmp_path / "mismatches.parquet")
    with duckdb.connect() as con:
        stored = table(con, f"FROM '{tmp_path / 'mismatches.parquet'}'")
    assert [row["key"] for row in stored] == [f"2016-01-05 account {n}" for n in (1, 2, 3)]
    assert {(row["column"], row["published"], row["problem"]) for row in stored} == {("wh_7d", "999", "value")}


def test_a_publication_without_a_service_day_is_compared_too(tmp_path):
    path = tmp_path / "marts.duckdb"
    with duckdb.connect(str(path)) as con:
        fill(con, [account("1")], [], [reading("m", "2016-01-01", 1)])
        for name in COMPARED:
            con.execute(ddl.create_table(MARTS[name]))
    assert lines(path) == [
        "accounts account 1 valid_from 2010-01-01: the row is missing",
        "pending source meter_readings delivery 1 row 1: the row is missing",
    ]


def test_a_file_that_cannot_be_verified_says_so(tmp_path):
    with pytest.raises(StateError, match="no marts are published here yet"):
        verify(str(tmp_path / "marts.duckdb"), policy(), all_days=True)
    duckdb.connect(str(tmp_path / "marts.duckdb")).close()
    with pytest.raises(StateError, match="accepted_readings, accepted_registers, accepted_ledger_events"):
        verify(str(tmp_path / "marts.duckdb"), policy(), all_days=True)
    with pytest.raises(ValueError, match="exclude each other"):
        verify(str(tmp_path / "marts.duckdb"), policy(), all_days=True, sample=3)
