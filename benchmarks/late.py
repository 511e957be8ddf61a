"""What late readings cost: a run in which one reading of a hundred is one to five days late, beside one without, in one run.

    python benchmarks/late.py --accounts 1000000 --days 36 --work /somewhere/large

The same utility, told in time and told late. Both ticks are Wattier's own, warm, without audit. A late reading restates the days
from its own on. The late world's marts are compared with the oracle in the end, for 200 accounts and all cut-offs; exit code 1
where they differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import tick
from world import go_back

SIDES = {"all in time": False, "1 % late": True}


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, measure, verify, print. Returns 0 where the oracle agrees."""
    arguments = options(argv)
    with tick.work_folder(arguments.work) as work:
        return _bench(arguments, Path(work))


def _bench(arguments: argparse.Namespace, work: Path) -> int:
    from pipelines.config import load_config
    from pipelines.verify import verify

    outcomes: dict[str, tick.Outcome] = {}
    for side, late in SIDES.items():
        arguments.late = late
        world = tick.world_of(arguments, work)
        tick.contend(arguments, world, "prepare")
        if not arguments.prepare_only:
            outcomes[side] = tick.contend(arguments, world, "warm")
    if arguments.prepare_only:
        return 0
    report = verify(str(world.warehouse / "marts.duckdb"), load_config(world.config).policy)
    go_back(world)
    plain, some_late = outcomes.values()
    ratios = {"seconds": some_late.median / plain.median, "cpu": some_late.median_cpu / plain.median_cpu}
    if arguments.json:
        print(json.dumps({"ratios": ratios, "mismatches": report.mismatches}))
    else:
        print(f"{arguments.accounts:,} accounts, {world.shards} shards; {tick.machine()}")
        for side, outcome in outcomes.items():
            print(f"{side:<12} {outcome.median:>8.2f} s {outcome.median_cpu:>8.2f} CPU s; {outcome.stage_text()}")
        print(f"late / in time: {ratios['seconds']:.2f} by the clock, {ratios['cpu']:.2f} in CPU seconds")
        print(report)
    return 0 if report.ok else 1


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of tick.py that mean something here."""
    arguments = tick.options([*(argv if argv is not None else sys.argv[1:]), "--only=warm"])
    arguments.contender = None
    return arguments


if __name__ == "__main__":
    sys.exit(main())
