"""`wattier actions`: the list with labels, and ids that come out inert."""

from __future__ import annotations

import csv
import io
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.actions import YES, headings, labelled, listed_actions, shown, write_csv
from pipelines.marts import Publication, derive
from pipelines.words import FORMULA, inert, no_formula
from schemas.errors import ConfigError, StateError
from schemas.labels import LANGS, label
from schemas.marts import PLANNED_ACTIONS, SERVICE_ACTIONS, SERVICE_DAYS

FIRST, LAST = date(2025, 1, 30), date(2025, 1, 31)
ODD = ("<script>alert(1)</script>", "=cmd()", "+1", "-2", "@sum", "\t=1", ' ="a"', "＝1", 'a"b', "plain-1")


@pytest.fixture
def marts(tmp_path: Path) -> Path:
    """A calendar of two days; one planned call a day, and on the last also odd ids with an action of no resource."""
    call = {
        "account_id": "plain-1", "action": "follow_up_call", "action_reason": "our_own", "due_date": date(2025, 2, 9),
        "priority": 5, "resource": "calls", "value": 17, "policy_version": "1", "rank": 1, "since": None,
    }  # fmt: skip
    free = {"planned": True, "service_date": LAST}
    listed = [{**call, **free}] + [
        {**call, **free, "account_id": odd, "action": "hotline", "resource": None, "rank": None} for odd in ODD
    ]
    planned = [{**call, "service_date": day, "since": day} for day in (FIRST, LAST)]
    files = {}
    for name, relation, content in (
        ("service_actions", SERVICE_ACTIONS, listed), ("planned_actions", PLANNED_ACTIONS, planned),
    ):  # fmt: skip
        pq.write_table(pa.Table.from_pylist(content, schema=relation.schema), tmp_path / f"{name}.parquet")
        files[name] = [str(tmp_path / f"{name}.parquet")]
    days = [
        {"service_date": day, "meters_expected": 1, "meters_received": 1, "coverage_ppm": 1_000_000, "status": "closed",
         "policy_version": "1"}
        for day in (FIRST, LAST)
    ]  # fmt: skip
    tables = {"service_days": pa.Table.from_pylist(days, schema=SERVICE_DAYS.schema)}
    derive(tmp_path / "marts.duckdb", Publication(1, LAST, "", ""), files, tables)
    return tmp_path / "marts.duckdb"


@pytest.mark.parametrize("lang", LANGS)
def test_csv_has_labels_and_no_cell_is_a_formula(marts, lang):
    out = io.StringIO()
    assert write_csv(out, listed_actions(marts, None, None).rows, lang, "Wh") == 1 + len(ODD)
    heading, *body = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert heading == headings(lang, "Wh")
    assert {row[1] for row in body} == {label("action", "follow_up_call", lang), label("action", "hotline", lang)}
    assert {row[7] for row in body} == {YES[lang][True]}
    assert not [cell for row in body for cell in row if cell.lstrip(" ").startswith(FORMULA)]
    assert {row[0].removeprefix("'") for row in body} == set(map(inert, ODD))


def test_every_id_that_would_be_a_formula_gets_an_apostrophe_and_no_other():
    assert [odd for odd in ODD if no_formula(odd) == odd] == [ODD[0], 'a"b', "plain-1"]


def test_the_list_of_an_earlier_day_has_what_took_a_place(marts):
    assert [row[0] for row in listed_actions(marts, FIRST, None).rows] == ["plain-1"]
    assert [row[:2] for row in listed_actions(marts, LAST, "calls").rows] == [("plain-1", "follow_up_call")]
    assert listed_actions(marts, LAST, "visits").rows == []
    assert labelled(listed_actions(marts, FIRST, None).rows, "zh")[0][1:3] == ["电话回访", "our_own"]
    with pytest.raises(
        ConfigError, match="--as-of 2025-02-01: published are service days from 2025-01-30 to 2025-01-31"
    ):
        listed_actions(marts, date(2025, 2, 1), None)


def test_on_a_terminal_nothing_moves_the_cursor(marts):
    found = listed_actions(marts, None, None)
    text = shown(found, "zh", "minor units")
    assert text.splitlines()[-1] == "共 11 项措施。"
    assert "\t" not in text
    short = shown(found, "en", "minor units", most=2).splitlines()
    assert short[-2:] == ["Actions: 11.", "The first 2 are shown: --csv writes all."]
    assert len(short) == 5
    assert "Value, minor units" in short[0]


def test_nothing_published_is_said(tmp_path):
    with pytest.raises(StateError, match="nothing has been published"):
        listed_actions(tmp_path / "marts.duckdb", None, None)
