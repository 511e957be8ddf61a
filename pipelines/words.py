"""Figures and names as people read them, in English or Chinese: units, thousands separators, nothing that a terminal obeys."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from schemas.labels import Lang, label

MINOR_DIGITS = {"JPY": 0, "KRW": 0, "VND": 0, "CLP": 0, "ISK": 0, "UGX": 0, "XAF": 0, "XOF": 0, "BHD": 3, "KWD": 3, "OMR": 3,
                "JOD": 3, "TND": 3}  # fmt: skip
"""Digits behind the point of an amount in a currency; 2 of any other (ISO 4217)."""


def inert(text: str) -> str:
    r"""A text of foreign origin without what a terminal would obey or hide: control and format characters.

    >>> ascii(inert("A1\x1b[2J\u202e")), inert("<script>")
    ("'A1\\ufffd[2J\\ufffd'", '<script>')
    """
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") else c for c in text)


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a cell that a spreadsheet takes for a formula begins with, wide forms included."""


def no_formula(text: str) -> str:
    """A text that no spreadsheet takes for a formula: an apostrophe before what would begin one. Markup stays text.

    >>> no_formula("=cmd()"), no_formula(" -1+2"), no_formula("A-17"), no_formula("<script>")
    ("'=cmd()", "' -1+2", 'A-17', '<script>')
    """
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


def for_spreadsheet(text: str) -> str:
    """A text of foreign origin that no spreadsheet takes for a formula.

    >>> for_spreadsheet("=cmd()"), for_spreadsheet(" @x"), for_spreadsheet("A-1")
    ("'=cmd()", "' @x", 'A-1')
    """
    return inert(no_formula(text))


def decimal(value: int, digits: int, unit: str = "") -> str:
    """A whole number of the last of so many digits behind the point, with thousands separators.

    >>> decimal(-1234567, 2), decimal(5, 3), decimal(12, 0, "d")
    ('-12,345.67', '0.005', '12 d')
    """
    whole, rest = divmod(abs(value), 10**digits)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole:,}{f'.{rest:0{digits}d}' if digits else ''}{f' {unit}' if unit else ''}"


def amount(value: int | None, unit: str, lang: Lang, currency: str | None = None) -> str:
    """A figure of the marts in a unit of the schema.

    >>> amount(1234567, "Wh", "en"), amount(700000, "ppm", "zh"), amount(3, "days", "zh"), amount(1, "days", "en")
    ('1,234.567 kWh', '70 %', '3 天', '1 day')
    >>> [amount(123456, "minor units", "en", currency) for currency in ("CNY", "JPY", None)]
    ['1,234.56 CNY', '123,456 JPY', '123,456 minor units']
    """
    if value is None:
        return label("explain", "none", lang)
    match unit:
        case "Wh":
            return decimal(value, 3, "kWh")
        case "W":
            return decimal(value, 3, "kW")
        case "VA":
            return decimal(value, 3, "kVA")
        case "ppm":
            return f"{_short(decimal(value, 4))} %"
        case "minor units" if currency:
            return decimal(value, MINOR_DIGITS.get(currency, 2), currency)
        case _:
            told = label("unit", unit, lang) if unit else ""
            told = told.removesuffix("s") if value == 1 and lang == "en" else told
            figure = _short(decimal(value, 3)) if unit.startswith("thousandths") else decimal(value, 0)
            return f"{figure} {told}".rstrip()


def _short(figure: str) -> str:
    """A decimal without zeros at its end."""
    return figure.rstrip("0").removesuffix(".")


def listed(texts: Sequence[str], lang: Lang) -> str:
    """Texts one after another.

    >>> listed(["A", "B"], "en"), listed(["A", "B"], "zh")
    ('A, B', 'A、B')
    """
    return ("、" if lang == "zh" else ", ").join(texts)


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset(), indent: str = "  ") -> list[str]:
    """Rows as lines, each column as wide as its widest cell; Chinese characters take two places. right: columns set right."""
    widths = [max(_width(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []

    def cell(text: str, i: int) -> str:
        gap = " " * (widths[i] - _width(text))
        return gap + text if i in right else text + gap

    return [(indent + "  ".join(cell(text, i) for i, text in enumerate(row))).rstrip() for row in rows]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text)
