"""What is ranked every service day, and the cuts that are made in it: ABC classes and percentiles are one kind of thing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import PlainSerializer, PlainValidator

PERCENTILE: Literal["percentile"] = "percentile"
"""The rule of cuts that a score asks for."""

CutRule = Literal["cumulative_share", "top_fraction", "turnover_fraction", "percentile"]
CutClass = Literal["A", "B", "P"]
Side = Literal["cut", "entry", "exit"]
Kind = Literal["share", "count"]
Order = Literal["largest_first", "smallest_first"]
By = Literal["all", "category", "region"]

DENOMINATOR_LIMIT = 1_000_000
_PERCENT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?%", re.ASCII)
_RATIO = re.compile(r"([0-9]{1,9}) ?/ ?([0-9]{1,9})", re.ASCII)


def parse_share(value: object) -> Fraction:
    """A share as an exact fraction, above 0 and at most 1. Raises ValueError saying what is allowed.

    >>> parse_share("80 %"), parse_share("4/5"), parse_share("97.5%")
    (Fraction(4, 5), Fraction(4, 5), Fraction(39, 40))
    """
    text = value if isinstance(value, str) else ""
    share = Fraction(0)
    if match := _PERCENT.fullmatch(text):
        share = Fraction(match[1]) / 100
    elif (match := _RATIO.fullmatch(text)) and int(match[2]):
        share = Fraction(int(match[1]), int(match[2]))
    if not 0 < share <= 1:
        raise ValueError("write a share above 0 and at most 1, as '80 %' or '4/5'")
    if share.denominator > DENOMINATOR_LIMIT:
        raise ValueError(f"in lowest terms it is {share}; the denominator may be at most {DENOMINATOR_LIMIT}")
    return share


def share_text(share: Fraction) -> str:
    """A share as a policy says it.

    >>> share_text(Fraction(41, 50)), share_text(Fraction(39, 40)), share_text(Fraction(1, 3))
    ('82 %', '97.5 %', '1/3')
    """
    percent = Decimal(share.numerator * 100) / share.denominator
    return f"{percent.normalize():f} %" if Fraction(percent) == share * 100 else str(share)


Share = Annotated[Fraction, PlainValidator(parse_share), PlainSerializer(str)]


@dataclass(frozen=True)
class Cut:
    """One cut to be made every day: `num/den` of the total (`share`) or of the customers (`count`), lowest terms."""

    rule: CutRule
    cls: CutClass
    side: Side
    kind: Kind
    num: int
    den: int


def percentile(share: Fraction) -> Cut:
    """The cut behind the first accounts of a ranking."""
    return Cut(PERCENTILE, "P", "cut", "count", share.numerator, share.denominator)


@dataclass(frozen=True)
class Ranking:
    """Accounts ranked by a metric, each within its scope, and the cuts to be made.

    ABC ranks the accounts with a positive metric; percentiles all those whose metric is known.
    """

    metric: str
    by: By
    cuts: tuple[Cut, ...]
    order: Order = "largest_first"

    @property
    def percentiles(self) -> bool:
        """Whether it is one of percentiles."""
        return self.cuts[0].rule == PERCENTILE

    @property
    def key(self) -> tuple[str, str, str, bool]:
        """What tells it from the other rankings of its day."""
        return self.metric, self.by, self.order, self.percentiles
