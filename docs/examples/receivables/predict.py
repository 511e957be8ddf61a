"""Does what was known the day before an invoice rank whether it will be paid late? Area under the ROC curve, by time.

    python predict.py [marts.duckdb]

The score is the scorecard's as it ships: no part of it was fitted to these invoices, so that both halves are tests. Beside it
stand two baselines, from the invoices that were due before: whether the last of them was late, and what share of them was.
An interval holds 95 of 100 areas of invoices drawn anew, with replacement, by customer (1,000 times).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date

import duckdb
import numpy as np

SPLIT = date(2013, 1, 1)
DRAWS = 1000

INVOICES = """
WITH invoice AS (
    SELECT b.account_id, b.bill_id, b.event_date AS issued, b.due_date AS due, p.event_date AS settled,
        p.event_date > b.due_date AS late
    FROM accepted_ledger_events b
    JOIN accepted_ledger_events p ON p.account_id = b.account_id AND p.bill_id = b.bill_id AND p.event_type = 'payment'
    WHERE b.event_type = 'charge'
),
before AS (  -- what was known of the earlier ones on the day before this one was issued
    SELECT i.account_id, i.bill_id, i.issued, i.late,
        avg((o.settled > o.due)::INT) AS share, arg_max((o.settled > o.due)::INT, (o.due, o.bill_id)) AS last
    FROM invoice i
    LEFT JOIN invoice o ON o.account_id = i.account_id AND o.due < i.issued - 1
    GROUP BY ALL
)
SELECT b.account_id, b.issued, b.late, f.credit_score, b.last, b.share
FROM before b
JOIN features f ON f.account_id = b.account_id AND f.service_date = b.issued - 1
WHERE b.share IS NOT NULL -- of a customer's first invoices nobody knows anything
ORDER BY b.issued, b.account_id, b.bill_id
"""


def area(risk: np.ndarray, late: np.ndarray) -> float:
    """The part of all pairs of a late invoice and one in time in which the late one has the higher risk; ties count half."""
    _, rank, count = np.unique(risk, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2
    n = int(late.sum())
    return float((middle[rank][late].sum() - n * (n + 1) / 2) / (n * (len(late) - n)))


def interval(risk: np.ndarray, late: np.ndarray, customer: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the areas of customers drawn anew."""
    chance = np.random.default_rng(1)
    names, of = np.unique(customer, return_inverse=True)
    rows = [np.flatnonzero(of == number) for number in range(len(names))]
    areas = []
    for _ in range(DRAWS):
        drawn = np.concatenate([rows[number] for number in chance.integers(0, len(rows), len(rows))])
        areas.append(area(risk[drawn], late[drawn]))
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(low), float(high)


def table(marts: str) -> Iterator[str]:
    """The lines of the table."""
    with duckdb.connect(marts, read_only=True) as con:
        invoices = con.sql(INVOICES).fetchnumpy()
    late = invoices["late"].astype(bool)
    after = invoices["issued"] >= np.datetime64(SPLIT)
    yield "| invoices issued | number | late | by | area | 95 % |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for when, some in ((f"before {SPLIT}", ~after), (f"from {SPLIT}", after)):
        for name, risk in (
            ("credit score", -np.ma.getdata(invoices["credit_score"]).astype(float)),
            ("last invoice late", invoices["last"].astype(float)),
            ("share late so far", invoices["share"].astype(float)),
        ):
            low, high = interval(risk[some], late[some], invoices["account_id"][some])
            yield (
                f"| {when} | {some.sum()} | {late[some].sum()} | {name} | {area(risk[some], late[some]):.3f} "
                f"| {low:.3f} to {high:.3f} |"
            )


if __name__ == "__main__":
    print("\n".join(table(sys.argv[1] if len(sys.argv) > 1 else "warehouse/marts.duckdb")))
