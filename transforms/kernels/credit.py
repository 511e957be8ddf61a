"""Rolling credit features of one account shard, carried on from day to day.

What an account's figures are made of are sums over its bills, refunds and payments, and a few days. A day changes them where
events are allocated (those accounts are summed up anew) and where a bill, a refund or a payment crosses an edge: it falls due,
grows older than 30 days, leaves a window, weighs less. Rows that cross an edge are found by their day; no others are looked at.
The edges are passed first, by the clock (`turn`), and the day's events come after (`take_in`).

    day   D-366  D-360 .. D-91  D-90  D-61  D-60  D-31  D-30   D-1
           |leaves |weighs  |leaves |weighs |ages |weighs |ages |weighs |falls due, enters        by due date
           |leaves (D-365)          |leaves (bounces)                                            by date

Formulas: docs/explanation/definitions.md, "Ledger, as of service day D". Days are day numbers, money is int64 minor units.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.credit import MONTHS_IN_ARREARS, RATIO_LIMIT
from schemas.decay import STEP_DAYS, STEPS, SUM_LIMIT, half_life_weights
from transforms.kernels.allocation import BOUNCE, NEVER, NO_BILL, NO_PAYMENT, SAME_DAY, UNSETTLED
from transforms.kernels.exact import ratio
from transforms.kernels.ledger import Ledger

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

WEIGHTS: Final = half_life_weights(180)
"""Weight of a bill by whole steps since it was due, where nothing else is said."""

YEAR, QUARTER = 365, 90
_AGED: Final = ("current_minor", "overdue_1_30_minor", "overdue_31_60_minor", "overdue_61_90_minor", "overdue_91_minor")
_AGES: Final = np.array([0, 30, 60, 90])
"""The last day past due of each bucket but the open-ended one."""

_SUMS: Final = (
    "billed_365d_minor", *_AGED, "beyond_settled_days", "unsettled_due_days",
    *(f"{what}_{days}d_minor" for days in (QUARTER, YEAR) for what in ("due", "on_time")), "weight_due", "weight_on_time",
)  # fmt: skip
_COUNTS: Final = (
    *(f"{what}_{days}d" for days in (QUARTER, YEAR) for what in ("bills_due", "bills_on_time", "bounced")), "unsettled",
    "payments_365d", "paid_days_365d", "months_before",
)  # fmt: skip
_DAYS: Final = {"oldest_due": NEVER, "first_paid": NEVER, "last_paid": NO_PAYMENT}
"""Days that are kept, and what stands for none."""


@dataclass(frozen=True)
class _Rows:
    """Some rows of a ledger, all (k,); see `Ledger`."""

    slot: Int32
    issued_on: Int32
    due_on: Int32
    amount_minor: Int64
    open_minor: Int64
    settled_on: Int32
    next_paid_on: Int32
    refund: Bool

    @property
    def is_debit(self) -> Bool:
        debits: Bool = self.settled_on != NO_BILL
        return debits

    @property
    def is_bill(self) -> Bool:
        bills: Bool = self.is_debit & ~self.refund
        return bills

    @property
    def was_late(self) -> Bool:
        """Of debits: not settled by the day they were due."""
        late: Bool = (self.settled_on == UNSETTLED) | (self.settled_on > self.due_on)
        return late

    @classmethod
    def of(cls, ledger: Ledger, rows: npt.NDArray[Any] | slice) -> _Rows:
        return cls(*(getattr(ledger, name)[rows] for name in cls.__dataclass_fields__))

    def at(self, rows: npt.NDArray[Any]) -> _Rows:
        return _Rows(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class Credit:
    """The credit of all accounts of a ledger, as of `day`: the ledger's, or the next one between `turn` and `take_in`.

    weights: of a bill by whole steps of `STEP_DAYS` since it was due, up to a year.
    carried: what `to_batch` gave, as of the ledger's day before rows came late; without it all rows are summed up. From then on
    the ledger is moved by this class alone.
    """

    def __init__(self, ledger: Ledger, weights: Sequence[int] = WEIGHTS, carried: pa.RecordBatch | None = None) -> None:
        self.ledger, self.day = ledger, ledger.day
        self.weights = _checked(weights)
        n = ledger.n_slots
        self._sums: dict[str, Any] = {name: np.zeros(n, np.int64) for name in _SUMS}
        self._sums |= {name: np.zeros(n, np.int32) for name in _COUNTS}
        self._sums |= {name: np.full(n, none, np.int32) for name, none in _DAYS.items()}
        if carried is not None:
            self.weights = np.array(carried.schema.metadata[b"weights"].split(), np.int64)
            for name, column in self._sums.items():
                column[: len(carried)] = carried[name].to_numpy()
            self._anew(ledger.step.slots, ledger.step.rows)
            self.weigh(weights)
        elif ledger.day != NO_BILL:
            self._add(_Rows.of(ledger, slice(None)), self.day)

    def advance(self, day: int) -> int:
        """Go on to `day`, and the ledger with it; returns how many accounts were allocated, as `Ledger.advance` does."""
        if day == self.ledger.day + 1:
            self.turn(day)
            return self.take_in()
        same = day == self.ledger.day
        moved, self.day = self.ledger.advance(day), day
        if same:
            self._anew(self.ledger.step.slots, self.ledger.step.rows)
        else:
            self._anew_all()
        return moved

    def turn(self, day: int) -> None:
        """Let the clock go on to `day`: debts grow older, days leave windows, months turn. The day's own events do not exist yet.

        They come with `take_in`; between the two the ledger stands at the day before. Raises ValueError where `day` is not
        after the ledger's.
        """
        if day <= self.ledger.day:
            raise ValueError(f"the ledger stands at day {self.ledger.day}; its clock cannot be turned to {day}")
        if day != self.ledger.day + 1:
            self.ledger.advance(day - 1)
            self.day = day - 1
            self._anew_all()
        self.day = day
        self._pass_edges(day)

    def take_in(self) -> int:
        """Take in the events of the day that the clock was turned to; returns how many accounts were allocated."""
        ledger, sums = self.ledger, self._sums
        moved, step = ledger.advance(self.day), ledger.step
        rows = _Rows.of(ledger, step.changed)
        self._put(replace(rows, **step.before), self.day, -1)
        sums["oldest_due"][step.further] = NEVER
        self._put(rows, self.day, 1)
        self._anew(step.slots, step.rows)
        return moved

    def weigh(self, weights: Sequence[int]) -> None:
        """From now on by these weights. Where they are others, the bills of the year are weighed anew."""
        if self.weights.tolist() == list(weights):
            return
        self.weights, day = _checked(weights), self.day
        for name in ("weight_due", "weight_on_time"):
            self._sums[name][:] = 0
        if day != NO_BILL:
            rows = _Rows.of(self.ledger, self.ledger.by_due.between(day - YEAR, day - 1))
            bills = rows.at(np.flatnonzero(rows.is_bill))
            self._put_weights(bills, np.flatnonzero(~bills.was_late), day, 1)

    def to_batch(self) -> pa.RecordBatch:
        """The sums as they are stored; they belong to the ledger's day. (n_slots,) rows."""
        batch = pa.record_batch({name: column.copy() for name, column in self._sums.items()})
        return batch.replace_schema_metadata({"weights": " ".join(map(str, self.weights.tolist()))})

    # ---------------------------------------------------------------------------------------------- what a row adds
    def _anew(self, slots: Int64, rows: Int64) -> None:
        """Sum up some accounts. rows: all of theirs that exist."""
        for name, column in self._sums.items():
            column[slots] = _DAYS.get(name, 0)
        self._add(_Rows.of(self.ledger, rows), self.day)

    def _anew_all(self) -> None:
        self._anew(np.arange(self.ledger.n_slots), np.arange(len(self.ledger.slot)))

    def _add(self, rows: _Rows, day: int) -> None:
        """Take all that accounts have into their sums, which are empty."""
        self._put(rows, day, 1)
        late = np.flatnonzero(rows.is_debit & rows.was_late)
        self._sums["months_before"] += _months_before(rows.at(late), day, self.ledger.n_slots)

    def _put(self, rows: _Rows, day: int, sign: int) -> None:
        """Add what rows come to as of a day, or take it away. `months_before` is not looked at."""
        still = np.flatnonzero(rows.open_minor)
        if len(still):
            self._put_open(rows.at(still), day, sign)
        bills = np.flatnonzero(rows.is_bill)
        if len(bills):
            self._put_bills(rows.at(bills), day, sign)
        paid = np.flatnonzero(rows.next_paid_on != NO_PAYMENT)
        if len(paid):
            self._put_payments(rows.at(paid), day, sign)

    def _put_open(self, debits: _Rows, day: int, sign: int) -> None:
        slot, bucket = debits.slot.astype(np.intp), np.searchsorted(_AGES, day - debits.due_on)
        for number, name in enumerate(_AGED):
            mine = np.flatnonzero(bucket == number)
            self._sum(name, slot[mine], sign * debits.open_minor[mine])
        if sign > 0:
            overdue = np.flatnonzero(bucket)
            np.minimum.at(self._sums["oldest_due"], slot[overdue], debits.due_on[overdue])

    def _put_bills(self, bills: _Rows, day: int, sign: int) -> None:
        slot = bills.slot.astype(np.intp)
        recent = np.flatnonzero(bills.issued_on > day - YEAR)
        self._sum("billed_365d_minor", slot[recent], sign * bills.amount_minor[recent])
        due = np.flatnonzero((bills.due_on < day) & (bills.due_on >= day - YEAR))
        bills, slot = bills.at(due), slot[due]
        unsettled, late = bills.settled_on == UNSETTLED, bills.was_late
        settled_late = np.flatnonzero(late & ~unsettled)
        beyond = (bills.settled_on[settled_late] - bills.due_on[settled_late]).astype(np.int64)
        self._sum("beyond_settled_days", slot[settled_late], sign * beyond)
        self._sum("unsettled_due_days", slot[unsettled], sign * bills.due_on[unsettled].astype(np.int64))
        self._count("unsettled", slot[unsettled], sign)
        self._put_weights(bills, np.flatnonzero(~late), day, sign)
        for window, mine in ((YEAR, np.arange(len(due))), (QUARTER, np.flatnonzero(bills.due_on >= day - QUARTER))):
            for what, some in (("due", mine), ("on_time", mine[~late[mine]])):
                self._count(f"bills_{what}_{window}d", slot[some], sign)
                self._sum(f"{what}_{window}d_minor", slot[some], sign * bills.amount_minor[some])

    def _put_weights(self, bills: _Rows, on_time: Int64, day: int, sign: int) -> None:
        """bills: due in the year before `day`; on_time: which of them were not late."""
        slot, weight = bills.slot.astype(np.intp), sign * self.weights[(day - bills.due_on) // STEP_DAYS]
        self._sum("weight_due", slot, weight)
        self._sum("weight_on_time", slot[on_time], weight[on_time])

    def _put_payments(self, paid: _Rows, day: int, sign: int) -> None:
        sums, slot, when = self._sums, paid.slot.astype(np.intp), paid.issued_on
        bounced, recent = paid.next_paid_on == BOUNCE, when > day - YEAR
        self._count("bounced_90d", slot[bounced & (when > day - QUARTER)], sign)
        self._count("bounced_365d", slot[bounced & recent], sign)
        first_of_day = ~bounced & (paid.next_paid_on != SAME_DAY)
        self._count("payments_365d", slot[~bounced & recent], sign)
        self._count("paid_days_365d", slot[first_of_day & recent], sign)
        if sign > 0:
            mine = np.flatnonzero(first_of_day & recent)
            np.minimum.at(sums["first_paid"], slot[mine], when[mine])
            np.maximum.at(sums["last_paid"], slot[first_of_day], when[first_of_day])

    def _sum(self, name: str, slot: Any, values: Int64) -> None:
        np.add.at(self._sums[name], slot, values)

    def _count(self, name: str, slot: Any, sign: int) -> None:
        np.add.at(self._sums[name], slot, np.int32(sign))

    # ------------------------------------------------------------------------------------------------ what a day does
    def _pass_edges(self, day: int) -> None:
        """Take rows that cross an edge between yesterday and `day` from where they were to where they are."""
        sums, ledger = self._sums, self.ledger
        if _month(day) != _month(day - 1):
            before = np.minimum(sums["months_before"] + 1, MONTHS_IN_ARREARS - 1)
            sums["months_before"][:] = np.where(sums["oldest_due"] != NEVER, before, 0)
        dated = ledger.by_issue.on((day - YEAR, day - QUARTER))
        dated = dated[~np.isin(day - ledger.due_on[dated], _EDGES)]  # the others are found by their due date
        rows = _Rows.of(ledger, np.r_[ledger.by_due.on(day - age for age in _EDGES), dated])
        gone = np.flatnonzero((rows.issued_on == day - YEAR) & (rows.next_paid_on > BOUNCE))
        self._put(rows, day - 1, -1)
        sums["first_paid"][rows.slot[gone]] = rows.next_paid_on[gone]
        self._put(rows, day, 1)

    # ------------------------------------------------------------------------------------------------------ features
    def columns(self, wanted: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """The credit columns of the features mart as of `day`, by name, in the mart's order. wanted: these alone.

        Between `turn` and `take_in` they are those of the day's clock: of the events of before the day.
        Each is (n_slots,), int64 or int32 as the mart says; those that may be null are masked arrays. An account without events
        has zeros and nulls.
        """
        sums, ledger = self._sums, self.ledger
        day, unallocated = self.day, ledger.unallocated_minor
        overdue = sum((sums[name] for name in _AGED[2:]), sums[_AGED[1]])
        due, on_time, billed = sums["bills_due_365d"], sums["bills_on_time_365d"], sums["billed_365d_minor"]
        beyond = sums["beyond_settled_days"] + sums["unsettled"] * np.int64(day) - sums["unsettled_due_days"]
        late, late_days = due - on_time, sums["oldest_due"] != NEVER
        days = sums["paid_days_365d"]
        span = sums["last_paid"].astype(np.int64) - sums["first_paid"]
        never = sums["last_paid"] == NO_PAYMENT
        made: dict[str, Callable[[], npt.NDArray[Any]]] = {
            "billed_365d_minor": billed.copy,
            "balance_minor": lambda: sums["current_minor"] + overdue - unallocated,
            **{name: sums[name].copy for name in _AGED},
            "overdue_minor": overdue.copy,
            "unallocated_minor": unallocated.copy,
            "bills_due_365d": due.copy,
            "bills_on_time_365d": on_time.copy,
            "on_time_365d_ppm": lambda: _ratio(on_time, 1_000_000, due),
            "beyond_terms_365d_days": beyond.copy,
            "mean_beyond_terms_365d_milli": lambda: _ratio(beyond, 1000, due),
            "oldest_overdue_days": lambda: np.where(late_days, day - sums["oldest_due"], 0).astype(np.int32),
            "late_bills_365d": late.copy,
            "mean_late_365d_milli": lambda: _ratio(beyond, 1000, late),
            "bills_due_1d": self._due_before,
            "bills_due_90d": sums["bills_due_90d"].copy,
            "bills_on_time_90d": sums["bills_on_time_90d"].copy,
            "on_time_90d_ppm": lambda: _ratio(sums["bills_on_time_90d"], 1_000_000, sums["bills_due_90d"]),
            "on_time_amount_90d_ppm": lambda: _ratio(sums["on_time_90d_minor"], 1_000_000, sums["due_90d_minor"]),
            "on_time_amount_365d_ppm": lambda: _ratio(sums["on_time_365d_minor"], 1_000_000, sums["due_365d_minor"]),
            "on_time_decayed_ppm": lambda: _ratio(sums["weight_on_time"], 1_000_000, sums["weight_due"]),
            "bounced_90d": sums["bounced_90d"].copy,
            "bounced_365d": sums["bounced_365d"].copy,
            "payments_365d": sums["payments_365d"].copy,
            "days_since_payment": lambda: np.ma.masked_array(
                np.where(never, 0, day - sums["last_paid"]).astype(np.int32), never
            ),
            "payment_interval_365d_milli": lambda: _ratio(np.where(days > 1, span, 0), 1000, np.maximum(days - 1, 0)),
            "prepayment_cover_days": lambda: _ratio(unallocated, YEAR, billed),
            "arrears_months_milli": lambda: _ratio(overdue, 12 * 1000, billed),
            "months_in_arrears": lambda: np.where(late_days, sums["months_before"] + 1, 0).astype(np.int32),
        }
        return {name: make() for name, make in made.items() if wanted is None or name in wanted}

    def _due_before(self) -> Int32:
        """How many bills were due on the day before. (n_slots,)."""
        rows = _Rows.of(self.ledger, self.ledger.by_due.on((self.day - 1,)))
        return np.bincount(rows.slot[rows.is_bill], minlength=self.ledger.n_slots).astype(np.int32)


_EDGES: Final = sorted(
    {1, *(age + 1 for age in _AGES.tolist()), QUARTER + 1, YEAR + 1, *range(STEP_DAYS, YEAR + 1, STEP_DAYS)}
)
"""Ages, in days since the due date, at which a bill counts otherwise than the day before."""


def credit_features(ledger: Ledger, weights: Sequence[int] = WEIGHTS) -> dict[str, npt.NDArray[Any]]:
    """The credit columns of a ledger, from all of its rows; see `Credit.columns`."""
    return Credit(ledger, weights).columns()


def _checked(weights: Sequence[int]) -> Int64:
    if len(weights) != STEPS or min(weights) < 0 or not 0 < sum(weights) < SUM_LIMIT:
        raise ValueError(f"weights must be {STEPS} numbers from 0 up, not all 0, below 2^40: {weights}")
    return np.array(weights, np.int64)


def _ratio(amount: Any, times: int, whole: Any) -> npt.NDArray[Any]:
    """`amount * times // whole`, at most RATIO_LIMIT; null where whole is 0. (n,) int64, masked; amount, whole: (n,) from 0 up."""
    divisor = np.maximum(whole, 1).astype(np.int64, copy=False)
    return np.ma.masked_array(ratio(amount.astype(np.int64, copy=False), times, divisor, RATIO_LIMIT), whole == 0)


def _month(day: int) -> Any:
    return np.datetime64(day, "D").astype("M8[M]")


def _months_before(late: _Rows, day: int, n: int) -> Int32:
    """How many calendar months on end before that of `day` ended with a debit past due, at most `MONTHS_IN_ARREARS` - 1. (n,).

    late: debits that are not settled by their due date.
    """
    count = np.zeros(n, np.int32)
    on = np.ones(n, np.bool_)
    for back in range(MONTHS_IN_ARREARS - 1):
        end = int((_month(day) - back).astype("M8[D]").astype(np.int64)) - 1
        past = (
            (late.due_on < end) & (late.issued_on <= end) & ((late.settled_on == UNSETTLED) | (late.settled_on > end))
        )
        there = np.zeros(n, np.bool_)
        there[late.slot[past]] = True
        on &= there
        if not on.any():
            break
        count += on
    return count
