"""Who is ranked together: everybody, or the accounts of a category, or of a region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.inbound import CATEGORIES
from schemas.rankings import By, Ranking

Int = npt.NDArray[np.int64]


def by_of(scope: str) -> str:
    """What a scope's accounts have in common.

    >>> by_of("all"), by_of("region=a=b")
    ('all', 'region')
    """
    return scope.partition("=")[0]


@dataclass(frozen=True)
class Scopes:
    """The scopes of some accounts. category: (m,) codes; region: (m,) text, empty where there is none; None: not needed."""

    category: npt.NDArray[np.int8]
    region: npt.NDArray[np.object_] | None

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Scopes:
        """Those of accounts by their columns `category` and, where something ranks by it, `region`."""
        return cls(columns["category"], columns.get("region"))

    def positions(self, by: By) -> dict[str, Int]:
        """Scope -> positions of its accounts, ascending; every category is there, and every region that has an account."""
        if by == "all":
            return {"all": np.arange(len(self.category))}
        if by == "category":
            return {f"category={name}": np.flatnonzero(self.category == code) for code, name in enumerate(CATEGORIES)}
        assert self.region is not None
        coded = pa.array(self.region, pa.string()).dictionary_encode()
        code, names = coded.indices.to_numpy(), coded.dictionary.to_pylist()
        order = np.argsort(code, kind="stable")
        ends = np.cumsum(np.bincount(code, minlength=len(names)))
        starts = ends - np.diff(ends, prepend=0)
        return {f"region={name}": order[a:b] for name, a, b in zip(names, starts, ends, strict=True)}

    def inside(self, scope: str) -> Int:
        """Positions of the accounts of one scope, ascending."""
        by, _, name = scope.partition("=")
        if by == "all":
            return np.arange(len(self.category))
        if by == "category":
            return np.flatnonzero(self.category == CATEGORIES.index(name))
        assert self.region is not None
        return np.flatnonzero(self.region == name)


def ranked(ranking: Ranking, column: Any) -> tuple[Int, npt.NDArray[np.bool_] | None]:
    """What a ranking goes by: values, and for percentiles who ranks. column: (m,), masked where null."""
    values = np.ma.getdata(column).astype(np.int64)
    if ranking.percentiles:
        return values, ~np.ma.getmaskarray(column)
    return np.where(np.ma.getmaskarray(column), 0, values), None
