"""A fault at any gate of the audit stops the publication, says so in plain words, and can be overridden by name."""

from __future__ import annotations

import json

import pytest

from tests.recovery.utility import Rows, Utility

pytestmark = pytest.mark.slow

FEATURE_OUT_OF_BOUNDS = """
import transforms.fold_features as fold
kernel = fold.consumption_features
def faulty(*arguments):
    values = kernel(*arguments)
    values["days_90d"][:1] = 91
    return values
fold.consumption_features = faulty
"""

TIER_TWICE = """
import pyarrow as pa
import transforms.fold_tiers as fold
right = fold.current_table
def faulty(*arguments):
    table = right(*arguments)
    return pa.concat_tables([table, table.slice(0, 1)])
fold.current_table = faulty
"""

CUT_MISPLACED = """
import pyarrow as pa
import transforms.cutoffs as cutoffs
right = cutoffs.mart_rows
def faulty(*arguments):
    rows = right(*arguments)
    inside = rows.schema.get_field_index("inside_total")
    more = pa.array([None if total is None else total + 1 for total in rows.column("total").to_pylist()], pa.int64())
    return rows.set_column(inside, rows.schema.field(inside), more)
cutoffs.mart_rows = faulty
"""

STAGED_FILE_DOCTORED = """
import glob, os
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pipelines.run as run
right = run.commit_point
def faulty(name):
    right(name)
    if name == "after_tick":
        file = sorted(glob.glob("warehouse/data/000002-*/*/mart-features/0000.parquet"))[-1]
        table = pq.read_table(file)
        at = table.schema.get_field_index("wh_7d")
        os.remove(file)
        pq.write_table(table.set_column(at, table.schema.field(at), pc.subtract(table["wh_7d"], 1 << 40)), file)
run.commit_point = faulty
"""

GATES = {
    "features, by a kernel": (
        FEATURE_OUT_OF_BOUNDS, "features.days_90d.maximum", "features.days_90d is never above 90 days",
    ),
    "features, by a staged file": (STAGED_FILE_DOCTORED, "features.wh_7d.minimum", "features.wh_7d is never below 0 Wh"),
    "tiers": (
        TIER_TWICE, "customer_tiers_current.unique",
        "customer_tiers_current has one row per account_id: an account has exactly one tier",
    ),
    "cut-offs": (CUT_MISPLACED, "cutoffs.inside_total.at_most", "cutoffs.inside_total is never above total"),
}  # fmt: skip


def assert_stopped(utility: Utility, old: Rows, fault: str, words: str, name: str) -> None:
    """The run ends with 4, names the expectation, and publishes nothing; Data Docs show it."""
    ended = utility("run", fault=fault)
    assert ended.code == 4, ended.err
    assert f"wattier: Audit stopped the publication: {words}" in ended.err
    assert "The last publication stands." in ended.err
    assert f"override by name: {name}" in ended.err
    assert "Traceback" not in ended.err
    assert utility.generation() == 1
    assert utility.rows() == old
    (page,) = (line.removeprefix("Data Docs: ") for line in ended.err.splitlines() if line.startswith("Data Docs: "))
    docs = utility.folder / page
    assert "failed" in docs.parent.name
    assert words in docs.read_text()
    pages = [file for file in docs.parent.rglob("*.html") if file != docs]
    assert any(words in file.read_text() for file in pages)


def assert_overridden(utility: Utility, fault: str, words: str, name: str) -> None:
    """With the override the same run publishes, and the mart says so."""
    utility.must(utility("run", "--override", name, fault=fault))
    assert utility.generation() == 2
    sql = "FROM data_quality_results WHERE generation = 2 AND NOT success"
    failed = json.loads(utility.must(utility("query", sql, "--json")).out)
    assert [(row["expectation"], row["severity"], row["overridden"]) for row in failed] == [(words, "block", True)]


@pytest.mark.parametrize("gate", GATES)
def test_a_fault_inside_stops_the_publication(gate: str, utility: Utility, old: Rows) -> None:
    fault, name, words = GATES[gate]
    utility.land()
    assert_stopped(utility, old, fault, words, name)


@pytest.mark.parametrize("gate", ["features, by a staged file", "tiers"])
def test_a_fault_can_be_overridden_by_name(gate: str, utility: Utility) -> None:
    fault, name, words = GATES[gate]
    utility.land()
    assert_overridden(utility, fault, words, name)


def test_too_many_rejects_stop_the_publication(utility: Utility, old: Rows) -> None:
    utility.land()
    file = sorted(utility.folder.glob("landing/readings/*"))[-1]
    file.write_text(file.read_text().replace(",A,", ",?,"))
    words, name = "at most 10 % of the rows of meter_readings are rejected", "meter_readings.reject_share"
    assert_stopped(utility, old, "", words, name)
    assert_overridden(utility, "", words, name)


def test_an_override_must_name_an_expectation(utility: Utility, old: Rows) -> None:
    utility.land()
    ended = utility("run", "--override", "features.wh_7d.lowest")
    assert (ended.code, utility.generation()) == (2, 1)
    assert "override 'features.wh_7d.lowest' names no expectation" in ended.err
    assert utility.rows() == old
