"""What a day of cumulative registers costs beside one of interval energy: the same utility told both ways, in one run.

    python benchmarks/registers.py --accounts 1000000 --days 60 --work /somewhere/large

Five registers for each meter: the total, and four periods. Both ticks are Wattier's own, warm, without audit; the marts of
the measured days must be equal but for the energy by period, which only registers tell. Exit code 1 where they are not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tick
from peer import BY_DAY, MARTS_WRITTEN
from world import World, go_back

from pipelines.oracle import literal
from schemas.inbound import PERIODS
from schemas.marts import MARTS

MAY_BE_EMPTY = ("customer_tiers", "tier_migrations", "tier_migration_matrix")
"""Marts that some days add nothing to."""

SIDES = {"interval energy": False, "five registers": True}


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, measure, compare, print. Returns 0 where the answers are equal."""
    arguments = options(argv)
    with tick.work_folder(arguments.work) as work:
        return _bench(arguments, Path(work))


def _bench(arguments: argparse.Namespace, work: Path) -> int:
    outcomes: dict[str, tick.Outcome] = {}
    worlds: dict[str, World] = {}
    for side, registers in SIDES.items():
        arguments.registers = registers
        worlds[side] = tick.world_of(arguments, work)
        tick.contend(arguments, worlds[side], "prepare")
        if not arguments.prepare_only:
            outcomes[side] = tick.contend(arguments, worlds[side], "warm")
    if arguments.prepare_only:
        return 0
    compared = compare(
        *worlds.values(), [worlds["five registers"].date_of(day).isoformat() for day in tick.days_of(arguments)[1:]]
    )
    for world in worlds.values():
        go_back(world)
    plain, registers_ = outcomes.values()
    ratios = {"seconds": registers_.median / plain.median, "cpu": registers_.median_cpu / plain.median_cpu}
    if arguments.json:
        print(json.dumps({"ratios": ratios, "compared": compared}))
    else:
        print(f"{arguments.accounts:,} accounts, {worlds['five registers'].shards} shards; {tick.machine()}")
        for side, outcome in outcomes.items():
            print(f"{side:<16} {outcome.median:>8.2f} s {outcome.median_cpu:>8.2f} CPU s; {outcome.stage_text()}")
        print(f"registers / interval energy: {ratios['seconds']:.2f} by the clock, {ratios['cpu']:.2f} in CPU seconds")
        print("; ".join(f"{mart}: {c['rows']:,} rows, {c['differing']:,} differ" for mart, c in compared.items()))
    return 1 if any(c["differing"] or not (c["rows"] or mart in MAY_BE_EMPTY) for mart, c in compared.items()) else 0


def told_by_both(mart: str) -> str:
    """The columns of a mart that do not tell energy by period."""
    names = [column.name for column in MARTS[mart].columns]
    return ", ".join(name for name in names if not name.startswith((*(f"{period}_" for period in PERIODS), "period_")))


def compare(plain: World, registers: World, days: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By mart, rows of the measured days and how many differ, EXCEPT ALL both ways."""
    import duckdb

    out: dict[str, dict[str, Any]] = {}
    with duckdb.connect() as con:
        for name, world in (("plain", plain), ("registers", registers)):
            con.execute(f"ATTACH {literal(str(world.warehouse / 'marts.duckdb'))} AS {name} (READ_ONLY)")
        for mart in MARTS_WRITTEN:
            where = f"WHERE {BY_DAY[mart]} IN ({', '.join(map(literal, days))})" if mart in BY_DAY else ""
            one, other = (
                f"(SELECT {told_by_both(mart)} FROM {name}.{mart} {where})" for name in ("plain", "registers")
            )
            rows, differing = con.execute(f"""
                SELECT (SELECT count(*) FROM {one}),
                    (SELECT count(*) FROM ({one} EXCEPT ALL {other})) + (SELECT count(*) FROM ({other} EXCEPT ALL {one}))
            """).fetchall()[0]
            out[mart] = {"rows": rows, "differing": differing}
    return out


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of tick.py that mean something here."""
    arguments = tick.options([*(argv if argv is not None else sys.argv[1:]), "--only=warm"])
    arguments.contender = None
    return arguments


if __name__ == "__main__":
    sys.exit(main())
