"""The whole of Wattier on one screen: two graphs, joined by the accepted log and the day blocks, and both as a stream.

    take_in   landed files -> ReadDeliveries -> FoldReference -> FoldMeters -> FoldDays -> log, rejects, day blocks
    tick      state -> FoldFeatures -> CutOff -> FoldTiers -> PlanActions -> features, cut-offs, tiers, migrations, actions
    restate   state -> RestateFeatures -> CutOff -> RestateTiers -> the same, of past days, for the accounts concerned
    try_out   state -> StoredInputs -> CutOff -> FoldTiers -> PlanActions -> the same, under another policy, beside the marts
    stream    topics, landed files -> Inbox -> the folds of take_in -> Plan -> the folds of tick, epoch after epoch;
              ledger events also straight -> ProvisionalTiers, with the state after each epoch's last tick

Every fold brings what concerns a shard together and hands it to a kernel; what a fold writes it reports in a commit record.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection

from pipelines.config import Retention
from pipelines.plan_stage import PlanStage
from schemas.mapping import SourceMapping
from schemas.policy import Policy
from transforms.blocks import Keyed, group
from transforms.checkpoints import DAY_STATE, METER_STATE, PLAN_STATE, REFERENCE_STATE
from transforms.cutoffs import CutOff, ExtractOf, FindBracketsOf, LocateOf, ResolveOf, WriteCutoffsOf
from transforms.epochs import STATE_AFTER, EpochFold, Route, RunEpochs, SpreadKeys, Stage, every, own
from transforms.fold_days import FoldDays, FoldDaysShard
from transforms.fold_features import FoldFeatures, Plan
from transforms.fold_meters import FoldMeters, FoldMetersShard
from transforms.fold_reference import FoldReference, FoldReferenceShard
from transforms.fold_tiers import FoldTiers
from transforms.inbox import Inbox
from transforms.plan_actions import PlanActions
from transforms.provisional import AnsweredEvents, ProvisionalTiers
from transforms.read_files import ReadDeliveries
from transforms.restate_features import Correction, RestateFeatures
from transforms.restate_tiers import RestateTiers
from transforms.service_actions import CANDIDATES
from transforms.shards import Place
from transforms.stored_inputs import StoredInputs, Trial
from transforms.tick_stages import CUTOFFS_BEFORE, MADE, ActionsStage, FeaturesStage, TiersStage

States = Sequence[Keyed]
"""One `state` block for every shard."""


@dataclass(frozen=True)
class Inbound:
    """The inputs of a stream by bucket: rows as stretches, cuts to all inboxes, and cuts to the planner."""

    rows: Sequence[PCollection[Keyed]]
    cuts: PCollection[Keyed]
    to_plan: PCollection[Keyed]


def _create(elements: Sequence[Any]) -> beam.PTransform:
    """What comes from outside the graph. A group follows at once, so nothing need be reshuffled (Beam would pickle)."""
    return beam.Create(elements, reshuffle=False)


def take_in(
    p: beam.Pipeline, place: Place, mappings: Mapping[str, SourceMapping], deliveries: Sequence[str],
    policy: Policy, account_states: States, meter_states: States,
) -> PCollection[int]:  # fmt: skip
    """Landed files in: rows are accepted, rejected or pending; day blocks and ledgers take them up."""
    landed = p | "Deliveries" >> _create(deliveries) | "ReadDeliveries" >> ReadDeliveries(place, mappings)
    accounts = p | "AccountStates" >> _create(account_states)
    meters = p | "MeterStates" >> _create(meter_states)

    reference = group(
        [accounts, landed.accounts, landed.meters, landed.ledger_events, landed.conduct_events, landed.tariffs],
        "ByAccount",
    ) | "FoldReference" >> FoldReference(place)
    read = [landed.meter_readings, landed.register_readings]
    changes = group([meters, reference.meters, *read], "ByMeter") | "FoldMeters" >> FoldMeters(place)
    return group([reference.state, changes], "ByAccountAgain") | "FoldDays" >> FoldDays(place, policy)


def tick(
    p: beam.Pipeline, place: Place, policy: Policy, plan: Plan, account_states: States, given: States
) -> PCollection[int]:
    """Service days on: features roll, exact cut-offs are made, tiers follow, and actions. given: what was planned before."""
    features = _of_accounts(p, account_states) | "FoldFeatures" >> FoldFeatures(place, policy, plan)
    return _from_features(p, place, policy, plan, given, features, "FoldTiers" >> FoldTiers(place, policy, plan))


def restate(
    p: beam.Pipeline, place: Place, policy: Policy, plan: Correction, account_states: States, given: States
) -> PCollection[int]:
    """Past service days put right for the accounts concerned; cut-offs and plans are made anew, and tiers follow."""
    features = _of_accounts(p, account_states) | "RestateFeatures" >> RestateFeatures(place, policy, plan)
    return _from_features(p, place, policy, plan, given, features, "RestateTiers" >> RestateTiers(place, policy, plan))


def try_out(
    p: beam.Pipeline, place: Place, policy: Policy, trial: Trial, account_states: States, given: States
) -> PCollection[int]:
    """Past service days under another policy, from what the warehouse holds; it is written to another place."""
    plan = Plan(trial.first, trial.last, trial.first if trial.scores else trial.last + 1, trial.last + 1)
    inputs = _of_accounts(p, account_states) | "StoredInputs" >> StoredInputs(place, policy, trial)
    return _from_features(p, place, policy, plan, given, inputs, "FoldTiers" >> FoldTiers(place, policy, plan))


def _of_accounts(p: beam.Pipeline, account_states: States) -> PCollection[Any]:
    return group([p | "AccountStates" >> _create(account_states)], "ByAccount")


def _from_features(
    p: beam.Pipeline, place: Place, policy: Policy, plan: Plan | Correction, given: States, features: Any,
    fold_tiers: beam.PTransform,
) -> PCollection[int]:  # fmt: skip
    """What the three have in common: ladders and state become cut-offs, tiers and the plan of actions."""
    cutoffs = {"ladders": features.ladders, "state": features.state} | "CutOff" >> CutOff(place, policy)
    tiers = group([features.state, cutoffs], "ByAccountAgain") | fold_tiers
    before = p | "PlannedBefore" >> _create(given)
    return group([before, tiers.candidates], "Candidates") | "PlanActions" >> PlanActions(place, policy, plan)


def stream(
    p: beam.Pipeline, inputs: Inbound, place: Place, policy: Policy, retention: Retention, snapshot: str
) -> PCollection[Keyed]:
    """The folds of both graphs, epoch after epoch. snapshot: path of the state that the stream starts from.

    Returns the provisional changes of tier by account shard.
    """
    n = place.shards

    def run(label: str, fold: EpochFold, *senders: PCollection[Keyed]) -> Any:
        return senders | label >> RunEpochs(fold)

    def stage(
        name: str, senders: int, fold: type, *routes: Route, policy: Policy | None = None, **more: Any
    ) -> EpochFold:
        make = functools.partial(fold, policy=policy) if policy else fold
        return EpochFold(Stage(name, senders, make, routes, **more), place, snapshot)

    waiting = beam.ParDo(Inbox(place)).with_outputs("reference", "meters")
    inbox = (
        [*inputs.rows, inputs.cuts]
        | "Inbox/Flatten" >> beam.Flatten()
        | "Inbox/SpreadKeys" >> beam.ParDo(SpreadKeys(place))
        | "Inbox" >> waiting
    )

    to_meters, to_days, to_features = every("to_meters"), own("state", "to_days"), own(STATE_AFTER, "to_features")
    fold = stage(
        "reference", 1, FoldReferenceShard, to_meters, to_days, to_features, keeps=REFERENCE_STATE, reports=True
    )
    reference = run("FoldReference", fold, inbox.reference)
    fold = stage("meters", 1 + n, FoldMetersShard, every("to_days"), keeps=METER_STATE)
    meters = run("FoldMeters", fold, inbox.meters, reference.to_meters)
    fold = stage("days", 1 + n, FoldDaysShard, to_features, keeps=DAY_STATE, reports=True, policy=policy)
    days = run("FoldDays", fold, reference.to_days, meters.to_days)
    planning = Stage("plan", 1 + 2 * n, None, (every("to_features"),), keeps=("calendar",))
    fold = PlanStage(planning, place, snapshot, policy, retention)
    planned = run("Plan", fold, inputs.to_plan, reference.report, days.report)

    routes = every("to_brackets"), own("state", "to_extract"), own("state", "to_tiers")
    fold = FeaturesStage(Stage("features", 3, None, routes, keeps=MADE, ticks=True), place, snapshot, policy)
    features = run("FoldFeatures", fold, reference.to_features, days.to_features, planned.to_features)
    found = every("to_extract"), every("to_locate", "locate"), every("to_resolve", "resolve")
    brackets = run(
        "FindBrackets",
        stage("brackets", n, FindBracketsOf, *found, by_name=True, ticks=True, policy=policy),
        features.to_brackets,
    )
    fold = stage("extract", 1 + n, ExtractOf, every("to_locate"), ticks=True, policy=policy)
    extract = run("Extract", fold, features.to_extract, brackets.to_extract)
    fold = stage("locate", 2 * n, LocateOf, every("to_resolve"), by_name=True, ticks=True, policy=policy)
    located = run("Locate", fold, brackets.to_locate, extract.to_locate)
    fold = stage(
        "resolve",
        2 * n,
        ResolveOf,
        every("to_tiers"),
        Route("mart", "to_write", "first"),
        by_name=True,
        ticks=True,
        policy=policy,
    )
    resolved = run("Resolve", fold, brackets.to_resolve, located.to_resolve)
    run("WriteCutoffs", stage("write_cutoffs", n, WriteCutoffsOf, ticks=True), resolved.to_write)
    to_plan = Route(CANDIDATES, "to_plan_actions", "first")
    tiering = Stage(
        "tiers", 1 + n, None, (own(None, "after"), to_plan), keeps=("tiers", "abuse_ladder", CUTOFFS_BEFORE), ticks=True
    )
    fold = TiersStage(tiering, place, snapshot, policy)
    tiers = run("FoldTiers", fold, features.to_tiers, resolved.to_tiers)
    fold = ActionsStage(Stage("actions", n, None, (), keeps=(PLAN_STATE,), ticks=True), place, snapshot, policy)
    run("PlanActions", fold, tiers.to_plan_actions)
    events = [rows | f"AnsweredEvents{at}" >> beam.ParDo(AnsweredEvents()) for at, rows in enumerate(inputs.rows)]
    early = beam.ParDo(ProvisionalTiers(place, policy, snapshot))
    changes: PCollection[Keyed] = (
        [*events, tiers.after]
        | "ProvisionalTiers/Flatten" >> beam.Flatten()
        | "ProvisionalTiers/SpreadKeys" >> beam.ParDo(SpreadKeys(place))
        | "ProvisionalTiers" >> early
    )
    return changes
