"""Which version of a ledger event is in force, and from which day on new versions change that."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from transforms.fold_days import LEDGER_SCHEMA, calendar_rows, settle_versions, sum_calendar, update_expected
from transforms.kernels.reference import NEVER
from transforms.meter_assignments import EXPECTED_SCHEMA

START = date(2024, 1, 1)
Version = tuple[int, str, int, int, int]
"""(slot, event id, day, amount, revision)."""

versions = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from(["P1", "P2"]), st.integers(0, 4), st.integers(1, 2), st.integers(1, 3)
    ),
    max_size=8,
)


def table(rows: list[Version]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "slot": slot, "event_id": event, "event_type": "payment", "event_date": START + timedelta(days=day),
                "amount_minor": amount, "revision": revision,
            }
            for slot, event, day, amount, revision in rows
        ],
        schema=LEDGER_SCHEMA,
    )  # fmt: skip


def in_force(rows: list[Version], day: int) -> dict[tuple[int, str], tuple[Any, ...]]:
    """The content that counts on a day, event by event, straight from the definition."""
    found: dict[tuple[int, str], tuple[Any, ...]] = {}
    for slot, event, dated, amount, revision in rows:
        rank = (-revision, str(START + timedelta(days=dated)), str(amount))
        if dated <= day and ((slot, event) not in found or rank < found[slot, event][0]):
            found[slot, event] = (rank, dated, amount)
    return {key: value[1:] for key, value in found.items()}


def disputed(rows: list[Version]) -> bool:
    """Whether the versions of the highest revision of one event say different things."""
    highest = max((row[4] for row in rows), default=0)
    return len({row[2:4] for row in rows if row[4] == highest}) > 1


def day_number(day: int) -> int:
    return (START - date(1970, 1, 1)).days + day


@given(versions, versions.filter(bool))
@example([(0, "P1", 4, 1, 2)], [(0, "P1", 1, 1, 1)])  # loses in the end, and counts until then
@example([(0, "P1", 1, 1, 1)], [(0, "P1", 1, 1, 2)])  # the same again under a higher revision
@example([(0, "P1", 1, 1, 1)], [(0, "P1", 1, 2, 1)])  # another content that does not count, under the same one
@example([(0, "P1", 1, 1, 1), (0, "P1", 1, 2, 1)], [(0, "P1", 1, 1, 2)])  # a conflict ends
def test_the_first_change_is_the_first_day_another_version_is_in_force(held: list[Version], new: list[Version]) -> None:
    found, starts = settle_versions(table(held), table(new)), []
    for event in {row[:2] for row in new}:
        old, all_of = ([row for row in rows if row[:2] == event] for rows in (held, held + new))
        days = [day for day in range(5) if in_force(old, day) != in_force(all_of, day)]
        if not days and disputed(old) != disputed(all_of):
            days = [max(row[2] for row in all_of)]
        starts += days[:1]
    assert found.restate_from == (day_number(min(starts)) if starts else None)
    assert found.accepted + found.superseded == len(new)


@given(versions, versions.filter(bool))
def test_a_row_is_accepted_when_it_is_the_version_that_wins_in_the_end(held: list[Version], new: list[Version]) -> None:
    def winners(rows: list[Version]) -> set[Version]:
        last: dict[tuple[int, str], Version] = {}
        for row in sorted(rows, key=lambda r: (r[4], [-r[2], -r[3]])):
            last[row[:2]] = row
        return set(last.values())

    assert settle_versions(table(held), table(new)).accepted == len(winners(held + new) - set(held))


stretches = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.one_of(st.integers(6, 9), st.just(NEVER))), max_size=8
)


@given(stretches, stretches)
def test_expected_stretches_add_up_and_are_taken_away_again(
    some: list[tuple[int, int, int]], more: list[tuple[int, int, int]]
) -> None:
    def changes(rows: list[tuple[int, int, int]], sign: int) -> pa.Table:
        return pa.Table.from_pylist(
            [{"slot": s, "installed": a, "removed": b, "meters": sign} for s, a, b in rows], schema=EXPECTED_SCHEMA
        )

    held = update_expected(EXPECTED_SCHEMA.empty_table(), changes(some, 1))
    both = update_expected(held, changes(more, 1))
    assert update_expected(both, changes(more, -1)) == held
    assert sum(both["meters"].to_pylist()) == len(some) + len(more)
    once = sum_calendar(calendar_rows(expected=both))
    added = pa.concat_tables([calendar_rows(expected=changes(rows, 1)) for rows in (some, more)])
    assert sum_calendar(added) == once
    assert sum_calendar(pa.concat_tables([once, added.slice(0, 0)])) == once
    steps = dict(zip(once["day"].to_pylist(), once["step"].to_pylist(), strict=True))
    for day in range(10):
        due = sum(a <= day < b for _, a, b in [*some, *more])
        assert sum(step for number, step in steps.items() if number <= day) == due
