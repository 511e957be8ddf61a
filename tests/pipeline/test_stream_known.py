"""A stream gives what bounded runs give, epoch by epoch and in the end."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.warehouse import Warehouse
from tests.pipeline.bureau import Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.streams import Epochs
from tests.pipeline.test_known_now import WHOLE_RUNS
from tests.pipeline.test_known_then import BY_DELIVERY, deliveries
from tests.pipeline.test_stories import day, opened, used
from tests.pipeline.worlds import worlds

pytestmark = pytest.mark.slow


@WHOLE_RUNS
@given(world=worlds(max_days=25), seed=st.integers(0, 2**32 - 1), by_delivery=st.booleans(), each=st.booleans())
def test_epochs_of_a_stream_give_the_marts_of_bounded_runs(tmp_path_factory, world, seed, by_delivery, each):
    folder, rng = tmp_path_factory.mktemp("world"), random.Random(seed)
    changes = [BY_DELIVERY] if by_delivery else []
    streamed, at_once = (Bureau(folder / name, *changes, policy=world.policy) for name in ("stream", "once"))
    epochs = Epochs(streamed)
    for parcel in deliveries(world, rng, 3):
        streamed.land_all(parcel)
        at_once.land_all(parcel)
        epochs.cut()
    epochs.run()
    epochs.publish(each=each)
    at_once.run()
    assert_equal_marts(streamed.marts, at_once.marts, same_deliveries=True)
    assert_balanced(streamed)


@WHOLE_RUNS
@given(
    world=worlds(max_days=25), seed=st.integers(0, 2**32 - 1), streams=st.lists(st.booleans(), min_size=4, max_size=4)
)
def test_runs_and_streams_by_turns_give_the_same_marts(tmp_path_factory, world, seed, streams):
    folder, rng = tmp_path_factory.mktemp("world"), random.Random(seed)
    by_turns, at_once = (Bureau(folder / name, policy=world.policy) for name in ("turns", "once"))
    for parcel, streaming in zip(deliveries(world, rng, 4), streams, strict=True):
        by_turns.land_all(parcel)
        at_once.land_all(parcel)
        if streaming:
            epochs = Epochs(by_turns)
            epochs.cut()
            epochs.run()
            epochs.publish()
        else:
            by_turns.run()
    at_once.run()
    assert_equal_marts(by_turns.marts, at_once.marts, same_deliveries=True)
    assert_balanced(by_turns)


def test_garbage_collection_spares_a_stream_at_work(tmp_path, monkeypatch):
    bureau = opened(Bureau(tmp_path / "bureau"))
    assert Warehouse(bureau.config.warehouse).collect_garbage(1)[0] >= 0
    epochs = Epochs(bureau)
    bureau.land_all(used(4, 4))
    epochs.cut()
    epochs.run()
    warehouse = Warehouse(bureau.config.warehouse)
    assert warehouse.collect_garbage(1) == (0, 0)
    epochs.publish()
    assert bureau.query("SELECT max(service_date) FROM features") == [(day(4),)]
    monkeypatch.setattr("pipelines.warehouse.STREAM_FILES_STAY", timedelta(days=-1))
    files, _ = warehouse.collect_garbage(1)
    assert files > 0
    bureau.check()
