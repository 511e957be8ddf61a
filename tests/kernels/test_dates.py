"""Days of the calendar: against Python's own."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.reasons import FAULTS, REASONS
from transforms.kernels.dates import from_temporal, parse_days, shift_and_bound
from transforms.kernels.parsed import Parsed

CODES = ["", *REASONS]


def outcomes(parsed: Parsed) -> list[date | str | None]:
    """Day or reason, row by row."""
    return [CODES[fault] if fault else day for day, fault in zip(parsed.values.to_pylist(), parsed.faults, strict=True)]


@given(st.lists(st.dates()), st.booleans())
def test_days_are_read_with_and_without_padding(days: list[date], padded: bool) -> None:
    width = "02d" if padded else "d"
    texts = [f"{day.month:{width}}/{day.day:{width}}/{day.year:04d}" for day in days]
    assert outcomes(parse_days(pa.array(texts, pa.string()), "%m/%d/%Y")) == days


@given(st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 99), st.integers(0, 99))))
def test_only_real_days_are_read(parts: list[tuple[int, int, int]]) -> None:
    def real(part: tuple[int, int, int]) -> date | str:
        try:
            return date(*part)
        except ValueError:
            return "bad_date"

    texts = pa.array([f"{year:04d}{month:02d}{day:02d}" for year, month, day in parts], pa.string())
    assert outcomes(parse_days(texts, "%Y%m%d")) == [real(part) for part in parts]


def test_the_worked_example() -> None:
    texts = ["2015/1/1", " 2016/02/29 ", "2015/2/29", "15/1/1", "2015-1-1", "2015/1/1x", "NaN", "", None, "2015/1/1"]
    want = [date(2015, 1, 1), date(2016, 2, 29), *["bad_date"] * 5, None, None, date(2015, 1, 1)]
    assert outcomes(parse_days(pa.chunked_array([texts[:4], texts[4:]]), "%Y/%m/%d")) == want
    assert outcomes(parse_days(pa.array(["2015年1月1日"]), "%Y年%m月%d日")) == [date(2015, 1, 1)]
    assert outcomes(parse_days(pa.array(["2015111"]), "%Y%m%d")) == ["bad_date"]


@pytest.mark.parametrize("texts", [[], [None], [""]])
def test_nothing_gives_nothing(texts: list[str | None]) -> None:
    assert outcomes(parse_days(pa.array(texts, pa.string()))) == [None] * len(texts)


def test_a_time_of_day_is_dropped_only_on_demand() -> None:
    texts = pa.array(["2015-01-01 0:00:00", "2015-01-01 14:32:07", "2015-01-01 24:00:00"])
    assert outcomes(parse_days(texts, "%Y-%m-%d %H:%M:%S")) == [date(2015, 1, 1), "bad_date", "bad_date"]
    assert outcomes(parse_days(texts, "%Y-%m-%d %H:%M:%S", drop_time=True)) == [date(2015, 1, 1)] * 2 + ["bad_date"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps(unit: str) -> None:
    values: list[Any] = [datetime(2015, 1, 1), datetime(1969, 12, 31, 14), None]  # noqa: DTZ001
    column = pa.array(values, pa.timestamp(unit))
    assert outcomes(from_temporal(column)) == [date(2015, 1, 1), "bad_date", None]
    assert outcomes(from_temporal(column, drop_time=True)) == [date(2015, 1, 1), date(1969, 12, 31), None]


@given(
    st.lists(st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1)), min_size=1, max_size=5),  # noqa: DTZ001
    st.sampled_from(["UTC", "Asia/Shanghai", "Europe/Paris", "Australia/Lord_Howe"]),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.booleans(),
)
def test_the_moment_is_kept(times: list[datetime], name: str, unit: str, aware: bool) -> None:
    """As Python has it: the first of two that a clock shows; but what it leaves out is where it goes on."""
    shown = [time.replace(microsecond=0) for time in times]
    local = [time.replace(tzinfo=ZoneInfo(name)) for time in shown]
    real = [
        time.astimezone(UTC).astimezone(ZoneInfo(name)).replace(tzinfo=None) == at
        for time, at in zip(local, shown, strict=True)
    ]
    wanted = [time.astimezone(UTC).replace(tzinfo=None) for time in local]
    text = pa.array([f"{time:%Y-%m-%d %H:%M:%S}" for time in shown])
    found = [parse_days(text, "%Y-%m-%d %H:%M:%S", drop_time=True, clock=name)]
    if aware:
        instants = pa.array([time.astimezone(UTC) for time in local], pa.timestamp(unit, "UTC"))
        found.append(from_temporal(instants, name, drop_time=True, instants=True))
    else:
        found.append(from_temporal(pa.array(shown, pa.timestamp(unit)), name, drop_time=True, instants=True))
    for parsed in found:
        assert parsed.at is not None
        assert parsed.at.type == pa.timestamp("us")
        assert [at for at, kept in zip(parsed.at.to_pylist(), real, strict=True) if kept] == [
            at for at, kept in zip(wanted, real, strict=True) if kept
        ]


def test_the_moment_where_clocks_change_and_where_none_is_told() -> None:
    """02:30 is left out on 29 March 2026 in Paris, and shown twice on 25 October."""
    texts = pa.array(
        ["2026-03-29 02:30", "2026-10-25 02:30", "2026-02-30 02:30", "", None, "0001-01-01 00:00", "9999-12-31 23:59"]
    )
    at = parse_days(texts, "%Y-%m-%d %H:%M", clock="Europe/Paris").at
    assert at is not None
    assert [f"{moment}" for moment in at[:5].to_pylist()] == [
        "2026-03-29 01:00:00", "2026-10-25 00:30:00", "None", "None", "None"
    ]  # fmt: skip
    assert parse_days(texts, "%Y-%m-%d %H:%M").at is None
    assert parse_days(pa.array(["2026-03-29"]), clock="Europe/Paris").at is None
    days = pa.array([date(2026, 3, 29)])
    assert from_temporal(days, "Europe/Paris", instants=True).at is None


def test_an_instant_has_its_local_day() -> None:
    column = pa.array([datetime(2015, 1, 1, 16, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    assert outcomes(from_temporal(column, "Asia/Shanghai")) == [date(2015, 1, 2)]
    assert outcomes(from_temporal(column, "UTC")) == ["bad_date"]


@given(st.lists(st.none() | st.dates(date(1990, 1, 1), date(2030, 1, 1))), st.integers(-400, 400))
def test_days_move_and_keep_their_bounds(days: list[date | None], shift: int) -> None:
    first, last = date(2000, 1, 1), date(2020, 1, 1)
    moved = [None if day is None else day + timedelta(days=shift) for day in days]
    want = [day if day is None or first <= day <= last else "date_out_of_range" for day in moved]
    for column in (pa.array(days, pa.date32()), pa.array(days, pa.date64())):
        assert outcomes(shift_and_bound(from_temporal(column), shift, first, last)) == want


TIMES = [
    ("2026-03-01 00:00:00", "2026-03-01"), ("2026-03-01 00:30:00", "2026-03-01"), ("2026-03-01 00:30:01", None),
    ("2026-02-28 23:30:00", "2026-03-01"), ("2026-02-28 23:29:59", None), ("2026-03-01 12:00:00", None),
    ("2026-12-31 23:59:59", "2027-01-01"),
]  # fmt: skip


def test_a_time_near_midnight_is_that_midnight() -> None:
    """By the minute, before it and after it; text and timestamps say the same."""
    text = pa.array([time for time, _ in TIMES] + ["", None])
    wanted = [date.fromisoformat(day) if day else None for _, day in TIMES] + [None, None]
    stamps = pa.array([datetime.fromisoformat(time) for time, _ in TIMES] + [None, None], pa.timestamp("us"))
    off = [FAULTS["off_midnight"] * (day is None) for _, day in TIMES] + [0, 0]
    for parsed in (
        parse_days(text, "%Y-%m-%d %H:%M:%S", within_minutes=30),
        from_temporal(stamps, within_minutes=30),
    ):
        assert parsed.values.to_pylist() == wanted
        assert parsed.faults.tolist() == off


def test_what_is_no_time_at_all_is_no_date() -> None:
    parsed = parse_days(pa.array(["2026-03-01 24:00:00", "x"]), "%Y-%m-%d %H:%M:%S", within_minutes=30)
    assert parsed.faults.tolist() == [FAULTS["bad_date"]] * 2


INSTANTS = [
    # Cairo leaves 0:00 to 1:00 of 26 April 2024 out: that day begins at 1:00, which is 22:00 UTC of the day before.
    ("Africa/Cairo", "2024-04-25 22:00", "2024-04-26", "2024-04-26"),
    ("Africa/Cairo", "2024-04-25 22:20", None, "2024-04-26"),
    ("Africa/Cairo", "2024-04-25 21:50", None, "2024-04-26"),
    # Havana shows 0:00 to 1:00 of 3 November 2024 twice: the day begins the first time.
    ("America/Havana", "2024-11-03 04:00", "2024-11-03", "2024-11-03"),
    ("America/Havana", "2024-11-03 05:00", None, None),
    # Asuncion showed 23:00 to 0:00 of 25 March 2023 twice: the second time ends the day.
    ("America/Asuncion", "2023-03-26 02:30", None, None),
    ("America/Asuncion", "2023-03-26 03:30", None, "2023-03-26"),
    ("America/Asuncion", "2023-03-26 04:00", "2023-03-26", "2023-03-26"),
]


@pytest.mark.parametrize(("zone", "utc", "exact", "within"), INSTANTS)
@pytest.mark.parametrize("unit", ["s", "ns"])
def test_a_midnight_that_a_clock_leaves_out_or_shows_twice(
    zone: str, utc: str, exact: str | None, within: str | None, unit: str
) -> None:
    column = pa.array([datetime.fromisoformat(f"{utc}+00:00"), None], pa.timestamp(unit, "UTC"))
    for minutes, wanted, fault in ((0, exact, "bad_date"), (30, within, "off_midnight")):
        found = outcomes(from_temporal(column, zone, within_minutes=minutes))
        assert found == [date.fromisoformat(wanted) if wanted else fault, None]


def test_part_of_a_second_counts() -> None:
    times = ["2026-03-01 00:30:00.000001", "2026-02-28 23:30:00.000001"]
    column = pa.array([datetime.fromisoformat(time) for time in times], pa.timestamp("us"))
    assert outcomes(from_temporal(column, within_minutes=30)) == ["off_midnight", date(2026, 3, 1)]
