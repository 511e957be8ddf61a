"""The receivables alone: what Wattier says of credit against what the file itself says, computed another way."""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
import sys
from datetime import datetime, timedelta
from decimal import Decimal

import duckdb
import numpy as np
import pytest

from tests.real.conftest import REAL

pytestmark = pytest.mark.slow

FILE = "receivables/WA_Fn-UseC_-Accounts-Receivable.csv"
FIGURES = (
    "billed_365d_minor", "balance_minor", "current_minor", "overdue_1_30_minor", "overdue_31_60_minor",
    "overdue_61_90_minor", "overdue_91_minor", "overdue_minor", "unallocated_minor", "bills_due_365d",
    "bills_on_time_365d", "on_time_365d_ppm", "beyond_terms_365d_days", "mean_beyond_terms_365d_milli",
)  # fmt: skip


@pytest.fixture(scope="module")
def published(receivables):
    done = receivables.wattier("run", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert counts["ledger_events"]["read"] == counts["ledger_events"]["accepted"] == 2 * len(invoices(receivables))
    return receivables


def invoices(example):
    """(customer, issued, due, cents, days to settle, days late) of every line, the last two as the file states them."""
    with (example.data / FILE).open(encoding="utf-8", newline="") as file:
        return [
            (line["customerID"], day(line["InvoiceDate"]), day(line["DueDate"]), int(Decimal(line["InvoiceAmount"]) * 100),
             int(line["DaysToSettle"]), int(line["DaysLate"]))
            for line in csv.DictReader(file)
        ]  # fmt: skip


def day(text):
    return datetime.strptime(text, "%m/%d/%Y").date()  # noqa: DTZ007


def figures(lines, on, customer):
    """The credit features of one customer on one day, from the file's own DaysToSettle and DaysLate."""
    mine = [line[1:] for line in lines if line[0] == customer and line[1] <= on]
    unpaid = [
        (cents, (on - due).days) for issued, due, cents, to_settle, _ in mine if issued + timedelta(to_settle) > on
    ]

    def aged(first, last):
        return sum(cents for cents, age in unpaid if first <= age <= last)

    late = [
        days_late if issued + timedelta(to_settle) <= on else (on - due).days
        for issued, due, _, to_settle, days_late in mine
        if 1 <= (on - due).days <= 365
    ]
    on_time, n = late.count(0), len(late)
    return {
        "billed_365d_minor": sum(cents for issued, _, cents, _, _ in mine if (on - issued).days < 365),
        "balance_minor": sum(cents for cents, _ in unpaid),
        "current_minor": aged(-9999, 0),
        "overdue_1_30_minor": aged(1, 30),
        "overdue_31_60_minor": aged(31, 60),
        "overdue_61_90_minor": aged(61, 90),
        "overdue_91_minor": aged(91, 9999),
        "overdue_minor": aged(1, 9999),
        "unallocated_minor": 0,
        "bills_due_365d": n,
        "bills_on_time_365d": on_time,
        "on_time_365d_ppm": on_time * 1_000_000 // n if n else None,
        "beyond_terms_365d_days": sum(late),
        "mean_beyond_terms_365d_milli": sum(late) * 1000 // n if n else None,
    }


def test_credit_features_are_those_of_the_file_for_every_customer_and_day(published):
    lines = invoices(published)
    with duckdb.connect(str(published.marts()), read_only=True) as con:
        rows = con.sql(f"SELECT service_date, account_id, {', '.join(FIGURES)} FROM features").fetchall()
    found = {(on, customer): values for on, customer, *values in rows}
    first = min(issued for _, issued, *_ in lines)
    last = max(issued + timedelta(to_settle) for _, issued, _, _, to_settle, _ in lines)
    days = [first + timedelta(n) for n in range((last - first).days + 1)]
    customers = {line[0] for line in lines}
    assert found.keys() == {(on, customer) for on in days for customer in customers}
    wrong = [key for key, values in found.items() if figures(lines, *key) != dict(zip(FIGURES, values, strict=True))]
    assert wrong == []
    # They are worth comparing: bills paid on time and late, and open in all three buckets that the file can fill.
    largest = {name: max(values[n] or 0 for values in found.values()) for n, name in enumerate(FIGURES)}
    positive = {name for name, value in largest.items() if value}
    assert positive == set(FIGURES) - {"overdue_61_90_minor", "overdue_91_minor", "unallocated_minor"}


def test_verify_finds_nothing(published):
    done = published.wattier("verify", "--all", "--json")
    assert (done.returncode, json.loads(done.stdout)["differences"]) == (0, [])


def test_the_readme_shows_what_the_query_gives(published):
    lacking = published.not_shown("credit.sql")
    assert not (REAL and lacking)


def predict(example, *arguments):
    command = [sys.executable, "predict.py", *arguments]
    return subprocess.run(command, cwd=example.folder, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.skipif(not REAL, reason="the README tells of the whole file, which WATTIER_REAL_DATA names")
def test_the_readme_shows_how_the_score_ranks(published):
    shown = (published.folder / "README.md").read_text("utf-8").splitlines()
    assert [line for line in predict(published) if line not in shown] == []


def test_an_area_is_the_part_of_pairs_in_the_right_order(published):
    source = runpy.run_path(str(published.folder / "predict.py"))
    chance = np.random.default_rng(7)
    for _ in range(50):
        risk, late = chance.integers(0, 4, 12).astype(float), np.r_[True, False, chance.random(10) < 0.5]
        pairs = [(a > b) + (a == b) / 2 for a in risk[late] for b in risk[~late]]
        assert source["area"](risk, late) == pytest.approx(sum(pairs) / len(pairs))
