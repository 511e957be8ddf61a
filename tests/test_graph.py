"""The two graphs as Beam sees them: their coders, their labels, DoFns that travel, and no worker that sees all."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.internal import pickler
from apache_beam.metrics import MetricsFilter
from apache_beam.portability.api import beam_runner_api_pb2 as api

import transforms
from pipelines.graph import take_in, tick, try_out
from pipelines.templates import write_templates
from schemas.kafka import KafkaSettings
from schemas.mapping import parse_sources
from schemas.policy import Policy, default_policy_text, parse_policy
from transforms.blocks import URN, tag
from transforms.checkpoints import TIER_INPUT
from transforms.cutoffs import CutOff
from transforms.epochs import Stage
from transforms.fold_features import Plan, ladders, tier_input
from transforms.fold_reference import FoldReferenceShard
from transforms.kafka_partitions import open_consumer
from transforms.kernels.files import Delivery
from transforms.kernels.keys import shard_of
from transforms.kernels.order_statistics import inside
from transforms.kernels.scopes import Scopes
from transforms.kernels.windows import date_of, day_of
from transforms.patches import ranked_columns
from transforms.read_files import delivery_to_json
from transforms.shards import SLOTS_SCHEMA, Place, Slots, state_block
from transforms.storage import Entry
from transforms.stored_inputs import Trial
from transforms.write_kafka import open_producer

POLICY = parse_policy(default_policy_text(), "policy.yaml")
DAY = day_of(date(2025, 1, 31))
PLAN = Plan(DAY, DAY, DAY, DAY)
TRIAL = Trial(DAY, DAY, POLICY)
PLAIN = {
    "beam:coder:bytes:v1", "beam:coder:string_utf8:v1", "beam:coder:varint:v1", "beam:coder:kv:v1",
    "beam:coder:iterable:v1", "beam:coder:global_window:v1", URN,
}  # fmt: skip
"""Coders with a specification that does not depend on Python."""


@pytest.fixture(scope="module")
def mappings(tmp_path_factory: pytest.TempPathFactory) -> dict:
    import yaml

    config, *_ = write_templates(tmp_path_factory.mktemp("init"))
    return parse_sources(yaml.safe_load(config.read_text())["sources"], "wattier.yaml")


@pytest.fixture(scope="module")
def graphs(mappings: dict) -> dict[str, api.Pipeline]:
    place = Place("/warehouse", "data/000001-0/0001", 2)
    entry = Entry("account_slots", 0, -1, -1, "data/slots.arrow", -1, 5, 100, "00")
    states = [(shard, state_block([entry])) for shard in range(2)]
    delivery = Delivery(1, "accounts", "/landing/a.csv", "00", beam.utils.timestamp.Timestamp(0).to_utc_datetime(True))
    both = {"take_in": beam.Pipeline(), "tick": beam.Pipeline(), "try_out": beam.Pipeline()}
    take_in(both["take_in"], place, mappings, [delivery_to_json(delivery)] * 3, POLICY, states, states)
    tick(both["tick"], place, POLICY, PLAN, states, states[:1])
    try_out(both["try_out"], place, POLICY, TRIAL, states, states[:1])
    return {name: p.to_runner_api() for name, p in both.items()}


def coders_below(pipeline: api.Pipeline, coder_id: str) -> Iterator[str]:
    """URNs of a coder and of its components."""
    coder = pipeline.components.coders[coder_id]
    yield coder.spec.urn
    for component in coder.component_coder_ids:
        yield from coders_below(pipeline, component)


def strange_coders(pipeline: api.Pipeline) -> list[str]:
    """PCollections, and the coders they flow through that are not plain."""
    return [
        f"{pcoll.unique_name}: {urn}"
        for pcoll in pipeline.components.pcollections.values()
        for urn in coders_below(pipeline, pcoll.coder_id)
        if urn not in PLAIN
    ]


@pytest.mark.parametrize("name", ["take_in", "tick", "try_out"])
def test_no_element_is_pickled(name: str, graphs: dict[str, api.Pipeline]) -> None:
    assert len(graphs[name].components.pcollections) > 10
    assert strange_coders(graphs[name]) == []
    assert {coder.spec.urn for coder in graphs[name].components.coders.values()} <= PLAIN
    windows = graphs[name].components.windowing_strategies.values()
    assert {urn for w in windows for urn in coders_below(graphs[name], w.window_coder_id)} == {
        "beam:coder:global_window:v1"
    }


def test_a_pickled_element_would_be_found() -> None:
    p = beam.Pipeline()
    blocks = p | beam.Create([(0, tag(pa.record_batch({"a": [1]}), "state"))], reshuffle=False)
    blocks | "Untyped" >> beam.ParDo(FoldReferenceShard(Place("/", "", 1))).with_outputs("state", main="meters")
    assert strange_coders(p.to_runner_api()) == []
    p | "Objects" >> beam.Create([Place("/", "", 1)], reshuffle=False)
    assert any("Objects" in line for line in strange_coders(p.to_runner_api()))


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("take_in", {"ReadDeliveries", "FoldReference", "FoldMeters", "FoldDays"}),
        ("tick", {"FoldFeatures", "CutOff", "FoldTiers", "PlanActions"}),
        ("try_out", {"StoredInputs", "CutOff", "FoldTiers", "PlanActions"}),
    ],
)
def test_steps_are_called_as_their_classes(name: str, labels: set[str], graphs: dict[str, api.Pipeline]) -> None:
    steps = graphs[name].components.transforms
    (root,) = graphs[name].root_transform_ids
    top = {steps[child].unique_name for child in steps[root].subtransforms}
    assert labels <= top
    classes = {
        cls.__name__ for module in stages() for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, beam.PTransform) and cls.__module__ == module.__name__
    }  # fmt: skip
    assert {label for label in top if label in classes} == labels
    assert {label.split("/")[0] for label in top - labels} <= {
        "Deliveries", "AccountStates", "MeterStates", "ByAccount", "ByMeter", "ByAccountAgain", "PlannedBefore", "Candidates",
    }  # fmt: skip


# --- DoFns travel --------------------------------------------------------------------------------------------------------


def stages() -> list:
    return [
        import_module(f"transforms.{module.name}") for module in iter_modules(transforms.__path__) if not module.ispkg
    ]


def every_dofn(mappings: dict) -> dict[str, beam.DoFn]:
    """One of each DoFn that a stage defines, made with the arguments its graph makes it with."""
    place = Place("/warehouse", "data/000001-0/0001", 2)
    kafka = {"settings": KafkaSettings(bootstrap_servers="b:9092"), "topic": "t"}
    clients = {"consumers": open_consumer, "producers": open_producer}
    stream = {"stage": Stage("days", 1, FoldReferenceShard, ()), "bootstrap": "snapshot"}
    stream["keys"] = (7,)
    given = {
        "place": place,
        "policy": POLICY,
        "plan": PLAN,
        "trial": TRIAL,
        "mappings": mappings,
        **stream,
        **kafka,
        **clients,
    }
    found = {}
    for module in stages():
        for name, cls in vars(module).items():
            if (
                isinstance(cls, type)
                and issubclass(cls, beam.DoFn)
                and cls.__module__ == module.__name__
                and name[0] != "_"
            ):
                names = cls.__init__.__code__.co_varnames[1 : cls.__init__.__code__.co_argcount]
                found[name] = cls(*(given[argument] for argument in names))
    return found


def test_every_dofn_unpickles_where_only_the_package_is(mappings: dict, tmp_path: Path) -> None:
    """In a process started in an empty folder, and the block coder is known there by Beam's plugins alone."""
    dofns = every_dofn(mappings)
    assert {
        "ReadDelivery",
        "FoldReferenceShard",
        "FoldMetersShard",
        "FoldDaysShard",
        "FoldFeaturesShard",
    } <= dofns.keys()
    assert {"FindBracketsOf", "ExtractOf", "LocateOf", "ResolveOf", "WriteCutoffsOf", "FoldTiersShard"} <= dofns.keys()
    block = tag(pa.record_batch({"energy_wh": [1, 2]}), "state")
    encoded = base64.b64encode(beam.coders.registry.get_coder(pa.RecordBatch).encode(block)).decode()
    sent = {name: pickler.dumps(dofn).decode() for name, dofn in dofns.items()}
    code = f"""
import base64, os, sys
assert os.listdir() == [], os.listdir()
from apache_beam.internal import pickler
from apache_beam.utils.plugin import BeamPlugin
from apache_beam.portability.api import beam_runner_api_pb2
import apache_beam as beam
import importlib
for plugin in {beam_plugins()!r}:
    importlib.import_module(plugin.rpartition(".")[0])
from apache_beam.runners.pipeline_context import PipelineContext
proto = beam_runner_api_pb2.Components()
proto.coders["block"].spec.urn = {URN!r}
coder = PipelineContext(proto).coders.get_by_id("block")
assert coder.decode(base64.b64decode({encoded!r})).num_rows == 2
for name, text in {sent!r}.items():
    dofn = pickler.loads(text.encode())
    assert type(dofn).__name__ == name, (name, dofn)
    assert type(dofn).__module__.startswith("transforms."), type(dofn).__module__
print("all", len({sent!r}))
"""
    command = [sys.executable, "-P", "-W", "ignore", "-"]
    done = subprocess.run(command, input=code, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == f"all {len(dofns)}\n", done.stderr


def beam_plugins() -> list[str]:
    """What Beam tells its workers to import: the subclasses of BeamPlugin, as full names."""
    from apache_beam.utils.plugin import BeamPlugin

    names = BeamPlugin.get_all_plugin_paths()
    assert "transforms.blocks.WattierPlugin" in names
    return [name for name in names if name.startswith(("transforms.", "pipelines."))]


# --- no worker sees all --------------------------------------------------------------------------------------------------

ACCOUNTS, TIED = 100_000, 40_000


@pytest.fixture(scope="module")
def population() -> tuple[pa.Array, np.ndarray]:
    """(ids, amounts): 40 % tied at one value, the others skewed as customers are."""
    random = np.random.default_rng(7)
    amounts = np.exp(random.normal(12, 2, ACCOUNTS)).astype(np.int64) + 1
    amounts[random.permutation(ACCOUNTS)[:TIED]] = np.int64(180_000)
    return pa.array([f"A{number:09d}" for number in random.permutation(ACCOUNTS)]), amounts


def tier_inputs(place: Place, policy: Policy, ids: pa.Array, values: dict[str, np.ndarray]) -> tuple[list, list]:
    """What FoldFeatures gives CutOff for one day of this population: ladders, and state by shard."""
    found, states, store = [], [], place.store()
    shard = shard_of(ids, place.shards)
    for number in range(place.shards):
        rows = np.flatnonzero(shard == number)
        mine, some = ids.take(pa.array(rows)), {name: column[rows] for name, column in values.items()}
        rank = np.empty(len(rows), np.int64)
        rank[np.argsort(np.array(mine.to_pylist()))] = np.arange(len(rows))
        slots = pa.record_batch([mine, rank], schema=SLOTS_SCHEMA)
        entries = store.write_blocks(
            place.path("account_slots", number, "arrow"), "account_slots", number, [(-1, slots)]
        )
        slot, category = np.arange(len(rows)), np.zeros(len(rows), np.int8)
        block = tier_input(slot, category, None, tuple(some), some, {})
        entries += store.write_blocks(place.path(TIER_INPUT, number, "arrow"), TIER_INPUT, number, [(DAY, block)])
        states.append((number, state_block(entries)))
        version = policy.on(date_of(DAY))
        found += ladders(Slots(mine, rank), slot, DAY, version.rankings(), Scopes(category, None), some)
    return found, states


def exact(ids: pa.Array, values: np.ndarray, row: dict) -> tuple[int, str]:
    """Amount and id of the last account inside a cut, by sorting all accounts."""
    kind, num, den = row["kind"], row["cut_num"], row["cut_den"]
    order = np.lexsort((np.array(ids.to_pylist()), values if row["ranked"] == "smallest_first" else -values))
    running = np.cumsum(values[order])
    before = running - values[order]
    if kind == "share":
        last = int(np.flatnonzero(before.astype(object) * den < int(running[-1]) * num)[-1])
    else:
        last = -(-len(order) * num // den) - 1
    return int(values[order[last]]), ids[int(order[last])].as_py()


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 16, 64])
def test_no_step_of_the_cut_offs_handles_more_than_a_twentieth_of_the_accounts(
    shards: int, population: tuple[pa.Array, np.ndarray], tmp_path: Path
) -> None:
    ids, amounts = population
    place = Place(str(tmp_path), "data/000001-0/0001", shards)
    ranked = ranked_columns(POLICY.on(date_of(DAY)))
    values = {name: amounts if name == "wh_365d" else amounts - 180_000 for name in ranked}  # others are of either sign
    found, states = tier_inputs(place, POLICY, ids, values)
    p = beam.Pipeline(runner="FnApiRunner")
    inputs = {
        "ladders": p | "Ladders" >> beam.Create(found, reshuffle=False),
        "state": p | "States" >> beam.Create(states, reshuffle=False),
    }
    inputs | "CutOff" >> CutOff(place, POLICY)
    result = p.run()
    result.wait_until_finish()
    wanted = MetricsFilter().with_namespace("cutoffs").with_name("accounts_handled")
    handled = {found.key.step: found.committed.max for found in result.metrics().query(wanted)["distributions"]}
    assert sorted(step.split("/")[1] for step in handled) == ["FindBrackets", "Locate", "Resolve"]
    assert all(0 < most <= ACCOUNTS // 20 for most in handled.values()), handled
    (file,) = (tmp_path / "data/000001-0/0001/mart-cutoffs").iterdir()
    rows = pq.read_table(file).to_pylist()
    rankings = POLICY.on(date_of(DAY)).rankings()
    assert (
        len(rows) == sum(len(ranking.cuts) for ranking in rankings) > len(rankings[0].cuts)
    )  # one category has accounts
    for row in rows:
        expected = exact(ids, values[row["metric"]], row)
        assert (row["amount"], row["boundary_account_id"]) == expected
        assert row["customers"] == ACCOUNTS
        if row["ranked"] == "largest_first":
            assert int(inside(values[row["metric"]], ids, *expected).sum()) == row["inside_customers"]
