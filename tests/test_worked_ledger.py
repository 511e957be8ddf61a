"""The ledger of docs/explanation/worked-ledger.md: the page's tables against the kernel, the oracle and the clerk."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from pipelines import oracle
from schemas.credit import CREDIT, TENURE
from tests.kernels.test_ledger import number, table
from tests.oracles import ledger as clerk
from tests.oracles import worlds
from transforms.kernels.credit import Credit
from transforms.kernels.ledger import Ledger

PAGE = Path(__file__).resolve().parents[1] / "docs/explanation/worked-ledger.md"
OPENED = date(2024, 1, 1)


def rows_under(heading: str) -> list[dict[str, str]]:
    """The table below a heading, row by row."""
    part = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")
    ]
    return [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]


def events() -> list[clerk.Event]:
    def day(text: str) -> date | None:
        return date.fromisoformat(text) if text else None

    return [
        clerk.Event(
            row["event_id"], row["event_type"], day(row["event_date"]), int(row["amount_minor"]), day(row["due_date"]),
            row["bill_id"] or None, row["ref_event_id"] or None,
        )
        for row in rows_under("Events")
    ]  # fmt: skip


FIGURES = rows_under("Figures")
DAYS = [date.fromisoformat(name) for name in FIGURES[0] if name != "column"]


def told(day: date) -> dict[str, int | None]:
    return {row["column"]: None if row[str(day)] == "null" else int(row[str(day)]) for row in FIGURES}


def test_the_page_tells_every_column_and_two_bounced_payments():
    assert [row["column"] for row in FIGURES] == [column.name for column in (*CREDIT, TENURE)]
    assert len(events()) == 13
    assert [e.ref_event_id for e in events() if e.event_type == "reversal"] == ["p3", "p5"]


@pytest.mark.parametrize("day", DAYS, ids=str)
def test_the_clerk_and_the_kernel_from_scratch(day):
    credit = {name: value for name, value in told(day).items() if name != TENURE.name}
    assert clerk.features(events(), day) == credit
    found = Credit(Ledger.at(table([(0, event) for event in events()]), 1, number(day))).columns()
    assert {name: column.tolist()[0] for name, column in found.items()} == credit
    assert told(day)[TENURE.name] == (day - OPENED).days


def test_the_kernel_carried_on_day_by_day():
    credit = Credit(Ledger(table([(0, event) for event in events()]), 1))
    day = OPENED - timedelta(days=1)
    while day < DAYS[-1]:
        day += timedelta(days=1)
        credit.advance(number(day))
        if day in DAYS:
            found = {name: column.tolist()[0] for name, column in credit.columns().items()}
            assert found | {TENURE.name: (day - OPENED).days} == told(day)


def test_the_oracle():
    ledger = [{"account_id": "a", **{name: getattr(e, name) for name in e.__dataclass_fields__}} for e in events()]
    with duckdb.connect() as con:
        worlds.fill(con, [worlds.account("a", opened_on=str(OPENED))], [], [], ledger)
        for day in DAYS:
            oracle.recompute(con, worlds.policy(), day, day)
            (row,) = worlds.table(con, f"SELECT * FROM oracle.features WHERE service_date = '{day}'")
            assert {name: row[name] for name in told(day)} == told(day)


def test_a_shuffled_delivery_gives_the_same():
    """A reversal before its payment, a payment before its charge."""
    backwards = table([(0, event) for event in reversed(events())])
    for day in DAYS:
        found = Credit(Ledger.at(backwards, 1, number(day))).columns()
        assert {name: column.tolist()[0] for name, column in found.items()} | {
            TENURE.name: told(day)[TENURE.name]
        } == told(day)
