"""Past service days put right for the accounts that a delivery concerns, in place of making them anew for all.

Up to the newest checkpoint before which few accounts are concerned; from there on days are made anew for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.calendar import Calendar
from pipelines.plan import Decision, Standing, policy_change
from pipelines.warehouse import Draft
from schemas.marts import CUTOFFS
from schemas.policy import Policy
from transforms.checkpoints import PLAN_STATE, TIER_INPUT
from transforms.kernels.windows import BASE, YEAR
from transforms.patches import CONCERNS_SCHEMA, stretches
from transforms.plan_actions import CAPACITY, PLANNED
from transforms.restate_features import Correction
from transforms.shards import Place, numpy
from transforms.storage import Commit, Entry, Store
from transforms.tick_stages import TICK_STATE

MOST_PPM = 100_000
"""Where more accounts than this part are concerned, making the days anew for all costs less."""

LEAST_DAYS = 10
"""Where days after them are made anew for all, fewer days than these are, too: that takes no second pipeline."""

DAYS_AT_ONCE = 100
"""Days that one pipeline puts right: of each, every shard hands on what it tells of the day's rankings."""


class Concerns:
    """Whom the deliveries of a run concern. others_from: earliest day of changes that are not told by account."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.others_from: int | None = None

    def take(self, commits: Iterable[Commit]) -> None:
        """Take up what stages report."""
        for commit in commits:
            self.entries += commit.concerns
            first = commit.others_from if commit.concerns else commit.restate_from
            if first is not None:
                self.others_from = first if self.others_from is None else min(self.others_from, first)

    def first_days(self, store: Store) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """The first day of changes of each account, ascending: (k,)."""
        found = [np.zeros(0, np.int32)]
        by_shard: dict[int, list[pa.Table]] = {}
        for entry in self.entries:
            by_shard.setdefault(entry.shard, []).append(store.read_table(entry).cast(CONCERNS_SCHEMA))
        for tables in by_shard.values():
            table = pa.concat_tables(tables)
            slot, first = numpy(table["slot"]), numpy(table["first"])
            order = np.lexsort((first, slot))
            found.append(first[order][np.unique(slot[order], return_index=True)[1]])
        return np.sort(np.concatenate(found))


def put_right_up_to(
    draft: Draft, store: Store, calendar: Calendar | None, policy: Policy, standing: Standing, decision: Decision,
    concerns: Concerns, shards: int,
) -> int | None:  # fmt: skip
    """The last day up to which past days can be put right for some accounts alone; None: all are made anew for everybody.

    It is the last day published, or an earlier checkpoint, from which on days are made anew. Up to there all changes are told
    by account, and few; nothing else makes the days otherwise; and what the days were made of is kept.
    """
    through, first = standing.through, decision.first
    if calendar is None or through is None or decision.end is None or not first <= through <= decision.end:
        return None
    if calendar.first != standing.first:
        return None
    others = [] if concerns.others_from is None else [concerns.others_from - 1]
    if (ruled := policy_change(standing.policy, policy)) is not None:
        others.append(ruled - 2)  # tiers of the day before a change are made of more columns
    most = MOST_PPM * sum(e.rows for e in draft.entries if e.kind == "account_slots") // 1_000_000
    changed = concerns.first_days(store)
    few = [day for day in standing.checkpoints if np.searchsorted(changed, day, side="right") <= most]
    last = max((day for day in few if first <= day <= min([through, *others])), default=None)
    if last is None or (last < through and last - first + 1 < LEAST_DAYS):
        return None
    oldest = max(first - 1, calendar.first)
    kept = sum(e.kind == TIER_INPUT and oldest <= e.first <= last for e in draft.entries)
    return last if kept == shards * (last - oldest + 1) else None


def spans(checkpoints: Sequence[int], first: int, through: int) -> Iterator[tuple[int, int]]:
    """The days in stretches of about `DAYS_AT_ONCE`, each up to a checkpoint.

    >>> list(spans([0, 31, 60, 91, 121, 150], 20, 150))
    [(20, 91), (92, 150)]
    """
    ends = [end for _, end in stretches(sorted(checkpoints), first, through)]
    for number, end in enumerate(ends):
        if end == ends[-1] or ends[number + 1] - first >= DAYS_AT_ONCE:
            yield first, end
            first = end + 1


class Restatement:
    """The work on a draft: what each span is handed, and what is taken up of it."""

    def __init__(self, draft: Draft, store: Store, concerns: Concerns, shards: int) -> None:
        self.draft, self.store, self.concerns, self.shards = draft, store, concerns, shards
        self.was = [e for e in draft.entries if e.kind == "mart:cutoffs"]
        self.carried: list[Entry] = []

    def states(self, plan: Correction) -> Iterator[tuple[int, list[Entry]]]:
        """Each shard's part of what the days of a correction are put right from."""
        every = [*self.draft.entries, *self.concerns.entries, *self.carried]
        found: dict[int, list[Entry]] = {shard: [] for shard in range(self.shards)}
        oldest = plan.checkpoint + 1 - YEAR - BASE
        marts = ("mart:vee_results", "mart:customer_tiers", "mart:tier_migrations")
        for e in every:
            part, _, _ = e.kind.partition(":")
            match e.kind:
                case "day_block" | "edited_block" | "provisional_block":
                    wanted = oldest <= e.first <= plan.last
                case "windows":
                    wanted = e.first == plan.checkpoint
                case "windows_patch" | "tiers" | "abuse_ladder":
                    wanted = e.first == plan.checkpoint or (plan.first <= e.first <= plan.last and e.first in plan.ends)
                case "tier_input" | "tier_input_patch":
                    wanted = plan.first - 1 <= e.first <= plan.last
                case (
                    "concerns"
                    | "carried_tiers"
                    | "mart:customer_tiers_current"
                    | "mart:abuse_steps"
                    | "mart:ledger_exceptions"
                ):
                    wanted = True
                case _:
                    mart = e.kind in marts or part in ("gone", "patch")
                    wanted = e.last >= plan.first - 1 if mart else e.kind in TICK_STATE
            if wanted:
                found[e.shard].append(e)
        before, now = plan.first - 1, [e for e in self.draft.entries if e.kind == "mart:cutoffs"]
        cuts = [replace(e, kind="was:cutoffs") for e in self.was if e.first <= plan.last and before <= e.last]
        cuts += [replace(e, kind="cutoffs_before") for e in now if e.first <= before <= e.last]
        for shard, entries in found.items():
            yield shard, entries + cuts

    def plans(self) -> list[Entry]:
        """What plans of actions are made anew from, and written again."""
        return [e for e in self.draft.entries if e.kind in (PLANNED, CAPACITY, PLAN_STATE)]

    def take(self, place: Place, plan: Correction, commits: Iterable[Commit]) -> None:
        """Take up what the stages report."""
        self.carried, new, kept = [], list[Entry](), list[Commit]()
        for commit in commits:
            self.carried += [e for e in commit.entries if e.kind == "carried_tiers"]
            new += [e for e in commit.entries if e.kind == "mart:cutoffs"]
            kept.append(replace(commit, entries=tuple(
                e for e in commit.entries if e.kind not in ("carried_tiers", "mart:cutoffs")
            )))  # fmt: skip
        self.draft.apply(kept)
        self._cutoffs(place, plan, new)

    def _cutoffs(self, place: Place, plan: Correction, new: list[Entry]) -> None:
        """The `cutoffs` mart with the days of a correction in place of those that were."""
        kind = "mart:cutoffs"
        parts = list(stretches(plan.ends, plan.first, plan.last))
        old = [e for e in self.draft.entries if e.kind == kind and parts[0][0] <= e.first and e.last <= parts[-1][1]]
        tables = [self.store.read_parquet(e).cast(CUTOFFS.schema) for e in old]
        kept = [t.filter(pc.less(t["service_date"].cast(pa.int32()), plan.first)) for t in tables]
        made = [self.store.read_parquet(e).cast(CUTOFFS.schema) for e in new]
        table = pa.concat_tables([CUTOFFS.schema.empty_table(), *kept, *made])
        table = table.sort_by([(name, "ascending") for name in CUTOFFS.keys])
        days = numpy(table["service_date"])
        self.draft.entries = [e for e in self.draft.entries if e not in old]
        for number, (first, last) in enumerate(parts):
            mine = table.filter(pa.array((first <= days) & (days <= last)))
            if mine.num_rows:
                path = place.path(f"{kind}-restated", number, "parquet")
                self.draft.entries.append(self.store.write_parquet(path, kind, -1, mine, (first, last)))
