"""Why an account is in its tier: the figures are those of the marts, and the ways lead where they say."""

from __future__ import annotations

import json
from datetime import date, timedelta

import duckdb
import pytest

from pipelines.explain import explain
from pipelines.explain_text import as_text
from schemas.errors import ConfigError
from tests.pipeline.bureau import Bureau
from tests.pipeline.worlds import account, conduct, ledger, meter, reading

LONG_AGO = date(2020, 1, 1)
ODD = "=cmd<script>\x1b[2J"
USE = {"big": 60, "second": 25, "third": 8, "small": 2, "thief": 3, "gone": 1, ODD: 1}


def day(n):
    return date(2023, 3, 6) + timedelta(days=n)


@pytest.fixture(scope="module")
def bureau(tmp_path_factory):
    """Seven accounts over ten days. `small` uses more from day 6 on; `second` owes from day 5 on; `gone` leaves on day 7."""
    bureau = Bureau(tmp_path_factory.mktemp("explain") / "bureau", ("features: 4000", "features: 6"))
    events = []
    for name, kwh in USE.items():
        closed = day(7) if name == "gone" else None
        events += [
            account(name, LONG_AGO, closed=closed),
            meter(f"m-{kwh}-{name[:3]}", name, LONG_AGO),
        ]
        for n in range(10):
            wh = 1000 * (kwh + 40 * (name == "small" and n >= 6) + n % 3)
            events.append(reading(f"m-{kwh}-{name[:3]}", day(n), wh, 1))
    events += [
        ledger("second", "b", "charge", day(1), 5_000, day(4), "B"),
        conduct("thief", "t", "theft_confirmed", day(3)),
    ]
    bureau.land_all(events)
    bureau.run(through=day(9))
    return bureau


@pytest.mark.slow
def test_what_is_told_is_what_is_published(bureau):
    with duckdb.connect(str(bureau.marts), read_only=True) as con:
        rows = con.execute(
            "SELECT account_id, tier, rule, valid_from FROM customer_tiers WHERE valid_to IS NULL"
        ).fetchall()
    assert {tier for _, tier, *_ in rows} >= {"high", "mid_steady", "low_small", "abuse", "closed"}
    for name, tier, rule, valid_from in rows:
        told = explain(bureau.config, name, None)
        assert (told["tier"], told["service_date"]) == (tier, day(9))
        assert json.loads(json.dumps(told, default=str))["account_id"] == name
        if tier == "closed":
            assert not told["figures_kept"]
            continue
        assert all(condition["holds"] for condition in told["conditions"])
        assert told["grade_by"]["grade"] == told["credit_grade"]
        assert sum(part["hundredths"] for part in told["credit_score_parts"]) // 100 == told["credit_score"]
        then = explain(bureau.config, name, max(valid_from, day(4)))
        assert then["kept"] is not None if rule == "stay" else then["rule"] == rule or valid_from < day(4)
        for lang in ("en", "zh"):
            text = as_text(told, lang)
            assert all(line.isprintable() for line in text.splitlines())
            assert "{" not in text
        # what is said to lead to a better class does: the account at the entry
        for way in told["ways"]:
            assert way["tier"] != tier
            assert way["changes"]


@pytest.mark.slow
def test_a_way_by_the_metric_ends_at_the_cut_off(bureau):
    told = explain(bureau.config, "small", day(9))
    (way,) = [way for way in told["ways"] if way["tier"] == "mid_large"]  # its use is not steady
    (change,) = way["changes"]
    cut = "(rule, class, side) = ('cumulative_share', 'A', 'entry')"
    ((entry,),) = bureau.query(f"SELECT amount FROM cutoffs WHERE service_date = '{day(9)}' AND {cut}")
    mine = f"account_id = 'small' AND service_date = '{day(9)}'"
    ((value,),) = bureau.query(f"SELECT wh_7d FROM features WHERE {mine}")
    assert (change["column"], change["by_metric"]) == ("abc", entry - value)
    assert "ABC class from Class" in as_text(told, "en")


@pytest.mark.slow
def test_older_days_have_their_history_alone_and_strange_ones_are_refused(bureau):
    told = explain(bureau.config, "small", day(1))
    assert not told["figures_kept"]
    assert "retention.features" in as_text(told, "en")
    assert len(told["history"]) > 1
    assert told["migrations"]
    for name, asked, words in (
        ("nobody\x1b[2J", None, "is not known"), ("small", day(10), "has a tier from"), ("small", day(-1), "has a tier from"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words) as refused:
            explain(bureau.config, name, asked)
        assert str(refused.value).isprintable()
