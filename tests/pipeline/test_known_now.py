"""*As known now*: where rows carry revisions, no order, split or repetition of deliveries changes a published row."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.pipeline.bureau import Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.worlds import World, worlds

WHOLE_RUNS = settings(
    max_examples=2,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
"""An example is several whole runs: few of them, always the same, and none shrunk."""


def deliver(bureau: Bureau, world: World, rng: random.Random, runs: int) -> None:
    """Land a world in any order, some rows twice, in any files, in so many runs; the last run has the rest."""
    events = [*world.events, *rng.sample(world.events, k=len(world.events) // 10)]
    rng.shuffle(events)
    edges = sorted(rng.sample(range(1, len(events)), k=runs - 1))
    for start, end in zip([0, *edges], [*edges, len(events)], strict=True):
        some = events[start:end]
        middle = rng.randrange(len(some) + 1)
        bureau.land_all(some[:middle])
        bureau.land_all(some[middle:])
        bureau.run()


@pytest.mark.slow
@WHOLE_RUNS
@given(world=worlds(), seed=st.integers(0, 2**32 - 1), runs=st.integers(1, 3))
def test_any_order_split_and_repetition_gives_the_same_marts(tmp_path_factory, world, seed, runs):
    folder = tmp_path_factory.mktemp("world")
    at_once = Bureau(folder / "at_once", policy=world.policy)
    at_once.land_all(world.events)
    at_once.run()
    at_once.check()
    shuffled = Bureau(folder / "shuffled", policy=world.policy)
    deliver(shuffled, world, random.Random(seed), runs)
    assert_balanced(shuffled)
    shuffled.check()
    assert_equal_marts(at_once.marts, shuffled.marts, same_deliveries=False)
