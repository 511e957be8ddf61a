"""Which account a meter belongs to, and how it is read, as reference rows come: what holds, and what differs by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import METERS, REGISTERS
from transforms.fold_reference import TO_METER_SHARD, touched
from transforms.kernels.reference import NEVER, Assignments, days, first_difference, latest, marked, order_by
from transforms.kernels.terms import NO_INDEX, Terms
from transforms.shards import numpy

METER_CONTENT = [f.name for f in METERS.schema if f.name not in ("meter_id", "installed_on", "revision")]
HELD_SCHEMA = pa.schema([*TO_METER_SHARD, pa.field("slot", pa.int32())])
EXPECTED_SCHEMA = pa.schema(
    [("slot", pa.int32()), ("installed", pa.int32()), ("removed", pa.int32()), ("meters", pa.int32())]
)

Mask = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AssignmentsUpdate:
    """What new meter rows did.

    held: rows that hold, of `HELD_SCHEMA`. changed: (m,) slots of meters whose assignment differs. reassigned_from: first
    day on which one of those that were assigned before is assigned otherwise. terms: (t,) slots of meters that are read
    otherwise, and (t,) from which day. account, installed, removed, meters: (k,) differences of expected stretches by
    account. accepted, superseded: of the new rows of known accounts.
    """

    held: pa.Table
    changed: Int
    reassigned_from: int | None
    terms: tuple[Int, Int]
    account: Int
    installed: npt.NDArray[np.int32]
    removed: npt.NDArray[np.int32]
    meters: npt.NDArray[np.int32]
    accepted: int
    superseded: int


def update_assignments(held: pa.Table, new: pa.Table) -> AssignmentsUpdate:
    """Merge new meter rows into those held; both of `HELD_SCHEMA`. Only meters among the new rows are touched."""
    if new.num_rows == 0:
        none, no_days = np.zeros(0, np.int64), np.zeros(0, np.int32)
        return AssignmentsUpdate(held, none, None, (none, none), none, no_days, no_days, no_days, 0, 0)
    mine = touched(held, new)
    old, rest = held.filter(pa.array(mine)), held.filter(pa.array(~mine))
    table = marked(old, new).append_column("unknown", pc.invert(pa.concat_tables([old, new])["known"]))
    merged = latest(table, ["meter_id", "installed_on"], [*METER_CONTENT, "unknown", "fresh", "delivery", "row"])
    accepted = int(pc.sum(pc.and_(merged["fresh"], merged["known"])).as_py() or 0)
    merged = merged.drop_columns(["fresh", "unknown"])

    both = pa.concat_tables([old, merged])
    sign = np.repeat(np.array([-1, 1]), [old.num_rows, merged.num_rows])
    slot, account, known = numpy(both["slot"], np.int64), numpy(both["account"]), numpy(both["known"])
    main, installed, removed = is_main(both), days(both["installed_on"]), np.concatenate([ends(old), ends(merged)])
    differs = _unmatched(np.stack([slot, account, known, main, installed, removed]), sign)
    numbers, stated_end = _numbers(both), days(both["removed_on"])
    begin: list[Any]
    end: list[Any]
    begin, end = (
        [slot, account, known, main, installed, *numbers[: -len(REGISTERS)]],
        [stated_end, *numbers[-len(REGISTERS) :]],
    )
    otherwise = _unmatched(np.stack([*begin, *end]), sign)
    # Where a row is given another end alone, all is as it was up to the last day of the earlier one.
    ends_alone = otherwise & ~_unmatched(np.stack(begin), sign)
    since = np.where(ends_alone, np.maximum(stated_end - 1, installed), installed).astype(np.int64)[otherwise]
    meters = np.unique(slot[otherwise])
    first = np.full(len(meters), NEVER, np.int64)
    np.minimum.at(first, np.searchsorted(meters, slot[otherwise]), since)
    counted = differs & known & main
    before = np.isin(slot, slot[differs & known & (sign < 0)])  # a check meter's readings are held too
    whose = np.unique(account, return_inverse=True)[1] * (int(slot.max()) + 1) + slot
    again = counted & before
    return AssignmentsUpdate(
        pa.concat_tables([rest, merged]).combine_chunks(), np.unique(slot[differs]),
        first_difference(whose[again], installed[again], removed[again], sign[again]),
        (meters, first),
        account[counted], installed[counted], removed[counted], sign[counted].astype(np.int32),
        accepted, int(pc.sum(new["known"]).as_py() or 0) - accepted,
    )  # fmt: skip


def _unmatched(rows: npt.NDArray[np.int64], sign: Int) -> Mask:
    """Which rows do not cancel out. rows: (columns, k); sign: (k,) -1 for those taken away, 1 for those added."""
    _, index = np.unique(rows, axis=1, return_inverse=True)
    net = np.zeros(index.max() + 1, np.int64)
    np.add.at(net, index, sign)
    result: Mask = net[index] != 0
    return result


def is_main(meters: pa.Table) -> Mask:
    """Which meter rows are of meters that count. (k,)."""
    return ~numpy(pc.fill_null(pc.equal(meters["role"], "check"), False))


def _numbers(meters: pa.Table) -> list[Int]:
    """Multiplier, modulus and indexes of meter rows, where none is given as `Terms` has it. (k,) each."""
    given = [(name, NO_INDEX) for prefix in ("installed_", "removed_") for name in (f"{prefix}{r}" for r in REGISTERS)]
    return [numpy(pc.fill_null(meters[name], none)) for name, none in (("multiplier", 1), ("modulus", 0), *given)]


def assignments(held: pa.Table) -> Assignments:
    """Assignment rows by meter slot. held: `HELD_SCHEMA`."""
    order, slot, installed = in_order(held), numpy(held["slot"], np.int32), days(held["installed_on"])
    removed, account, known = days(held["removed_on"]), numpy(held["account"]), numpy(held["known"])
    return Assignments(
        slot[order], installed[order], removed[order], account[order], known[order], is_main(held)[order]
    )


def terms_of(held: pa.Table) -> Terms:
    """How the meters are read. held: `HELD_SCHEMA`."""
    order, known = in_order(held), numpy(held["known"])
    multiplier, modulus, *given = (column[order] for column in _numbers(held))
    opening, closing = (np.stack(some, axis=1) for some in (given[: len(REGISTERS)], given[len(REGISTERS) :]))
    slot, installed, removed = numpy(held["slot"], np.int64), days(held["installed_on"]), days(held["removed_on"])
    return Terms.of(
        slot[order], installed[order].astype(np.int64), removed[order].astype(np.int64), numpy(held["account"])[order],
        known[order], (known & is_main(held))[order], multiplier, modulus, opening, closing,
    )  # fmt: skip


def in_order(held: pa.Table) -> Int:
    """The order of assignment rows by (slot, installed). held: `HELD_SCHEMA`; returns (k,) row positions."""
    return order_by(numpy(held["slot"]), days(held["installed_on"]))


def ends(table: pa.Table) -> npt.NDArray[np.int32]:
    """When each assignment ends: as its row says, or before that where the meter's next one begins.

    table: `HELD_SCHEMA`, one row for each (slot, installed_on). Returns (k,) day numbers, exclusive, NEVER while it goes on;
    a row that would end before it begins ends as it begins.
    """
    order, slot, installed = in_order(table), numpy(table["slot"]), days(table["installed_on"])
    followed = np.flatnonzero(slot[order][1:] == slot[order][:-1])
    begins = np.full(len(slot), NEVER, np.int32)
    begins[order[followed]] = installed[order[followed + 1]]
    return np.maximum(np.minimum(days(table["removed_on"]), begins), installed)
