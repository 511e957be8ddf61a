"""Landed files of a stream: read as they were when they were cut, and left aside, by name, where they cannot be read."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.coders import TupleCoder, VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream

from pipelines.cut import NO_LIMIT, CutEpochs, Inputs, Pace
from pipelines.stream import Session, begin
from pipelines.stream_publish import StreamPublisher
from pipelines.warehouse import Warehouse
from schemas.errors import FileFault, StateError, WattierError
from tests.pipeline.bureau import Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.streams import Epochs
from tests.pipeline.test_stories import day, opened, reference, used
from transforms.blocks import BlockCoder, kind_of, tag
from transforms.epochs import NOTHING
from transforms.inbox import Cut, RouteDelivery, cut_path, landed_folder
from transforms.read_files import fault_path

pytestmark = pytest.mark.slow


@pytest.fixture
def bureau(tmp_path):
    return opened(Bureau(tmp_path / "bureau"))


def routed(epochs: Epochs, cut: Cut) -> list[tuple[int, dict]]:
    """What a worker makes of an epoch's files: bucket and rows."""
    route = RouteDelivery(epochs.session.place, epochs.bureau.config.sources)
    blocks = [keyed for text in cut.deliveries for keyed in route.process((cut.number, text))]
    return [(bucket, block.to_pydict()) for bucket, block in blocks]


@pytest.mark.parametrize("fate", ["mended", "removed"])
def test_a_file_is_read_again_as_it_was_when_it_was_cut(bureau, fate):
    epochs = Epochs(bureau)
    path = bureau.land("meter_readings", [row for _, row in used(4, 4)])
    cut = epochs.cut()
    first = routed(epochs, cut)
    assert sum(len(rows["meter_id"]) for _, rows in first if rows) == 4
    if fate == "mended":
        path.write_text(path.read_text().replace("0.1", "0.9"))
    else:
        path.unlink()
    assert routed(epochs, cut) == first


def test_a_file_that_changed_after_its_copy_was_removed_is_not_read(bureau):
    epochs = Epochs(bureau)
    path = bureau.land("meter_readings", [row for _, row in used(4, 4)])
    cut = epochs.cut()
    first = routed(epochs, cut)
    store = epochs.warehouse.store
    (kept,) = store.files(landed_folder(epochs.session.place.folder))
    store.fs.delete_file(kept.path)
    assert routed(epochs, cut) == first, "what it was is still there"
    path.write_text("another\n")
    with pytest.raises(StateError, match="start the stream anew"):
        routed(epochs, cut)


def test_a_mended_file_is_a_delivery_of_its_own(tmp_path, bureau):
    epochs = Epochs(bureau)
    path = bureau.land("meter_readings", [row for _, row in used(4, 4)])
    epochs.cut()
    path.write_text(path.read_text() + ",".join(used(5, 5)[0][1]) + "\n")
    cut = epochs.cut()
    assert len(cut.deliveries) == 1
    epochs.run()
    epochs.publish()
    bureau.check()
    at_once = opened(Bureau(tmp_path / "once"))
    at_once.land("meter_readings", [row for _, row in used(4, 4)])
    at_once.run()
    at_once.land("meter_readings", [*(row for _, row in used(4, 4)), used(5, 5)[0][1]])
    at_once.run()
    assert_equal_marts(bureau.marts, at_once.marts, same_deliveries=True)


def test_a_file_that_cannot_be_read_is_left_aside_and_taken_in_under_another_name(bureau):
    epochs = Epochs(bureau)
    bad = bureau.land("meter_readings", [row for _, row in used(4, 4)], "readings-20250301.dat")
    epochs.cut()
    epochs.run()
    with epochs.warehouse.lock():
        publisher = StreamPublisher(bureau.config, epochs.session.place.folder, audit=False)
        assert publisher.take()
        (told,) = publisher.faults()
        assert str(bad) in told
        assert "suffix" in told
        publisher.publish()
    assert bureau.query("SELECT max(service_date) FROM features") == [(day(3),)]
    with pytest.raises(WattierError, match="suffix"):
        bureau.run()
    bad.rename(bad.with_suffix(".csv"))
    bureau.run()
    assert bureau.query("SELECT max(service_date) FROM features") == [(day(4),)]
    bureau.check()


def test_what_came_of_a_file_the_first_time_stays_so(bureau):
    epochs = Epochs(bureau)
    bureau.land("meter_readings", [row for _, row in used(4, 4)])
    cut = epochs.cut()
    store, place = epochs.warehouse.store, epochs.session.place
    (seq,) = cut.seqs.values()
    store.write_json(fault_path(place.folder, seq), {"message": "it could not be read", "exit_code": 3})
    assert [rows for _, rows in routed(epochs, cut) if rows] == []
    store.fs.delete_file(store.full(fault_path(place.folder, seq)))
    routed(epochs, cut)
    (kept,) = store.files(landed_folder(place.folder))
    Path(kept.path).write_text("")
    with pytest.raises(FileFault, match="is empty"):
        routed(epochs, cut)
    assert not store.exists(fault_path(place.folder, seq))


# --- the cutter


class Cutter:
    """The cutter of a stream of files, without what follows it."""

    def __init__(self, bureau: Bureau) -> None:
        self.bureau, self.warehouse = bureau, Warehouse(bureau.config.warehouse)
        with self.warehouse.lock():
            self.session: Session = begin(bureau.config, self.warehouse)

    def run(self) -> None:
        """Cut what has landed; each time from the beginning, as after a failure without a checkpoint."""
        inputs: Inputs = self.session.inputs
        source = test_stream.TestStream(coder=TupleCoder([VarIntCoder(), BlockCoder()]))
        source = source.add_elements([(0, tag(NOTHING, "start"))]).advance_watermark_to_infinity()
        options = PipelineOptions(["--runner=BundleBasedDirectRunner", "--streaming"])
        with beam.Pipeline(options=options) as p:
            cutter = CutEpochs(self.session.place, inputs, self.bureau.config.sources, Pace())
            p | source | beam.ParDo(cutter).with_outputs("plan", "deliveries", main="cuts")

    @property
    def cuts(self) -> list[Cut]:
        """What is written down."""
        store, folder, found = self.session.place.store(), self.session.place.folder, []
        while store.exists(cut_path(folder, len(found) + 1)):
            found.append(Cut.read(store, folder, len(found) + 1))
        return found


def test_bad_names_do_not_stop_the_cutter(tmp_path):
    bureau = Bureau(tmp_path / "bureau")
    bureau.land_all([*reference(), *used(0, 3)])
    bad = bureau.land("meter_readings", [row for _, row in used(4, 4)], "readings-today.csv")
    cutter = Cutter(bureau)
    cutter.run()
    (cut,) = cutter.cuts
    assert len(cut.deliveries) == 3
    (told,) = cut.aside
    assert str(bad) in told
    assert "holds no day" in told
    cutter.run()
    assert len(cutter.cuts) == 1, "it is told once"
    bad.rename(bad.with_name("readings-20250301.csv"))
    cutter.run()
    assert [len(cut.deliveries) for cut in cutter.cuts] == [3, 1]
    assert cutter.cuts[-1].through == NO_LIMIT


def test_a_file_with_a_fault_counts_once_its_name_is_mended(bureau):
    bad = bureau.land("meter_readings", [row for _, row in used(4, 4)], "readings-20250301.dat")
    cutter = Cutter(bureau)
    cutter.run()
    (cut,) = cutter.cuts
    list(RouteDelivery(cutter.session.place, bureau.config.sources).process((1, cut.deliveries[0])))
    bad.rename(bad.with_suffix(".csv"))
    cutter.run()
    assert [len(cut.deliveries) for cut in cutter.cuts] == [1, 1]


def test_a_bad_name_is_told_by_the_publisher_and_stops_a_bounded_run(bureau):
    epochs = Epochs(bureau)
    bureau.land_all(used(4, 4))
    bureau.land("meter_readings", [row for _, row in used(5, 5)], "readings-today.csv")
    epochs.cut()
    epochs.run()
    with epochs.warehouse.lock():
        publisher = StreamPublisher(bureau.config, epochs.session.place.folder, audit=False)
        assert publisher.take()
        assert len(publisher.faults()) == 1
        publisher.publish()
    assert bureau.query("SELECT max(service_date) FROM features") == [(day(4),)]
    with pytest.raises(FileFault, match="holds no day"):
        bureau.run()


def test_files_delivered_again_are_counted(bureau):
    epochs = Epochs(bureau)
    path = bureau.land("meter_readings", [row for _, row in used(4, 4)])
    epochs.cut()
    path.rename(path.with_name("readings-20250401.csv"))
    cut = epochs.cut()
    assert (cut.deliveries, kind_of(cut.to_block())) == ((), "epoch")
    epochs.run()
    epochs.publish()
    found = bureau.query(
        "SELECT files, files_redelivered FROM pipeline_runs WHERE generation = 2 AND source = 'meter_readings'"
    )
    assert found == [(1, 1)]
    assert_balanced(bureau)
