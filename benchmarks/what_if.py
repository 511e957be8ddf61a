"""Another policy on past days: `wattier what-if` beside recomputing from events, and beside a run of the same days.

    python benchmarks/what_if.py --accounts 200000 --days 60 --tried 30 --work /somewhere/large

    what-if    the last days under the policy, from what the warehouse holds; and with --out, which keeps the marts
    run        the same days by `wattier run`, the policy added from the first of them on
    events     all days from all events, in a new warehouse, by `wattier run` under the same rules

Tiers, migrations and cut-offs of these days must be the same from all three (by the sum of hashes of the rows); exit code 1 where
they are not. --metric ranks by a column that `features` alone holds; causes are then left out of the comparison.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
from world import World, go_back, prepare, say

CHANGES = (
    ("A: 80 %", "A: 70 %"), ("entry: 78 %, exit: 82 %", "entry: 68 %, exit: 72 %"), ("min_stay_days: 30", "min_stay_days: 10"),
    ("at_most: 700000", "at_most: 600000"), ('version: "1"', 'version: "tried"'),
)  # fmt: skip
"""What the policy that is tried has otherwise."""

COMPARED = {
    "customer_tiers": "SELECT * REPLACE (greatest(valid_from, $first) AS valid_from, "
    "least(coalesce(valid_to, $last), $last) AS valid_to) FROM {} "
    "WHERE valid_from <= $last AND coalesce(valid_to, $last) >= $first",
    "tier_migrations": "SELECT * FROM {} WHERE service_date BETWEEN $first AND $last",
    "cutoffs": "SELECT * FROM {} WHERE service_date BETWEEN $first AND $last",
}


def tried_policy(text: str, metric: str | None) -> Any:
    """The policy to try. text: of the one that days were published under."""
    from schemas.policy import parse_policy

    for old, new in (*CHANGES, *([("metric: wh_365d", f"metric: {metric}")] if metric else ())):
        if old not in text:
            raise ValueError(f"the policy does not say {old!r}")
        text = text.replace(old, new)
    return parse_policy(text, "tried.yaml")


def answers(con: duckdb.DuckDBPyConnection, name: str, first: date, last: date, *, causes: bool) -> tuple[int, int]:
    """Of a mart, how many rows, and the sum of their hashes. name: of a view or file, as it stands in FROM."""
    mart = next(mart for mart in COMPARED if mart in name)
    rows = COMPARED[mart].format(name)
    if mart == "tier_migrations" and not causes:
        rows = f"SELECT * EXCLUDE (cause) FROM ({rows})"
    found = con.execute(
        f"SELECT count(*), coalesce(sum(hash(t)::HUGEINT), 0) FROM ({rows}) t", {"first": first, "last": last}
    ).fetchall()[0]
    return int(found[0]), int(found[1])


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What work gives, and wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    out = work()
    return out, {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main(argv: Sequence[str] | None = None) -> int:
    """0 where all give the same marts."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--accounts", type=int, default=200_000)
    parser.add_argument("--days", type=int, default=60, help="service days published")
    parser.add_argument("--tried", type=int, default=30, help="the last of them, under the policy that is tried")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--metric", help="rank by this column of features")
    parser.add_argument("--work", help="folder for the world (default: a temporary one)")
    parser.add_argument("--without-run", action="store_true", help="leave out a run of the same days")
    parser.add_argument("--without-events", action="store_true", help="leave out recomputing from events")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        world = World(
            Path(arguments.work or temporary), arguments.accounts, arguments.days, arguments.shards, arguments.days
        )
        prepare(world)
        return _measure(arguments, world)


def _measure(arguments: Any, world: World) -> int:
    from pipelines.config import load_config
    from pipelines.plan import published_policy
    from pipelines.run import run
    from pipelines.warehouse import Warehouse
    from pipelines.what_if import in_force_from, what_if
    from transforms.kernels.windows import day_of

    config, tried = (
        load_config(world.config),
        tried_policy((world.home / "policy.yaml").read_text("utf-8"), arguments.metric),
    )
    first, last = world.date_of(arguments.days - arguments.tried + 1), world.date_of(arguments.days)
    go_back(world)
    run(config, through=last, audit=False)  # derives marts.duckdb, and warms up
    standing = Warehouse(config.warehouse).load()
    both = in_force_from(published_policy(standing.header["policy"], config.policy), tried, day_of(first))
    outcomes: dict[str, dict[str, float]] = {}
    found: dict[str, dict[str, tuple[int, int]]] = {}
    causes = arguments.metric is None
    out = world.home / "what-if"
    shutil.rmtree(out, ignore_errors=True)
    for name, folder in (("what-if", None), ("with --out", out)):
        say(name)
        report, outcomes[name] = timed(
            lambda folder=folder: what_if(
                config, tried, "tried.yaml", first, last, out=folder, progress=lambda *_: None
            )
        )
    with duckdb.connect() as con:
        names = {mart: f"'{out / mart}.parquet'" for mart in COMPARED}
        found["with --out"] = {mart: answers(con, name, first, last, causes=causes) for mart, name in names.items()}
    anew = str(world.home / "anew")
    shutil.rmtree(anew, ignore_errors=True)
    others = {} if arguments.without_run else {"run": config.warehouse}
    others |= {} if arguments.without_events else {"events": anew}
    for name, warehouse in others.items():
        say(name)
        asked = replace(config, warehouse=warehouse, policy=both)
        _, outcomes[name] = timed(lambda asked=asked: run(asked, through=last, audit=False))
        with duckdb.connect(str(Path(warehouse) / "marts.duckdb"), read_only=True) as con:
            found[name] = {mart: answers(con, mart, first, last, causes=causes) for mart in COMPARED}
    go_back(world)
    shutil.rmtree(anew, ignore_errors=True)
    return _tell(arguments, report, outcomes, found)


def _tell(arguments: Any, report: Any, outcomes: dict[str, Any], found: dict[str, Any]) -> int:
    own, rows = outcomes["what-if"], found["with --out"]
    differ = [f"{mart} of {name}" for name in found for mart in COMPARED if found[name][mart] != rows[mart]]
    if arguments.json:
        print(json.dumps({"outcomes": outcomes, "rows": {m: n for m, (n, _) in rows.items()}, "differ": differ}))
        return 1 if differ else 0
    print(
        f"{report.accounts:,} accounts, {arguments.tried} of {arguments.days} days; {report.moved:,} accounts would move"
    )
    for name, one in outcomes.items():
        ratio = f"{one['seconds'] / own['seconds']:>6.1f} times, {one['cpu'] / own['cpu']:.1f} in CPU seconds"
        print(
            f"{name:<8} {one['seconds']:>8.2f} s {one['cpu']:>8.2f} CPU s {ratio if name != 'what-if' else ''}".rstrip()
        )
    told = ", ".join(f"{n:,} {mart}" for mart, (n, _) in rows.items())
    print("rows that DIFFER: " + ", ".join(differ) if differ else f"all equal: {told}")
    return 1 if differ else 0


if __name__ == "__main__":
    raise SystemExit(main())
