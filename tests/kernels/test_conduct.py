"""Conduct against the page read aloud: versions that count, days since, windows, and who is disconnected."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.inbound import CONDUCT_TYPES
from schemas.marts import FEATURES
from tests.oracles.conduct import Finding, features
from transforms.account_events import CONDUCT
from transforms.fold_days import standing
from transforms.kernels.conduct import CONDUCT_FEATURES, Conduct
from transforms.kernels.windows import day_of

START = date(2024, 2, 27)
ACCOUNTS = 4


def on(day: int) -> date:
    return START + timedelta(days=day)


findings = st.tuples(
    st.integers(0, ACCOUNTS - 2),
    st.builds(
        Finding,
        event_id=st.sampled_from("xyz"),
        event_type=st.sampled_from(CONDUCT_TYPES),
        event_date=st.sampled_from([0, 0, 1, 2, 3, 5, -364, -363, -729, -728, -2000]).map(on),
        revision=st.integers(1, 3),
    ),
)


def table(rows: list[tuple[int, Finding]]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"slot": slot, "account_id": f"A{slot}", **vars(one)} for slot, one in rows], schema=CONDUCT.kept
    )


def made(
    rows: list[tuple[int, Finding]], day: int, slots: list[int], known: int | None = None
) -> list[dict[str, int | None]]:
    last = None if known is None else day_of(on(known))
    columns = Conduct(table(rows)).features(day_of(on(day)), np.array(slots, np.int64), known=last)
    assert tuple(columns) == CONDUCT_FEATURES
    return [
        {name: None if np.ma.is_masked(column[at]) else int(column[at]) for name, column in columns.items()}
        for at in range(len(slots))
    ]


@given(st.lists(findings, max_size=12), st.integers(0, 5), st.sets(st.integers(0, ACCOUNTS - 1)))
@example([], 0, set())
def test_every_column_is_as_the_page_says(rows: list[tuple[int, Finding]], day: int, slots: set[int]) -> None:
    some = sorted(slots)
    expected = [features([one for slot, one in rows if slot == at], on(day)) for at in some]
    assert made(rows, day, some) == expected


@given(st.lists(findings, max_size=12), st.integers(0, 5))
def test_as_of_the_clock_the_events_of_the_day_do_not_exist(rows: list[tuple[int, Finding]], day: int) -> None:
    before = [(slot, one) for slot, one in rows if one.event_date < on(day)]
    of = [[one for slot, one in before if slot == at] for at in range(ACCOUNTS)]
    wanted = [features(events, on(day)) for events in of]
    assert made(rows, day, list(range(ACCOUNTS)), known=day - 1) == wanted
    if not Conduct(table(rows)).turns_on(day_of(on(day))):
        assert made(rows, day, list(range(ACCOUNTS))) == wanted


@given(st.lists(findings, min_size=1, max_size=12))
def test_what_stands_is_what_counts_in_the_end(rows: list[tuple[int, Finding]]) -> None:
    after = max(one.event_date for _, one in rows) + timedelta(days=1)
    stands = Conduct(standing(table(rows)))
    whole = Conduct(table(rows))
    slots = np.arange(ACCOUNTS)
    last = day_of(after)
    for name, column in whole.features(last, slots).items():
        assert column.tolist() == stands.features(last, slots)[name].tolist()


def test_columns_are_those_of_the_mart() -> None:
    first = FEATURES.schema.names.index(CONDUCT_FEATURES[0])
    assert FEATURES.schema.names[first : first + len(CONDUCT_FEATURES)] == list(CONDUCT_FEATURES)


@pytest.mark.parametrize(
    ("kind", "column", "length"), [("theft_confirmed", "thefts_730d", 730), ("usage_violation", "violations_365d", 365)]
)
def test_windows_hold_exactly_their_days(kind: str, column: str, length: int) -> None:
    rows = [(0, Finding("x", kind, on(0)))]
    counted = [made(rows, day, [0])[0][column] for day in (-1, 0, length - 1, length)]
    assert counted == [0, 1, 1, 0]


def test_an_event_may_be_withdrawn_from_a_day_on_or_altogether() -> None:
    theft = Finding("x", "theft_confirmed", on(0))
    for revision, (withdrawn_on, days) in product((1, 2), ((0, [None, None, None]), (2, [0, 1, None]))):
        rows = [(0, theft), (0, Finding("x", "withdrawn", on(withdrawn_on), revision))]
        assert [made(rows, day, [0])[0]["days_since_theft"] for day in range(3)] == days


def test_a_reconnection_of_the_same_day_ends_a_disconnection() -> None:
    off, on_again = Finding("x", "disconnection", on(1)), Finding("y", "reconnection", on(1))
    later = Finding("z", "disconnection", on(3))
    rows = [(0, off), (1, off), (1, on_again), (2, off), (2, on_again), (2, later)]
    assert [[row["disconnected"] for row in made(rows, day, [0, 1, 2])] for day in (0, 1, 2, 3)] == [
        [0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1],
    ]  # fmt: skip
