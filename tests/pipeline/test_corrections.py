"""What was known then and what is known now, and a correction that restates what it touched and nothing else."""

from __future__ import annotations

import json
import time
from datetime import UTC, date, datetime, timedelta

import duckdb
import pytest

from pipelines.as_known import generation_at, marts_at
from pipelines.warehouse import Warehouse
from schemas.errors import ConfigError, StateError
from tests.pipeline.bureau import Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.test_stories import command, opened, tiers, used
from tests.pipeline.worlds import account, index, meter

FIRST = date(2023, 3, 1)
LAST = 119
FOUND_WRONG = LAST - 100
"""The service day number from which one meter's multiplier was wrong."""

ENERGY = "SELECT energy_wh FROM daily_consumption WHERE account_id = 'big' ORDER BY service_date DESC LIMIT 1"


def between_publications() -> datetime:
    """A moment after what is published and before what will be: publications are stamped in seconds."""
    now = datetime.now(UTC)
    time.sleep(1 - now.microsecond / 1e6)
    return now.replace(microsecond=500_000)


# --- as known then ----------------------------------------------------------------------------------------------------


def test_a_query_can_ask_what_was_published_then(tmp_path):
    bureau = opened(Bureau(tmp_path / "bureau"))
    then = between_publications()
    bureau.land_all(used(3, 3, ("big",), revision=2, big=1_000))
    bureau.run()
    asked = ("query", ENERGY, "--json")
    now, before = (
        json.loads(command(bureau, *asked, *more).stdout) for more in ((), ("--as-known-at", then.isoformat()))
    )
    assert (now, before) == ([{"energy_wh": 1_000}], [{"energy_wh": 100_000}])
    with marts_at(bureau.config, then) as marts, duckdb.connect(str(marts), read_only=True) as con:
        assert con.execute("SELECT generation FROM wattier_generation").fetchone() == (1,)
        assert dict(con.execute("SELECT account_id, tier FROM customer_tiers_current").fetchall()) != tiers(bureau)
    assert not marts.exists()


def test_a_moment_before_all_or_no_longer_kept_is_told_with_what_to_do(tmp_path):
    bureau = opened(Bureau(tmp_path / "bureau"))
    warehouse = Warehouse(bureau.config.warehouse)
    with pytest.raises(StateError, match=r"^nothing was published before 20\d\d-"):
        generation_at(warehouse, datetime(2020, 1, 1, tzinfo=UTC))
    then = between_publications()
    bureau.land_all(used(4, 4))
    bureau.run()
    assert generation_at(warehouse, then).number == 1
    assert generation_at(warehouse, datetime(2999, 1, 1, tzinfo=UTC)).number == 2
    warehouse.collect_garbage(1)
    with pytest.raises(StateError, match=r"has been removed by `wattier gc`. To keep more .* raise keep_generations"):
        generation_at(warehouse, then)
    refused = command(bureau, "query", "FROM features", "--as-known-at", "yesterday")
    assert refused.returncode == ConfigError.exit_code
    assert "--as-known-at 'yesterday': write a day" in refused.stderr


# --- a multiplier found wrong 100 days back ---------------------------------------------------------------------------


def meters(times):
    """Five accounts with a meter each; that of `C` was exchanged on the day from which its multiplier was wrong."""
    changed = FIRST + timedelta(days=FOUND_WRONG)
    for n, name in enumerate("ABCDE"):
        yield account(name, FIRST)
        if name != "C":
            yield meter(f"m-{name}", name, FIRST, multiplier=10 * (n + 1), opening="0")
    yield meter("m-C", "C", FIRST, changed, multiplier=10, opening="0", closing=f"{FOUND_WRONG * 5}", revision=1)
    yield meter("m-C", "C", changed, multiplier=times, opening="0", revision=1 if times == 200 else 2)


def indexes():
    """5 kWh a day and meter on its dial, more at the week's end for some."""
    for name in "ABDE":
        shown = 0
        for n in range(LAST + 1):
            shown += 5 + (n % 7 == 5) * (name in "AB") * 4
            yield index(f"m-{name}", FIRST + timedelta(days=n), f"{shown}")
    for n in range(LAST + 1):
        since = n if n < FOUND_WRONG else n - FOUND_WRONG
        yield index("m-C", FIRST + timedelta(days=n), f"{(since + 1) * 5}")


@pytest.mark.slow
def test_a_multiplier_found_wrong_100_days_back_restates_what_it_touched(tmp_path):
    bureau, right = (Bureau(tmp_path / name) for name in ("bureau", "right"))
    for made in (bureau, right):
        made.configure(("dates: {min: 2000-01-01}", "dates: {min: 2023-02-01}"))
    bureau.land_all([*meters(200), *indexes()])
    assert bureau.run().through == FIRST + timedelta(days=LAST)
    assert tiers(bureau)["C"] == "high"
    before = bureau.keep_marts("before")

    found = [event for event in meters(20) if event[1][0] == "m-C" and event[1][-1] == "2"]
    bureau.land_all(found)
    report = bureau.run()
    assert report.restated_from == FIRST + timedelta(days=FOUND_WRONG)
    bureau.check()
    assert_balanced(bureau)

    with duckdb.connect() as con:
        con.execute(f"ATTACH '{before}' AS was (READ_ONLY); ATTACH '{bureau.marts}' AS is_now (READ_ONLY)")
        # The energy of one account from one day on, a tenth of what it was, and no other row of daily_consumption.
        changed = con.execute("""
            SELECT account_id, min(service_date), count(*), bool_and(w.energy_wh = 10 * n.energy_wh)
            FROM was.daily_consumption w JOIN is_now.daily_consumption n USING (account_id, service_date)
            WHERE w <> n GROUP BY account_id
        """).fetchall()
        assert changed == [("C", FIRST + timedelta(days=FOUND_WRONG), LAST - FOUND_WRONG + 1, True)]
        # Each day on which any account's tier differs is listed once, with its cause; and no other.
        by_day = """
            SELECT account_id, unnest(generate_series(valid_from, coalesce(valid_to, $last), INTERVAL 1 DAY))::DATE AS day, tier
            FROM {}.customer_tiers
        """
        wanted = con.execute(
            f"""SELECT account_id, day, w.tier, n.tier, 'correction'
                FROM ({by_day.format("was")}) w FULL JOIN ({by_day.format("is_now")}) n USING (account_id, day)
                WHERE w.tier IS DISTINCT FROM n.tier ORDER BY ALL""",
            {"last": FIRST + timedelta(days=LAST)},
        ).fetchall()
        listed = con.execute("""
            SELECT account_id, unnest(generate_series(valid_from, valid_to, INTERVAL 1 DAY))::DATE AS day, from_tier, to_tier, cause
            FROM is_now.tier_restatements ORDER BY ALL
        """).fetchall()
    assert listed == wanted
    assert {row[0] for row in listed} >= {"C", "E"}  # the cut-offs move, and others with them

    right.land_all([*meters(20), *indexes()])
    right.run()
    assert_equal_marts(right.marts, bureau.marts, same_deliveries=False)
