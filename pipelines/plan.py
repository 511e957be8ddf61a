"""Which service days a run, or an epoch of a stream, makes: from where, up to where, in which stretches."""

from __future__ import annotations

import calendar as months
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from schemas.policy import Policy, PolicyVersion
from transforms.kernels.windows import date_of, day_of

if TYPE_CHECKING:
    from pipelines.calendar import Calendar

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Standing:
    """What stands: last and first service day published, days that can be taken up again, the policy it was made under."""

    through: int | None = None
    first: int | None = None
    checkpoints: tuple[int, ...] = ()
    policy: list[list[Any]] | None = None


@dataclass(frozen=True)
class Decision:
    """What to make. All are service day numbers.

    end: last day to publish, None where none is left. first: first day whose figures may differ. start: the day after
    the checkpoint that is taken up. drop_from: what was published from here on goes. spans: stretches to make, in order;
    none where nothing is to be made.
    """

    end: int | None
    first: int
    start: int
    drop_from: int
    spans: tuple[tuple[int, int], ...]

    @property
    def days(self) -> int:
        """How many days are made."""
        return sum(last - first + 1 for first, last in self.spans)


def decide(
    calendar: Calendar | None, policy: Policy, standing: Standing, restate: Iterable[int], asked: int | None
) -> Decision:
    """From the calendar, what stands and the first days that deliveries changed, to the days to make.

    asked: last day wanted; None: the last complete one.
    """
    end = _last_day(calendar, policy, standing.through, asked)
    if calendar is None or end is None:
        return Decision(end, standing.first or 0, 0, 0, ())
    first = _first_day(calendar, policy, standing, restate, end)
    changed, _ = _changes(standing.policy, policy)
    # what tiers are made of on the day before a change has the columns of the new rules, too
    begin = first if changed is None else min(first, changed - 1)
    held = [day for day in standing.checkpoints if calendar.first <= day < begin]
    if standing.first is not None and calendar.first != standing.first:
        held = []
    start = held[-1] + 1 if held else calendar.first
    drop_from = start if held or standing.first is None else min(start, standing.first)
    return Decision(end, first, start, drop_from, tuple(months_of(start, end)) if first <= end else ())


def _last_day(calendar: Calendar | None, policy: Policy, before: int | None, asked: int | None) -> int | None:
    """The last service day to publish; None where there is none.

    What was published stays, except for days that are no longer complete and that the policy holds back.
    """
    if calendar is None:
        return None
    if asked is not None:
        return calendar.end(policy, asked if before is None else max(asked, before))
    end = calendar.end(policy, None)
    if policy.day_close.below_floor == "provisional" and before is not None and before >= calendar.first:
        return before if end is None else max(end, before)
    return end


def _first_day(calendar: Calendar, policy: Policy, standing: Standing, restate: Iterable[int], end: int) -> int:
    """The first service day to be made (anew); where none is left, the first that is taken back."""
    before = standing.through
    candidates = [*restate, before + 1 if before is not None else calendar.first]
    if before is not None and end < before:
        candidates.append(end)
    changed = policy_change(standing.policy, policy)
    candidates += [changed] if changed is not None else []
    ruled, _ = _changes(standing.policy, policy)
    candidates += [end] if ruled is not None and ruled - 1 == before == end else []
    candidates += [calendar.first] if standing.first is not None and calendar.first != standing.first else []
    return max(min(candidates), calendar.first)


def policy_state(policy: Policy) -> list[list[Any]]:
    """The rules as they can be compared: effective from (day number), content, and what holds on all days.

    Rows without content are the staff, span by span: from the day on whose plan it is for.
    """
    always = policy.ledger.model_dump_json(include={"allocation"})
    versions = [[day_of(v.effective_from), v.model_dump_json(), always] for v in policy.versions]
    return versions + _staff_state(policy)


def _staff_state(policy: Policy) -> list[list[Any]]:
    """The staff by spans; none where nobody asks for it. The plan of a day is for the day after it."""
    capacity, spans = policy.capacity, list[list[Any]]()
    if capacity is None or not any(version.strategy for version in policy.versions):
        return spans
    edges = {version.effective_from for version in capacity.versions}
    edges |= {day + more * DAY for day in capacity.holidays for more in (0, 1)}
    edges.add(min(edges) - DAY)  # the first span holds on every day before it, so it must be no holiday
    for day in sorted(edges):
        staff = capacity.on(day).model_dump_json(exclude={"effective_from"})
        held = f"{staff} holiday" if day in capacity.holidays else staff
        if not spans or spans[-1][2] != held:
            spans.append([day_of(day) - 1, "", held])
    return spans


def published_policy(held: list[list[Any]], policy: Policy) -> Policy:
    """The versions that service days were published under, with all else as a policy says. held: see `policy_state`."""
    versions = tuple(PolicyVersion.model_validate_json(text) for _, text, _ in held if text)
    return policy.model_copy(update={"versions": versions})


def policy_waits(header: Mapping[str, Any], policy: Policy) -> date | None:
    """First service day that `wattier run` makes by other rules, or other staff, than a publication's. header: its own."""
    first, begin = policy_change(header["policy"], policy), header.get("first")
    if begin is None:
        begin = day_of(policy.versions[0].effective_from)
    return None if first is None else date_of(max(first, begin))


def made_under(policy: Policy) -> dict[str, Any]:
    """Of a policy, what service days are made by: the audit is the publisher's."""
    return {"policy": policy_state(policy), "day_close": policy.day_close.model_dump()}


def policy_change(held: list[list[Any]] | None, policy: Policy) -> int | None:
    """First day on which another rule, or other staff, is in force than was published under; None where all is as it was."""
    return min((day for day in _changes(held, policy) if day is not None), default=None)


def staff_change(held: list[list[Any]] | None, policy: Policy) -> int | None:
    """First day on which other staff is there than was published under; None where it is as it was."""
    return _changes(held, policy)[1]


def _changes(held: list[list[Any]] | None, policy: Policy) -> tuple[int | None, int | None]:
    """First day on which other rules, and first day on which other staff, are in force than was published under."""
    if held is None:
        return None, None
    new = policy_state(policy)

    def first(rules: bool) -> int | None:
        return _first_difference(
            [row for row in held if bool(row[1]) == rules], [row for row in new if bool(row[1]) == rules]
        )

    return first(True), first(False)


def _first_difference(held: list[list[Any]], new: list[list[Any]]) -> int | None:
    """The first day on which two lists of spans differ. A first span also holds on every day before it."""

    def on(spans: list[list[Any]], day: int) -> list[Any]:
        fit = [content for start, *content in spans if start <= day]
        return fit[-1] if fit else spans[0][1:] if spans else []

    edges: list[int] = sorted({start for start, *_ in [*held, *new]})
    if edges and on(held, edges[0] - 1) != on(new, edges[0] - 1):
        return edges[0] - 1_000_000
    return next((day for day in edges if on(held, day) != on(new, day)), None)


def months_of(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Split days at the ends of months."""
    while first <= last:
        day = date_of(first)
        end = min(last, first - day.day + months.monthrange(day.year, day.month)[1])
        yield first, end
        first = end + 1
