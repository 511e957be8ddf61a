"""When a stream publishes: as days close, when it is asked to, and when it stops."""

from __future__ import annotations

from threading import Event

import pytest

from pipelines.stream import StreamSettings, pump, stream
from pipelines.stream_publish import Published, StreamPublisher
from schemas.errors import ConfigError
from tests.pipeline.bureau import Bureau
from tests.pipeline.streams import Epochs
from tests.pipeline.test_stories import day, reference, used
from tests.pipeline.worlds import reading

SELDOM = StreamSettings(audit=False, publish_seconds=1e9)
"""Only days that close are published by themselves."""


@pytest.fixture
def streamed(tmp_path):
    """A bureau whose first day is whole in a first epoch, and whose second epoch closes no day."""
    bureau = Bureau(tmp_path / "stream")
    bureau.land_all([*reference(), *used(0, 1)])
    epochs = Epochs(bureau)
    epochs.cut()
    bureau.land_all([reading("m-unknown", day(1), 1, 1)])
    epochs.cut()
    epochs.run()
    return bureau, epochs


def published(streamed, stopped, asked=None):
    """What a stream without a job publishes until it is stopped."""
    bureau, epochs = streamed
    with epochs.warehouse.lock():
        publisher = StreamPublisher(bureau.config, epochs.session.place.folder, audit=False)
        for told in pump(publisher, None, SELDOM, stopped, asked or Event()):
            assert isinstance(told, Published)
            yield told


def test_a_stop_publishes_what_is_written(streamed):
    assert [told.epoch for told in published(streamed, lambda: True)] == [2]


def test_what_closes_no_day_waits_until_it_is_asked_for(streamed):
    asked, polls = Event(), iter(range(100))

    def stopped() -> bool:
        if next(polls) == 5:
            asked.set()
        return False

    tells = published(streamed, stopped, asked)
    assert next(tells).epoch == 1
    assert next(tells).epoch == 2
    assert next(polls) >= 5
    tells.close()


def test_a_stream_on_prism_that_would_lose_state_is_refused(streamed):
    bureau, _ = streamed
    with pytest.raises(ConfigError, match="prism_disable_sdf_split"):
        next(stream(bureau.config, ["--runner=PrismRunner"], SELDOM))
