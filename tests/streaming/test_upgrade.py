"""A job that is not the one before goes on from what that one published, and nothing differs."""

from __future__ import annotations

from datetime import date

import pytest

from tests.clusters import eventually
from tests.pipeline.bureau import WITH_ACTIONS, assert_equal_marts
from tests.pipeline.worlds import second_version
from tests.streaming.job import Utility

pytestmark = pytest.mark.slow


def test_a_changed_job_goes_on_from_the_snapshot(tmp_path, streams):
    utility = Utility(tmp_path / "bounded", 2_000, 8, WITH_ACTIONS)
    stream = streams(utility, writes=False)
    stream.start(parallelism=1, beam=("--job_name=before",))
    landed = list(utility.days.values())
    stream.feed([path for paths in landed[:4] for path in paths])
    stream.wait_through(date(2025, 1, 3), 600)
    stream.feed(landed[4])
    stream.stop()
    eventually(lambda: stream.jobs == [], 60, "the job, which has a name of its own, to end")
    before = stream.standing.number

    # More workers, steps that were not there, and a policy with a version that is valid from a later day.
    (utility.folder / "policy.yaml").write_text(
        second_version(date(2025, 1, 7), ("A: 50 %", "A: 45 %"), policy=WITH_ACTIONS)
    )
    stream.configure()
    stream.start(parallelism=2)
    for paths in landed[5:]:
        stream.feed(paths)
    stream.wait(600)
    stream.wait_through(date(2025, 1, 8), 600)
    stream.stop()
    assert stream.standing.number > before
    assert_equal_marts(stream.marts, utility.run(), same_deliveries=False)
    assert stream.query("SELECT DISTINCT policy_version FROM cutoffs ORDER BY ALL") == [("1",), ("2",)]
