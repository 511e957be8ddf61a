"""Decimal numbers to integers of a smaller unit, exactly: "0.1" kWh is 100 Wh. No float is involved anywhere."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transforms.kernels.parsed import Mask, Parsed, blame, build, mask_of, no_faults

INT64 = np.iinfo(np.int64)
BEYOND = r"^[+-]?0*[1-9][0-9]{19}"
"""Text of a number that no int64 holds, by its digits alone."""


def parse_decimal(
    text: pa.Array | pa.ChunkedArray,
    scale: int,
    mark: str = ".",
    minimum: int | None = None,
    maximum: int | None = None,
    *,
    rounded: bool = False,
) -> Parsed:
    """Parse decimal text into int64 of the unit that is `10**scale` times smaller.

    Args:
        text: (n,) string. Blanks around a number are ignored; null and blank give null without a fault.
        scale: 0 to 18.
        mark: the decimal mark, "." or ",".
        minimum, maximum: inclusive bounds of the result; int64's own where None.
        rounded: whether digits behind the last one the unit holds are rounded away, half up, away from zero.

    Faults: `bad_decimal` unless digits with an optional sign and one optional mark; `too_many_digits` where a digit
    other than 0 stands behind the last one the unit holds, unless `rounded`; `out_of_range`.

    >>> parse_decimal(pa.array(["0.1", "12", "0.10000", "0.0001", "1e3", ""]), 3).values.to_pylist()
    [100, 12000, 100, None, None, None]
    """
    text = pc.utf8_trim_whitespace(_one_array(text))
    faults = no_faults(len(text))
    filled = mask_of(pc.greater(pc.binary_length(text), 0))
    point = re.escape(mark)
    number = rf"^[+-]?(?:[0-9]+{point}?[0-9]*|{point}[0-9]+)$"
    blame(faults, filled & ~mask_of(pc.match_substring_regex(text, number)), "bad_decimal")
    if mark != ".":
        text = pc.replace_substring(text, mark, ".")
    behind = rf"\.[0-9]{{{scale + 1}}}"
    long = pc.match_substring_regex(text, behind)
    if rounded and pc.any(long).as_py():
        text = pc.if_else(long, _round_text(text, scale, filled & (faults == 0)), text)
    elif pc.any(long).as_py():
        text = pc.if_else(long, pc.utf8_rtrim(text, "0"), text)
        blame(faults, mask_of(pc.match_substring_regex(text, behind)), "too_many_digits")
    if (pc.max(pc.binary_length(text)).as_py() or 0) >= 20:
        blame(faults, mask_of(pc.match_substring_regex(text, BEYOND)), "out_of_range")
    usable = filled & (faults == 0)
    decimals = pc.cast(pc.if_else(pa.array(usable), text, "0"), pa.decimal128(38, scale))
    return _integers(decimals, usable, faults, minimum, maximum)


def _round_text(text: pa.Array, scale: int, usable: Mask) -> pa.Array:
    """(n,) decimal text to `scale` decimals, half away from zero. One digit more decides: those behind it cannot."""
    cut = pc.replace_substring_regex(text, rf"(\.[0-9]{{{scale + 1}}})[0-9]*", r"\1")
    fits = usable & ~mask_of(pc.match_substring_regex(cut, BEYOND))
    exact = pc.cast(pc.if_else(pa.array(fits), cut, "0"), pa.decimal256(76, scale + 1))
    out = pc.cast(pc.round(exact, scale, round_mode="half_towards_infinity"), pa.string())
    return pc.if_else(pa.array(fits), out, text)


def rescale(
    numbers: pa.Array | pa.ChunkedArray, scale: int, minimum: int | None = None, maximum: int | None = None, *,
    rounded: bool = False,
) -> Parsed:  # fmt: skip
    """Like `parse_decimal`, for (n,) integer or decimal columns (of up to 38 digits), as Parquet holds them."""
    numbers = _one_array(numbers)
    if pa.types.is_integer(numbers.type):
        numbers = pc.cast(numbers, pa.decimal128(20, 0))
    faults = no_faults(len(numbers))
    held = max(scale, numbers.type.scale)
    exact = pc.cast(numbers, pa.decimal256(76, held))
    cut = pc.cast(exact, pa.decimal256(76, scale), safe=False)
    if held > scale and rounded:
        cut = pc.cast(pc.round(exact, scale, round_mode="half_towards_infinity"), pa.decimal256(76, scale))
    elif held > scale:
        blame(faults, mask_of(pc.not_equal(pc.cast(cut, pa.decimal256(76, held)), exact)), "too_many_digits")
    return _integers(cut, mask_of(numbers.is_valid()) & (faults == 0), faults, minimum, maximum)


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _integers(
    decimals: pa.Array, usable: Mask, faults: NDArray[np.uint8], minimum: int | None, maximum: int | None
) -> Parsed:
    """Take the unscaled integers out of (n,) decimals: the low 64 bits, where the higher ones only repeat the sign."""
    words = decimals.type.byte_width // 8
    buffer = decimals.buffers()[1] if len(decimals) else b""
    parts = np.frombuffer(buffer, "<i8", words * len(decimals), offset=8 * words * decimals.offset).reshape(-1, words)
    values = parts[:, 0]
    inside = (parts[:, 1:] == (values >> 63)[:, None]).all(axis=1)
    inside &= values >= (INT64.min if minimum is None else minimum)
    inside &= values <= (INT64.max if maximum is None else maximum)
    blame(faults, usable & ~inside, "out_of_range")
    return Parsed(build(values, ~usable | (faults != 0), pa.int64()), faults)
