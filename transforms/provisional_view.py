"""One bucket of provisional tiers, decoded: accounts, what happened by account, and what was told of each.

It is made of the files of a base and of what came since; events are then answered from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.marts import CLASSES, CUTOFFS, PROVISIONAL_TIERS, TIERS
from schemas.policy import Policy
from transforms.account_events import CONDUCT, LEDGER
from transforms.blocks import fact, kind_of, one_batch
from transforms.closed_ledger import ClosedLedger
from transforms.dimension_scores import percentiles
from transforms.epochs import entries_of
from transforms.fold_features import by_account, feature_column, load_expected, load_windows, tenure_days
from transforms.fold_reference import load_population
from transforms.kernels.closed import recalls, shut_slots
from transforms.kernels.conduct import Conduct
from transforms.kernels.consumption import consumption_features
from transforms.kernels.messages import OFFSET
from transforms.kernels.provisional import ROWS, Base, Events, Part, latest_days, reclassify
from transforms.kernels.tiers import CLOSED, NONE
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Entry

CHANGES: Final = PROVISIONAL_TIERS.schema
NOT_CUT: Final = (1 << 31) - 1
"""Revision of rows that get theirs from their delivery, until it has a number: they count before all others."""

KEPT: Final = {LEDGER.source: ROWS, CONDUCT.source: CONDUCT.kept}
"""Sources whose events are answered, and their rows as they are kept here."""

Made = dict[str, Any]
"""Path of an immutable file -> what was made of it."""


class Findings:
    """Conduct events of a bucket, in all versions. Few accounts have some: all are looked through when one more comes.

    table: (k,) rows as they are kept; conduct: what they come to.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.select(CONDUCT.kept.names)
        self.conduct = Conduct(self.table)

    def add(self, rows: pa.Table) -> None:
        """More rows, with the columns as they are kept."""
        more = rows.select(CONDUCT.kept.names).cast(CONDUCT.kept)
        self.table = pa.concat_tables([self.table, more]).combine_chunks()
        self.conduct = Conduct(self.table)

    def rows_of(self, slots: npt.NDArray[Any]) -> pa.Table:
        """All rows of some accounts."""
        return self.table.filter(pa.array(np.isin(numpy(self.table["slot"]), slots)))


@dataclass(frozen=True)
class View:
    """A bucket, decoded. accounts: id -> slot, ids: the reverse; told: (n,) tier told last, else the base's.

    closed: of the ledger rows that were let go, those that are wanted.
    """

    base: Base
    accounts: dict[str, int]
    ids: pa.Array
    ledger: Events
    later: Events
    found: Findings
    told: npt.NDArray[np.int8]
    made: Made
    closed: Closed | None


class Closed:
    """What a base's ledger has let go of, and of which accounts it still is. short: whether figures of the base's day need it."""

    def __init__(self, held: ClosedLedger, state: State, ids: pa.Array, ledger: Events, *, short: bool) -> None:
        self.held, self.state, self.ids, self.short = held, state, Slots(ids), short
        self.shut = np.zeros(len(ids), np.bool_)
        for part in ledger.parts:
            self.shut |= shut_slots(part.table, len(ids))

    def back(self, rows: pa.Table, ledger: Events) -> pa.Table:
        """What is wanted back for new rows; from then on it is there."""
        slot = numpy(rows["slot"])
        wanted = self.shut[slot] if self.short else recalls(rows, self.shut, self.held.day, self.held.names)
        slots = np.unique(slot[wanted])
        if len(slots) == 0:
            return ROWS.empty_table()
        self.shut[slots] = False
        return self.held.recalled(self.state, self.ids, ledger.rows_of(slots), slots)


def load_view(
    place: Place, policy: Policy, base: pa.RecordBatch, later: Iterable[pa.RecordBatch], told: Iterable[pa.RecordBatch],
    made: Made,
) -> View | None:  # fmt: skip
    """Decode a base, and what came since; None where it has no account or no service day yet. made: what may be used again.

    later: events, in any order; told: changes, in the order in which they were told.
    """
    state = State(place.store(), entries_of([base]))
    if not {"account_slots", "windows", "tiers"} <= state.entries.keys():
        return None
    used: Made = {}

    def once(entry: Entry, make: Callable[[pa.Table], Any]) -> Any:
        used[entry.path] = made[entry.path] if entry.path in made else make(state.store.read_table(entry))
        return used[entry.path]

    (listed,), files = state.entries["account_slots"], state.entries.get("ledger", [])
    ids, accounts = once(listed, _accounts)
    ledger = Events([once(file, Part.of) for file in files])
    known = load_base(state, policy, ids)
    found = Findings(state.table(CONDUCT.kind, CONDUCT.kept))
    held, closed = ClosedLedger.load(state), None
    if held is not None:
        closed = Closed(held, state, ids, ledger, short=not held.suffices(known.day, policy.ledger.allocation))
    view = View(known, accounts, ids, ledger, Events(), found, known.tier.copy(), used, closed)
    for block in later:
        _keep(view, kind_of(block), rows_of(block, accounts))
    for changes in told:
        slots = [accounts[name] for name in changes.column("account_id").to_pylist()]
        view.told[slots] = [TIERS.index(tier) for tier in changes.column("tier").to_pylist()]
    return view


def _accounts(slots: pa.Table) -> tuple[pa.Array, dict[str, int]]:
    ids = slots["id"].combine_chunks()
    return ids, dict(zip(ids.to_pylist(), range(len(ids)), strict=True))


def load_base(state: State, policy: Policy, ids: pa.Array) -> Base:
    """What is held of a shard's accounts, dense by slot, as far as rules read it. ids: (n,) of all of them."""
    (entry,), n = state.entries["windows"], len(ids)
    windows = load_windows(state, entry.first + 1)
    windows.grow(n)
    columns = consumption_features(windows, load_expected(state), np.arange(n))
    people = load_population(state)
    columns |= by_account(windows, people, np.arange(n), n)
    _, category = people.on(entry.first, n)
    tiers = state.store.read_block(state.entries["tiers"][0])
    tier, abc, grade, since = (
        np.r_[numpy(tiers.column(name)), np.full(n - tiers.num_rows, NONE, np.int32)]
        for name in ("tier", "abc", "grade", "since")
    )
    read = {name for version in policy.versions for name in version.columns()}
    read |= {name for version in policy.versions if version.credit_score for name in version.credit_score.columns()}
    dense = {name: feature_column(column) for name, column in columns.items() if name in read}
    dense |= {"category": category, "tenure_days": tenure_days(people, entry.first, n)}
    dense |= {"region": people.region_on(entry.first, n)} if policy.ranks_by_region() else {}
    codes = tier.astype(np.int8), abc.astype(np.int8), grade.astype(np.int8), since.astype(np.int32)
    cuts = [state.store.read_parquet(e).cast(CUTOFFS.schema) for e in state.entries.get("cutoffs_before", [])]
    found = percentiles(pa.concat_tables([CUTOFFS.schema.empty_table(), *cuts])).get(entry.first, {})
    return Base(entry.first, *codes, dense, ids, found)


def rows_of(block: pa.RecordBatch, accounts: Mapping[str, int]) -> pa.Table:
    """The rows of a stretch of known accounts as they are kept, with their offset, in their order."""
    slot = np.array([accounts.get(name, -1) for name in block.column("account_id").to_pylist()], np.int32)
    n, columns = block.num_rows, {name: block.column(name) for name in KEPT[kind_of(block)].names[1:]}
    if fact(block, "revision") == "delivery":
        columns["revision"] = pa.array(np.full(n, NOT_CUT, np.int32))
    columns[OFFSET] = block.column(OFFSET) if OFFSET in block.schema.names else pa.array(np.zeros(n, np.int64))
    return pa.table({"slot": slot, **columns}).filter(pa.array(slot >= 0))


def _keep(view: View, kind: str, rows: pa.Table) -> None:
    """Take rows of a kind into a view, and back what they need."""
    if view.closed is not None and (kind == LEDGER.source or view.closed.short):
        back = view.closed.back(rows, view.ledger)
        if back.num_rows:
            view.later.add(back)
    (view.later if kind == LEDGER.source else view.found).add(rows)


def answer(view: View, policy: Policy, block: pa.RecordBatch) -> pa.RecordBatch:
    """Take new events into a view; the changes of tier they cause, as the mart `provisional_tiers`.

    Each account's events are taken one after the other, so that it does not matter how they came in blocks.
    """
    rows, found = rows_of(block, view.accounts), []
    slot = numpy(rows["slot"])
    for some in rounds(slot):
        _keep(view, kind_of(block), rows.take(pa.array(some)))
        tiered = some[~np.isin(view.base.tier[slot[some]], (NONE, CLOSED))]
        found.append(_changes(view, policy, rows.take(pa.array(tiered)), block))
    return one_batch(pa.concat_tables([CHANGES.empty_table(), *(table for table in found if table is not None)]))


def rounds(slot: npt.NDArray[np.int32]) -> list[npt.NDArray[np.int64]]:
    """Rows in rounds: each account once a round, in order of its rows; ascending by account within a round.

    >>> [some.tolist() for some in rounds(np.array([7, 3, 7, 7]))]
    [[1, 0], [2], [3]]
    """
    order = np.argsort(slot, kind="stable")
    first = np.r_[True, slot[order][1:] != slot[order][:-1]][: len(order)]
    nth = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    return [order[nth == k] for k in range(int(nth.max(initial=-1)) + 1)]


def _changes(view: View, policy: Policy, causes: pa.Table, block: pa.RecordBatch) -> pa.Table | None:
    """The changes of tier of accounts, if any, each with the row that causes it. causes: (m,) rows, ascending by slot."""
    base, slots = view.base, numpy(causes["slot"])
    if len(slots) == 0:
        return None
    events = pa.concat_tables([view.ledger.rows_of(slots), view.later.rows_of(slots)])
    days = latest_days(base, slots, events, view.found.rows_of(slots))
    outcome = reclassify(base, policy, events, view.found.conduct, slots, days)
    keep = np.flatnonzero(outcome.tier != view.told[slots])
    if len(keep) == 0:
        return None
    slots, was, n = slots[keep], view.told[slots[keep]], len(keep)
    view.told[slots] = outcome.tier[keep]
    metadata = block.schema.metadata
    columns = {
        "account_id": view.ids.take(pa.array(slots)), "as_of": _dates(days[keep]),
        "tier": _codes(TIERS, outcome.tier[keep]), "from_tier": _codes(TIERS, was),
        "credit_grade": _codes(CLASSES, outcome.grade[keep]), "rule": pa.array(outcome.rule[keep], pa.string()),
        "policy_version": pa.array(outcome.version[keep], pa.string()),
        "event_id": causes["event_id"].take(pa.array(keep)).cast(pa.string()),
        "source_part": pa.array([fact(block, "part")] * n, pa.string()),
        "source_offset": causes[OFFSET].take(pa.array(keep)),
        "append_ms": pa.array(np.full(n, int(metadata.get(b"wattier.append_ms", b"0")))),
        "base_date": _dates(np.full(n, base.day)),
    }  # fmt: skip
    return pa.table([columns[name] for name in CHANGES.names], schema=CHANGES)


def _codes(names: tuple[str, ...], codes: npt.NDArray[np.int8]) -> pa.Array:
    return pa.array(names).take(pa.array(codes))


def _dates(days: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(days.astype(np.int32)).cast(pa.date32())
