"""A simulated month in which some pay badly, and by hand: what bounces, is late, is stolen, or is told in the wrong order."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import duckdb

from tests.streaming.job import Utility

FIRST, LAST = date(2025, 1, 1), date(2025, 2, 4)
NAMES = ("LATE", "BOUNCES", "NEVER", "THIEF", "CLEARED", "REVERSED", "PAID", "TWICE")


def _charge(name: str, day: str, due: str) -> str:
    return f"{name},c,charge,2025-01-{day},2025-01-{due},50.00,{name}-1,,1"


def _paid(name: str, day: str, event: str = "p", yuan: str = "50.00") -> str:
    return f"{name},{event},payment,2025-01-{day},,{yuan},{name}-1,,1"


def _reversed(name: str, day: str) -> str:
    return f"{name},r,reversal,2025-01-{day},,50.00,,p,1"


HEADERS = {
    "ledger": "account_id,event_id,event_type,event_date,due_date,amount_yuan,bill_id,ref_event_id,revision",
    "conduct": "account_id,event_id,event_type,event_date,revision",
}
LEDGER = {
    "20250103": [*(_charge(name, "02", "12") for name in NAMES if name != "PAID")],
    "20250108": [_paid("PAID", "07"), _paid("BOUNCES", "07"), _paid("THIEF", "07"), _paid("CLEARED", "07")],
    "20250110": [_reversed("REVERSED", "09")],  # of a payment that comes later
    "20250111": [_reversed("BOUNCES", "10"), _paid("TWICE", "10")],
    "20250113": [_charge("PAID", "03", "12")],  # which was paid already
    "20250114": [_paid("REVERSED", "08")],
    "20250117": [_paid("TWICE", "10", yuan="20.00")],  # the same again, and yet not the same
    "20250126": [_paid("LATE", "25"), _paid("BOUNCES", "25", "q")],
}
CONDUCT = {
    "20250113": ["THIEF,t,theft_confirmed,2025-01-10,1", "CLEARED,t,theft_confirmed,2025-01-11,1"],
    "20250120": ["CLEARED,t,withdrawn,2025-01-11,2"],
}
"""Rows by the day on which they land, or are sent."""

GRADES = {
    "LATE": "C", "BOUNCES": "C", "NEVER": "C", "THIEF": "C", "CLEARED": "A", "REVERSED": "C", "PAID": "A", "TWICE": "C",
}  # fmt: skip


class BadPayers(Utility):
    """300 simulated accounts, and those of `NAMES`, under the policy that ships."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 300, (LAST - FIRST).days + 1)
        people = [f"{name},2020-01-01,industrial,North,10kV,IND,false,100,false,2020-01-01,,1" for name in NAMES]
        for source, by_day in (("accounts", {"20250102": people}), ("ledger", LEDGER), ("conduct", CONDUCT)):
            for day, rows in by_day.items():
                path = folder / "landing" / source / f"{source}-{day}.csv"
                path.parent.mkdir(exist_ok=True)
                header = "" if path.exists() else f"{HEADERS[source]}\n"
                with path.open("a") as file:
                    file.write(header + "\n".join(rows) + "\n")


def assert_badly_paid(marts: Path) -> None:
    """There is what the comparison of scores is about: all grades, many scores, bounces, delays, debts, thefts."""
    names = ", ".join(f"'{name}'" for name in NAMES)
    with duckdb.connect(str(marts), read_only=True) as con:

        def one(sql: str) -> tuple:
            (row,) = con.execute(sql).fetchall()
            return row

        grades = con.execute(
            f"SELECT account_id, credit_grade FROM customer_tiers_current WHERE account_id IN ({names})"
        )
        assert dict(grades.fetchall()) == GRADES
        of_the_last_day = f"FROM features WHERE service_date = '{LAST}'"
        simulated = f"FROM customer_tiers_current WHERE credit_grade = 'C' AND account_id NOT IN ({names})"
        assert one(f"SELECT count(*) >= 10 {simulated}") == (True,)
        assert one(f"SELECT count(DISTINCT credit_score) >= 8, max(credit_score) {of_the_last_day}") == (True, 100)
        for input_of_the_score in (
            "overdue_minor > 0",
            "mean_beyond_terms_365d_milli > 5000",
            "on_time_decayed_ppm < 700000",
        ):
            assert one(f"SELECT count(*) >= 10 {of_the_last_day} AND {input_of_the_score}") == (True,), (
                input_of_the_score
            )
        assert one(f"SELECT sum(bounced_365d) >= 2 {of_the_last_day}") == (True,)
        assert one("SELECT event_type, event_date FROM conduct_events WHERE account_id = 'THIEF'") == (
            "theft_confirmed", date(2025, 1, 10),
        )  # fmt: skip
        since = con.execute(
            "SELECT tier, credit_grade FROM customer_tiers WHERE account_id = 'THIEF' AND valid_from >= '2025-01-10'"
        )
        assert since.fetchall() == [("abuse", "C")]
        told = con.execute(
            f"SELECT account_id, event_id, reason FROM ledger_exceptions WHERE account_id IN ({names}) ORDER BY ALL"
        )
        assert told.fetchall() == [("TWICE", "p", "conflicting_event")]
        assert one("SELECT bounced_365d, balance_minor FROM features WHERE account_id = 'REVERSED' "
                   f"AND service_date = '{LAST}'") == (1, 5_000)  # fmt: skip
        parts = """
            SELECT count(*) FROM features JOIN (
                SELECT account_id, service_date, greatest(0, fdiv(sum(hundredths), 100)) AS score
                FROM credit_score_parts GROUP BY ALL
            ) USING (account_id, service_date) WHERE score = credit_score
        """
        assert one(parts) == one("SELECT count(*) FROM features")
