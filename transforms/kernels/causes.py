"""Why a tier changed: what it follows from is put back to the day before, one input after another, until the change is undone.

    today's facts and memory
      policy_changed   rules of the day before            then, without taking anything away again:
      stay_ended       clock of the stay, grade before
      ...
      own_use          features without the day's own readings
      window_decay     features of the day before         = yesterday's facts and memory, by which the tier was what it was

The input that undoes the change is its cause; the policy states the order. A feature has three states: at the end of the day
before; on the day's clock, when days have left the windows and due dates have passed, but nothing of the day itself counts; at the
end of the day.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.credit import CREDIT, TENURE
from schemas.marts import SCORE_COLUMNS
from schemas.scorecard import SCORE
from transforms.kernels.conduct import CONDUCT_FEATURES
from transforms.kernels.score import credit_score
from transforms.kernels.tiers import Columns, Facts, Memory, Yesterday, decide

Mask = npt.NDArray[np.bool_]

CAPACITY = "capacity_va"
OVERDUE, FELL_DUE = "overdue_minor", "bills_due_1d"
TURNOVER = "billed_365d_minor"
"""Comes from the ledger, and is use: a bill is no payment."""

_CREDIT = frozenset(column.name for column in CREDIT) - {TURNOVER}
_CONDUCT = frozenset(CONDUCT_FEATURES)
_REFERENCE = frozenset(("category", "region", "capacity_va"))
_OF_CAPACITY = frozenset(("unused_capacity_ppm",))
_TENURE = frozenset((TENURE.name,))
_MADE = frozenset((SCORE, *SCORE_COLUMNS.values()))
"""Columns that follow from others."""


def find_causes(
    today: Facts, yesterday: Yesterday, memory: Memory, memory_before: Memory, slots: npt.NDArray[np.int64]
) -> npt.NDArray[np.object_]:
    """The cause of each change of tier. (k,) names.

    today: facts of the accounts whose tier changed, (k,); yesterday: of the same; memory_before: by which the day before was
    decided; slots: (k,) ascending.
    """
    version, cuts, columns = today.version, today.cuts, dict(today.columns)
    clock, before = yesterday.clock(slots), yesterday.columns(slots)
    due = _due(clock, before, len(slots))
    use = frozenset(columns) - _CREDIT - _CONDUCT - _REFERENCE - _TENURE - _MADE
    puts: dict[str, list[_Put]] = {
        "reference": [_Put(before, _OF_CAPACITY, _differs(columns, before, CAPACITY)), _Put(before, _REFERENCE)],
        "conduct": [_Put(clock, _CONDUCT)],
        "lockout_ended": [_Put(before, _CONDUCT)],
        "new_ended": [_Put(before, _TENURE)],
        "payment": [_Put(clock, _CREDIT)],
        "due_date": [_Put(before, _CREDIT, due)],
        "own_use": [_Put(clock, use)],
        "window_decay": [_Put(before, use), _Put(before, _CREDIT, ~due)],
    }
    cause, open_ = np.full(len(slots), today.version.cause_order[-1], np.object_), np.ones(len(slots), np.bool_)
    for name in today.version.cause_order:
        if name == "policy_changed":
            version = yesterday.version
            cuts = cuts if yesterday.alike else yesterday.cuts  # there are none of today as that version makes them
        elif name == "cutoff_moved":
            cuts = yesterday.cuts if yesterday.alike or version is yesterday.version else cuts
        elif name == "stay_ended":
            memory = memory_before
        for put in puts.get(name, ()):
            put.into(columns)
        columns[SCORE] = credit_score(version.credit_score, columns, len(slots))
        rescored = {**columns, **cuts.scores(version, columns)}
        undone = open_ & (decide(Facts(version, rescored, cuts), memory).tier == memory.tier)
        cause[undone] = name
        open_ &= ~undone
        if not open_.any():
            break
    return cause


@dataclass(frozen=True)
class _Put:
    """Columns as they were in another state. where: (k,), of these accounts alone."""

    to: Columns
    names: frozenset[str]
    where: Mask | None = None

    def into(self, columns: dict[str, Any]) -> None:
        for name in self.names & columns.keys() & self.to.keys():
            to = self.to[name]
            columns[name] = to if self.where is None else _either(self.where, to, columns[name])


def _either(where: Mask, one: Any, other: Any) -> Any:
    values = np.where(where, np.ma.getdata(one), np.ma.getdata(other))
    return np.ma.masked_array(values, np.where(where, np.ma.getmaskarray(one), np.ma.getmaskarray(other)))


def _differs(columns: Columns, before: Columns, name: str) -> Mask | None:
    """Where a column is another than the day before; None where it is not known. (k,)."""
    if name not in columns or name not in before:
        return None
    now, was = columns[name], before[name]
    differs: Mask = np.ma.getmaskarray(now) != np.ma.getmaskarray(was)
    differs |= np.ma.getdata(now) != np.ma.getdata(was)
    return differs


def _due(clock: Columns, before: Columns, k: int) -> Mask:
    """Whether something is past due, or fell due on the day before, so that it counts from the day on. (k,)."""

    def told(columns: Columns, name: str) -> Any:
        return np.ma.filled(columns[name], 0) if name in columns else np.zeros(k, np.int64)

    owing = (told(before, OVERDUE) > 0) | (told(clock, OVERDUE) > 0)
    fell_due = told(clock, FELL_DUE) > 0
    due: Mask = owing | fell_due
    return due
