"""The abuse ladder of an account shard: from its checkpoint or from what is published, day by day, into the mart `abuse_steps`.

Fold 2 calls it once a day when the tiers are assigned. So does a correction, for all accounts in the tier `abuse`: they are few.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.marts import ABUSE_REASONS, ABUSE_STEPS, ABUSE_STEPS_TAKEN
from schemas.policy import Policy
from transforms.kernels.abuse import LADDER_COLUMNS, OFF, RELEASE, Standing, Steps, climb
from transforms.kernels.windows import date_of
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Entry
from transforms.tier_inputs import plain

KIND = "abuse_ladder"
MART = "mart:abuse_steps"
LADDER = pa.schema([("slot", pa.int32()), ("step", pa.int8()), ("since", pa.int32())])

Int = npt.NDArray[np.int64]


class Ladder:
    """The ladder of a shard as it goes from day to day. standing: as of the last day; steps: those taken since it was loaded."""

    def __init__(self, policy: Policy, standing: Standing) -> None:
        self.policy, self.standing = policy, standing
        self.steps: list[tuple[int, Steps]] = []

    @classmethod
    def load(cls, state: State, policy: Policy) -> Ladder:
        """As of the checkpoint that is taken up."""
        entries = state.entries.get(KIND, [])
        if not entries:
            return cls(policy, Standing.empty())
        slot, step, since = (numpy(column) for column in state.store.read_block(entries[0]).columns)
        return cls(policy, Standing(slot.astype(np.int64), step, since))

    @classmethod
    def published(cls, state: State, policy: Policy, slots: Slots, day: int, abusing: Int) -> Ladder:
        """As of a day, by the steps that are published. abusing: slots in the tier `abuse` on that day."""
        tables = [state.store.read_parquet(entry).cast(ABUSE_STEPS.schema) for entry in state.entries.get(MART, [])]
        table = pa.concat_tables([ABUSE_STEPS.schema.empty_table(), *tables])
        table = table.filter(pc.less_equal(table["service_date"].cast(pa.int32()), day)).combine_chunks()
        if policy.on(date_of(day)).abuse_ladder is None:
            table = table.slice(0, 0)
        slot, since = slots.find(table["account_id"].combine_chunks()).astype(np.int64), numpy(table["service_date"])
        step = numpy(pc.index_in(table["step"], value_set=pa.array(ABUSE_STEPS_TAKEN)), np.int8)
        order = np.lexsort((since, slot))
        slot, since, step = slot[order], since[order], step[order]
        last = np.r_[slot[1:] != slot[:-1], True][: len(slot)]
        on = last & (
            (step != RELEASE) | np.isin(slot, abusing)
        )  # who left the tier since is off, and is warned when back
        return cls(policy, Standing(slot[on], step[on], since[on].astype(np.int32)))

    def on(self, day: int, abusing: Int, inputs: pa.RecordBatch) -> None:
        """Go on by a day. abusing: slots in the tier `abuse` on it, ascending; inputs: what its tiers are made of."""
        if len(abusing) == 0 and len(self.standing.slot) == 0:
            return
        rules, population = self.policy.on(date_of(day)).abuse_ladder, numpy(inputs.column("slot"), np.int64)
        at, columns = np.searchsorted(population, abusing), {}
        for name in LADDER_COLUMNS if rules else ():
            values, null = plain(inputs.column(name))
            columns[name] = np.ma.masked_array(values[at], np.ma.nomask if null is None else null[at])
        self.standing, steps = climb(self.standing, day, rules, abusing, population, columns)
        if len(steps.slot):
            self.steps.append((day, steps))

    def in_force(self, day: int, slots: Int) -> Any:
        """The step of each account: that taken on the day gone to last, else that it stands on. slots: (m,) ascending.

        (m,) places in `ABUSE_STEPS_TAKEN`, masked where there is none.
        """
        step = np.full(len(slots), OFF, np.int8)
        taken: list[Any] = [steps for number, steps in self.steps[-1:] if number == day]
        for told in (self.standing, *taken):
            at = np.minimum(np.searchsorted(slots, told.slot), max(len(slots) - 1, 0))
            here = slots[at] == told.slot if len(slots) else np.zeros(len(told.slot), np.bool_)
            step[at[here]] = told.step[here]
        return np.ma.masked_array(step, step == OFF)

    def checkpoint(self, state: State, place: Place, shard: int, day: int) -> list[Entry]:
        """Write who is on the ladder as of a day; nothing where nobody is, and nobody was said to be."""
        held = any(entry.first == day for entry in state.entries.get(KIND, []))
        if len(self.standing.slot) == 0 and not held:
            return []
        s = self.standing
        block = pa.record_batch([s.slot.astype(np.int32), s.step, s.since], schema=LADDER)
        return place.store().write_blocks(place.path(KIND, shard, "arrow", day), KIND, shard, [(day, block)])

    def table(self, slots: Slots) -> pa.Table:
        """The steps taken, as `abuse_steps`."""
        parts = []
        for day, taken in self.steps:
            k = len(taken.slot)
            columns = {
                "account_id": slots.ids.take(pa.array(taken.slot)),
                "service_date": pa.array(np.full(k, day, np.int32)).cast(pa.date32()),
                "step": _names(ABUSE_STEPS_TAKEN, taken.step), "from_step": _names(ABUSE_STEPS_TAKEN, taken.from_step),
                "abuse_reason": _names(ABUSE_REASONS, taken.reason),
                "policy_version": pa.repeat(self.policy.on(date_of(day)).version, k),
            }  # fmt: skip
            parts.append(pa.table([columns[name] for name in ABUSE_STEPS.schema.names], schema=ABUSE_STEPS.schema))
        return pa.concat_tables([ABUSE_STEPS.schema.empty_table(), *parts])


def _names(names: tuple[str, ...], codes: Any) -> pa.Array:
    """Codes as names; null below 0."""
    return pa.array(names).take(pa.array(codes, mask=codes < 0))
