"""Blocks to a Kafka topic: each row is one message."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import confluent_kafka
import pyarrow as pa
from confluent_kafka import KafkaError

from schemas.errors import WattierError
from schemas.kafka import KafkaSettings
from transforms.blocks import Keyed
from transforms.metrics import metric

KEY = pa.field("key", pa.string())
VALUE = pa.field("value", pa.binary())

Producers = Callable[[dict[str, Any]], Any]


def open_producer(options: dict[str, Any]) -> Any:
    """The client's own producer; its class cannot be pickled, a function can."""
    return confluent_kafka.Producer(options)


def producer_options(settings: KafkaSettings) -> dict[str, str]:
    """Options of a producer that loses nothing and repeats nothing. Raises ConfigError for a variable that is not set."""
    return {
        "linger.ms": "20",
        "log_level": "2",
        **settings.client_options(os.environ),
        "acks": "all",
        "enable.idempotence": "true",
    }


@beam.typehints.with_input_types(Keyed)
@beam.typehints.with_output_types(None)
class WriteMessages(beam.DoFn):
    """Writes the columns `key` (string) and `value` (binary; null for a tombstone) of blocks to a topic.

    A bundle ends when the broker has confirmed all of its messages. A bundle that runs again writes them again: readers
    tell by the key. Raises WattierError, and the runner tries the bundle again.
    """

    def __init__(self, settings: KafkaSettings, topic: str, producers: Producers = open_producer) -> None:
        self.settings, self.topic, self.producers = settings, topic, producers
        self.written = metric("messages_out_{topic}", topic=topic)

    def setup(self) -> None:
        """One connection for all bundles."""
        self._failed: list[KafkaError] = []
        self._producer = self.producers(producer_options(self.settings))

    def start_bundle(self) -> None:
        """What failed before belongs to a bundle that ended with it."""
        self._failed.clear()

    def process(self, element: Keyed) -> None:
        """element: (anything, block with the columns key and value). Raises WattierError."""
        block = element[1]
        for key, value in zip(block.column("key").to_pylist(), block.column("value").to_pylist(), strict=True):
            self._send(key, value)
        self._producer.poll(0)
        self._check()
        self.written.inc(block.num_rows)

    def finish_bundle(self) -> None:
        """Wait for the broker. Raises WattierError."""
        waiting = self._producer.flush()
        self._check()
        if waiting:
            raise WattierError(f"kafka:{self.topic}: {waiting} messages were not confirmed.")

    def teardown(self) -> None:
        """Nothing waits any more: bundles do not end before."""
        self._producer = None

    def _send(self, key: str | None, value: bytes | None) -> None:
        while True:
            try:
                self._producer.produce(self.topic, key=key, value=value, on_delivery=self._delivered)
                return
            except BufferError:  # the client's queue is full
                self._producer.poll(0.1)
                self._check()
            except confluent_kafka.KafkaException as error:
                raise WattierError(f"kafka:{self.topic}: {error.args[0].str()}.") from None

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failed.append(error)

    def _check(self) -> None:
        if self._failed:
            raise WattierError(f"kafka:{self.topic}: a message was not written: {self._failed[0].str()}.")
