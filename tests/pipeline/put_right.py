"""Past days put right for the accounts concerned: six accounts that every such test opens with."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

import pipelines.restate
import transforms.checkpoints
from pipelines.warehouse import Warehouse
from tests.pipeline.bureau import Bureau
from tests.pipeline.worlds import account, meter, reading

FIRST = date(2023, 1, 10)
ACCOUNTS = ("one", "two", "three", "four", "five", "six")


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def used(number: int, *, revision: int = 1, only: tuple[str, ...] = ACCOUNTS, times: int = 1) -> list:
    """Energy of a service day: some more than others, moving, and not of every account on every day."""
    rows = []
    for at, name in enumerate(ACCOUNTS):
        if name in only and (revision > 1 or (number + at) % 13):
            rows.append(
                reading(
                    f"M-{name}", day(number), times * (1_000 * (at + 1) ** 3 + 700 * (number * (at + 2) % 11)), revision
                )
            )
    return rows


@pytest.fixture
def corrections(monkeypatch):
    """Corrections go by account, however many accounts they concern; which spans were put right."""
    taken = []
    take = pipelines.restate.Restatement.take

    def watched(self, place, plan, commits):
        taken.append((plan.first, plan.last))
        take(self, place, plan, commits)

    monkeypatch.setattr(pipelines.restate, "MOST_PPM", 10**9)
    monkeypatch.setattr(pipelines.restate, "DAYS_AT_ONCE", 20)
    monkeypatch.setattr(pipelines.restate.Restatement, "take", watched)
    return taken


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A bureau published day by day over the latest of its days; made once, and copied. daily: how many these are."""
    made: dict[tuple, Bureau] = {}

    def opened(folder, *changes: tuple[str, str], last: int = 70, daily: int = 3) -> Bureau:
        which = (changes, last, daily, transforms.checkpoints.DAILY_CHECKPOINTS)
        if which not in made:
            bureau = made[which] = Bureau(tmp_path_factory.mktemp("opened") / "bureau", *changes)
            for rows in landed(last, daily):
                bureau.land_all(rows)
                if rows[0][0] == "meter_readings":
                    bureau.run()
        return made[which].copy(folder)

    return opened


def landed(last: int, daily: int) -> list[list]:
    """What lands up to then, by day."""
    reference = [[account(name, date(2020, 1, 1)), meter(f"M-{name}", name, date(2020, 1, 1))] for name in ACCOUNTS]
    first = [row for number in range(last - daily) for row in used(number)]
    return [*reference, first, *(used(number) for number in range(last - daily, last))]


def kinds(bureau: Bureau) -> dict[str, set[str]]:
    """The files that stand, by kind."""
    found: dict[str, set[str]] = {}
    for entry in Warehouse(bureau.config.warehouse).load().entries:
        found.setdefault(entry.kind, set()).add(entry.path)
    return found
