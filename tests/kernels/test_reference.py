"""Effective-dated reference data against brute force: which row holds, who is in the population, what is expected."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from transforms.kernels.reference import NEVER, Assignments, Expected, Population, days, last_per_slot, latest

N = 4
DAY = st.integers(0, 12)
END = st.one_of(DAY, st.just(NEVER))
ASSIGNMENTS = st.dictionaries(st.tuples(st.integers(0, N - 1), DAY), st.tuples(END, st.integers(0, 5), st.booleans()))
POPULATION = st.dictionaries(st.tuples(st.integers(0, N - 1), DAY), st.tuples(DAY, END, st.integers(0, 3)))
STRETCHES = st.lists(st.tuples(st.integers(0, N - 1), DAY, END, st.integers(-2, 3)))


def int32(values: list[int]) -> np.ndarray:
    return np.array(values, np.int32)


@given(ASSIGNMENTS, DAY)
def test_the_assignment_that_holds(rows: dict[tuple[int, int], tuple[int, int, bool]], day: int) -> None:
    ordered = sorted(rows.items())
    slot, installed = (int32([key[i] for key, _ in ordered]) for i in (0, 1))
    removed, account = (int32([value[i] for _, value in ordered]) for i in (0, 1))
    known = np.array([value[2] for _, value in ordered], np.bool_)
    row, holds = Assignments(slot, installed, removed, account, known, known).on(day, N)
    for meter in range(N):
        started = [(at, value) for (m, at), value in ordered if m == meter and at <= day]
        end, owner, is_known = max(started)[1] if started else (0, -1, False)
        assert bool(holds[meter]) == (day < end and is_known)
        if started:
            assert int(account[row[meter]]) == owner
        else:
            assert row[meter] == -1


@given(POPULATION, DAY)
def test_who_is_in_the_population(rows: dict[tuple[int, int], tuple[int, int, int]], day: int) -> None:
    ordered = sorted(rows.items())
    slot, valid_from = (int32([key[i] for key, _ in ordered]) for i in (0, 1))
    opened, closed = (int32([value[i] for _, value in ordered]) for i in (0, 1))
    category = np.array([value[2] for _, value in ordered], np.int8)
    inside, code = Population(
        slot,
        valid_from,
        opened,
        closed,
        category,
        np.full(len(slot), -1),
        np.full(len(slot), -1, np.int32),
        np.full(len(slot), ""),
    ).on(day, N)
    for account in range(N):
        mine = [(at, value) for (a, at), value in ordered if a == account]
        if not mine:
            assert (bool(inside[account]), int(code[account])) == (False, -1)
            continue
        start, end, kind = max(((at, v) for at, v in mine if at <= day), default=mine[0])[1]
        assert (bool(inside[account]), int(code[account])) == (start <= day <= end, kind)


@given(STRETCHES, DAY, DAY)
def test_meter_days_expected(rows: list[tuple[int, int, int, int]], first: int, last: int) -> None:
    rows.sort(key=lambda row: row[0])
    table = Expected(*(int32([row[i] for row in rows]) for i in range(4)))
    expected = [
        sum(
            meters * sum(start <= day < end for day in range(first, last + 1))
            for s, start, end, meters in rows
            if s == slot
        )
        for slot in range(N)
    ]
    assert table.between(first, last, N).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, N - 1), st.booleans())))
def test_last_per_slot(rows: list[tuple[int, bool]]) -> None:
    rows.sort(key=lambda row: row[0])
    found = last_per_slot(int32([s for s, _ in rows]), np.array([ok for _, ok in rows], np.bool_), N)
    assert found.tolist() == [
        max((i for i, (s, ok) in enumerate(rows) if ok and s == slot), default=-1) for slot in range(N)
    ]


ROW = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "a\x1fb", "é"]), "at": st.sampled_from([date(2015, 1, 1), date(2016, 1, 1)]),
        "revision": st.integers(0, 2), "number": st.sampled_from([None, 9, 10]),
        "text": st.sampled_from([None, "", "x", "Y"]),
    }
)  # fmt: skip
SCHEMA = pa.schema(
    [("id", pa.string()), ("at", pa.date32()), ("revision", pa.int64()), ("number", pa.int64()), ("text", pa.string())]
)


@given(st.lists(ROW, max_size=10), st.randoms(use_true_random=False))
def test_the_row_that_counts_is_the_same_in_any_order(rows: list[dict], random) -> None:
    def text(value: object) -> str:
        return "" if value is None else str(value)

    best: dict[tuple[str, date], tuple] = {}
    for row in rows:
        rank = (-row["revision"], text(row["number"]).encode(), text(row["text"]).encode())
        key = (row["id"], row["at"])
        best[key] = min(best.get(key, rank), rank)
    shuffled = random.sample(rows, len(rows))
    found = latest(pa.Table.from_pylist(shuffled, schema=SCHEMA), ["id", "at"], ["number", "text"]).to_pylist()
    seen = [((r["id"], r["at"]), (-r["revision"], text(r["number"]).encode(), text(r["text"]).encode())) for r in found]
    assert seen == sorted(best.items(), key=lambda item: (item[0][0].encode(), item[0][1]))


def test_days_of_dates() -> None:
    start = date(1970, 1, 1)
    column = pa.array([start, None, start - timedelta(days=3)], pa.date32())
    assert days(column).tolist() == [0, NEVER, -3]
    assert days(pa.chunked_array([column, column]), empty=7).tolist() == [0, 7, -3] * 2
