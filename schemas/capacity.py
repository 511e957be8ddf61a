"""The capacity file: the staff that there is for service actions, effective-dated, and the days on which it works."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from schemas.conditions import Fault, Part
from schemas.document import fault_line, parse_document, read_text
from schemas.errors import ConfigError

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Staff = Annotated[int, Field(ge=0, le=1_000_000)]


class Managers(Part):
    """Key-account managers: how many accounts each looks after, and how many visits each makes a day."""

    staff: Staff
    accounts_each: Staff
    visits_each: Staff | None = None


class Inspectors(Part):
    """Inspectors, and how many inspections each makes a day."""

    staff: Staff
    inspections_each: Staff


class CapacityVersion(Part):
    """The staff from one day on. What is not named is not limited."""

    effective_from: date
    managers: Managers | None = None
    inspectors: Inspectors | None = None
    calls: Staff | None = None
    working_days: tuple[Weekday, ...] = WEEKDAYS[:5]

    def places(self) -> dict[str, int]:
        """Places by limited resource: of managers at a time, of the others on a working day."""
        out: dict[str, int] = {}
        if self.managers is not None:
            out["managers"] = self.managers.staff * self.managers.accounts_each
            if self.managers.visits_each is not None:
                out["visits"] = self.managers.staff * self.managers.visits_each
        if self.inspectors is not None:
            out["inspectors"] = self.inspectors.staff * self.inspectors.inspections_each
        if self.calls is not None:
            out["calls"] = self.calls
        return out


class Capacity(Part):
    """The whole capacity file. `versions` ascends by `effective_from`; days before the first have the first."""

    versions: tuple[CapacityVersion, ...]
    holidays: tuple[date, ...] = ()

    def on(self, day: date) -> CapacityVersion:
        """The staff in force on a day."""
        in_force = [version for version in self.versions if version.effective_from <= day]
        return in_force[-1] if in_force else self.versions[0]

    def works(self, day: date) -> bool:
        """Whether a day is a working day."""
        return day not in self.holidays and WEEKDAYS[day.weekday()] in self.on(day).working_days


def default_capacity_text() -> str:
    """The capacity file that `wattier init` writes, with its comments."""
    return resources.files("schemas").joinpath("capacity_default.yaml").read_text("utf-8")


def load_capacity(path: Path) -> Capacity:
    """Read and check a capacity file. Raises ConfigError naming file, path in it, value and what is allowed."""
    return parse_capacity(read_text(path, "capacity"), str(path))


def parse_capacity(text: str, name: str) -> Capacity:
    """Check the text of a capacity file; messages call it `name`. Raises ConfigError with one line per fault."""
    capacity = parse_document(text, name, Capacity)
    if faults := [fault_line(name, *fault) for fault in _faults(capacity)]:
        raise ConfigError("\n".join(faults))
    return capacity


def _faults(capacity: Capacity) -> Iterator[Fault]:
    if not capacity.versions:
        yield ("versions",), [], "at least one version is needed"
    for i, version in enumerate(capacity.versions):
        if i and version.effective_from <= capacity.versions[i - 1].effective_from:
            allowed = f"must be later than {capacity.versions[i - 1].effective_from}, that of the version before"
            yield ("versions", i, "effective_from"), str(version.effective_from), allowed
        if len(set(version.working_days)) < len(version.working_days):
            yield ("versions", i, "working_days"), list(version.working_days), "names a day twice"
    for i, day in enumerate(capacity.holidays):
        if day in capacity.holidays[:i]:
            yield ("holidays", i), str(day), "stands twice"
