"""The world that the benchmarks measure: a simulated utility, landed day by day, and a warehouse that is up to date.

    work/1000000x400s16/
      stock/        what the simulator wrote: the files of every day, those measured included
      landing/      hard links to the files that have landed
      warehouse/    published through the last prepared day
      base.json     the warehouse's pointer then; going back to it undoes whatever was measured
      peer.duckdb   the peers' own store of the same days

Service days are counted from 1. Making it takes long at a million accounts; stopped at any moment, it goes on where it
was. Nothing here is measured.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

START = date(2025, 1, 1)
SOURCES = ("accounts", "meters", "readings", "registers", "ledger")
SHARDS_OF = 60_000
"""Accounts to a shard, where the number of shards is not given."""


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class World:
    """Where a world lies, and its measures. `stocked`: service days simulated, `days` of which are prepared at first;
    registers: meters show cumulative registers in place of interval energy; late: one reading of a hundred comes one to five days
    late.
    """

    work: Path
    accounts: int
    days: int
    shards: int
    stocked: int
    seed: int = 1
    registers: bool = False
    late: bool = False

    @property
    def home(self) -> Path:
        """The folder of this world."""
        return (
            self.work
            / f"{self.accounts}x{self.days}s{self.shards}{'r' if self.registers else ''}{'l' if self.late else ''}"
        )

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.home / "wattier.yaml"

    @property
    def warehouse(self) -> Path:
        """What `wattier run` writes."""
        return self.home / "warehouse"

    @property
    def peer(self) -> Path:
        """The peers' store."""
        return self.home / "peer.duckdb"

    def date_of(self, day: int) -> date:
        """The calendar date of a service day."""
        return START + timedelta(days=day - 1)

    def files(self, day: int) -> list[Path]:
        """Files of the stock that land when a service day is over."""
        stamp = f"{self.date_of(day + 1):%Y%m%d}"
        paths = (self.home / "stock" / source / f"{source}-{stamp}.parquet" for source in SOURCES)
        return [path for path in paths if path.exists()]

    def land(self, day: int) -> None:
        """Let the files of a service day land."""
        for path in self.files(day):
            target = self.home / "landing" / path.relative_to(self.home / "stock")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                os.link(path, target)

    def take_away(self, day: int) -> None:
        """Take away what landed after a service day."""
        for path in (self.home / "landing").glob("*/*.parquet"):
            if path.stem[-8:] > f"{self.date_of(day + 1):%Y%m%d}":
                path.unlink()


def prepare(world: World, chunk: int = 100) -> None:
    """Make the world, or what is missing of it: simulate, then backfill `chunk` days at a time."""
    world.home.mkdir(parents=True, exist_ok=True)
    settle_in(world)
    simulate_stock(world)
    if (world.home / "base.json").exists():
        return
    for last in [*range(chunk, world.days, chunk), world.days]:
        backfill(world, last)
    keep_as_base(world)


def settle_in(world: World) -> None:
    """What `wattier init` writes, with the number of shards asked for."""
    from pipelines.templates import write_templates

    if not world.config.exists():
        write_templates(world.home, registers=world.registers)
        text = world.config.read_text(encoding="utf-8")
        world.config.write_text(text.replace("\nshards: 4\n", f"\nshards: {world.shards}\n"), encoding="utf-8")


def simulate_stock(world: World) -> None:
    """The simulator's files of all stocked days. The latest day found may be half written, so it is made anew."""
    from pipelines.simulate import Settings, simulate

    stock, done = world.home / "stock", world.home / "stocked.json"
    if done.exists() and json.loads(done.read_text())["days"] >= world.stocked:
        return
    stamps = {path.stem[-8:] for path in stock.glob("*/*.parquet")}
    for path in stock.glob("*/*.parquet"):
        if path.stem[-8:] == max(stamps):
            path.unlink()
    there = max(len(stamps) - 1, 0)
    say(f"simulating {world.accounts:,} accounts, days {there + 1} to {world.stocked}")
    started = time.monotonic()

    def on_day(day: date) -> None:
        number = (day - START).days + 1
        if number % 50 == 0 or number == world.stocked:
            say(f"  simulated {number} of {world.stocked} days, {time.monotonic() - started:,.0f} s")

    none = dict.fromkeys(("very_late_share", "late_reference_share", "missing_share", "duplicates_share"), 0.0)
    none |= dict.fromkeys(("corrections_share", "estimated_share"), 0.0)
    settings = Settings(
        world.accounts, world.stocked, world.seed, START, stock, "parquet", plain=not world.late, registers=world.registers,
        skip_days=there, faults=False, **none,
    )  # fmt: skip
    simulate(settings, on_day)
    done.write_text(json.dumps({"days": world.stocked}))


def backfill(world: World, last: int) -> None:
    """Land everything up to a service day and publish it, unless that has been done."""
    from pipelines.config import load_config
    from pipelines.run import run
    from pipelines.warehouse import Warehouse
    from transforms.kernels.windows import day_of

    through = Warehouse(str(world.warehouse)).load().through
    if through is not None and through >= day_of(world.date_of(last)):
        return
    world.take_away(last)
    for day in range(1, last + 1):
        world.land(day)
    say(f"backfill to day {last}")
    started = time.monotonic()
    report = run(load_config(world.config), through=world.date_of(last), audit=False, progress=_say_steps())
    if report.through != world.date_of(last):
        raise RuntimeError(f"backfill ended with {report.through}, not with {world.date_of(last)}")
    say(f"  published through {report.through}, {time.monotonic() - started:,.0f} s, {report.seconds}")


def _say_steps() -> Any:
    """A `progress` that says every tenth step of what takes many."""

    def progress(what: str, done: int, of: int) -> None:
        if done and done % 10 == 0:
            say(f"  {what}: {done} of {of}")

    return progress


def keep_as_base(world: World) -> None:
    """Remember the warehouse as it stands: what is measured starts from here."""
    shutil.copyfile(world.warehouse / "current.json", world.home / "base.json")


def go_back(world: World) -> None:
    """Undo everything after the base: the pointer, the generations and files written since, the files landed since.

    Generations are immutable, so this is what the warehouse was; the next run derives marts.duckdb anew.
    """
    shutil.copyfile(world.home / "base.json", world.warehouse / "current.json")
    base = json.loads((world.home / "base.json").read_text())["generation"]
    for path in [*(world.warehouse / "generations").iterdir(), *(world.warehouse / "data").iterdir()]:
        if int(path.name[:6]) > base:
            shutil.rmtree(path)
    (world.warehouse / "marts.duckdb").unlink(missing_ok=True)
    world.take_away(world.days)
