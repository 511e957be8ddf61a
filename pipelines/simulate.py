"""Landed files of a simulated utility: readings, ledger and conduct events, and reference data, day by day, repeatable by seed.

One service day, of which only arrays of the size of the utility and the deliveries still to come are kept:

    World ─► occupancy ─► reference rows ──────────────────┐
                 ├──────► readings_for_day ──────► deliver ├─► Pending ─► tables ─► files of the landing day
                 ├──────► ledger_for_day ────────► deliver ┤   (late, again, corrected, payments to come)
                 └──────► conduct_for_day ─────────────────┘

A longer run begins with exactly the files of a shorter one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipelines.utility import (
    Books,
    Ints,
    Rows,
    World,
    build_world,
    ledger_for_day,
    occupancy,
    readings_for_day,
    reference_rows,
)
from pipelines.utility_conduct import FINDING, conduct_for_day, conduct_table
from pipelines.utility_registers import Dials
from pipelines.utility_tables import REGISTERS, Tables, code_names, readings_table, tables
from schemas.errors import ConfigError

__all__ = ["Settings", "Summary", "build_world", "readings_for_day", "readings_table", "simulate"]

SOURCES = ("accounts", "meters", "readings", "ledger", "conduct")
EVENTS = ("ledger", "conduct")


@dataclass(frozen=True)
class Settings:
    """What to simulate. `accounts` counts premises: an account that leaves is followed by another under a new id.

    `ledger`: events of accounts, of the ledger and of conduct. `plain`: every row once, on the next day, without faults, and no
    refunds (for benchmarks). `registers`: meters show cumulative registers, in all and by period, in place of interval energy.
    `faults`: a handful of rows that a reader has to reject.
    `skip_days`: the first days are simulated but not written, so that a simulation can be taken further in the folder of
    a shorter one. The shares are of all readings; of the late ones, most come within five days, `very_late_share`
    within 30. Of new accounts and meters `late_reference_share` are told within ten days. Raises ConfigError.
    """

    accounts: int
    days: int
    seed: int
    start: date
    out: Path
    format: Literal["csv", "parquet"] = "csv"
    ledger: bool = True
    plain: bool = False
    registers: bool = False
    faults: bool = True
    late_share: float = 0.01
    very_late_share: float = 0.05
    late_reference_share: float = 0.1
    missing_share: float = 0.003
    duplicates_share: float = 0.002
    corrections_share: float = 0.002
    estimated_share: float = 0.005
    skip_days: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("accounts", 1, 9_999_999), ("days", 1, 36_500), ("seed", 0, 2**63), ("skip_days", 0, self.days),
        ):  # fmt: skip
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"{name} is {value}; give a number from {least} to {most}")
        if self.format not in ("csv", "parquet"):
            raise ConfigError(f"format is {self.format!r}; give csv or parquet")
        shares = self.shares
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(f"shares are {shares}; none may be negative and their sum at most 1")

    @property
    def has_faults(self) -> bool:
        """Whether rows to be rejected, and conflicting ones, are delivered."""
        return self.faults and not self.plain

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the fates of a reading, in the order of `FATES`."""
        if self.plain:
            return (0.0,) * len(FATES)
        return (
            self.missing_share, self.late_share, self.duplicates_share, self.corrections_share, self.estimated_share,
        )  # fmt: skip


@dataclass
class Summary:
    """What a simulation wrote: rows and files by source, readings by fate, and rows that were yet to land."""

    days: int
    accounts: int = 0
    meters: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    fates: Counter[str] = field(default_factory=Counter)
    pending: int = 0
    peak_pending: int = 0


# Deliveries -----------------------------------------------------------------------------------------------------------

FATES = ("missing", "late", "again", "corrected", "estimated")


class Pending:
    """Rows of one source that have yet to land, by landing day, in arrays of their own (no views)."""

    def __init__(self, dtype: np.dtype[np.void]) -> None:
        self.dtype = dtype
        self.size = 0
        self._blocks: dict[int, list[Rows]] = {}

    def add(self, lands: Ints, rows: Rows) -> None:
        """lands: (n,) days; rows: (n,). Rows of one day keep their order."""
        if not len(rows):
            return
        first = lands.min()
        soon = lands == first
        self._append(int(first), rows[soon])
        lands, rows = lands[~soon], rows[~soon]
        order = np.argsort(lands, kind="stable")
        days, starts = np.unique(lands[order], return_index=True)
        for day, block in zip(days.tolist(), np.split(rows[order], starts[1:]), strict=False):
            self._append(day, block.copy())

    def pop(self, day: int) -> Rows:
        """(n,): the rows that land on a day, in order of their adding."""
        blocks = self._blocks.pop(day, [])
        self.size -= sum(map(len, blocks))
        return np.concatenate([np.empty(0, self.dtype), *blocks])

    def _append(self, day: int, block: Rows) -> None:
        self._blocks.setdefault(day, []).append(block)
        self.size += len(block)


def delays(n: int, rng: np.random.Generator, usual: int, rarely: int, rare_share: float) -> Ints:
    """(n,) days: 1 to `usual`, and for a rare share up to `rarely`."""
    rare = rng.random(n) < rare_share
    return np.where(rare, rng.integers(usual + 1, rarely + 1, n), rng.integers(1, usual + 1, n))


def deliver(
    rows: Rows, lands: Ints, value: str, shares: tuple[float, ...], rng: np.random.Generator, pending: Pending,
    conflicts: bool = False, very_late_share: float = 0.05,
) -> Counter[str]:  # fmt: skip
    """Puts rows among the pending ones, each with at most one of the `FATES`; returns how many met which.

    lands: (n,) days on which the rows land if nothing happens. A corrected row lands with a wrong `value` first and
    with the right one under the next revision later. With `conflicts`, one of twenty rows delivered again has
    another value under the same revision. Changes `rows` and `lands` in place.
    """
    if not any(shares):
        pending.add(lands, rows)
        return Counter()
    edges = np.minimum(np.rint(np.cumsum(shares) * 2.0**32), 2.0**32 - 1).astype(np.uint32)
    draw = rng.integers(0, 1 << 32, len(rows), dtype=np.uint32)
    odd = np.flatnonzero(draw < edges[-1])
    fate = np.searchsorted(edges, draw[odd], side="right")
    missing, late, again, corrected, estimated = (odd[fate == k] for k in range(len(FATES)))

    repeated = rows[again]
    if conflicts:
        repeated[value] += 1_000 * (rng.random(len(again)) < 0.05)
    fixed = rows[corrected]
    fixed["revision"] += 1
    rows[value][corrected] += np.maximum(1, abs(fixed[value]) >> 3)
    if len(estimated):
        rows["estimated"][estimated] = True
    fixed_on = lands[corrected] + delays(len(corrected), rng, 7, 60, 0.2)
    again_on = lands[again] + rng.integers(0, 4, len(again))
    lands[late] += delays(len(late), rng, 5, 30, very_late_share).astype(lands.dtype)

    keep = np.ones(len(rows), bool)
    keep[missing] = False
    pending.add(lands[keep], rows[keep])
    pending.add(again_on, repeated)
    pending.add(fixed_on, fixed)
    return Counter(dict(zip(FATES, map(len, (missing, late, again, corrected, estimated)), strict=True)))


# Faults and files -----------------------------------------------------------------------------------------------------

MALFORMED = ("12.3x", "7.12345", "-5.000", "NaN")
"""Energies, and indexes, that only text can hold, and that a reader must reject."""


def faulty_readings(readings: pa.Table, day: int, rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """Rows to be rejected, garbled repeats of others: those any format can hold, and those only text can.

    One of each on every tenth day, and one of each in 50,000 rows.
    """
    n = min(readings.num_rows, int(day % 10 == 3) + int(rng.poisson(readings.num_rows / 50_000)))
    picked = readings.take(pa.array(rng.integers(0, max(1, readings.num_rows), n)))
    quality, value = picked.column_names.index("quality"), picked.column_names[2]
    typed = picked.set_column(quality, "quality", pa.array(["?"] * n, pa.string()))
    text = picked.set_column(2, value, code_names(MALFORMED, (day // 10 + np.arange(n)) % len(MALFORMED)))
    return typed, text


def _write(path: Path, table: pa.Table, text: pa.Table | None = None) -> None:
    """Writes a file under a hidden name and renames it, so that no reader sees a part; `text` goes below a CSV."""
    part = path.with_name(f".{path.name}.part")
    if path.suffix == ".parquet":
        few_values = [name for name in table.column_names if not name.endswith(("_id", "_kwh", "_yuan"))]
        pq.write_table(table, part, compression="zstd", use_dictionary=few_values, store_decimal_as_integer=True)
    else:
        with part.open("wb") as sink:
            pa_csv.write_csv(table, sink, pa_csv.WriteOptions(quoting_style="none", quoting_header="none"))
            if text is not None:
                pa_csv.write_csv(text, sink, pa_csv.WriteOptions(include_header=False, quoting_style="none"))
    part.replace(path)


# The run --------------------------------------------------------------------------------------------------------------


def landing_path(settings: Settings, source: str, day: int) -> Path:
    """Where the rows of a source land that come the day after service day `day`."""
    lands = settings.start + timedelta(days=day + 1)
    return settings.out / source / f"{source}-{lands:%Y%m%d}.{settings.format}"


def all_tables(world: World, dials: Dials | None) -> Tables:
    """Every source: what its rows are, and how they become a table."""
    return {**tables(world, dials), "conduct": (FINDING, partial(conduct_table, world))}


def deliveries(
    world: World, settings: Settings, summary: Summary, dials: Dials | None = None
) -> Iterator[dict[str, Rows]]:
    """For each service day, in order, the rows by source that land on the day after it. Fills the summary."""
    pending = {source: Pending(dtype) for source, (dtype, _) in all_tables(world, dials).items()}
    source = REGISTERS if dials else "readings"
    books = Books(np.zeros(world.slots, np.int64), np.zeros(world.slots, np.int64))
    ledger_shares = (0.0, *settings.shares[1:4], 0.0)
    for day in range(settings.days):
        held = occupancy(world, day)
        readings = readings_for_day(world, day, held)
        if settings.ledger:
            books.meter(world, readings)
        accounts, meters = reference_rows(world, day, held)
        if dials:
            meters = dials.install(meters) if day else dials.begin(meters, held, world)
            if day == 0:
                opening = dials.opening(readings)
                pending[source].add(np.full(len(opening), day + 1), opening)
            readings = dials.turn(world, readings)
            dials.remove(meters)
        for name, rows in (("accounts", accounts), ("meters", meters)):
            lands = np.full(len(rows), day + 1)
            if day and not settings.plain:
                rng = world.random(name, day)
                new = (rows["revision"] == 1) & (rng.random(len(rows)) < settings.late_reference_share)
                lands += np.where(new, rng.integers(2, 10, len(rows)), 0)
            pending[name].add(lands, rows)
        summary.accounts += int(held.opens.sum())

        if settings.ledger:
            events = ledger_for_day(world, books, day, held, refunds=not settings.plain)
            rng = world.random("ledger", day)
            deliver(
                events, events["day"] + 1, "amount_fen", ledger_shares, rng, pending["ledger"], settings.has_faults,
                settings.very_late_share,
            )  # fmt: skip
            findings = conduct_for_day(world, day, held)
            lands = findings["day"] + 1
            if not settings.plain:
                lands += delays(len(findings), world.random("told", day), 2, 30, 0.2).astype(lands.dtype) - 1
            pending["conduct"].add(lands, findings)
        lands = np.full(len(readings), day + 1)
        rng = world.random("readings", day)
        summary.fates += deliver(
            readings, lands, "energy_wh", settings.shares, rng, pending[source], settings.has_faults,
            settings.very_late_share,
        )  # fmt: skip
        landed = {name: queue.pop(day + 1) for name, queue in pending.items()}
        summary.pending = sum(queue.size for queue in pending.values())
        summary.peak_pending = max(summary.peak_pending, summary.pending)
        yield landed


def simulate(settings: Settings, on_day: Callable[[date], None] | None = None) -> Summary:
    """Writes a simulated utility's files below `settings.out`, a folder for each source, a file for each landing day.

    A source without rows on a day has no file. `on_day` is told each service day when its files are written.
    Raises ConfigError, before anything is written, where a file to be written is there already.
    """
    world = build_world(settings.accounts, settings.seed, settings.start)
    dials = Dials(world) if settings.registers else None
    made = all_tables(world, dials)
    sources = [source for source in made if settings.ledger or source not in EVENTS]
    for source in sources:
        there = set((settings.out / source).glob("*"))
        days = range(settings.skip_days, settings.days)
        taken = [path for day in days if (path := landing_path(settings, source, day)) in there]
        if taken:
            raise ConfigError(
                f"{taken[0]} is there already; give an empty folder, or go on after the days that it holds: --skip-days N"
            )
        (settings.out / source).mkdir(parents=True, exist_ok=True)

    summary = Summary(days=settings.days - settings.skip_days, meters=len(world.meter_slot))
    for day, landed in enumerate(deliveries(world, settings, summary, dials)):
        for source in sources if day >= settings.skip_days else ():
            if not len(landed[source]):
                continue
            table, text = made[source][1](landed[source]), None
            if source in ("readings", REGISTERS) and settings.has_faults:
                typed, text = faulty_readings(table, day, world.random("faults", day))
                table = pa.concat_tables([table, typed])
                text = text if settings.format == "csv" else None
                summary.fates["faulty"] += typed.num_rows + (text.num_rows if text else 0)
            _write(landing_path(settings, source, day), table, text)
            summary.rows[source] += table.num_rows + (text.num_rows if text else 0)
            summary.files[source] += 1
        if on_day:
            on_day(settings.start + timedelta(days=day))
    return summary
