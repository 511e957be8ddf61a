"""A stalled source is visible: who is waited for is written down by the cutter, and told of after a while, once."""

from __future__ import annotations

from datetime import date
from types import SimpleNamespace

import pytest

from pipelines import cut
from pipelines.cut import CutEpochs, Inputs, Pace
from pipelines.stalls import Stall, StallWatch, find_stalls, write_stalls
from schemas.metrics import METRICS
from transforms.blocks import tag
from transforms.epochs import NOTHING
from transforms.metrics import metric
from transforms.shards import Place
from transforms.storage import Store

NOON = 1_764_590_400
DAY = (date(2025, 11, 30) - date(1970, 1, 1)).days
A, B = "kafka:readings/0", "kafka:readings/1"


class Cell:
    """A state cell, and a timer."""

    value = None

    def read(self):
        return self.value

    def write(self, value):
        self.value = value

    set = write


class Cutter:
    """The cutter of two partitions, by hand."""

    def __init__(self, folder, monkeypatch):
        self.clock = SimpleNamespace(at=NOON)
        monkeypatch.setattr(cut, "time", SimpleNamespace(time=lambda: self.clock.at))
        inputs = Inputs(dict.fromkeys((A, B), "meter_readings"), dict.fromkeys((A, B), 0), None, 0, "")
        self.fn = CutEpochs(Place(str(folder), "s", 2), inputs, {}, Pace(5, 1000, 0, idle_seconds=30))
        self.state, self.next = Cell(), dict.fromkeys((A, B), 0)
        self.watch = StallWatch(Store(str(folder)), "s", 60)

    def mark(self, part, day=None, *, idle=False):
        first, self.next[part] = self.next[part], self.next[part] + (not idle)
        facts = {
            "part": part,
            "first": first,
            "next": self.next[part],
            "last_day": "" if day is None else day,
            "idle": int(idle),
        }
        block = tag(NOTHING, "mark", rows="1", **{name: str(value) for name, value in facts.items()})
        list(self.fn.process((0, block), self.state, Cell()))

    def after(self, seconds):
        """Time passes, then an epoch is cut; what is told."""
        self.clock.at += seconds
        list(self.fn.on_cut(self.state, Cell()))
        return list(self.watch.look(self.clock.at))


@pytest.fixture
def cutter(tmp_path, monkeypatch):
    return Cutter(tmp_path, monkeypatch)


def test_a_partition_that_holds_a_day_open_is_told_of_once_and_when_it_goes_on(cutter):
    cutter.mark(A, DAY)
    cutter.mark(B, DAY - 2)
    assert cutter.after(30) == []
    cutter.mark(A, DAY + 1)
    cutter.mark(B, DAY - 2)
    [told] = cutter.after(30)
    assert told.startswith(
        f"{B} holds service days open since 2025-12-01 12:00:00 UTC: it has come to 2025-11-28, others to"
    )
    cutter.mark(B, DAY - 2)
    assert cutter.after(30) == []
    cutter.mark(B, DAY + 1)
    assert cutter.after(1) == [f"{B} goes on."]


def test_a_partition_that_moves_or_is_idle_is_not_told_of(cutter):
    cutter.mark(A, DAY + 30)
    for day in range(DAY, DAY + 5):
        cutter.mark(A, DAY + 30)
        cutter.mark(B, day)
        assert cutter.after(50) == []
    cutter.mark(A, DAY + 30)
    cutter.mark(B, idle=True)
    assert cutter.after(50) == []


def test_silence_is_told_of_also_where_all_partitions_are_silent(cutter):
    cutter.mark(A, DAY)
    cutter.mark(B, DAY)
    told = cutter.after(200)
    assert [line.partition(" since")[0] for line in told] == [f"{part} shows no sign of life" for part in (A, B)]
    cutter.mark(A, idle=True)
    assert cutter.after(1) == [f"{A} goes on."]


def test_a_partition_that_never_brought_a_reading_is_told_of():
    [stall] = find_stalls({A: DAY, B: None}, {}, {A: 1, B: 1}, {A: 9, B: 9}, 0)
    assert stall == Stall(B, 1, None, DAY)
    assert "it has brought no reading yet, others to 2025-11-30" in str(stall)


def test_a_watch_without_a_file_says_nothing(tmp_path):
    store = Store(str(tmp_path))
    assert list(StallWatch(store, "s", 0).look(NOON)) == []
    write_stalls(store, "s", [])
    assert list(StallWatch(store, "s", 0).look(NOON)) == []


def test_every_metric_is_explained():
    assert len({one.name for one in METRICS}) == len(METRICS)
    with pytest.raises(KeyError, match="unheard_of"):
        metric("unheard_of")
