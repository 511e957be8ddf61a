"""When a stream publishes: as days close, when it is asked to, and when it stops."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest

from pipelines import stream as streaming
from pipelines import stream_publish
from pipelines.stream import Notice, StreamSettings, Waiting, pump, stream
from pipelines.stream_publish import Published, StreamPublisher
from schemas.errors import ConfigError, WattierError
from tests.pipeline.bureau import Bureau
from tests.pipeline.streams import Epochs
from tests.pipeline.test_provisional import changed
from tests.pipeline.test_stories import day, opened, reference, used
from tests.pipeline.worlds import ledger, reading
from transforms.epochs import epoch_folder

pytestmark = pytest.mark.slow

SELDOM = StreamSettings(audit=False, publish_seconds=1e9)
"""Only days that close are published by themselves."""


@pytest.fixture
def streamed(tmp_path):
    """A bureau whose first day is whole in a first epoch, and whose second epoch closes no day."""
    bureau = Bureau(tmp_path / "stream", shards=1)
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


def test_what_closes_no_day_waits_until_it_is_asked_for(streamed, monkeypatch):
    monkeypatch.setattr(streaming, "DRAIN_SECONDS", 0.0)
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


def test_what_is_there_is_taken_up_before_it_is_published(streamed):
    assert next(published(streamed, lambda: False)).epoch == 2


def test_while_changes_cannot_be_told_nothing_more_is_published(tmp_path, monkeypatch):
    bureau = opened(Bureau(tmp_path / "stream", shards=1))
    changed(bureau)
    epochs = Epochs(bureau)
    bureau.land_all([ledger("big", "c1", "charge", day(3), 10_000, due=day(3)), *used(4, 4)])
    epochs.cut()
    bureau.land_all([reading("m-unknown", day(4), 1, 1)])
    epochs.cut()
    epochs.run()
    answers = iter([WattierError("no broker"), WattierError("no broker")])
    told = []

    def tell(kafka, topic, changes):
        if (answer := next(answers, None)) is not None:
            raise answer
        told.append(changes)

    monkeypatch.setattr(stream_publish, "tell", tell)
    monkeypatch.setattr(streaming, "DRAIN_SECONDS", 0.0)
    monkeypatch.setattr(streaming, "TELL_SECONDS", 0.0)
    with epochs.warehouse.lock():
        publisher = StreamPublisher(bureau.config, epochs.session.place.folder, audit=False)
        settings = StreamSettings(audit=False, publish_seconds=-1.0)
        tells = pump(publisher, None, settings, lambda: publisher.epoch == 2 and not publisher.since.epochs, Event())
        said = [one.epoch if isinstance(one, Published) else str(one).split(";")[0] for one in tells]
    assert said == [
        1, "Changes of generation 2 are still to be told", "Changes of generation 2 are told.", 2,
    ]  # fmt: skip
    assert [changes.num_rows for changes in told] == [1]


def test_a_stop_says_so_where_nothing_may_be_published_yet(tmp_path):
    bureau = opened(Bureau(tmp_path / "stream"))
    epochs = Epochs(bureau)
    bureau.land_all(used(2, 2, names=("small",), revision=2, small=9_000))
    epochs.cut(through=None)
    epochs.run()
    with epochs.warehouse.lock():
        publisher = StreamPublisher(bureau.config, epochs.session.place.folder, audit=False)
        (told,) = pump(publisher, None, SELDOM, lambda: True, Event())
    assert isinstance(told, Notice)
    assert str(told) == "Nothing is published yet: it is not known how far service days may close."


def test_until_something_is_published_it_says_what_it_waits_for(tmp_path, monkeypatch):
    bureau = Bureau(tmp_path / "stream", shards=1)
    epochs = Epochs(bureau)
    bureau.land_all([*reference(), *used(0, 0, names=("big",))])
    cut = epochs.cut()
    epochs.run()
    monkeypatch.setattr(streaming, "SIGN_SECONDS", -1.0)
    monkeypatch.setattr(streaming, "POLL_SECONDS", 0.0)
    store, plan = epochs.warehouse.store, f"{epoch_folder(epochs.session.place.folder, cut.number)}/plan.json"
    decided = store.read_json(plan)
    rounds = iter(range(9))

    def stopped() -> bool:
        if (turn := next(rounds)) == 1:
            store.write_json(plan, decided)
        return turn == 4

    with epochs.warehouse.lock():
        publisher = StreamPublisher(bureau.config, epochs.session.place.folder, audit=False)
        (Path(bureau.config.warehouse) / plan).unlink()
        *signs, end = pump(publisher, None, SELDOM, stopped, Event())
    assert all(isinstance(told, Waiting) for told in signs)
    assert list(dict.fromkeys(map(str, signs))) == [
        "Waiting. The job has rows and is at work on them.",
        f"Waiting. 9 rows taken in; readings go on to {day(0)}; the first day not complete is {day(0)}, with 1 of 4 meters.",
    ]
    assert isinstance(end, Published)


def test_a_stream_on_prism_that_would_lose_state_is_refused(streamed):
    bureau, _ = streamed
    with pytest.raises(ConfigError, match="prism_disable_sdf_split"):
        next(stream(bureau.config, ["--runner=PrismRunner"], SELDOM))
