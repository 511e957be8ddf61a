"""What an old correction costs: a tick that brings readings of 300 days ago anew for one account of a thousand, in one run
beside a plain tick, and beside making all days since anew for everybody. All three start from the same warehouse.

    python benchmarks/corrected.py --accounts 1000000 --days 320 --age 300 --work /somewhere/large

`run` chooses between the two ways by how many accounts are concerned; the second is forced by a limit of none. Every row of
every mart has to be the same from both (by the sum of hashes of the rows); exit code 1 where it is not. --verify compares
the corrected marts with the oracle besides, for 200 accounts and all cut-offs. Options are those of tick.py, and these.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import tick
from world import World, go_back, say


def correct(world: World, today: int, day: int, per_mille: int) -> int:
    """Land readings of an earlier day anew: of that many accounts of a thousand, a tenth more. Returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    held = pq.read_table(world.home / "stock" / "readings" / f"readings-{world.date_of(day + 1):%Y%m%d}.parquet")
    held = held.filter(pa.compute.equal(held["service_date"], pa.scalar(world.date_of(day))))
    some = held.take(list(range(500, held.num_rows, 1000 // per_mille)))
    energy = [value + (value / 10).quantize(Decimal("0.001")) + 1 for value in some["energy_kwh"].to_pylist()]
    columns = {
        **{name: some[name] for name in some.column_names},
        "energy_kwh": pa.array(energy, some.schema.field("energy_kwh").type),
        "revision": pa.array([2] * some.num_rows, pa.int64()),
    }
    path = world.home / "landing" / "readings" / f"readings-corrected-{world.date_of(today + 1):%Y%m%d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).select(some.column_names), path)
    return int(some.num_rows)


def tick_once(world: World, today: int) -> dict[str, Any]:
    """The run of a day that has landed: wall and processor seconds, and what the run says."""
    from pipelines.config import load_config
    from pipelines.run import run

    config = load_config(world.config)
    wall, cpu = time.perf_counter(), time.process_time()
    report = run(config, through=world.date_of(today), audit=False)
    took = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**took, "days": report.days, "stages": report.seconds, "peak": peak, "restated": report.restated_tiers}


def answers(world: World) -> dict[str, tuple[int, int]]:
    """Of every mart: how many rows, and the sum of their hashes."""
    from pipelines.verify import COMPARED

    out = {}
    with duckdb.connect(str(world.warehouse / "marts.duckdb"), read_only=True) as con:
        for mart in (*COMPARED, "tier_restatements"):
            row = con.sql(f"SELECT count(*), coalesce(sum(hash(t)::HUGEINT), 0) FROM {mart} t").fetchall()[0]
            out[mart] = (int(row[0]), int(row[1]))
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """0 where both ways give the same marts, and the oracle agrees."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--age", type=int, default=300, help="days back that readings are corrected")
    parser.add_argument("--per-mille", type=int, default=1, help="accounts of a thousand that are")
    parser.add_argument("--verify", action="store_true", help="compare the corrected marts with the oracle, too")
    parser.add_argument("--without-whole", action="store_true", help="leave out making all days anew")
    own, others = parser.parse_known_args(argv)
    arguments = tick.options([*others, "--only=warm"])
    with tick.work_folder(arguments.work) as work:
        return _measure(arguments, Path(work), own)


def _measure(arguments: Any, work: Path, own: argparse.Namespace) -> int:
    import pipelines.restate

    arguments.contender = None
    world = tick.world_of(arguments, work)
    tick.contend(arguments, world, "prepare")
    if arguments.prepare_only:
        return 0
    today, outcomes, found = arguments.days, {}, {}
    limit = pipelines.restate.MOST_PPM
    for name in ("warm-up", "plain", "corrected", *(() if own.without_whole else ("all anew",))):
        go_back(world)
        for path in (world.home / "landing" / "readings").glob("readings-corrected-*"):
            path.unlink()
        world.land(today)
        accounts = 0
        if name in ("corrected", "all anew"):
            accounts = correct(world, today, today - own.age, own.per_mille)
        pipelines.restate.MOST_PPM = 0 if name == "all anew" else limit
        outcomes[name] = {**tick_once(world, today), "accounts": accounts}
        say(f"{name}: {outcomes[name]}")
        found[name] = answers(world)
        if name == "corrected" and own.verify:
            from pipelines.config import load_config
            from pipelines.verify import verify

            report = verify(str(world.warehouse / "marts.duckdb"), load_config(world.config).policy)
            say(str(report))
            outcomes["oracle"] = {"mismatches": report.mismatches}
    pipelines.restate.MOST_PPM = limit
    go_back(world)
    return _tell(arguments, world, outcomes, found)


def _tell(arguments: Any, world: World, outcomes: dict[str, Any], found: dict[str, Any]) -> int:
    plain, corrected, whole = outcomes["plain"], outcomes["corrected"], outcomes.get("all anew")
    differ = [m for m, own in found["corrected"].items() if own != found["all anew"][m]] if whole else []
    wrong = outcomes.get("oracle", {}).get("mismatches", 0)
    ratio = corrected["seconds"] / plain["seconds"]
    if arguments.json:
        print(json.dumps({"corrected / plain": ratio, "differ": differ, "oracle": wrong, **outcomes}))
    else:
        print(f"{world.accounts:,} accounts, {world.shards} shards; {tick.machine()}")
        for name, one in outcomes.items():
            if name in ("plain", "corrected", "all anew"):
                stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in one["stages"].items())
                print(f"{name:<12} {one['seconds']:>8.2f} s {one['cpu']:>8.2f} CPU s {one['days']:>4} days; {stages}")
        print(
            f"{corrected['accounts']:,} accounts corrected, {corrected['restated']:,} stretches of tiers restated;"
            f" corrected / plain: {ratio:.2f} by the clock, {corrected['cpu'] / plain['cpu']:.2f} in CPU seconds"
        )
        if whole:
            print(f"all anew / corrected: {whole['seconds'] / corrected['seconds']:.1f}")
            print("rows that DIFFER: " + ", ".join(differ) if differ else "marts of both ways: all equal")
    return 1 if differ or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
