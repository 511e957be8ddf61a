"""What a stream's publisher keeps: where each topic stands, what it may publish, and how many files that takes."""

from __future__ import annotations

from datetime import timedelta
from threading import Event

import pytest

from pipelines import stream as streaming
from pipelines.cut import NO_LIMIT
from pipelines.stream import StreamSettings, begin, pump
from pipelines.stream_publish import StreamPublisher
from pipelines.warehouse import STREAM, Warehouse
from schemas.errors import StateError
from tests.pipeline.bureau import POLICY, Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.streams import Epochs
from tests.pipeline.test_stories import day, opened, used
from transforms import fold_meters, logs
from transforms.inbox import Cut, cut_path, landed_folder
from transforms.kafka_partitions import Partition
from transforms.storage import Entry, Store

pytestmark = pytest.mark.slow


@pytest.fixture
def bureau(tmp_path):
    return opened(Bureau(tmp_path / "bureau"))


def pumped(bureau: Bureau, epochs: Epochs) -> list[str]:
    """What `wattier stream` tells until all epochs are taken up and what may be published is."""
    with epochs.warehouse.lock():
        publisher = StreamPublisher(bureau.config, epochs.session.place.folder, audit=False)
        rounds = iter(range(2 * len(epochs.cuts) + 2))
        settings = StreamSettings(attach=True, publish_seconds=-1.0)
        return [str(told) for told in pump(publisher, None, settings, lambda: next(rounds, None) is None, Event())]


def test_a_published_day_that_changed_is_not_published_before_it_is_made_anew(tmp_path, bureau):
    correction = used(2, 2, names=("small",), revision=2, small=9_000)
    epochs = Epochs(bureau)
    bureau.land_all(correction)
    epochs.cut(through=None)  # the stream does not know yet how far days may close, and stops here
    epochs.run()
    assert pumped(bureau, epochs) == ["Nothing is published yet: it is not known how far service days may close."]
    assert bureau.run().restated_from == day(2)
    bureau.check()

    at_once = opened(Bureau(tmp_path / "once"))
    at_once.land_all(correction)
    at_once.run()
    assert_equal_marts(bureau.marts, at_once.marts, same_deliveries=True)


def test_rows_of_a_day_that_is_open_are_published_and_the_next_run_makes_the_day(tmp_path, bureau):
    epochs = Epochs(bureau)
    bureau.land_all(used(4, 4, names=("big",)))  # below the floor: the day stays open
    epochs.cut()
    epochs.run()
    assert len(pumped(bureau, epochs)) == 1
    assert bureau.query("SELECT max(service_date) FROM features") == [(day(3),)]
    bureau.check()
    bureau.land_all(used(4, 4, names=("middle", "small", "tiny")))
    bureau.run()
    at_once = opened(Bureau(tmp_path / "once"))
    at_once.land_all(used(4, 4, names=("big",)))
    at_once.land_all(used(4, 4, names=("middle", "small", "tiny")))
    at_once.run()
    assert_equal_marts(bureau.marts, at_once.marts, same_deliveries=True)
    assert_balanced(bureau)


def test_where_each_partition_begins_is_published_also_where_it_had_no_message(bureau, monkeypatch):
    silent = Partition("meter_readings", "meter-readings", 1, 7, 0)
    monkeypatch.setattr(streaming, "list_parts", lambda config, offsets: [silent])
    epochs = Epochs(bureau)
    bureau.land_all(used(4, 4))
    epochs.cut()
    epochs.run()
    epochs.publish()
    assert epochs.warehouse.load().header["stream"]["offsets"] == {silent.part: 7}
    bureau.land_all(used(5, 5))
    bureau.run()
    asked = []
    monkeypatch.setattr(streaming, "list_parts", lambda config, offsets: asked.append(offsets) or [silent])
    with epochs.warehouse.lock():
        begin(bureau.config, epochs.warehouse)
    assert asked == [{silent.part: 7}]


def test_a_publisher_with_another_policy_does_not_publish_what_the_job_makes(bureau):
    epochs = Epochs(bureau)
    bureau.set_policy(POLICY.replace("A: 50 %, B: 90 %", "A: 40 %, B: 90 %"))
    with pytest.raises(StateError, match="another policy"):
        StreamPublisher(bureau.config, epochs.session.place.folder)
    bureau.set_policy(POLICY.replace("reject_share_limit_ppm: 1000000", "reject_share_limit_ppm: 5"))
    StreamPublisher(bureau.config, epochs.session.place.folder)  # what the audit allows is the publisher's own affair


# --- small files


def entry(rows: int, number: int) -> Entry:
    return Entry("log:meters", 0, -1, -1, f"{number}.parquet", -1, rows, 1, "")


def test_files_of_about_one_size_are_put_together_and_large_ones_stay():
    files, written = [], 0
    for number in range(20_000):
        files.append(entry(10, number))
        if small := logs.to_merge(files):
            rows = sum(file.rows for file in small)
            written += rows
            files = [file for file in files if file not in small] + [entry(rows, -number)]
    assert sum(file.rows for file in files) == 200_000
    assert len(files) < 3 * logs.FAN_IN
    assert written <= 3 * 200_000, "a row is written again only as often as there are sizes"
    assert logs.to_merge([entry(logs.LARGE_ROWS, n) for n in range(100)]) == []


def test_a_log_of_small_files_is_put_together_and_still_audited_and_taken_back(tmp_path, monkeypatch):
    def every_third(files):
        return logs.to_merge(files, 3)

    monkeypatch.setattr(fold_meters, "to_merge", every_third)
    monkeypatch.setattr("pipelines.stream_publish.to_merge", every_third)
    merged, plain = (opened(Bureau(tmp_path / name, shards=1)) for name in ("merged", "plain"))
    epochs = Epochs(merged)
    for number in range(4, 12):
        for bureau in (merged, plain):
            bureau.land_all(used(number, number))
        epochs.cut()
    epochs.run()
    with epochs.warehouse.lock():
        publisher = StreamPublisher(merged.config, epochs.session.place.folder)
        while publisher.take():
            published = publisher.publish()
            assert published.held is None
    standing = epochs.warehouse.load()
    assert len(standing.of("log:meter_readings")) < len(epochs.cuts)
    assert_balanced(merged)
    merged.check()
    monkeypatch.setattr(fold_meters, "to_merge", lambda files: [])
    plain.run()
    assert_equal_marts(merged.marts, plain.marts, same_deliveries=True)
    rows = "SELECT * FROM accepted_readings ORDER BY ALL"
    assert merged.query(rows) == plain.query(rows)
    audited = merged.query("SELECT count(*) FROM data_quality_results WHERE NOT success AND severity = 'block'")
    assert audited == [(0,)]


def test_stretches_of_topics_resolve_though_the_register_does_not_hold_them(bureau, monkeypatch):
    monkeypatch.setattr("pipelines.stream_publish.to_merge", lambda files: logs.to_merge(files, 2))
    epochs = Epochs(bureau)
    before = epochs.warehouse.load()
    store, folder = epochs.warehouse.store, epochs.session.place.folder
    last = before.last_delivery
    for n in range(1, 6):
        epochs.cut()
        cut = Cut.read(store, folder, n)
        row = (last + n, "meter_readings", f"kafka:readings/0:{n - 1}-{n}", "", 0, 0, cut.known_at)
        row = (*row[:3], f"{n}", *row[4:])
        path = cut_path(folder, n)
        store.write_bytes(path, Cut(**{**vars(cut), "register": (row,)}).to_json().encode())
    epochs.run()
    epochs.publish(each=True)
    after = epochs.warehouse.load()
    assert after.deliveries.equals(before.deliveries)
    assert after.last_delivery == last + 5
    files = after.of("log:deliveries")
    assert len(files) < 5
    found = [row for file in files for row in store.read_parquet(file).to_pylist()]
    assert sorted(row["seq"] for row in found) == list(range(last + 1, last + 6))
    bureau.land_all(used(4, 4))
    bureau.run()
    assert epochs.warehouse.load().deliveries["seq"].to_pylist()[-1] == last + 6, "numbers are not given twice"


# --- garbage


def test_what_a_stream_started_from_is_no_garbage_while_it_is_the_last(bureau):
    epochs = Epochs(bureau)
    warehouse = Warehouse(bureau.config.warehouse)
    began = warehouse.store.read_json(STREAM)["generation"]
    for number in (4, 5, 6):
        bureau.land_all(used(number, number))
        epochs.cut(NO_LIMIT)
    epochs.run()
    epochs.publish(each=True)
    warehouse.collect_garbage(1)
    store = Store(warehouse.root)
    assert all(store.exists(entry.path) for entry in warehouse.read(began).entries)
    epochs.run()  # from the beginning, as a job without a checkpoint does
    bureau.check()


def test_copies_of_landed_files_go_once_they_are_published(bureau, monkeypatch):
    monkeypatch.setattr("pipelines.warehouse.STREAM_FILES_STAY", timedelta(days=-1))
    epochs = Epochs(bureau)
    bureau.land_all(used(4, 4))
    epochs.cut()
    epochs.run()
    kept = landed_folder(epochs.session.place.folder)
    epochs.warehouse.collect_garbage(1)
    assert len(epochs.warehouse.store.files(kept)) == 1
    epochs.publish()
    epochs.warehouse.collect_garbage(1)
    assert epochs.warehouse.store.files(kept) == []


def test_a_stream_that_may_not_publish_any_more_keeps_nothing(bureau):
    epochs = Epochs(bureau)
    bureau.land_all(used(4, 4))
    epochs.cut()
    epochs.run()
    bureau.run()
    epochs.warehouse.collect_garbage(1)
    assert epochs.warehouse.store.files(epochs.session.place.folder) == []
    bureau.check()
