"""What a stream does about faults that are not about single messages: docs/explanation/faults.md, "A stream"."""

from __future__ import annotations

import pytest

from pipelines.audit import WAIT
from pipelines.stream import StreamSettings, stream
from pipelines.stream_publish import StreamPublisher
from pipelines.warehouse import Warehouse
from schemas.errors import AuditFailed, ConfigError, Locked, StateError
from tests.pipeline.bureau import POLICY, Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.streams import Epochs
from tests.pipeline.test_stories import day, opened, reference, used
from tests.pipeline.worlds import reading

pytestmark = pytest.mark.slow


@pytest.fixture
def bureau(tmp_path):
    return Bureau(tmp_path / "bureau")


def publisher_of(epochs: Epochs) -> StreamPublisher:
    return StreamPublisher(epochs.bureau.config, epochs.session.place.folder, audit=False)


def test_a_landed_file_that_cannot_be_read_is_left_aside_and_named(bureau):
    epochs = Epochs(opened(bureau))
    bureau.land_all(used(4, 4))
    broken = bureau.land("meter_readings", [])
    broken.write_text("something,else\n1,2\n")
    epochs.cut()
    epochs.run()
    publisher = publisher_of(epochs)
    assert publisher.take()
    [fault] = publisher.faults()
    assert broken.name in fault
    assert "has no column" in fault
    publisher.publish()
    assert bureau.query("SELECT max(service_date) FROM features") == [(day(4),)]
    assert_balanced(bureau)


def test_after_an_audit_that_says_no_the_next_closed_day_brings_everything(bureau, monkeypatch, tmp_path):
    epochs = Epochs(opened(bureau))
    for number in (4, 5):
        bureau.land_all(used(number, number))
        epochs.cut()
    epochs.run()
    publisher = publisher_of(epochs)
    before = publisher.standing.number

    def no(*_: object, **__: object) -> None:
        raise AuditFailed("too many rejects")

    with monkeypatch.context() as patch:
        patch.setattr(publisher.publisher, "publish", no)
        assert publisher.take()
        held = publisher.publish()
    assert (held.held, held.generation) == ("too many rejects", before)
    assert "Held by the audit" in str(held)
    assert bureau.query("SELECT max(service_date) FROM features") == [(day(3),)]
    assert publisher.take()
    assert publisher.publish().generation == before + 1
    other = Bureau(tmp_path / "other")
    other.land_all([*reference(), *used(0, 3)])
    for number in (4, 5):
        other.land_all(used(number, number))
    other.run()
    assert_equal_marts(bureau.marts, other.marts, same_deliveries=True)
    assert_balanced(bureau)


def test_a_failed_audit_of_a_stream_says_that_more_may_outweigh_it_and_then_more_does(bureau):
    epochs = Epochs(opened(bureau))
    bureau.set_policy(POLICY.replace("reject_share_limit_ppm: 1000000", "reject_share_limit_ppm: 200000"))
    bureau.land_all([reading("m-big", day(4), -1, 1), reading("m-big", day(4), 5, 1)])
    epochs.cut()
    bureau.land_all(used(4, 4))
    epochs.cut()
    epochs.run()
    publisher = StreamPublisher(bureau.config, epochs.session.place.folder)
    assert publisher.take()
    held = publisher.publish().held
    assert "1 of 2 rows rejected (50 %). The last publication stands.\n" in held
    assert f"{WAIT}: meter_readings.reject_share\nRows were rejected for: 1 x energy_wh" in held
    assert publisher.take()
    assert publisher.publish().held is None, "1 of 6 rows since the last publication"


def test_what_names_an_unknown_account_waits_for_it(bureau):
    epochs = Epochs(bureau)
    bureau.land_all(used(0, 3))
    epochs.cut()
    bureau.land_all(reference())
    epochs.cut()
    epochs.run()
    first, second = epochs.publish(each=True)
    assert (first.through, second.through is not None) == (None, True)
    assert bureau.query("SELECT count(*) FROM pending") == [(0,)]
    assert bureau.query("SELECT max(service_date) FROM features") == [(day(3),)]
    assert_balanced(bureau)


def test_a_stream_is_refused_while_a_run_is_at_work(bureau):
    opened(bureau)
    with Warehouse(bureau.config.warehouse).lock(), pytest.raises(Locked, match="another run is at work"):
        next(stream(bureau.config, [], StreamSettings()))


def test_a_run_ends_the_claim_of_a_stream_whose_publisher_was_down(bureau):
    epochs = Epochs(opened(bureau))
    bureau.land_all(used(4, 4))
    assert bureau.run().published
    with pytest.raises(
        StateError, match=r"began with generation 1, but 2 stands: another run has published since"
    ) as error:
        publisher_of(epochs)
    assert error.value.exit_code == 8


def test_attaching_to_nothing_is_refused(bureau):
    opened(bureau)
    with pytest.raises(StateError, match="no stream was begun here"):
        next(stream(bureau.config, [], StreamSettings(attach=True)))


def test_topics_without_a_broker_are_a_fault_of_the_configuration(bureau):
    path = bureau.folder / "wattier.yaml"
    path.write_text(path.read_text().replace('files: "readings/readings-*"', "topics: readings"))
    with pytest.raises(ConfigError, match="kafka"):
        next(stream(bureau.config, [], StreamSettings()))


def test_a_stream_in_this_process_is_refused_with_the_runners_there_are(tmp_path):
    bureau = opened(Bureau(tmp_path / "bureau"))
    with pytest.raises(
        ConfigError, match=r"name a runner after --, .*--runner=PortableRunner for Flink .*--runner=PrismRunner"
    ):
        next(stream(bureau.config, [], StreamSettings()))
    assert bureau.run().generation == 1
