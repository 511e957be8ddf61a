"""Decimals become integers exactly: against Python's decimal arithmetic."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, localcontext

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.reasons import REASONS
from transforms.kernels.decimals import parse_decimal, rescale
from transforms.kernels.parsed import Parsed

CODES = ["", *REASONS]
INT64 = 2**63


def outcomes(parsed: Parsed) -> list[int | str | None]:
    """Value or reason, row by row."""
    pairs = zip(parsed.values.to_pylist(), parsed.faults, strict=True)
    return [CODES[fault] if fault else value for value, fault in pairs]


def expected(text: str, scale: int) -> int | str:
    """What Python's decimal arithmetic makes of a well-formed number."""
    with localcontext(prec=200):
        scaled = Decimal(text).scaleb(scale)
        if scaled != int(scaled):
            return "too_many_digits"
        return int(scaled) if -INT64 <= scaled < INT64 else "out_of_range"


digits = st.text("0123456789", max_size=24)
numbers = st.builds(
    "{}{}{}{}".format, st.sampled_from(["", "-", "+"]), digits.filter(bool), st.sampled_from([".", ""]), digits
).filter(lambda text: "." in text or len(text) < 25)


@given(st.lists(numbers, max_size=20), st.sampled_from([0, 1, 2, 3, 6, 9]), st.sampled_from([".", ","]))
def test_text_equals_decimal_arithmetic(texts: list[str], scale: int, mark: str) -> None:
    marked = pa.array([text.replace(".", mark) for text in texts], pa.string())
    assert outcomes(parse_decimal(marked, scale, mark)) == [expected(text, scale) for text in texts]


@given(st.lists(st.text("0123456789+-.,eEnNaAxX _'", max_size=8)))
def test_anything_else_is_bad(texts: list[str]) -> None:
    for text, outcome in zip(texts, outcomes(parse_decimal(pa.array(texts, pa.string()), 3)), strict=True):
        plain = text.strip()
        whole, _, fraction = plain.removeprefix("+" if plain.startswith("+") else "-").partition(".")
        if not plain:
            assert outcome is None
        elif (whole + fraction).isdigit():
            assert outcome == expected(plain, 3)
        else:
            assert outcome == "bad_decimal"


def test_the_worked_example() -> None:
    texts = ["0.1", "0.2", " 12 ", "5.", ".5", "-0", "1.0000", "1.0001", "", None]
    parsed = parse_decimal(pa.chunked_array([texts[:3], texts[3:]], pa.string()), 3)
    assert outcomes(parsed) == [100, 200, 12000, 5000, 500, 0, 1000, "too_many_digits", None, None]
    assert sum(parsed.values.to_pylist()[:2]) == 300


@pytest.mark.parametrize(
    "bad",
    ["NaN", "inf", "1e3", "1,000", "1 000", "1_000", "0x1F", "--1", "1.2.3", ".", "-", "\uff11", "1kWh", "\u22121"],
)
def test_bad_decimals(bad: str) -> None:
    assert outcomes(parse_decimal(pa.array([bad, "1"]), 0)) == ["bad_decimal", 1]


def test_the_other_mark_is_bad() -> None:
    assert outcomes(parse_decimal(pa.array(["1.5", "1,5"]), 3, ",")) == ["bad_decimal", 1500]


def test_bounds_are_inclusive_and_int64_is_the_last() -> None:
    texts = pa.array(["-1", "0", "10", "11", str(INT64 - 1), str(INT64), "9" * 60, "-" + "9" * 60, "0" * 60 + "7"])
    narrow = ["out_of_range", 0, 10, "out_of_range", *["out_of_range"] * 4, 7]
    assert outcomes(parse_decimal(texts, 0, minimum=0, maximum=10)) == narrow
    wide = [-1, 0, 10, 11, INT64 - 1, *["out_of_range"] * 3, 7]
    assert outcomes(parse_decimal(texts, 0)) == wide


@given(st.data(), st.integers(0, 9), st.integers(0, 9))
def test_decimal_columns_equal_decimal_arithmetic(data: st.DataObject, held: int, scale: int) -> None:
    limit = Decimal(10) ** 25
    values = data.draw(st.lists(st.none() | st.decimals(-limit, limit, places=held, allow_nan=False), max_size=8))
    column = pa.array(values, pa.decimal128(38, held))
    want = [None if value is None else expected(f"{value:f}", scale) for value in values]
    assert outcomes(rescale(column, scale)) == want
    assert outcomes(rescale(column.slice(1), scale)) == want[1:]


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint64])
def test_integer_columns(dtype: type[np.integer]) -> None:
    limits = np.iinfo(dtype)
    values = [int(limits.min), 0, 5, int(limits.max)]
    want = [expected(str(value), 3) for value in values]
    assert outcomes(rescale(pa.array(values, pa.from_numpy_dtype(dtype)), 3)) == want
    assert outcomes(rescale(pa.array([None, 7], pa.int64()), 0)) == [None, 7]


@pytest.mark.parametrize("empty", [pa.array([], pa.string()), pa.chunked_array([], pa.string())])
def test_nothing_gives_nothing(empty: pa.Array) -> None:
    assert outcomes(parse_decimal(empty, 3)) == []
    assert outcomes(rescale(pa.array([], pa.int64()), 3)) == []


@given(st.lists(numbers, max_size=20), st.sampled_from([0, 1, 3, 6]))
def test_rounded_text_is_the_nearest_and_halves_go_away_from_zero(texts: list[str], scale: int) -> None:
    def nearest(text: str) -> int | str:
        with localcontext(prec=200):
            found = int(Decimal(text).scaleb(scale).to_integral_value(ROUND_HALF_UP))
        return found if -INT64 <= found < INT64 else "out_of_range"

    rounded = parse_decimal(pa.array(texts, pa.string()), scale, rounded=True)
    assert outcomes(rounded) == [nearest(text) for text in texts]


@given(st.lists(st.decimals(-(10**9), 10**9, places=6), max_size=20))
def test_rounded_decimals_are_those_of_their_text(values: list[Decimal]) -> None:
    typed = rescale(pa.array(values, pa.decimal128(18, 6)), 3, rounded=True)
    text = parse_decimal(pa.array([f"{value:f}" for value in values], pa.string()), 3, rounded=True)
    assert outcomes(typed) == outcomes(text)


@pytest.mark.parametrize("scale", [0, 3, 18])
@pytest.mark.parametrize("whole", ["0" * 40 + "1", "-" + "0" * 40, "9" * 19, "-" + "9" * 19, "1" * 16, "9" * 40])
def test_rounded_text_may_have_any_number_of_digits(whole: str, scale: int) -> None:
    text = f"{whole}.{'9' * (scale + 2)}"
    with localcontext(prec=200):
        found = int(Decimal(text).scaleb(scale).to_integral_value(ROUND_HALF_UP))
    want = found if -INT64 <= found < INT64 else "out_of_range"
    assert outcomes(parse_decimal(pa.array([text]), scale, rounded=True)) == [want]
