"""Whatever is told late, days put right for some accounts are what all events at once give."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipelines.restate
from tests.pipeline.bureau import Bureau, assert_balanced
from tests.pipeline.test_known_now import WHOLE_RUNS
from tests.pipeline.worlds import worlds


@pytest.mark.slow
@WHOLE_RUNS
@given(world=worlds(), seed=st.integers(0, 2**32 - 1))
def test_worlds_told_day_by_day_and_late(tmp_path_factory, world, seed):
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines.restate, "MOST_PPM", rng.choice((10**9, 300_000)))
        patch.setattr(pipelines.restate, "LEAST_DAYS", 1)
        patch.setattr(pipelines.restate, "DAYS_AT_ONCE", 7)
        bureau = Bureau(tmp_path_factory.mktemp("world") / "bureau", policy=world.policy)
        n = len(world.events)
        late = {at: at + (rng.randrange(n // 3) if rng.random() < 0.1 else 0) for at in range(n)}
        events = [event for _, event in sorted(zip(late.values(), world.events, strict=True), key=lambda pair: pair[0])]
        edges = sorted(rng.sample(range(n // 3, n), k=4))
        for start, end in zip([0, *edges], [*edges, n], strict=True):
            bureau.land_all(events[start:end])
            bureau.run()
        assert_balanced(bureau)
        bureau.check()
