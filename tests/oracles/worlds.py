"""Tiny worlds as DuckDB tables, for the tests of the oracle and of `wattier verify`."""

from __future__ import annotations

from datetime import date, timedelta

import duckdb

from schemas import ddl, inbound
from schemas.policy import parse_policy

ACCEPTED = {
    "accepted_readings": inbound.METER_READINGS,
    "accepted_registers": inbound.REGISTER_READINGS,
    "accepted_ledger_events": inbound.LEDGER_EVENTS,
    "accepted_conduct_events": inbound.CONDUCT_EVENTS,
    "accepted_accounts": inbound.ACCOUNTS,
    "accepted_meters": inbound.METERS,
    "accepted_tariffs": inbound.TARIFFS,
}
DEFAULTS = {"revision": 1, "delivery": 1, "quality": "actual", "category": "industrial"}

GRADED = """    credit_score:
      parts:
        - part: punctual
          column: on_time_365d_ppm
          weight: 70
          bins: [{at_least: 900000, points: 100}, {at_least: 500000, points: 45}, {points: 0}]
          if_null: 60
        - {part: owed, column: overdue_91_minor, weight: 30, bins: [{at_most: 0, points: 90}, {points: 15}]}
      demerits:
        - {demerit: open, points: 7, per: bills_due_365d, at_most: 20, when: [{column: overdue_minor, above: 0}]}
        - {demerit: not_read, points: 3, when: [{column: coverage_7d_ppm, below: 700000}]}
    credit_grades:
      - {grade: C, when: [{column: overdue_minor, above: 0}]}
      - grade: A
        when: [{column: credit_score, at_least: 90}, {column: credit_grade_before, not_one_of: [C], or_null: true}]
      - {grade: B}
"""
"""The scorecard and grades of a version: bins, demerits of both kinds, and a grade that remembers the day before."""

POLICY = (
    """
day_close: {coverage_floor_ppm: 500000, below_floor: hold}
audit: {reject_share_limit_ppm: 20000}
versions:
  - version: "1"
    effective_from: 2000-01-01
    abc:
      metric: wh_7d
      scope: all
      rule: cumulative_share
      cuts: {A: 50 %, B: 90 %}
      buffers: {A: {entry: 40 %, exit: 60 %}, B: {entry: 85 %, exit: 95 %}}
"""
    + GRADED
    + """    tiers:
      - {rule: risky, tier: low_risk, immediate: true, when: [{column: credit_grade, equals: C}]}
      - {rule: big, tier: high, when: [{column: abc, equals: A}]}
      - {rule: middle, tier: mid_steady, when: [{column: abc, one_of: [B]}]}
      - {rule: small, tier: low_small}
    min_stay_days: 3
"""
)


def policy(*replacements):
    """The test policy, with pairs (old, new) of its text replaced."""
    text = POLICY
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return parse_policy(text, "policy.yaml")


def day(text):
    return date.fromisoformat(text)


def account(account_id, valid_from="2010-01-01", opened_on="2010-01-01", **more):
    return {"account_id": account_id, "valid_from": day(valid_from), "opened_on": day(opened_on), **more}


def meter(meter_id, account_id, installed_on="2010-01-01", removed_on=None, **more):
    removed = {"removed_on": day(removed_on)} if removed_on else {}
    return {"meter_id": meter_id, "account_id": account_id, "installed_on": day(installed_on), **removed, **more}


def reading(meter_id, service_date, energy_wh, **more):
    when = day(service_date) if isinstance(service_date, str) else service_date
    return {"meter_id": meter_id, "service_date": when, "energy_wh": energy_wh, **more}


def readings(meter_id, first, energies):
    """One reading a day from `first` on; None is a day without one."""
    days = (day(first) + timedelta(days=n) for n in range(len(energies)))
    return [reading(meter_id, when, wh) for when, wh in zip(days, energies, strict=True) if wh is not None]


def price(tariff, valid_from, period, price_nano, **more):
    return {"tariff": tariff, "valid_from": day(valid_from), "period": period, "price_nano": price_nano, **more}


def event(account_id, event_id, event_type, event_date, amount_minor=0, due_date=None, **more):
    due = {"due_date": day(due_date)} if due_date else {}
    named = {"account_id": account_id, "event_id": event_id, "event_type": event_type, "amount_minor": amount_minor}
    return {**named, "event_date": day(event_date), **due, **more}


def conduct(account_id, event_id, event_type, event_date, **more):
    return {
        "account_id": account_id, "event_id": event_id, "event_type": event_type, "event_date": day(event_date), **more,
    }  # fmt: skip


def complete(relation, rows):
    """The rows with every column of the relation, and their stamp."""
    names = [column.name for column in (*relation.columns, *inbound.STAMP)]
    stamped = ({**DEFAULTS, "row": n, **row} for n, row in enumerate(rows, start=1))
    return [{name: row.get(name) for name in names} for row in stamped]


def index(meter_id, service_date, total, **more):
    """A register reading; indexes of other registers as index_peak=..., all in thousandths of a Wh."""
    when = day(service_date) if isinstance(service_date, str) else service_date
    return {"meter_id": meter_id, "service_date": when, "index_total": total, **more}


def fill(
    con: duckdb.DuckDBPyConnection, accounts=(), meters=(), read=(), ledger=(), registers=(), tariffs=(), conduct=()
):
    """Create the accepted events as tables in `con`."""
    for (name, relation), rows in zip(
        ACCEPTED.items(), (read, registers, ledger, conduct, accounts, meters, tariffs), strict=True
    ):
        columns = (*relation.columns, *inbound.STAMP)
        typed = ", ".join(f"{ddl.name(column.name)} {ddl.duckdb_type(column)}" for column in columns)
        con.execute(f"CREATE TABLE {name} ({typed})")
        values = [list(row.values()) for row in complete(relation, rows)]
        if values:
            con.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", values)
    return con


def table(con, query):
    """The rows of a query as dictionaries."""
    result = con.execute(query)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
