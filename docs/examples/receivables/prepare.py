"""Land the receivables as ledger events: one line of the file becomes an invoice and a settlement.

    python prepare.py DATA [LANDING]

DATA holds receivables/WA_Fn-UseC_-Accounts-Receivable.csv; LANDING is `landing` here. Dates and amounts stay the text
they are in the file. Its own DaysToSettle and DaysLate are left behind: Wattier has to find them again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb

RECEIVABLES = "receivables/WA_Fn-UseC_-Accounts-Receivable.csv"

FILES = {
    "accounts.csv": "SELECT DISTINCT customerID AS customer, DATE '2012-01-01' AS since FROM line ORDER BY customer",
    "ledger.csv": """
        SELECT customerID AS customer, 'I' || invoiceNumber AS event, 'invoice' AS kind, InvoiceDate AS day,
               DueDate AS due, InvoiceAmount AS amount, invoiceNumber AS invoice FROM line
        UNION ALL
        SELECT customerID, 'S' || invoiceNumber, 'settlement', SettledDate, NULL, InvoiceAmount, invoiceNumber FROM line
        ORDER BY customer, invoice, kind""",
}


def main(data: Path, landing: Path) -> None:
    """Write accounts.csv and ledger.csv into `landing`."""
    landing.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as con:
        con.execute("SET VARIABLE receivables = ?", [str(data / RECEIVABLES)])
        con.execute("CREATE TABLE line AS FROM read_csv(getvariable('receivables'), all_varchar = true)")
        for name, query in FILES.items():
            con.execute(f"COPY ({query}) TO '{landing / name}' (HEADER)")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) == 3 else "landing"))
