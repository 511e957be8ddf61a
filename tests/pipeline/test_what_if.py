"""Another policy tried on past days gives the marts of a real run under it, row for row, and leaves those published alone."""

from __future__ import annotations

import random
from datetime import date, timedelta

import duckdb
import pytest

from pipelines.what_if import what_if
from schemas.policy import parse_policy
from tests.pipeline.bureau import POLICY, Bureau
from tests.pipeline.worlds import INGREDIENTS, a_world, second_version

FIRST = date(2023, 3, 13)
DAYS = 34
FROM, TO = FIRST + timedelta(days=12), FIRST + timedelta(days=DAYS - 3)

HELD = (
    ("rule: cumulative_share", "rule: top_fraction"), ("min_stay_days: 2", "min_stay_days: 0"),
    ("cv_90d_ppm, above: 500000", "cv_90d_ppm, above: 200000"), ("warn_days: 2", "warn_days: 1"),
    ("{at_least: 900000, points: 100}", "{at_least: 700000, points: 100}"),
)  # fmt: skip
"""A policy that reads what the published one reads."""

MORE = (("metric: wh_7d", "metric: wh_30d"), ("scope: all", "scope: category"), *HELD[1:3])
"""One that ranks by what `features` alone holds."""

COLUMNS = {
    "customer_tiers": "account_id, greatest(valid_from, $first) AS a, least(coalesce(valid_to, $last), $last) AS b, "
    "* EXCLUDE (account_id, valid_from, valid_to)",
    "tier_migrations": "*", "cutoffs": "*", "abuse_steps": "*",
}  # fmt: skip
REACHES = {"customer_tiers": "valid_from <= $last AND coalesce(valid_to, $last) >= $first"}
BY_DAY = "service_date BETWEEN $first AND $last"


def as_read(changes):
    """A policy of one version: the test's, with texts replaced."""
    text = POLICY.replace('version: "1"', 'version: "2"')
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_policy(text, "b.yaml")


def try_out(bureau, changes, out=None, first=FROM, last=TO, **more):
    return what_if(bureau.config, as_read(changes), "b.yaml", first, last, out=out, progress=lambda *_: None, **more)


def differing(marts, folder, mart, *, without=""):
    """Rows of the days that only one side has."""
    select = f"SELECT {COLUMNS[mart]}{without} FROM"
    reaches = REACHES.get(mart, BY_DAY)
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{marts}' AS real (READ_ONLY)")
        sides = [f"{select} real.{mart} WHERE {reaches}", f"{select} '{folder}/{mart}.parquet' WHERE {reaches}"]
        params = {"first": FROM, "last": TO}
        rows = [con.execute(f"{a} EXCEPT ALL {b}", params).fetchall() for a, b in (sides, sides[::-1])]
        (told,) = con.execute(f"SELECT count(*) FROM ({sides[0]})", params).fetchall()[0]
    return rows[0] + rows[1], told


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A utility to which everything happens, published day by day in three runs, the last with corrections of past days."""
    bureau = Bureau(tmp_path_factory.mktemp("what-if") / "bureau")
    world = a_world(random.Random(7), 14, DAYS, frozenset(INGREDIENTS) - {"units", "bad_rows"}, FIRST)
    events = list(world.events)
    random.Random(1).shuffle(events)
    bureau.land_all(events[: len(events) * 9 // 10])
    bureau.run(through=FIRST + timedelta(days=20))
    bureau.land_all(events[len(events) * 9 // 10 :])
    bureau.run(through=FIRST + timedelta(days=DAYS - 1))
    return bureau


@pytest.mark.slow
@pytest.mark.parametrize("changes", [HELD, MORE], ids=["held", "more"])
def test_what_if_equals_a_run(changes, published, tmp_path):
    before = published.marts.read_bytes()
    report = try_out(published, changes, tmp_path / "out", accounts=True)
    assert published.marts.read_bytes() == before
    real = published.copy(tmp_path / "real")
    real.set_policy(second_version(FROM, *changes))
    assert real.run(through=FIRST + timedelta(days=DAYS - 1)).restated_from == FROM
    for mart in COLUMNS:
        # where the day's clock is not held, a cause may be told more coarsely
        without = " EXCLUDE (cause)" if changes is MORE and mart == "tier_migrations" else ""
        rows, told = differing(real.marts, tmp_path / "out", mart, without=without)
        assert rows == [], mart
        assert told > 0 or mart == "abuse_steps", mart
    assert report.clockless == (("wh_30d",) if changes is MORE else ())
    assert report.moved > 0
    assert report.migrations["tried"]["policy_changed"] > 0
    listed = (tmp_path / "out" / "accounts.csv").read_text().splitlines()
    assert len(listed) == report.moved + 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "abuse_steps.parquet", "accounts.csv", "customer_tiers.parquet", "cutoffs.parquet", "report.json",
        "tier_migrations.parquet",
    ]  # fmt: skip
