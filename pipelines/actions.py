"""`wattier actions`: the list for those who act, with labels, as a table or as CSV that a spreadsheet may open."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TextIO

import duckdb

from pipelines.plan import policy_waits, published_policy
from pipelines.words import for_spreadsheet, inert, table
from schemas.conditions import NUMBERS
from schemas.errors import ConfigError, StateError
from schemas.labels import Lang, label
from schemas.policy import Policy

COLUMNS = (
    "account_id", "action", "action_reason", "due_date", "priority", "resource", "value", "planned", "not_planned_reason", "since",
    "rank",
)  # fmt: skip
HEADINGS: dict[Lang, tuple[str, ...]] = {
    "en": (
        "Account",
        "Action",
        "Why",
        "Due",
        "Priority",
        "Takes",
        "Value, {unit}",
        "Planned",
        "Why not",
        "Since",
        "Rank",
    ),
    "zh": (
        "户号",
        "服务措施",
        "原因",
        "到期日",
        "优先级",
        "占用资源",
        "价值（{unit}）",
        "已安排",
        "未安排原因",
        "起始日",
        "排序",
    ),
}
YES: dict[Lang, tuple[str, str]] = {"en": ("no", "yes"), "zh": ("否", "是")}
LABELLED = ("action", "action_reason", "resource", "not_planned_reason")

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Listed:
    """What there is to do by the plan of a day. rows: in order; whole: also what takes no limited place."""

    rows: list[Row]
    day: date
    whole: bool


def listed_actions(marts: Path, as_of: date | None, resource: str | None) -> Listed:
    """The list, planned ones first, by priority and rank. as_of: None: of the last published service day.

    Of earlier days what took a limited place is kept, and nothing else. Raises StateError, ConfigError.
    """
    if not marts.exists():
        raise StateError(f"{marts} is not there yet: nothing has been published. Start with `wattier run`.")
    with duckdb.connect(str(marts), read_only=True) as con:
        first, last = con.execute("SELECT min(service_date), max(service_date) FROM service_days").fetchall()[0]
        if last is None:
            raise StateError(f"{marts}: no service day is published yet")
        if as_of is not None and not first <= as_of <= last:
            raise ConfigError(f"--as-of {as_of}: published are service days from {first} to {last}")
        day, source = as_of or last, "service_actions"
        if day != last:
            source = "(SELECT *, true AS planned, NULL::VARCHAR AS not_planned_reason FROM planned_actions)"
        found = con.execute(
            f"SELECT {', '.join(COLUMNS)} FROM {source}"
            " WHERE service_date = $day AND ($resource IS NULL OR resource = $resource)"
            " ORDER BY planned DESC, priority, resource, rank, value DESC, account_id, action",
            {"day": day, "resource": resource},
        ).fetchall()
        return Listed(found, day, day == last)


def headings(lang: Lang, unit: str) -> list[str]:
    """Of the columns. unit: what values are counted in."""
    return [heading.format(unit=label("unit", unit, lang)) for heading in HEADINGS[lang]]


def value_unit(header: Mapping[str, Any], policy: Policy, day: date) -> str:
    """What the values of a day are counted in. header: of the publication."""
    return NUMBERS[published_policy(header["policy"], policy).on(day).value_column()].unit


def notes(header: Mapping[str, Any], policy: Policy, found: Listed, lang: Lang) -> list[str]:
    """What is to be said of a list: what it has not, that nothing limited it, that other rules wait. header: of the publication."""
    out: list[str] = []
    if not found.whole:
        out.append(label("actions", "places_alone", lang).format(day=found.day))
    if all(rules for _, rules, _ in header["policy"]) and found.rows:
        out.append(label("actions", "unlimited", lang))
    if (waits := policy_waits(header, policy)) is not None:
        out.append(label("explain", "policy_waits", lang).format(day=waits))
    return out


def labelled(found: Iterable[Row], lang: Lang) -> list[list[str]]:
    """Rows as people read them: codes by their labels, nothing where there is nothing."""

    def told(name: str, value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, bool):
            return YES[lang][value]
        return label(name, str(value), lang) if name in LABELLED else str(value)

    return [[told(name, value) for name, value in zip(COLUMNS, row, strict=True)] for row in found]


def write_csv(out: TextIO, found: Iterable[Row], lang: Lang, unit: str) -> int:
    """Write the list as CSV, with headings; the number of rows. Numbers and days are ours, so ids alone are made inert."""
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(headings(lang, unit))
    told = labelled(found, lang)
    for account, *others in told:
        writer.writerow([for_spreadsheet(account), *others])
    return len(told)


def shown(found: Listed, lang: Lang, unit: str, most: int = 40) -> str:
    """The first rows as a table of text, then how many there are."""

    def say(code: str, **values: object) -> str:
        return label("actions", code, lang).format(**values)

    cells = [[inert(cell) for cell in row] for row in (headings(lang, unit), *labelled(found.rows[:most], lang))]
    lines = [*table(cells, indent=""), say("number", number=f"{len(found.rows):,}")]
    if len(found.rows) > most:
        lines.append(say("first", most=most))
    return "\n".join(lines)
