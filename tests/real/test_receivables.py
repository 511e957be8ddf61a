"""The receivables alone: what Wattier says of credit against what the file itself says, computed another way."""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
import sys
from datetime import date, datetime, timedelta
from decimal import Decimal

import duckdb
import numpy as np
import pytest

from pipelines import oracle
from pipelines.verify import EVENTS
from tests.real.conftest import REAL
from transforms.kernels.allocation import UNSETTLED
from transforms.kernels.ledger import Ledger
from transforms.kernels.ledger_events import COLUMNS

pytestmark = pytest.mark.slow

EPOCH = date(1970, 1, 1)
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
    """(customer, issued, due, cents, days to settle, days late, number) of every line; the days as the file states them."""
    with (example.data / FILE).open(encoding="utf-8", newline="") as file:
        return [
            (line["customerID"], day(line["InvoiceDate"]), day(line["DueDate"]), int(Decimal(line["InvoiceAmount"]) * 100),
             int(line["DaysToSettle"]), int(line["DaysLate"]), line["invoiceNumber"])
            for line in csv.DictReader(file)
        ]  # fmt: skip


def day(text):
    return datetime.strptime(text, "%m/%d/%Y").date()  # noqa: DTZ007


def figures(lines, on, customer):
    """The credit features of one customer on one day, from the file's own DaysToSettle and DaysLate."""
    mine = [line[1:6] for line in lines if line[0] == customer and line[1] <= on]
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
    last = max(issued + timedelta(to_settle) for _, issued, _, _, to_settle, *_ in lines)
    days = [first + timedelta(n) for n in range((last - first).days + 1)]
    customers = {line[0] for line in lines}
    assert found.keys() == {(on, customer) for on in days for customer in customers}
    wrong = [key for key, values in found.items() if figures(lines, *key) != dict(zip(FIGURES, values, strict=True))]
    assert wrong == []
    # They are worth comparing: bills paid on time and late, and open in all three buckets that the file can fill.
    largest = {name: max(values[n] or 0 for values in found.values()) for n, name in enumerate(FIGURES)}
    positive = {name for name, value in largest.items() if value}
    assert positive == set(FIGURES) - {"overdue_61_90_minor", "overdue_91_minor", "unallocated_minor"}


def numbered(lines):
    """event id of the invoice -> (days to settle, days late), as the file states them."""
    return {f"I{number}": (to_settle, days_late) for _, _, _, _, to_settle, days_late, number in lines}


@pytest.fixture
def accepted(published):
    """A connection that sees the marts as `published`, and the accepted events by their names."""
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{published.marts()}' AS published (READ_ONLY)")
        for name in EVENTS:
            con.execute(f"CREATE VIEW {name} AS FROM published.{name}")
        yield con


def last_day(accepted):
    ((last,),) = accepted.sql("SELECT max(service_date) FROM published.features").fetchall()
    return last


def test_days_to_settle_and_days_late_of_every_invoice_follow_from_the_accepted_events(published, accepted):
    """By the kernel that the run uses, and by the oracle's SQL."""
    wanted = numbered(invoices(published))
    assert len(wanted) == len(invoices(published))
    if REAL:
        assert (len(wanted), sum(late > 0 for _, late in wanted.values())) == (2_466, 877)

    columns = ", ".join(COLUMNS[1:])
    events = accepted.sql(
        f"SELECT (dense_rank() OVER (ORDER BY account_id) - 1)::INT AS slot, {columns} FROM accepted_ledger_events"
    ).to_arrow_table()
    ledger = Ledger.at(events, events["slot"].to_numpy().max() + 1, (last_day(accepted) - EPOCH).days)
    assert (ledger.settled_on != UNSETTLED)[ledger.is_bill].all()
    ids = np.array(ledger.events["event_id"].to_pylist())
    to_settle, late = ledger.settled_on - ledger.issued_on, np.maximum(ledger.settled_on - ledger.due_on, 0)
    found = zip(to_settle[ledger.is_bill].tolist(), late[ledger.is_bill].tolist(), strict=True)
    assert dict(zip(ids[ledger.is_bill].tolist(), found, strict=True)) == wanted

    oracle.recompute(accepted, published.policy, last_day(accepted), last_day(accepted))
    rows = accepted.sql("""
        SELECT event_id, settled_on - issued_on, greatest(settled_on - due_date, 0) FROM oracle.debit_state
        QUALIFY as_of = max(as_of) OVER (PARTITION BY account_id)
    """).fetchall()
    assert {event: figures for event, *figures in rows} == {event: list(figures) for event, figures in wanted.items()}


AGES = {
    "current_minor": (-9999, 0), "overdue_1_30_minor": (1, 30), "overdue_31_60_minor": (31, 60),
    "overdue_61_90_minor": (61, 90), "overdue_91_minor": (91, 9999),
}  # fmt: skip


def test_ageing_at_twenty_month_ends_is_what_the_oracle_says_and_what_the_file_gives(published, accepted):
    """By plain SQL over the file: what was invoiced and not settled, by days past its due date."""
    ends = [date(2012 + n // 12, n % 12 + 1, 1) - timedelta(days=1) for n in range(2, 22)]
    ends = [end for end in ends if end <= last_day(accepted)]
    assert ends
    if REAL:
        assert (len(ends), ends[0], ends[-1]) == (20, date(2012, 2, 29), date(2013, 9, 30))
    file, sums = published.data / FILE, []
    for name, (first, last) in AGES.items():
        sums.append(f"coalesce(sum(cents) FILTER (age BETWEEN {first} AND {last}), 0)::BIGINT AS {name}")
    accepted.execute(f"""
        CREATE TABLE line AS SELECT customerID AS account_id, (InvoiceAmount::DECIMAL(9, 2) * 100)::BIGINT AS cents,
            strptime(InvoiceDate, '%m/%d/%Y')::DATE AS issued, strptime(DueDate, '%m/%d/%Y')::DATE AS due,
            issued + DaysToSettle::INT AS settled
        FROM read_csv('{file}', all_varchar = true)
    """)
    seen = set()
    for end in ends:
        accepted.execute(f"CREATE OR REPLACE TABLE aged AS FROM published.features WHERE service_date = DATE '{end}'")
        rows = accepted.sql(f"SELECT account_id, {', '.join(AGES)} FROM aged ORDER BY 1").fetchall()
        plain = accepted.sql(f"""
            WITH open AS (SELECT *, DATE '{end}' - due AS age FROM line WHERE issued <= '{end}' AND settled > '{end}')
            SELECT account_id, {", ".join(sums)} FROM aged LEFT JOIN open USING (account_id) GROUP BY 1 ORDER BY 1
        """).fetchall()
        oracle.recompute(accepted, published.policy, end, end)
        recomputed = accepted.sql(f"SELECT account_id, {', '.join(AGES)} FROM oracle.features ORDER BY 1").fetchall()
        assert rows == plain, end
        assert rows == recomputed, end
        assert len(rows) == len({line[0] for line in invoices(published)})
        seen |= {name for row in rows for name, cents in zip(AGES, row[1:], strict=True) if cents}
    if REAL:
        assert seen == {
            "current_minor",
            "overdue_1_30_minor",
            "overdue_31_60_minor",
        }  # nobody was later than two months


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
