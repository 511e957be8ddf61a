"""The suites follow from the schemas, in plain words."""

from __future__ import annotations

import pytest

from schemas.errors import ConfigError
from schemas.inbound import SOURCES
from schemas.suites import SUITES, expectations, percent

ALL = expectations(20_000)
BY_ID = {expectation.id: expectation for expectation in ALL}


def test_ids_and_words_are_unique_and_name_their_relation() -> None:
    assert len(BY_ID) == len(ALL)
    assert len({(e.suite, e.relation, e.column, e.words) for e in ALL}) == len(ALL)
    assert all(e.relation in e.words for e in ALL)
    assert {e.suite for e in ALL} == set(SUITES)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("features.wh_365d.minimum", "features.wh_365d is never below 0 Wh"),
        ("features.wh_365d.not_null", "features.wh_365d is never empty"),
        ("features.on_time_365d_ppm.maximum", "features.on_time_365d_ppm is never above 1000000 ppm"),
        ("meter_readings.quality.values", "meter_readings.quality is one of actual, estimated, edited"),
        ("meter_readings.reject_share", "at most 2 % of the rows of meter_readings are rejected"),
        (
            "customer_tiers_current.unique",
            "customer_tiers_current has one row per account_id: an account has exactly one tier",
        ),
        ("tier_migrations.to_tier.differs", "tier_migrations.to_tier differs from from_tier"),
    ],
)
def test_words(name: str, words: str) -> None:
    assert BY_ID[name].words == words


def test_every_source_has_a_limit_of_rejects_and_none_a_unique_key() -> None:
    inbound = [expectation for expectation in ALL if expectation.suite == "inbound"]
    assert {e.relation for e in inbound if e.kind == "reject_share"} == set(SOURCES)
    assert not [e for e in inbound if e.kind == "unique"]


def test_a_nullable_column_may_be_empty() -> None:
    assert "features.growth_90d_ppm.not_null" not in BY_ID
    assert "features.growth_90d_ppm.minimum" in BY_ID


def test_the_longest_name_decides_the_severity() -> None:
    severities = {"features": "warn", "features.features": "block", "features.features.wh_7d": "warn"}
    found = {e.id: e.severity for e in expectations(0, severities)}
    assert found["daily_consumption.energy_wh.minimum"] == "warn"
    assert found["features.wh_30d.minimum"] == "block"
    assert found["features.wh_7d.minimum"] == "warn"
    assert found["cutoffs.unique"] == "block"


def test_a_severity_for_nothing_and_an_unknown_severity_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'features\.wh_7d' names no expectation"):
        expectations(0, {"features.wh_7d": "warn"})
    with pytest.raises(ConfigError, match=r"severities\.tiers: 'stop' is not a severity\. Allowed: warn, block"):
        expectations(0, {"tiers": "stop"})


def test_percent_is_exact() -> None:
    assert [percent(ppm) for ppm in (0, 1, 500, 20_000, 1_000_000)] == ["0 %", "0.0001 %", "0.05 %", "2 %", "100 %"]
