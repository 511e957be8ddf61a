"""The whole of Wattier on one screen: two graphs, joined by the accepted log and the day blocks.

    take_in   landed files -> ReadDeliveries -> FoldReference -> FoldMeters -> FoldDays -> log, rejects, day blocks
    tick      state -> FoldFeatures -> CutOff -> FoldTiers -> features, cut-offs, tiers, migrations

Every fold brings what concerns a shard together and hands it to a kernel; what a fold writes it reports in a commit record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection

from schemas.mapping import SourceMapping
from schemas.policy import Policy
from transforms.blocks import Keyed, group
from transforms.cutoffs import CutOff
from transforms.fold_days import FoldDays
from transforms.fold_features import FoldFeatures, Plan
from transforms.fold_meters import FoldMeters
from transforms.fold_reference import FoldReference
from transforms.fold_tiers import FoldTiers
from transforms.read_files import ReadDeliveries
from transforms.shards import Place

States = Sequence[Keyed]
"""One `state` block for every shard."""


def _create(elements: Sequence[Any]) -> beam.PTransform:
    """What comes from outside the graph. A group follows at once, so nothing need be reshuffled (Beam would pickle)."""
    return beam.Create(elements, reshuffle=False)


def take_in(
    p: beam.Pipeline, place: Place, mappings: Mapping[str, SourceMapping], deliveries: Sequence[str],
    account_states: States, meter_states: States,
) -> PCollection[int]:  # fmt: skip
    """Landed files in: rows are accepted, rejected or pending; day blocks and ledgers take them up."""
    landed = p | "Deliveries" >> _create(deliveries) | "ReadDeliveries" >> ReadDeliveries(place, mappings)
    accounts = p | "AccountStates" >> _create(account_states)
    meters = p | "MeterStates" >> _create(meter_states)

    reference = group(
        [accounts, landed.accounts, landed.meters, landed.ledger_events], "ByAccount"
    ) | "FoldReference" >> FoldReference(place)
    changes = group([meters, reference.meters, landed.meter_readings], "ByMeter") | "FoldMeters" >> FoldMeters(place)
    return group([reference.state, changes], "ByAccountAgain") | "FoldDays" >> FoldDays(place)


def tick(p: beam.Pipeline, place: Place, policy: Policy, plan: Plan, account_states: States) -> PCollection[int]:
    """Service days on: features roll, exact cut-offs are made, tiers follow."""
    states = group([p | "AccountStates" >> _create(account_states)], "ByAccount")
    features = states | "FoldFeatures" >> FoldFeatures(place, policy, plan)
    cutoffs = {"ladders": features.ladders, "state": features.state} | "CutOff" >> CutOff(place, policy)
    return group([features.state, cutoffs], "ByAccountAgain") | "FoldTiers" >> FoldTiers(place, policy, plan)
