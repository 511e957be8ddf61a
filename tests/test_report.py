"""The report: its figures are those of the marts, its words are there in both languages, and nothing in it is alive."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from html.parser import HTMLParser

import duckdb
import pyarrow as pa
import pytest

from pipelines.marts import Publication, derive
from pipelines.report import write_report
from pipelines.report_facts import _Asked, gather
from pipelines.report_page import Page
from pipelines.watching import Window, watch
from schemas.errors import ConfigError, StateError
from schemas.marts import MARTS
from tests.oracles.worlds import policy
from tests.test_watching import FIRST, READ, STORIES, story, world

NAMES = {"a": "<script>alert(1)</script>", "b": '=cmd("x")', "c": "1 & 2", "d": "</script><b>"}
LAST = FIRST + timedelta(64)
LONGER = {NAMES[name]: [*tiers, *[tiers[-1]] * 32] for name, tiers in STORIES.items()}
LONGER[NAMES["b"]] = story(("low_small", 40), ("abuse", 25))


class Tables(HTMLParser):
    """Tables of a page by id, as rows of raw values; and whatever refers to something outside, or runs."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.rows, self.tags, self.attributes = {}, [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "table":
            self.rows = self.tables[given["id"].removeprefix("table-")] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append(given["data-v"])

    def __getitem__(self, name):
        return [row for row in self.tables[name] if row]


def filled(con, mart, *more):
    """A mart of a world, what it leaves open filled in; more: rows of another that belong to it."""
    rows = [row for name in (mart, *more) for row in con.sql(f"FROM {name}").to_arrow_table().to_pylist()]

    def value(row, field):
        if row.get(field.name) is not None or field.nullable:
            return row.get(field.name)
        if not pa.types.is_string(field.type):
            return FIRST if pa.types.is_date(field.type) else 0
        return "own_use" if field.name == "cause" else "1"

    schema = MARTS[mart].schema
    return pa.Table.from_pylist([{field.name: value(row, field) for field in schema} for row in rows], schema=schema)


def publish(path, con, days):
    """marts.duckdb of a world."""
    calendar = [FIRST + timedelta(n) for n in range(days)]
    tables = watch(con, policy(), Window(None, calendar, FIRST), {})
    tables |= {mart: filled(con, mart) for mart in READ if mart != "customer_tiers"}
    tables["customer_tiers"] = filled(con, "customer_tiers", "customer_tiers_current")
    derive(path, Publication(3, calendar[-1], "2016-04-04T04:00:00+00:00", "0.1.0"), {}, tables)


@pytest.fixture(scope="module")
def marts(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "marts.duckdb"
    days = (LAST - FIRST).days + 1
    publish(path, world(LONGER, days), days)
    return path


@pytest.fixture(scope="module")
def pages(marts):
    """English, with accounts; and Chinese, without. The library is left out."""
    facts = {name: gather(marts, accounts=name == "en") for name in ("en", "zh")}
    return {name: Page(facts[name], name, "CNY").html("") for name in facts}


def asked(marts, sql):
    with duckdb.connect(str(marts), read_only=True) as con:
        return [["" if value is None else str(value) for value in row] for row in con.execute(sql).fetchall()]


def test_the_tables_tell_what_sql_tells(marts, pages):
    page = Tables(pages["en"])
    today = asked(marts, f"""
        SELECT s.tier, s.accounts, accounts_ppm, energy_wh, energy_ppm, turnover_minor, turnover_ppm, mean_tenure_days
        FROM tier_shares s JOIN tier_tenure t USING (scope, tier) WHERE scope = 'all' AND service_date = DATE '{LAST}'
        AND month = DATE '2016-04-01'""")  # fmt: skip
    assert sorted(page["today"]) == sorted(today)
    assert len(today) == 2
    first = LAST - timedelta(31)
    assert sorted(row[:3] for row in page["moves"]) == asked(marts, f"""
        SELECT coalesce(a.tier, 'none'), coalesce(b.tier, 'none'), count(*) FROM accounts
        LEFT JOIN customer_tiers a ON a.account_id = accounts.account_id
            AND '{first}' BETWEEN a.valid_from AND coalesce(a.valid_to, '{first}')
        LEFT JOIN customer_tiers b ON b.account_id = accounts.account_id AND b.valid_to IS NULL
        WHERE a.tier IS NOT NULL OR b.tier IS NOT NULL GROUP BY ALL ORDER BY ALL""")  # fmt: skip
    assert sorted(page["month_moves"]) == asked(
        marts, "SELECT month, from_tier, to_tier, accounts FROM tier_migration_matrix ORDER BY ALL"
    )
    assert page["stability"] == asked(
        marts,
        "SELECT month, migrations, upgrades, downgrades, upgrade_ratio_ppm, flaps, flap_rate_ppm, mobility_ppm, psi_month_micro,"
        " psi_year_micro FROM tier_stability WHERE scope = 'all' ORDER BY month",
    )
    assert page["pareto"] == asked(
        marts,
        "SELECT scope, percent, customers, share_ppm FROM pareto WHERE percent IN (1, 5, 10, 20, 30, 50, 80, 100) ORDER BY ALL",
    )
    counted = asked(marts, "SELECT count(*) FROM tier_migrations")
    assert sum(int(n) for row in page["causes"] for n in row[1:]) == int(counted[0][0])
    by_day = {row[0]: sum(map(int, row[1:])) for row in page["by_day"]}
    for day in (FIRST, FIRST + timedelta(20), LAST):
        here = f"'{day}' BETWEEN valid_from AND coalesce(valid_to, '{day}')"
        assert [[str(by_day[str(day)])]] == asked(marts, f"SELECT count(*) FROM customer_tiers WHERE {here}")


def test_both_languages_tell_the_same_figures(pages):
    english, chinese = Tables(pages["en"]), Tables(pages["zh"])
    english.tables.pop("accounts")
    assert english.tables == chinese.tables
    assert "High value" in pages["en"]
    assert "高价值客户" in pages["zh"]
    assert "Turnover, CNY" in pages["en"]


def test_a_year_ahead_adds_up(pages):
    for row in Tables(pages["en"])["year"]:
        assert abs(sum(map(int, row[1:])) - 1_000_000) <= len(row)


def test_accounts_are_told_when_asked_for_and_inert(marts, pages):
    page = Tables(pages["en"])
    assert [row[0] for row in page["accounts"]] == [NAMES["b"]]
    for name in NAMES.values():
        assert name not in pages["zh"]
        assert name not in pages["en"]
    assert "&lt;script&gt;" not in pages["zh"]
    assert """style="mso-number-format:'\\@'" data-v="=cmd(&quot;x&quot;)\"""" in pages["en"]
    wide = gather(marts, FIRST, FIRST + timedelta(5), accounts=True)
    assert "<script>alert" not in Page(wide, "en", None).html("")


def test_a_closed_account_is_in_no_population_and_its_move_weighs_what_it_had(marts):
    facts = replace(gather(marts), moves=[("high", "high", 90), ("high", "closed", 10)], accounts=[])
    text = Page(facts, "en", "CNY").html("")
    assert "0 of 90 accounts in the population on both days" in text
    assert "No account changed tier between the two days." in text
    with duckdb.connect() as con:
        con.execute(f"""
            CREATE TABLE customer_tiers AS FROM (VALUES ('left', 'high', DATE '{FIRST}', DATE '{FIRST}'),
                ('left', 'closed', DATE '{LAST}', NULL), ('rose', 'low_small', DATE '{FIRST}', DATE '{FIRST}'),
                ('rose', 'high', DATE '{LAST}', NULL)) AS t(account_id, tier, valid_from, valid_to);
            CREATE TABLE features AS FROM (VALUES ('left', DATE '{FIRST}', 'industrial', 9, 900),
                ('rose', DATE '{FIRST}', 'residential', 1, 5), ('rose', DATE '{LAST}', 'residential', 2, 6))
                AS t(account_id, service_date, category, wh_365d, billed_365d_minor)""")
        told = _Asked(con)._accounts(FIRST, LAST)
        assert [(row[0], *row[4:]) for row in told] == [("left", 9, 900), ("rose", 2, 6)]
        con.execute("DELETE FROM features")
        facts = replace(facts, accounts=_Asked(con)._accounts(FIRST, LAST))
    assert "their figures are not kept any more" in Page(facts, "en", "CNY").html("")


def test_nothing_refers_to_what_is_outside(pages):
    for text in pages.values():
        assert "http:" not in text
        assert "https:" not in text
        page = Tables(text)
        outside = {"src", "srcset", "action", "data", "poster", "background"}
        assert not [found for found in page.attributes if found[1] in outside]
        assert [value for tag, name, value in page.attributes if name == "href"] == ["data:,"]
        assert set(page.tags).isdisjoint({"img", "iframe", "object", "embed", "base", "form", "video", "audio"})
        policies = [v for _, name, v in page.attributes if name == "content" and "default-src" in v]
        assert policies == [
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
        ]


def test_the_days_are_chosen(marts, tmp_path):
    assert gather(marts).days == (date(2016, 3, 3), LAST)
    assert gather(marts, FIRST).days == (FIRST, LAST)
    chosen = gather(marts, FIRST, FIRST + timedelta(5))
    assert chosen.moves == [
        ("high", "high", 1),
        ("high", "none", 1),
        ("low_small", "low_small", 1),
        ("none", "mid_steady", 1),
    ]
    with pytest.raises(ConfigError, match="2015-01-01 is no published service day; there are 2016-01-30 to 2016-04-03"):
        gather(marts, date(2015, 1, 1))
    with pytest.raises(ConfigError, match="--from 2016-02-02 is not before --to 2016-02-01"):
        gather(marts, date(2016, 2, 2), date(2016, 2, 1))
    with pytest.raises(StateError, match="nothing has been published"):
        gather(tmp_path / "marts.duckdb")


def test_a_file_of_an_older_version_says_so(tmp_path):
    with duckdb.connect(str(tmp_path / "marts.duckdb")) as con:
        con.execute("CREATE TABLE old (x INTEGER)")
    with pytest.raises(StateError, match="lacks a mart that the report needs"):
        gather(tmp_path / "marts.duckdb")


def test_a_publication_without_a_day_says_so(tmp_path):
    derive(tmp_path / "marts.duckdb", Publication(1, None, "2016-04-04T04:00:00+00:00", "0.1.0"), {}, {})
    with pytest.raises(StateError, match="No service day is published yet"):
        gather(tmp_path / "marts.duckdb")


def test_one_day_and_nobody_ranked_still_make_a_page(tmp_path):
    con = world({"a": story(("high", 1))}, 1)
    con.execute("UPDATE features SET wh_7d = 0, wh_365d = 0, billed_365d_minor = 0")
    publish(tmp_path / "marts.duckdb", con, 1)
    page = Page(gather(tmp_path / "marts.duckdb"), "en", None).html("")
    assert "No two service days are published yet." in page
    assert "Nobody is ranked on the last service day." in page
    assert "No tier has changed yet." in page


def test_the_file_holds_the_library_and_has_its_own_name(marts, tmp_path):
    path = write_report(marts, None, lang="zh")
    assert path == marts.parent / "reports" / "tiers-000003-zh.html"
    assert path.stat().st_size > 3_000_000
    assert write_report(marts, tmp_path / "mine.html").read_text("utf-8").startswith("<!DOCTYPE html>")
