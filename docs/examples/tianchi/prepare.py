"""Land the Tianchi readings as they are, and beside them the reference data and bills that the competition has not.

    python prepare.py DATA [LANDING]

DATA holds tianchi/Tianchi_power.csv.gz and receivables/WA_Fn-UseC_-Accounts-Receivable.csv; LANDING is `landing` here.
The readings are linked, not converted. Written are accounts.csv and meters.csv, one account and one meter for each
enterprise, and ledger.csv: the customers of the receivables take the places of the largest enterprises, most billed
with most energy, 1,096 days later. Amounts stay the text they are in the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb

READINGS = "tianchi/Tianchi_power.csv.gz"
RECEIVABLES = "receivables/WA_Fn-UseC_-Accounts-Receivable.csv"

INPUTS = """
CREATE TABLE enterprise AS
SELECT user_id, format('E{:04d}', user_id::INTEGER) AS account_id,
       row_number() OVER (ORDER BY sum(power_consumption::BIGINT) DESC, user_id::INTEGER) AS place
FROM read_csv(getvariable('readings'), all_varchar = true) GROUP BY user_id;

CREATE TABLE invoice AS
SELECT customerID AS customer, invoiceNumber AS bill_id, InvoiceAmount AS amount,
       strptime(InvoiceDate, '%m/%d/%Y')::DATE + 1096 AS issued,
       strptime(DueDate, '%m/%d/%Y')::DATE + 1096 AS due,
       strptime(SettledDate, '%m/%d/%Y')::DATE + 1096 AS settled
FROM read_csv(getvariable('receivables'), all_varchar = true);

CREATE TABLE payer AS
SELECT customer, row_number() OVER (ORDER BY sum(amount::DECIMAL(18, 2)) DESC, customer) AS place
FROM invoice GROUP BY customer;

CREATE TABLE ledger AS
SELECT account_id, 'C' || bill_id AS event_id, 'charge' AS event_type, issued AS event_date, due AS due_date, amount,
       bill_id
FROM invoice JOIN payer USING (customer) JOIN enterprise USING (place)
UNION ALL
SELECT account_id, 'P' || bill_id, 'payment', settled, NULL, amount, bill_id
FROM invoice JOIN payer USING (customer) JOIN enterprise USING (place);
"""

FILES = {
    "accounts.csv": """SELECT account_id, DATE '2015-01-01' AS valid_from, 'industrial' AS category,
        DATE '2015-01-01' AS opened_on FROM enterprise ORDER BY account_id""",
    "meters.csv": """SELECT user_id AS meter_id, DATE '2015-01-01' AS installed_on, account_id
        FROM enterprise ORDER BY account_id""",
    "ledger.csv": "FROM ledger ORDER BY event_date, account_id, event_id",
}


def main(data: Path, landing: Path) -> None:
    """Link the readings into `landing` and write the three other files there."""
    landing.mkdir(parents=True, exist_ok=True)
    link = landing / Path(READINGS).name
    link.unlink(missing_ok=True)
    link.symlink_to((data / READINGS).absolute())
    with duckdb.connect() as con:
        con.execute("SET VARIABLE readings = ?", [str(data / READINGS)])
        con.execute("SET VARIABLE receivables = ?", [str(data / RECEIVABLES)])
        con.execute(INPUTS)
        for name, query in FILES.items():
            con.execute(f"COPY ({query}) TO '{landing / name}' (HEADER)")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) == 3 else "landing"))
