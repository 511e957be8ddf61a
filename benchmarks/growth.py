"""Whether one day costs one day: the warm tick after a long history against the warm tick after a short one.

    python benchmarks/growth.py --accounts 200000 --early 100 --late 460 --work /somewhere/large

Two worlds of the same accounts; rounds alternate between them, so that a busy machine slows down both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import tick


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare both worlds, measure by turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=20_000)
    parser.add_argument("--early", type=int, default=100, help="first day measured after the short history")
    parser.add_argument("--late", type=int, default=460, help="first day measured after the long one")
    parser.add_argument("--shards", type=int)
    parser.add_argument("--measured", type=int, default=3, help="days measured in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--work", help="folder that keeps the worlds; default: a temporary one in the working directory"
    )
    arguments = parser.parse_args(argv)
    with tick.work_folder(arguments.work) as work:
        print(compare(arguments, Path(work)))
    return 0


def compare(arguments: argparse.Namespace, work: Path) -> str:
    """The median tick of both worlds, as text."""
    rounds: dict[int, list[tick.Outcome]] = {arguments.early: [], arguments.late: []}
    options = {
        first: tick.options([
            f"--accounts={arguments.accounts}", f"--days={first - 1}", f"--measured={arguments.measured}", "--only=warm",
            *([f"--shards={arguments.shards}"] if arguments.shards else []),
        ])
        for first in rounds
    }  # fmt: skip
    worlds = {first: tick.world_of(options[first], work) for first in rounds}
    for first in rounds:
        tick.contend(options[first], worlds[first], "prepare")
    for _ in range(arguments.rounds):
        for first, outcomes in rounds.items():
            outcomes.append(tick.contend(options[first], worlds[first], "warm"))
    wall = {first: statistics.median(o.median for o in outcomes) for first, outcomes in rounds.items()}
    cpu = {first: statistics.median(o.median_cpu for o in outcomes) for first, outcomes in rounds.items()}
    lines = [f"{arguments.accounts:,} accounts, warm tick without the audit, median of {arguments.rounds} rounds"]
    lines.append(f"{'':<14}{'seconds':>9}{'CPU s':>8}{'peak MiB':>10}  stages of the last round")
    for first, outcomes in rounds.items():
        peak = max(outcome.peak for outcome in outcomes) / (1 << 20)
        lines.append(
            f"from day {first:<5}{wall[first]:>9.2f}{cpu[first]:>8.2f}{peak:>10,.0f}  {outcomes[-1].stage_text()}"
        )
    late, early = arguments.late, arguments.early
    lines.append(f"ratio: {wall[late] / wall[early]:.2f} wall, {cpu[late] / cpu[early]:.2f} processor")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
