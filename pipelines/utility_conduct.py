"""What the simulated utility's customers are found to have done, and what comes of it: few are, now and then."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.utility import Occupancy, Rows, World, account_ids, new_rows
from pipelines.utility_tables import code_names, dates
from schemas.inbound import CONDUCT_TYPES

FINDING = np.dtype(
    [
        ("slot", "i4"), ("tenancy", "i2"), ("kind", "i1"), ("of", "i1"), ("found_day", "i4"), ("day", "i4"), ("revision", "i1"),
    ]
)  # fmt: skip
"""kind: what the row says; of: the kind of the event that it is about, another one where it withdraws that."""

THEFT, TAMPERING, VIOLATION, DISCONNECTION, RECONNECTION, INSPECTION, WITHDRAWN = range(len(CONDUCT_TYPES))
"""Kinds of conduct event, in the order of `CONDUCT_TYPES`."""

LETTERS = ("T", "M", "V", "D", "R", "I")
FOUND = ((THEFT, 1 / 15_000), (TAMPERING, 1 / 60_000), (VIOLATION, 1 / 8_000))
"""What is found, and at how many of the accounts a day."""


def conduct_for_day(world: World, day: int, held: Occupancy) -> Rows:
    """(n,) FINDING: what is found on a day, and everything that will come of it, on the days it will happen.

    Most thieves are disconnected within days and reconnected weeks later; most of them, and half of the others, pass an
    inspection in the end. One finding of ten does not hold, and is withdrawn.
    """
    rng = world.random("conduct", day)
    active = np.flatnonzero(held.active)
    draw = rng.random(len(active))
    edges = np.cumsum([share for _, share in FOUND])
    hit = draw < edges[-1]
    slots, kind = active[hit], np.array([kind for kind, _ in FOUND])[np.searchsorted(edges, draw[hit], side="right")]
    n = len(slots)
    found = new_rows(
        FINDING, n, slot=slots, tenancy=held.tenancy[slots], kind=kind, of=kind, found_day=day, day=day, revision=1
    )
    fails = rng.random(n) < 0.1
    cut_off = ~fails & (kind != VIOLATION) & (rng.random(n) < 0.6)
    passes = ~fails & (rng.random(n) < np.where(kind == VIOLATION, 0.5, 0.8))
    off = day + rng.integers(0, 4, n)
    on = off + rng.integers(10, 41, n)

    def follow(which: npt.NDArray[np.bool_], kind: int, days: npt.NDArray[Any]) -> Rows:
        rows = found[which]
        rows["kind"] = rows["of"] = kind
        rows["day"] = days[which]
        return rows

    withdrawn = found[fails]
    withdrawn["kind"], withdrawn["revision"] = WITHDRAWN, 2
    withdrawn["day"] += rng.integers(0, 20, len(withdrawn)).astype(np.int32)
    return np.concatenate([
        found, withdrawn, follow(cut_off, DISCONNECTION, off), follow(cut_off, RECONNECTION, on),
        follow(passes, INSPECTION, on + rng.integers(1, 60, n)),
    ])  # fmt: skip


def conduct_table(world: World, rows: Rows) -> pa.Table:
    """FINDING rows as delivered. An event's id is its letter and the day of the finding that it comes of."""
    found_on = pc.strftime(dates(world, rows["found_day"]), "%y%m%d")
    return pa.table({
        "account_id": account_ids(rows["slot"], rows["tenancy"]),
        "event_id": pc.binary_join_element_wise(code_names(LETTERS, rows["of"]), found_on, ""),
        "event_type": code_names(CONDUCT_TYPES, rows["kind"]),
        "event_date": dates(world, rows["day"]),
        "revision": pa.array(rows["revision"].astype(np.int64)),
    })  # fmt: skip
