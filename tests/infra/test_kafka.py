"""A real broker: topics are made, messages of 10 MB pass, and data outlives a stop."""

from __future__ import annotations

import pytest

from infra.processes import Run
from tests.clusters import BROKER, Kafka, call, command

confluent_kafka = pytest.importorskip("confluent_kafka", reason="needs the confluent-kafka package")
AdminClient = pytest.importorskip("confluent_kafka.admin").AdminClient

pytestmark = pytest.mark.slow


def produce(broker: Kafka, topic: str, *values: bytes) -> None:
    settings = {"bootstrap.servers": broker.address, "message.max.bytes": 11_000_000, "acks": "all"}
    producer = confluent_kafka.Producer(settings)
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def consume(broker: Kafka, topic: str, number: int) -> list[bytes]:
    """The first messages of partition 0, without a group."""
    settings = {"bootstrap.servers": broker.address, "group.id": "test", "enable.auto.commit": False}
    consumer = confluent_kafka.Consumer(settings)
    try:
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, confluent_kafka.OFFSET_BEGINNING)])
        messages = consumer.consume(number, timeout=30)
        assert [message.error() for message in messages] == [None] * number
        return [message.value() for message in messages]
    finally:
        consumer.close()


def test_the_topics_are_there(kafka_broker):
    listed = AdminClient({"bootstrap.servers": kafka_broker.address}).list_topics(timeout=30)
    there = {name: len(topic.partitions) for name, topic in listed.topics.items() if not name.startswith("__")}
    assert kafka_broker.about["topics"].items() <= there.items()  # other tests may have added theirs
    assert there["meter-readings"] == 2


def test_data_outlives_a_stop(kafka_broker):
    large = bytes(10 * 2**20)
    produce(kafka_broker, "accounts", b"one", large)

    kafka_broker.stop()
    assert Run(kafka_broker.folder).members() == []
    kafka_broker.start()

    assert consume(kafka_broker, "accounts", 2) == [b"one", large]


def test_a_topic_that_does_not_exist_is_an_error_and_is_not_made(kafka_broker):
    admin = AdminClient({"bootstrap.servers": kafka_broker.address})
    for _ in range(2):
        asked = admin.list_topics("no-such-topic", timeout=30).topics["no-such-topic"]
        assert asked.error.code() == confluent_kafka.KafkaError.UNKNOWN_TOPIC_OR_PART


def test_up_again_adds_topics_and_wipe_removes_the_data(kafka_broker):
    own = ["--run-dir", kafka_broker.folder, "--port", kafka_broker.port]
    again = call(BROKER, "up", *own, "--topic", "more:3")
    assert again["already_up"] is True
    assert again["topics"]["more"] == 3
    assert command(BROKER, "up", "--run-dir", kafka_broker.folder, "--port", kafka_broker.port + 5).returncode == 1

    assert call(BROKER, "down", "--run-dir", kafka_broker.folder, "--wipe") == {"stopped": True}
    assert not (kafka_broker.folder / "data").exists()
    kafka_broker.start()
    assert "more" not in kafka_broker.about["topics"]
