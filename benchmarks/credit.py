"""What credit costs in a tick of one day: sums carried on, against all rows of the ledger summed up anew.

    python benchmarks/credit.py --accounts 100000 --months 24
    python benchmarks/credit.py --accounts 1000000 --months 24 --shards 16

Shards in a temporary folder, one after the other: every account is charged once a month and pays, two of a hundred payments
bounce. Two days are measured: a plain one, and one on which every account is charged (a bill run). Each contender reads what
the day before left, goes on by the day, gives the columns, and writes what the next day needs. Times are processor seconds. The
columns must be equal. With `--allocation priority` every charge has one of three priorities.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.inbound import LEDGER_EVENTS
from transforms.kernels.allocation import ALLOCATIONS, FIFO, PRIORITY
from transforms.kernels.credit import Credit, credit_features
from transforms.kernels.ledger import Carried, Ledger
from transforms.kernels.ledger_events import COLUMNS
from transforms.storage import Entry, Store

FIRST = 19_000
SCHEMA = pa.schema([("slot", pa.int32()), *((name, LEDGER_EVENTS[name].type) for name in COLUMNS[1:])])
CONTENDERS = ("summed up anew", "carried on")


def dates(days: Any) -> pa.Array:
    """Day numbers as dates."""
    return pa.array(np.asarray(days, np.int32)).cast(pa.date32())


def events(kind: str, slot: Any, ids: Any, day: Any, amount: Any, **columns: Any) -> pa.Table:
    """Events of one kind, all (k,)."""
    k = len(slot)
    known = {
        "slot": slot.astype(np.int32), "event_id": ids, "event_type": pa.repeat(kind, k), "event_date": dates(day),
        "amount_minor": amount, "revision": np.zeros(k, np.int32),
    }  # fmt: skip
    columns = known | columns
    return pa.table([columns.get(field.name, pa.nulls(k, field.type)) for field in SCHEMA], schema=SCHEMA)


def texts(letter: str, month: int, slot: Any) -> pa.Array:
    """An id for each slot, (k,)."""
    return pa.array(np.char.add(f"{letter}{month:03d}-", np.char.zfill(slot.astype(np.str_), 8)))


def ledger_of(accounts: int, months: int, bill_run: bool, allocation: str, seed: int) -> tuple[pa.Table, int]:
    """The events of a shard in order of delivery, and the day to be measured: the last with events, or that of the bill run."""
    rng, priorities = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    slot, parts = np.arange(accounts), []
    of_month = np.full(accounts, 29) if bill_run else rng.integers(0, 30, accounts)
    for month in range(months):
        issued, amount = FIRST + 30 * month + of_month, rng.integers(1_000, 500_000, accounts)
        number = texts("b", month, slot)
        more: dict[str, Any] = {"due_date": dates(issued + 20), "bill_id": number}
        if allocation == PRIORITY:
            more["priority"] = priorities.integers(1, 4, accounts)
        parts.append(events("charge", slot, texts("c", month, slot), issued, amount, **more))
        paid, named = issued + rng.integers(1, 45, accounts), rng.random(accounts) < 0.7
        bill = pa.array(number.to_numpy(zero_copy_only=False), mask=~named)
        payment = texts("p", month, slot)
        parts.append(events("payment", slot, payment, paid, amount, bill_id=bill))
        some = np.flatnonzero(rng.random(accounts) < 0.02)
        ref = payment.take(pa.array(some))
        parts.append(events("reversal", some, texts("r", month, some), paid[some] + 3, amount[some], ref_event_id=ref))
    table = pa.concat_tables(parts)
    table = table.filter(pa.array(table["event_date"].cast(pa.int32()).to_numpy() <= FIRST + 30 * months - 1))
    return table.sort_by("event_date").combine_chunks(), FIRST + 30 * months - 1


class Shard:
    """The state of a shard as files: the day before is there, the day is to be made."""

    def __init__(self, folder: str, table: pa.Table, accounts: int, day: int, allocation: str) -> None:
        self.store, self.accounts, self.day, self.allocation = Store(folder), accounts, day, allocation
        self.events = self.write("ledger", table.to_batches()[0], compress=False)
        before = Ledger.at(table, accounts, day - 1, allocation)
        self.files = self.dump(before.dump(), Credit(before))
        self.head = before.day, len(before.slot)

    def write(self, kind: str, batch: pa.RecordBatch, *, compress: bool = True) -> Entry:
        """One file."""
        (entry,) = self.store.write_blocks(f"{kind}.arrow", kind, 0, [(-1, batch)], compress=compress)
        return entry

    def dump(self, carried: Carried, credit: Credit) -> dict[str, Entry]:
        """All of a checkpoint."""
        parts = {
            "base": carried.base,
            "index": carried.index,
            "accounts": carried.accounts,
            "credit": credit.to_batch(),
        }
        return {kind: self.write(kind, batch, compress=kind != "index") for kind, batch in parts.items()}

    def tick(self, contender: str) -> tuple[dict[str, Any], dict[str, float], int]:
        """One day: (columns, processor seconds by stage, accounts allocated anew)."""
        seconds, clock = dict[str, float](), time.process_time()

        def stage(name: str) -> None:
            nonlocal clock
            now = time.process_time()
            seconds[name], clock = now - clock, now

        store = Store(self.store.root)
        base, index, accounts = (store.read_block(self.files[kind]) for kind in ("base", "index", "accounts"))
        carried = Carried(*self.head, base, index, (), accounts)
        ledger = Ledger(store.read_table(self.events), self.accounts, carried, self.allocation)
        stage("ledger")
        credit = None
        if contender == "carried on":
            credit = Credit(ledger, carried=store.read_block(self.files["credit"]))
            stage("sums")
        moved = credit.advance(self.day) if credit else ledger.advance(self.day)
        stage("advance")
        columns = credit.columns() if credit else credit_features(ledger)
        stage("columns")
        after = ledger.dump()
        for number, batch in enumerate(after.changes):
            self.write(f"changes-{number}", batch)
        self.write("accounts-after", after.accounts)
        if credit:
            self.write("credit-after", credit.to_batch())
        stage("write")
        return columns, seconds, moved


def equal(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether all columns are the same, nulls included."""
    return one.keys() == two.keys() and all(one[name].tolist() == two[name].tolist() for name in one)


def measure(options: argparse.Namespace, bill_run: bool, number: int) -> tuple[dict[str, dict[str, float]], bool]:
    """One day of one shard: by contender the median by stage, and whether the answers are the same."""
    accounts = options.accounts // options.shards
    table, day = ledger_of(accounts, options.months, bill_run, options.allocation, number + 1)
    runs: dict[str, list[dict[str, float]]] = {contender: [] for contender in CONTENDERS}
    same = True
    with tempfile.TemporaryDirectory(prefix="wattier-credit-") as folder:
        shard = Shard(folder, table, accounts, day, options.allocation)
        for _ in range(options.times):
            answers = {}
            for contender in CONTENDERS:
                answers[contender], seconds, moved = shard.tick(contender)
                runs[contender].append(seconds | {"total": sum(seconds.values()), "allocated": moved})
            same &= equal(*answers.values())
    medians = {name: sorted(some, key=lambda run: run["total"])[len(some) // 2] for name, some in runs.items()}
    return {name: run | {"rows": table.num_rows} for name, run in medians.items()}, same


def main() -> int:
    """Measure both days, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--months", type=int, default=24)
    parser.add_argument("--allocation", choices=ALLOCATIONS, default=FIFO)
    parser.add_argument("--shards", type=int, default=1, help="the accounts are split evenly; seconds are added up")
    parser.add_argument("--times", type=int, default=3, help="measure each so often, by turns; the median counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {}
    same = True
    for name, bill_run in (("plain day", False), ("bill run", True)):
        sums: dict[str, dict[str, float]] = {contender: {} for contender in CONTENDERS}
        for number in range(options.shards):
            medians, equals = measure(options, bill_run, number)
            same &= equals
            for contender, run in medians.items():
                sums[contender] = {stage: sums[contender].get(stage, 0) + value for stage, value in run.items()}
        found[name] = sums
    plain, bills = (found[name]["carried on"]["total"] for name in ("plain day", "bill run"))
    ratios = {name: found[name][CONTENDERS[0]]["total"] / found[name][CONTENDERS[1]]["total"] for name in found}
    said = {"accounts": options.accounts, "months": options.months, "allocation": options.allocation, "equal": same,
            "found": found, "anew / carried": ratios, "bill run / plain day": bills / plain}  # fmt: skip
    if options.json:
        print(json.dumps(said))
    else:
        for name, contenders in found.items():
            for contender in CONTENDERS:
                stages = "  ".join(f"{stage} {value:,.3f}" for stage, value in contenders[contender].items())
                print(f"{name:10} {contender:15} {stages}")
        print(f"ratios {ratios}; bill run / plain day {bills / plain:.2f}; answers {'equal' if same else 'DIFFER'}")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
