"""How tiers move, by hand on a few accounts, and the same whether made at once or from day to day."""

from __future__ import annotations

import math
import random
from datetime import date, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pipelines.watching import WATCHED, Window, days_to_make, flap_counts, months_without_energy, watch
from schemas import ddl
from schemas.marts import MARTS, TIERS
from tests.oracles.worlds import policy
from transforms.kernels.moves import cohort, generator
from transforms.kernels.moves import transition as after_years

FIRST = date(2016, 1, 30)
READ = ("service_days", "customer_tiers", "customer_tiers_current", "tier_migrations", "accounts", "features")


def world(stories, days, held=FIRST):
    """Marts of accounts that are in these tiers day by day from `FIRST` on: account -> tiers; None: not in the population.

    Account a uses 10 Wh a year, b 20, c 30, and so on, and is billed half of it; every other one is residential.
    """
    last, full = FIRST + timedelta(days - 1), {mart: [] for mart in READ}
    full["service_days"] = [{"service_date": FIRST + timedelta(n)} for n in range(days)]
    for n, (account, tiers) in enumerate(stories.items()):
        category, wh = ("industrial", "residential")[n % 2], 10 * (n + 1)
        full["accounts"].append({"account_id": account, "valid_from": date(2010, 1, 1), "category": category})
        since = begun = None
        for at, tier in enumerate(tiers[:days]):
            day, before = FIRST + timedelta(at), tiers[at - 1] if at else None
            if tier != before and tier is not None:
                begun = day
                if before is not None:
                    moved = {"from_tier": before, "to_tier": tier, "policy_version": "1"}
                    full["tier_migrations"].append({"account_id": account, "service_date": day, **moved})
            # A row ends with the tier, and in between now and then, as where the class changes.
            ends = at + 1 == days or tiers[at + 1] != tier or (at + n) % 7 == 0
            since = since or day
            row = {"account_id": account, "valid_from": since, "tier": tier, "tier_since": begun}
            if tier is not None and day == last:
                full["customer_tiers_current"].append({**row, "category": category})
            elif tier is not None and ends:
                full["customer_tiers"].append({**row, "valid_to": day})
            since = None if ends else since
            if tier is not None and day >= held:
                used = {"wh_365d": wh, "wh_7d": wh, "billed_365d_minor": wh // 2}
                full["features"].append({"account_id": account, "service_date": day, "category": category, **used})
    con = duckdb.connect()
    for mart, told in full.items():
        names = sorted({name for row in told for name in row}) or list(MARTS[mart].schema.names)
        schema = pa.schema([pa.field(name, MARTS[mart].schema.field(name).type) for name in names])
        con.execute(ddl.create_table(MARTS[mart]).replace(" NOT NULL", ""))
        con.register("incoming", pa.Table.from_pylist(told, schema=schema))
        con.execute(f"INSERT INTO {mart} BY NAME FROM incoming")
    return con


def made(stories, days, held=FIRST, carried=None, since=None):
    """The marts, as of the last of these days."""
    con = world(stories, days, held)
    calendar = [FIRST + timedelta(n) for n in range(days) if FIRST + timedelta(n) >= held]
    window = Window(since, days_to_make(calendar, (carried or {}).get("tier_shares"), None), held)
    return watch(con, policy(), window, carried or {})


def rows(marts, name, **where):
    """Rows of a mart as dictionaries, of these values."""
    return [row for row in marts[name].to_pylist() if all(row[key] == value for key, value in where.items())]


def story(*parts):
    """[('high', 3), (None, 1)]: three days high, then a day outside."""
    return [tier for tier, days in parts for _ in range(days)]


STORIES = {
    "a": story(("high", 33)),
    "b": story(("low_small", 5), ("high", 3), ("low_small", 25)),
    "c": story(("high", 4), (None, 29)),
    "d": story((None, 3), ("mid_steady", 29), ("abuse", 1)),
}
"""From 30 January to 2 March: b goes up and comes back, c leaves, d arrives on 2 February and falls on 2 March."""

FEBRUARY, MARCH = date(2016, 2, 1), date(2016, 3, 1)


@pytest.fixture(scope="module")
def marts():
    return made(STORIES, 33)


def test_every_mart_has_its_schema(marts):
    assert set(marts) == {relation.name for relation in WATCHED}
    for relation in WATCHED:
        assert marts[relation.name].schema.equals(relation.schema)


def test_the_matrix_by_hand(marts):
    told = [tuple(row.values()) for row in rows(marts, "tier_migration_matrix")]
    assert told == [
        (FEBRUARY, "high", "high", 1, 500_000, 10, 5),
        (FEBRUARY, "high", "none", 1, 500_000, None, None),
        (FEBRUARY, "low_small", "low_small", 1, 1_000_000, 20, 10),
        (FEBRUARY, "none", "mid_steady", 1, 1_000_000, 40, 20),
        (MARCH, "high", "high", 1, 1_000_000, 10, 5),
        (MARCH, "low_small", "low_small", 1, 1_000_000, 20, 10),
        (MARCH, "mid_steady", "abuse", 1, 1_000_000, 40, 20),
    ]


def test_rates_by_hand(marts):
    """In February b spends 3 days and 23 in low_small before a day in a tier, one of them before the rise."""
    assert rows(marts, "tier_transition_rates", month=FEBRUARY, from_tier="low_small") == [
        {"month": FEBRUARY, "from_tier": "low_small", "to_tier": "high", "migrations": 1, "account_days": 26,
         "rate_year_ppm": 365_000_000 // 26},
        {"month": FEBRUARY, "from_tier": "low_small", "to_tier": "low_small", "migrations": 1, "account_days": 26,
         "rate_year_ppm": -(365_000_000 // 26)},
    ]  # fmt: skip
    # a spends all 29, b 3, and c 2, up to the last on which it is there.
    assert [r["account_days"] for r in rows(marts, "tier_transition_rates", month=FEBRUARY, from_tier="high")] == [
        34,
        34,
    ]
    assert [r["account_days"] for r in rows(marts, "tier_transition_rates", month=MARCH, to_tier="abuse")] == [2]


def test_tenure_by_hand(marts):
    (small,) = rows(marts, "tier_tenure", month=FEBRUARY, scope="all", tier="low_small")
    assert (small["accounts"], small["tenure_days"], small["mean_tenure_days"]) == (1, 23, 23)
    (high,) = rows(marts, "tier_tenure", month=FEBRUARY, scope="category=industrial", tier="high")
    assert (high["accounts"], high["tenure_days"]) == (1, 31)


def test_stability_by_hand(marts):
    (february,) = rows(marts, "tier_stability", month=FEBRUARY, scope="all")
    # b rises on 4 February, and is back three days later; c and d do not migrate, they come and go.
    counted = {
        "migrations": 2,
        "upgrades": 1,
        "downgrades": 1,
        "upgrade_ratio_ppm": 1_000_000,
        "flaps": 1,
        "flap_accounts": 1,
    }
    assert {name: february[name] for name in counted} == counted
    assert (february["flap_rate_ppm"], february["mobility_ppm"], february["psi_year_micro"]) == (500_000, 0, None)
    (march,) = rows(marts, "tier_stability", month=MARCH, scope="all")
    # Of three tiers that could be left one was: (3 - 2) / (3 - 1).
    assert (march["migrations"], march["downgrades"], march["upgrade_ratio_ppm"], march["mobility_ppm"]) == (
        1,
        1,
        0,
        500_000,
    )
    (home,) = rows(marts, "tier_stability", month=MARCH, scope="category=residential")
    assert (home["migrations"], home["mobility_ppm"]) == (1, 1_000_000)


def test_the_stability_index_by_hand(marts):
    """February ends with one account each in high, low_small and mid_steady, March's days so far with abuse for the last."""
    (march,) = rows(marts, "tier_stability", month=MARCH, scope="all")
    bins = len(TIERS) - 1  # closed is none
    some, none = 3 / (6 + bins), 1 / (6 + bins)
    assert march["psi_month_micro"] == round(1e6 * 2 * (some - none) * math.log(some / none))


def test_shares_by_hand(marts):
    last = FIRST + timedelta(32)
    told = [tuple(row.values())[2:] for row in rows(marts, "tier_shares", service_date=last, scope="all")]
    assert told == [
        ("abuse", 1, 40, 20, 333_333, 571_428, 571_428),
        ("high", 1, 10, 5, 333_333, 142_857, 142_857),
        ("low_small", 1, 20, 10, 333_333, 285_714, 285_714),
    ]
    assert len({row["service_date"] for row in rows(marts, "tier_shares")}) == 33


def test_the_curve_by_hand(marts):
    told = {row["percent"]: tuple(row.values())[4:] for row in rows(marts, "pareto")}
    assert (told[33], told[34], told[67], told[100]) == (
        (1, 40, 571_428), (2, 60, 857_142), (3, 70, 1_000_000), (3, 70, 1_000_000),
    )  # fmt: skip


def test_a_flap_needs_its_thirty_days():
    for days, flaps in ((30, 1), (31, 0)):
        stories = {"a": story(("high", 10), ("abuse", days), ("high", 65 - 10 - days))}
        told = rows(made(stories, 65), "tier_stability", scope="all")
        assert sum(row["flaps"] for row in told) == flaps
        assert flap_counts(world(stories, 65)) == (2, flaps, flaps)


@pytest.mark.parametrize("seed", range(2))
def test_from_day_to_day_the_same_as_at_once(seed):
    """Random stories over 75 days; some days in one go, retention of 20 days, and of all."""
    rng = random.Random(seed)
    stories = {}
    for account in "abcdefgh":
        parts, days = [], 0
        while days < 75:
            parts.append((rng.choice([*TIERS, None]), rng.randint(1, 12)))
            days += parts[-1][1]
        stories[account] = story(*parts)[:75]
    for kept in (20, 4000):
        carried, through = None, 0
        for upto in sorted({rng.randint(1, 74) for _ in range(6)} | {75}):
            held = max(FIRST, FIRST + timedelta(upto - kept))
            since = (FIRST + timedelta(through - 1)).replace(day=1) if carried else None
            carried = made(stories, upto, held, carried, since)
            through = upto
        whole = made(stories, 75, max(FIRST, FIRST + timedelta(75 - kept)))
        for name, table in whole.items():
            assert carried[name].to_pylist() == table.to_pylist(), (name, kept)
        for row in rows(whole, "tier_migration_matrix"):
            of_row = rows(whole, "tier_migration_matrix", month=row["month"], from_tier=row["from_tier"])
            assert sum(r["share_ppm"] for r in of_row) == 1_000_000


def test_energy_is_told_again_where_retention_is_made_longer():
    days = [FIRST + timedelta(n) for n in range(33)]
    short, whole = made(STORIES, 33, date(2016, 3, 1)), made(STORIES, 33)
    assert months_without_energy(short["tier_migration_matrix"], days, date(2016, 3, 1)) == []
    (since,) = months_without_energy(short["tier_migration_matrix"], days, FIRST)
    assert since == FEBRUARY
    again = made(STORIES, 33, FIRST, short, since)
    assert {name: table.to_pylist() for name, table in again.items()} == {
        name: table.to_pylist() for name, table in whole.items()
    }


def test_the_marts_hold_what_the_estimators_need():
    """A population that moves by known chances each day: its matrix and its rates tell them, within 4.5 standard errors."""
    states = TIERS[:3]
    chances = np.array([[0.97, 0.02, 0.01], [0.03, 0.95, 0.02], [0.0, 0.05, 0.95]])
    rng = np.random.default_rng(7)
    state = rng.integers(0, 3, 300)
    told = [state]
    for _ in range(60):
        state = np.minimum((rng.random(300)[:, None] > chances.cumsum(axis=1)[state]).sum(axis=1), 2)
        told.append(state)
    marts = made({f"{n:03}": [states[s[n]] for s in told] for n in range(300)}, 61)
    months = sorted({row["month"] for row in rows(marts, "tier_migration_matrix")})
    counts = np.zeros((3, 3), np.int64)
    for row in rows(marts, "tier_migration_matrix", month=months[0]):
        counts[states.index(row["from_tier"]), states.index(row["to_tier"])] = row["accounts"]
    wanted = np.linalg.matrix_power(chances, 29)  # February has 29 days
    error = np.sqrt(wanted * (1 - wanted) / counts.sum(axis=1, keepdims=True))
    assert (np.abs(cohort(counts) - wanted) <= 4.5 * error).all()
    moves, spent = np.zeros((3, 3), np.int64), np.zeros(3, np.int64)
    for row in rows(marts, "tier_transition_rates"):
        i, j = states.index(row["from_tier"]), states.index(row["to_tier"])
        moves[i, j] += row["migrations"]
        spent[i] += row["account_days"] * (i == j)
    assert spent.sum() == 300 * 60
    error = np.sqrt(chances * (1 - chances) / spent[:, None])
    daily = generator(moves, spent, days_a_year=1) + np.eye(3)
    assert (np.abs(daily - chances) <= 4.5 * error + 1e-12).all()
    assert np.abs(after_years(generator(moves, spent), 0.5).sum(axis=1) - 1).max() < 1e-9
