"""What tiers are made of as of the day's clock, against the oracle; and what they were made of the day before, handed on."""

from __future__ import annotations

import random
from datetime import date, timedelta

import duckdb
import numpy as np
import pytest

from pipelines import oracle, restate
from pipelines.verify import EVENTS
from pipelines.warehouse import Warehouse
from schemas.inbound import CATEGORIES
from schemas.marts import FEATURES
from tests.oracles.worlds import table
from tests.pipeline.bureau import Bureau
from tests.pipeline.streams import Epochs
from tests.pipeline.worlds import INGREDIENTS, a_world, account, meter, reading, second_version
from transforms import fold_features, fold_tiers, restate_features
from transforms.checkpoints import TIER_INPUT
from transforms.fold_tiers import TierInputs
from transforms.kernels.windows import date_of, day_of
from transforms.patches import tier_inputs
from transforms.shards import Slots, State
from transforms.tier_inputs import tier_input, without_repeats

EVERYTHING = tuple(f.name for f in FEATURES.schema if f.name not in ("account_id", "service_date", "category"))


def everything(policy, day):
    """All columns, the metric first."""
    metric = policy.on(day).abc.metric
    return (metric, *(name for name in EVERYTHING if name != metric))


def clock_of(inputs):
    """The columns of a block as of the clock."""
    known = TierInputs(inputs)
    return known.columns(known.slots, clock=True)


def kept(bureau):
    """(account, day) -> its columns as of the clock, as fold 2 finds them."""
    warehouse = Warehouse(bureau.config.warehouse)
    standing, out = warehouse.load(), {}
    for shard in range(bureau.config.settings.shards):
        state = State(warehouse.store, [e for e in standing.entries if e.shard == shard])
        ids = Slots.load(state, "account_slots").ids.to_pylist()
        for day in state.by_day(TIER_INPUT):
            inputs = tier_inputs(state, day)
            columns = {name: column.tolist() for name, column in clock_of(inputs).items()}
            columns["category"] = [CATEGORIES[code] for code in columns["category"]]
            for row, slot in enumerate(inputs["slot"].to_pylist()):
                out[ids[slot], date_of(day)] = {name: column[row] for name, column in columns.items()}
    return out


def recomputed(bureau):
    """The same by the oracle, for every account and service day."""
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{bureau.marts}' AS published (READ_ONLY)")
        for name in EVENTS:
            con.execute(f"CREATE VIEW {name} AS FROM published.{name}")
        first, last = oracle.calendar(con, bureau.config.policy, date(2030, 1, 1))
        oracle.recompute(con, bureau.config.policy, first, last)
        con.execute("CREATE OR REPLACE TABLE oracle.moved_pair AS SELECT account_id, service_date FROM oracle.features")
        oracle._clock(con)
        rows, ends = (table(con, f"FROM oracle.{name} ORDER BY ALL") for name in ("features_clock", "features"))
        told = {name for row, end in zip(rows, ends, strict=True) for name in row if row[name] != end[name]}
        assert told >= {"wh_7d", "valued_30d_minor", "overdue_minor", "payments_365d", "disconnected"}
    return {(row.pop("account_id"), row.pop("service_date")): row for row in rows}


def differing(bureau):
    found, wanted = kept(bureau), recomputed(bureau)
    assert found.keys() == wanted.keys()
    return {
        (*key, name): (row[name], wanted[key][name])
        for key, row in found.items()
        for name in row
        if name != "credit_score" and row[name] != wanted[key][name]
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3])
def test_columns_as_of_the_clock_are_the_oracles(tmp_path, monkeypatch, seed):
    """In one run, and where what comes late is put right account by account."""
    for module in (fold_features, restate_features):
        monkeypatch.setattr(module, "needed_columns", everything)
    monkeypatch.setattr(restate, "MOST_PPM", 10**9)
    monkeypatch.setattr(restate, "LEAST_DAYS", 1)
    rng = random.Random(seed)
    world = a_world(rng, 9, 33, frozenset(INGREDIENTS), first=date(2020, 2, 18))
    late = [
        event for event in world.events if event[0] not in ("accounts", "meters", "tariffs") and rng.random() < 0.03
    ]
    bureau = Bureau(tmp_path / "bureau", shards=2)
    bureau.land_all(event for event in world.events if event not in late)
    bureau.run(world.days[1])
    assert not differing(bureau)
    bureau.land_all(late)
    assert bureau.run(world.days[1]).days_by_account
    assert not differing(bureau)


@pytest.mark.parametrize("kept", [400, 0])
def test_what_tiers_were_made_of_the_day_before_is_at_hand(tmp_path, monkeypatch, kept):
    """In runs day by day, in a stream that begins where they ended, and in runs after it; also where none of it is kept."""
    load, held = fold_tiers._load, []

    def watched(state):
        inputs = {
            number: tier_inputs(state, number)["wh_7d"].to_pylist() for number in sorted(state.by_day(TIER_INPUT))
        }
        held.append((max(state.by_day("tiers"), default=None), inputs))
        return load(state)

    monkeypatch.setattr(fold_tiers, "_load", watched)
    day = lambda n: date(2023, 3, 30) + timedelta(days=n)  # noqa: E731
    long_ago = date(2020, 1, 1)
    keep = ("retention:\n", f"retention:\n  tier_inputs: {kept}\n")
    bureau = Bureau(tmp_path / "bureau", keep, shards=1)
    bureau.land_all([account("a", long_ago), meter("m", "a", long_ago), reading("m", day(0), 1000)])
    bureau.run()
    bureau.land_all([reading("m", day(n), 1000) for n in (1, 2)])  # a month ends: two ticks
    bureau.run()
    Epochs(bureau).take_all([[reading("m", day(3), 1000)], [reading("m", day(n), 1000) for n in (4, 5)]], each=True)
    bureau.land_all([reading("m", day(6), 1000)])
    bureau.run()
    number = lambda *days: [day_of(day(n)) for n in days]  # noqa: E731
    assert held == [
        (before and number(*before)[0], {day_of(day(n)): [1000 * (n + 1)] for n in days})
        for before, days in [
            (None, [0]), ([0], [0, 1]), ([1], [1, 2]), ([2], [2, 3]), ([3], [3, 4, 5]), ([5], [5, 6]),
        ]
    ]  # fmt: skip


def test_the_day_before_a_version_begins_has_what_its_rules_read(tmp_path):
    """Also where the version comes when that day is made already: it is made again, and figures that may differ are those since."""
    day = lambda n: date(2023, 3, 6) + timedelta(days=n)  # noqa: E731
    long_ago = date(2020, 1, 1)
    bureau = Bureau(tmp_path / "bureau", shards=1)
    for n in range(3):
        once = [account("a", long_ago), meter("m", "a", long_ago)] if n == 0 else []
        bureau.land_all([*once, reading("m", day(n), 1000)])
        bureau.run()

    def told(n):
        warehouse = Warehouse(bureau.config.warehouse)
        state = State(warehouse.store, warehouse.load().entries)
        return set(tier_inputs(state, day_of(day(n))).schema.names)

    assert not told(2) & {"wh_30d", "wh_90d"}
    bureau.set_policy(second_version(day(3), ("metric: wh_7d", "metric: wh_30d")))
    assert bureau.run().restated_from == day(2)
    assert "wh_30d" in told(2)
    assert bureau.run().restated_from is None
    bureau.set_policy(second_version(day(2), ("metric: wh_7d", "metric: wh_90d")))
    assert bureau.run().restated_from == day(2)
    assert "wh_90d" in told(1)
    assert told(2) & {"wh_7d", "wh_30d", "wh_90d"} == {"wh_7d", "wh_90d"}
    bureau.check()


def test_a_column_that_nothing_moves_is_left_out():
    """Of days of one tick: where a day differs, all of them tell the column."""
    rows, category = np.arange(2), np.zeros(2, np.int8)
    values = {"wh_7d": np.array([5, 6]), "bounced_90d": np.array([1, 0])}
    alike = tier_input(rows, category, None, tuple(values), values, values)
    moved = tier_input(rows, category, None, tuple(values), values, {"wh_7d": np.array([4, 6])})
    (_, one), (_, other) = without_repeats([(1, alike), (2, moved)])
    assert one.schema.names == other.schema.names == ["slot", "category", *values, "wh_7d@clock"]
    assert without_repeats([(1, alike)])[0][1].schema.names == ["slot", "category", *values]
    assert [clock_of(block)["wh_7d"].tolist() for block in (one, other)] == [[5, 6], [4, 6]]
