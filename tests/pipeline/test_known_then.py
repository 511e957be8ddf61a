"""*As known then*: the same sequence of deliveries gives the same marts, in whatever runs it is taken in."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.bureau import Bureau, assert_as_known, assert_balanced, assert_equal_marts
from tests.pipeline.test_known_now import WHOLE_RUNS
from tests.pipeline.worlds import World, worlds

BY_DELIVERY = ("revision: {column: revision}", "revision: delivery")


def deliveries(world: World, rng: random.Random, count: int) -> list[list]:
    """The world's events in so many parcels: reference data mostly first, the rest by day, some late by any time."""
    late = {n: n + (rng.randrange(len(world.events)) if rng.random() < 0.1 else 0) for n in range(len(world.events))}
    events = [event for _, event in sorted(zip(late.values(), world.events, strict=True), key=lambda pair: pair[0])]
    edges = sorted(rng.sample(range(1, len(events)), k=count - 1))
    return [events[start:end] for start, end in zip([0, *edges], [*edges, len(events)], strict=True)]


@pytest.mark.slow
@WHOLE_RUNS
@given(world=worlds(max_days=25), seed=st.integers(0, 2**32 - 1), by_delivery=st.booleans(), steps=st.booleans())
def test_any_chunks_of_runs_give_the_same_marts(tmp_path_factory, world, seed, by_delivery, steps):
    folder, rng = tmp_path_factory.mktemp("world"), random.Random(seed)
    changes = [BY_DELIVERY] if by_delivery else []
    step_by_step, at_once = (Bureau(folder / name, *changes, policy=world.policy) for name in ("steps", "once"))
    parcels = deliveries(world, rng, 3)
    through = world.days[1] - timedelta(days=rng.randrange(3)) if steps else None
    publications = []
    for number, parcel in enumerate(parcels):
        step_by_step.land_all(parcel)
        at_once.land_all(parcel)
        so_far = through and world.days[0] + (through - world.days[0]) * (number + 1) // len(parcels)
        step_by_step.run(so_far)
        publications.append((step_by_step.keep_marts(f"publication-{number}"), step_by_step.landed, so_far))
    at_once.run(through)
    assert_equal_marts(step_by_step.marts, at_once.marts, same_deliveries=True)
    assert_balanced(step_by_step)
    for marts, landed, so_far in publications:
        assert_as_known(marts, at_once.marts, at_once.config, landed, so_far)
