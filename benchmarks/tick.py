"""How long the next day takes: Wattier's tick against the same marts made by DuckDB SQL, in one run, answers compared.

    python benchmarks/tick.py --accounts 1000000 --days 400 --work /somewhere/large

The world is made once and kept in --work. Every contender begins with the warehouse, or store, published through day
`days - 1`; day `days` is its warm-up, the days after it are measured. Each runs in a process of its own, whose peak
memory is the largest resident set that the operating system saw. This process starts them and stays small.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from world import SHARDS_OF, World, go_back, prepare, say

HERE = Path(__file__).resolve()
CHECKOUT = HERE.parents[1]


@dataclass
class Outcome:
    """What one contender did: for each measured day the wall seconds by stage and the processor seconds; peak memory in bytes."""

    name: str
    stages: list[dict[str, float]] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def median(self) -> float:
        """Wall seconds of the median day."""
        return statistics.median(sum(day.values()) for day in self.stages)

    @property
    def median_cpu(self) -> float:
        """Processor seconds of the median day."""
        return statistics.median(self.cpu)

    def stage_text(self) -> str:
        """The median seconds of each stage."""
        names = self.stages[0] if self.stages else {}
        return ", ".join(f"{n} {statistics.median(day[n] for day in self.stages):.2f}" for n in names)


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, measure, compare, print. Returns 0 where all answers are equal."""
    arguments = options(argv)
    if arguments.contender:
        return _as_contender(arguments)
    with work_folder(arguments.work) as work:
        return _bench(arguments, Path(work))


def _bench(arguments: argparse.Namespace, work: Path) -> int:
    world = world_of(arguments, work)
    contend(arguments, world, "prepare")
    if arguments.prepare_only:
        return 0
    outcomes: dict[str, Outcome] = {}
    compared: dict[str, Any] = {}
    for name in ("full", "incremental"):
        if name in arguments.only:
            outcomes[name] = contend(arguments, world, name)
    for name in ("command-audit", "command", "warm-audit", "warm"):
        if name in arguments.only:
            measure = _commands if name.startswith("command") else contend
            outcomes[name] = measure(arguments, world, name)
    if any(name in outcomes for name in ("warm", "warm-audit", "command", "command-audit")):
        for name in ("full", "incremental"):
            if name in outcomes:
                compared[name] = contend(arguments, world, f"compare-{name}").stages[0]
    if arguments.json:
        print(json.dumps({"outcomes": {n: asdict(o) for n, o in outcomes.items()}, "compared": compared}))
    else:
        print(table(arguments, world, outcomes, compared))
    return 1 if any(found["differing"] for marts in compared.values() for found in marts.values()) else 0


LABELS = {
    "warm": "wattier, warm, no audit",
    "warm-audit": "wattier, warm, audit",
    "command": "wattier run --no-audit, whole command",
    "command-audit": "wattier run, whole command",
    "full": "(a) DuckDB SQL, full recompute",
    "incremental": "(b) DuckDB SQL, incremental",
}


def table(arguments: argparse.Namespace, world: World, outcomes: dict[str, Outcome], compared: dict[str, Any]) -> str:
    """What was measured, as text."""
    days = days_of(arguments)[1:]
    lines = [
        f"{world.accounts:,} accounts, tick of day {days[0]}" + (f" to {days[-1]}, median" if len(days) > 1 else "")
        + f"; {world.shards} shards; {machine()}, {arguments.threads} DuckDB threads",
        f"{'':<40}{'seconds':>9}{'CPU s':>8}{'(a) / it':>10}{'(b) / it':>10}{'peak MiB':>10}",
    ]  # fmt: skip
    for name, label in LABELS.items():
        if (outcome := outcomes.get(name)) is None:
            continue
        ratios = [
            f"{outcomes[peer].median / outcome.median:.2f}" if peer in outcomes else ""
            for peer in ("full", "incremental")
        ]
        lines.append(
            f"{label:<40}{outcome.median:>9.2f}{outcome.median_cpu:>8.2f}{ratios[0]:>10}{ratios[1]:>10}"
            f"{outcome.peak / (1 << 20):>10,.0f}"
        )
    lines += ["", "median seconds by stage"]
    lines += [f"  {LABELS[name]}: {outcomes[name].stage_text()}" for name in LABELS if name in outcomes]
    for peer, marts in compared.items():
        differ = ", ".join(f"{mart} {found['differing']:,}" for mart, found in marts.items() if found["differing"])
        rows = ", ".join(f"{mart} {found['rows']:,}" for mart, found in marts.items())
        lines.append(
            f"answers of {LABELS[peer]}: " + (f"rows that DIFFER: {differ}" if differ else f"all equal ({rows})")
        )
    return "\n".join(lines)


def machine() -> str:
    """Processor and cores, as a line."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []  # fmt: skip
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}"


# What a contender does, in a process of its own -----------------------------------------------------------------------


def _as_contender(arguments: argparse.Namespace) -> int:
    """The child's side: one contender; prints its days as one JSON line."""
    from pipelines.config import load_config

    world = world_of(arguments, Path(arguments.work))
    name, days = arguments.contender, days_of(arguments)
    stages: list[Any] = []
    cpu: list[float] = []
    if name == "prepare":
        prepare(world)
        if {"full", "incremental"} & set(arguments.only):
            _prepare_peers(arguments, world)
    elif name.startswith("warm"):
        stages, cpu = _warm(arguments, world, days, audit=name.endswith("audit"))
    else:
        import peer

        if name.startswith("compare-"):
            stages = [peer.compare(world, name.removeprefix("compare-"), days[1:])]
        else:
            policy = load_config(world.config).policy
            stages, cpu = peer.run_peer(world, name, days, policy, arguments.threads, arguments.memory)
    print(json.dumps({"stages": stages, "cpu": cpu}))
    return 0


def _prepare_peers(arguments: argparse.Namespace, world: World) -> None:
    """The peers' store, from the warehouse as it was published through the last prepared day."""
    from peer import make_store

    from pipelines.config import load_config
    from pipelines.publish import Publisher
    from pipelines.warehouse import Warehouse

    if not world.peer.exists():
        go_back(world)
        Publisher(Warehouse(str(world.warehouse))).recover()
        make_store(world, load_config(world.config).policy, arguments.threads, arguments.memory)


def _warm(
    arguments: argparse.Namespace, world: World, days: Sequence[int], *, audit: bool
) -> tuple[list[dict[str, float]], list[float]]:
    """Days in one process, the first of them to warm up. Wall seconds by stage and processor seconds of the others."""
    import cProfile
    import pstats

    from pipelines.config import load_config
    from pipelines.run import run

    config = load_config(world.config)
    stages, cpu = [], []
    # Processor time: on a busy machine wall time would tell of the others.
    profile = cProfile.Profile(time.process_time) if arguments.profile else None
    for number, day in enumerate(days):
        world.land(day)
        if profile and number:
            profile.enable()
        started, started_cpu = time.perf_counter(), time.process_time()
        report = run(config, audit=audit, beam_options=arguments.beam)
        whole = time.perf_counter() - started
        cpu.append(time.process_time() - started_cpu)
        if profile and number:
            profile.disable()
        _check(report.through, world, day, report.days)
        stages.append({**report.seconds, "rest": whole - sum(report.seconds.values())})
        say(f"  day {day}: {whole:.2f} s")
    if profile:
        profile.dump_stats(arguments.profile)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(40)
    return stages[1:], cpu[1:]


def _check(through: object, world: World, day: int, days: int) -> None:
    """A tick makes exactly the day asked for; anything else is not what is to be measured."""
    if str(through) != f"{world.date_of(day)}" or (days != 1 and not world.late):
        raise RuntimeError(f"the run made {days} days up to {through}; expected one, {world.date_of(day)}")


# What the parent does ---------------------------------------------------------------------------------------------------


def contend(arguments: argparse.Namespace, world: World, name: str) -> Outcome:
    """Run a contender in a process of its own."""
    if name.startswith("warm"):
        go_back(world)
    say(f"{LABELS.get(name, name)}")
    command = [sys.executable, str(HERE), "--contender", name, *_passed_on(arguments, world)]
    output, usage = _run(command)
    return Outcome(name, **json.loads(output.splitlines()[-1]), peak=_peak(usage))


def _commands(arguments: argparse.Namespace, world: World, name: str) -> Outcome:
    """Each day as a whole command, start-up and all."""
    go_back(world)
    say(LABELS[name])
    outcome = Outcome(name)
    for number, day in enumerate(days_of(arguments)):
        world.land(day)
        audit = [] if name.endswith("audit") else ["--no-audit"]
        command = [sys.executable, "-P", "-m", "pipelines", "run", "--config", str(world.config), "--json", *audit]
        started = time.perf_counter()
        output, usage = _run([*command, *(["--", *arguments.beam] if arguments.beam else [])])
        whole = time.perf_counter() - started
        report = json.loads(output.splitlines()[-1])
        _check(report["through"], world, day, report["days"])
        if number:
            outcome.cpu.append(usage.ru_utime + usage.ru_stime)
            outcome.stages.append({**report["seconds"], "rest": whole - sum(report["seconds"].values())})
            outcome.peak = max(outcome.peak, _peak(usage))
        say(f"  day {day}: {whole:.2f} s")
    return outcome


def _run(command: Sequence[str]) -> tuple[str, resource.struct_rusage]:
    """Run a process to its end. Returns what it printed, and what it used."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, cwd=CHECKOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}")
        output.seek(0)
        return output.read(), usage


def _peak(usage: resource.struct_rusage) -> int:
    """The peak resident set of a process in bytes."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def days_of(arguments: argparse.Namespace) -> list[int]:
    """The warm-up day, then the days measured."""
    return list(range(arguments.days, arguments.days + arguments.measured + 1))


def world_of(arguments: argparse.Namespace, work: Path) -> World:
    """The world that the options name."""
    shards = arguments.shards or -(-arguments.accounts // SHARDS_OF)
    return World(
        work.absolute(),
        arguments.accounts,
        arguments.days - 1,
        shards,
        arguments.days + arguments.measured,
        registers=arguments.registers,
        late=arguments.late,
    )


def _passed_on(arguments: argparse.Namespace, world: World) -> list[str]:
    names = ("accounts", "days", "measured", "threads", "memory", "profile")
    given = [f"--{name}={getattr(arguments, name)}" for name in names if getattr(arguments, name)]
    only = [f"--only={name}" for name in arguments.only]
    beam = ["--", *arguments.beam] if arguments.beam else []
    given += [f"--{name}" for name in ("registers", "late") if getattr(arguments, name)]
    return [*given, f"--shards={world.shards}", f"--work={world.work}", *only, *beam]


def work_folder(given: str | None) -> Any:
    """The folder given, kept; or one below the working directory, removed at the end."""
    if given is None:
        return tempfile.TemporaryDirectory(prefix="benchmark-", dir=Path.cwd())
    import contextlib

    return contextlib.nullcontext(given)


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=120, help="the warm-up day; those after it are measured")
    parser.add_argument("--shards", type=int, help=f"default: one for each {SHARDS_OF:,} accounts")
    parser.add_argument("--work", help="folder that keeps the world; default: a temporary one in the working directory")
    parser.add_argument("--measured", type=int, default=3, help="days measured")
    parser.add_argument("--threads", type=int, default=2, help="threads of DuckDB in the peers")
    parser.add_argument("--memory", default="8GB", help="memory limit of DuckDB in the peers")
    parser.add_argument("--only", action="append", choices=list(LABELS), help="measure only this; may be given again")
    parser.add_argument("--profile", help="file for a cProfile of the warm ticks; the table then tells little")
    parser.add_argument(
        "--registers", action="store_true", help="cumulative registers; the peers know none: see registers.py"
    )
    parser.add_argument("--late", action="store_true", help="some readings come days late: see late.py")
    parser.add_argument("--prepare-only", action="store_true", help="make the world and stop")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("beam", nargs="*", help="after --: options for Beam")
    arguments = parser.parse_args(argv)
    arguments.only = arguments.only or list(LABELS)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
