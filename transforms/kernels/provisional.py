"""Provisional tiers: what the tier of an account would be, now that an event has come.

Credit and conduct are worked out anew from all events of the account.
Everything else (use, category, ABC class, the published tier and since when) is held as of the last service day. Only the
accounts that events touch are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.conditions import NOTCH, STAY
from schemas.inbound import LEDGER_EVENTS
from schemas.marts import SCORE_COLUMNS
from schemas.policy import Policy
from schemas.scorecard import SCORE
from transforms.kernels.conduct import Conduct
from transforms.kernels.credit import credit_features
from transforms.kernels.dimensions import Found, dimension_scores
from transforms.kernels.ledger import Ledger
from transforms.kernels.ledger_events import COLUMNS
from transforms.kernels.score import credit_score
from transforms.kernels.tiers import grades_of, masked, rule_candidates, settle
from transforms.kernels.windows import date_of

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


ROWS = pa.schema([("slot", pa.int32()), *((name, LEDGER_EVENTS[name].type) for name in COLUMNS[1:])])
"""Ledger rows as they are kept here."""


@dataclass(frozen=True)
class Part:
    """Ledger rows that are found by account. table: (k,) of `ROWS`; order: (k,) rows by slot; slot: (k,) in that order."""

    table: pa.Table
    order: Int64
    slot: Int32

    @classmethod
    def of(cls, table: pa.Table) -> Part:
        """Index a table."""
        table = table.select(ROWS.names).cast(ROWS).combine_chunks()
        slot = table["slot"].to_numpy()
        order = np.argsort(slot)
        return cls(table, order, slot[order])

    def rows_of(self, slots: npt.NDArray[Any]) -> pa.Table:
        """The rows of some accounts. slots: ascending, unique."""
        first = np.searchsorted(self.slot, slots, "left")
        count = np.searchsorted(self.slot, slots, "right") - first
        before = np.cumsum(count) - count
        at = np.repeat(first - before, count) + np.arange(count.sum())
        return self.table.take(pa.array(self.order[at]))


class Events:
    """Ledger rows of a shard, in parts. Parts that are added are merged as they grow, so that there are few."""

    def __init__(self, parts: Iterable[Part] = ()) -> None:
        self.parts = list(parts)
        self._given = len(self.parts)

    def add(self, table: pa.Table) -> None:
        """More rows, with the columns of `ROWS`."""
        while len(self.parts) > self._given and self.parts[-1].table.num_rows <= 2 * table.num_rows:
            table = pa.concat_tables([self.parts.pop().table, table.select(ROWS.names).cast(ROWS)])
        self.parts.append(Part.of(table))

    def rows_of(self, slots: npt.NDArray[Any]) -> pa.Table:
        """All rows of some accounts. slots: ascending, unique."""
        found = [part.rows_of(slots) for part in self.parts]
        return pa.concat_tables([ROWS.empty_table(), *found]).combine_chunks()


@dataclass(frozen=True)
class Base:
    """A shard as of its last service day `day`, dense by account slot; tier -1: not in the population. All (n,).

    columns: the features that rules read and that no day or event changes, and `category`; ids: of all; found: the percentiles.
    """

    day: int
    tier: Int8
    abc: Int8
    grade: Int8
    since: Int32
    columns: Mapping[str, npt.NDArray[Any]]
    ids: pa.Array
    found: Found


@dataclass(frozen=True)
class Outcome:
    """What some accounts come to. All (m,); rule: the rule's name, or stay."""

    tier: Int8
    grade: Int8
    rule: npt.NDArray[np.object_]
    version: npt.NDArray[np.object_]


def latest_days(base: Base, slots: npt.NDArray[Any], *events: pa.Table) -> Int64:
    """Day as of which each account is looked at: the base's, or that of its latest event. slots: (m,) ascending.

    events: all rows of these accounts, also those that were taken in before, whose day is still to be made.
    """
    days = np.full(len(slots), base.day, np.int64)
    for some in events:
        at = np.searchsorted(slots, some["slot"].to_numpy())
        np.maximum.at(days, at, some["event_date"].cast(pa.int32()).to_numpy())
    return days


def reclassify(
    base: Base, policy: Policy, events: pa.Table, conduct: Conduct, slots: npt.NDArray[Any], days: Int64
) -> Outcome:
    """What the tiers of some accounts would be.

    events: all rows of these accounts, of `ROWS`; conduct: of all accounts, by all that was found; slots: (m,) ascending, unique,
    all with a tier in the base; days: (m,) day as of which each is looked at, from the base's day on.
    """
    m = len(slots)
    codes, texts = np.zeros(m, np.int8), np.full(m, "", np.object_)
    out = Outcome(codes, codes.copy(), texts, texts.copy())
    owner = np.searchsorted(slots, events["slot"].to_numpy())
    for day in np.unique(days).tolist():
        mine = np.flatnonzero(days == day)
        place = np.full(m, -1, np.int32)
        place[mine] = np.arange(len(mine), dtype=np.int32)
        rows = np.flatnonzero(place[owner] >= 0)
        some = events.take(pa.array(rows)).set_column(0, "slot", pa.array(place[owner[rows]]))
        ledger = Ledger.at(some, len(mine), day, policy.ledger.allocation)
        tier, grade, rule, version = _decide(base, policy, ledger, conduct, np.asarray(slots)[mine], day)
        out.tier[mine], out.grade[mine], out.rule[mine], out.version[mine] = tier, grade, rule, version
    return out


def _decide(
    base: Base, policy: Policy, ledger: Ledger, conduct: Conduct, slots: npt.NDArray[Any], day: int
) -> tuple[Int8, Int8, npt.NDArray[np.object_], str]:
    """(tiers, grades, rules, version) of some accounts on one day. ledger: theirs, in the order of slots."""
    version, n = policy.on(date_of(day)), len(slots)
    columns = {name: column[slots] for name, column in base.columns.items()}
    columns |= credit_features(ledger, version.credit_decay.table()) | conduct.features(day, slots)
    columns |= {SCORE: credit_score(version.credit_score, columns, n)}
    of_base = policy.on(date_of(base.day))
    ranking = version if version.ranks_as(of_base) else of_base  # there are no percentiles of another yet
    columns |= dict.fromkeys(SCORE_COLUMNS.values(), masked(n))
    columns |= dimension_scores(ranking, columns, base.ids.take(pa.array(slots)), base.found)
    grade = grades_of(version, columns, base.grade[slots])
    before = base.tier[slots]
    number, candidate = rule_candidates(version, columns, base.abc[slots], grade, before)
    tier = settle(version, number, candidate, before, np.int32(day) - base.since[slots])
    names = np.array([r.rule for r in version.tiers], np.object_)
    kept = np.where(tier == before, STAY, NOTCH)
    return tier, grade, np.where(tier == candidate, names[number], kept), version.version
