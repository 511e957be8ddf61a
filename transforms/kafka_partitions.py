"""Partitions of Kafka topics, without Beam: which there are, and a reader of one that outlives its bundles."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from schemas.errors import ConfigError, WattierError
from schemas.kafka import KafkaSettings
from schemas.mapping import SourceMapping
from transforms.parts import partition_part

HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 10.0
"""A broker that sent nothing for so long is not there: it answers a fetch within half a second, also with nothing."""

ANSWER_SECONDS = 10.0
WAITED_OUT = frozenset(
    (
        KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE, KafkaError.REQUEST_TIMED_OUT, KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.NETWORK_EXCEPTION,
        KafkaError.REPLICA_NOT_AVAILABLE, KafkaError.KAFKA_STORAGE_ERROR, KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH,
    )
)  # fmt: skip
"""Errors that pass once the broker is back."""

_LOG = logging.getLogger(__name__)

Consumers = Callable[[dict[str, Any]], Any]


def open_consumer(options: dict[str, Any]) -> Any:
    """The client's own consumer; its class cannot be pickled, a function can."""
    return confluent_kafka.Consumer(options)


@dataclass(frozen=True)
class Partition:
    """One partition to read: its source, its place in Kafka, the first offset wanted, and its number in the list."""

    source: str
    topic: str
    partition: int
    start: int
    index: int

    @property
    def part(self) -> str:
        """How facts and rejects name it."""
        return partition_part(self.topic, self.partition)

    def to_json(self) -> str:
        """As an element that needs no coder of its own."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Partition:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


# --- at submission ------------------------------------------------------------------------------------------------


def list_partitions(
    settings: KafkaSettings,
    mappings: Mapping[str, SourceMapping],
    starts: Mapping[tuple[str, int], int] | None = None,
    consumers: Consumers = open_consumer,
) -> list[Partition]:
    """The partitions of all topics that the mappings name, as the broker has them now; later ones count at the next start.

    Args:
        starts: (topic, partition) -> first offset wanted; the earliest there is where it says nothing.

    Raises: ConfigError where no broker answers or a topic does not exist; WattierError where an offset is not there.
    """
    consumer = consumers(consumer_options(settings))
    try:
        found = _topics(consumer, settings)
        shown = ", ".join(sorted(found)[:50]) or "none"
        for name in ("tier_changes_topic", "dead_letter_topic"):
            if (written := getattr(settings, name)) is not None and written not in found:
                raise ConfigError(f"kafka.{name}: {written!r}: no such topic; there are {shown}")
        out: list[Partition] = []
        given = dict(starts or {})
        for source, mapping in mappings.items():
            for topic in sorted(mapping.topics):
                if topic not in found:
                    raise ConfigError(f"sources.{source}.topics: {topic!r}: no such topic; there are {shown}")
                for number in found[topic]:
                    low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=ANSWER_SECONDS)
                    partition = Partition(source, topic, number, given.pop((topic, number), low), len(out))
                    if not low <= partition.start <= high:
                        raise _out_of_range(partition, partition.start, (low, high))
                    out.append(partition)
        for topic, number in given:
            raise WattierError(f"{partition_part(topic, number)}: was read before, but is not there any more.")
        return out
    except KafkaException as error:
        raise _unreachable(settings, error) from None
    finally:
        consumer.close()


def _topics(consumer: Any, settings: KafkaSettings) -> dict[str, list[int]]:
    """Topic -> its partitions. Raises ConfigError."""
    try:
        listed = consumer.list_topics(timeout=ANSWER_SECONDS).topics
    except KafkaException as error:
        raise _unreachable(settings, error) from None
    return {name: sorted(topic.partitions) for name, topic in listed.items() if not name.startswith("__")}


def _unreachable(settings: KafkaSettings, error: KafkaException) -> ConfigError:
    return ConfigError(
        f"kafka.bootstrap_servers: {settings.bootstrap_servers!r}: no broker answers ({error.args[0].str()}). Is it up, at that "
        "address, and do kafka.options fit it? (Here: python infra/kafka/broker.py up)"
    )


def _out_of_range(partition: Partition, offset: int, there: tuple[int, int] | None) -> WattierError:
    has = f"it has {there[0]} to {there[1]}" if there else "what it has is not known"
    return WattierError(
        f"{partition.part}: offset {offset} is not there; {has}. Messages that were not read yet have been deleted, or "
        "the topic was made anew. Bring them from another place, then start from an offset that is there."
    )


def consumer_options(settings: KafkaSettings) -> dict[str, str]:
    """Options of a consumer of one partition. Raises ConfigError for a variable that is not set."""
    return {
        "group.id": "wattier",
        "log_level": "2",  # what goes wrong is told once, and counted, by the reader
        "fetch.queue.backoff.ms": "20",
        "queued.max.messages.kbytes": "16384",
        **settings.client_options(os.environ),
        "enable.auto.commit": "false",
        "auto.offset.reset": "error",
        "enable.partition.eof": "true",
        "statistics.interval.ms": "1000",
    }


# --- one partition ------------------------------------------------------------------------------------------------


class PartitionReader:
    """The consumer of one partition. It stays where it is between bundles, and reads ahead."""

    def __init__(self, partition: Partition, options: dict[str, str], consumers: Consumers) -> None:
        self.partition = partition
        self.errors = 0
        self.beat_at = 0.0
        self.seen_at = time.monotonic()
        self._position = self._eof = -1
        self._away = False
        self._noted: list[KafkaError] = []
        self._told, self._told_at = "", 0.0
        self._consumer = consumers({**options, "error_cb": self._noted.append, "stats_cb": self._hear})

    def poll(self, position: int, most: int, wait_seconds: float) -> list[Any]:
        """At most `most` messages from an offset on: what is there, or comes while it waits for so many.

        Raises WattierError for an offset that is not there, and for what does not pass by itself.
        """
        if position != self._position:
            self._consumer.assign([TopicPartition(self.partition.topic, self.partition.partition, position)])
            self._position, self._eof = position, -1
        messages = []
        for message in self._consumer.consume(most, timeout=wait_seconds):
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._eof = message.offset()
            else:
                self._noted.append(error)
        if messages:
            self._position = messages[-1].offset() + 1
            self._away, self.seen_at = False, time.monotonic()
        self._judge()
        return messages

    @property
    def caught_up(self) -> bool:
        """Whether the broker had nothing more at the last look."""
        return self._eof >= self._position

    def at_end(self) -> bool:
        """Whether the broker answers, and has nothing left to read. It is not asked: that would wait for the open fetch."""
        fresh = time.monotonic() - self._told_at < 3 * HEARTBEAT_SECONDS
        high = high_watermark(self._told, self.partition) if fresh else None
        if high is None or high > max(self._position, self._eof):
            return False
        self._away = False
        return True

    def _hear(self, statistics: str) -> None:
        self._told, self._told_at = statistics, time.monotonic()

    def close(self) -> None:
        """Give the connection up."""
        self._consumer.close()

    def _judge(self) -> None:
        """Wait out what passes; raise for the rest."""
        noted, self._noted[:] = list(self._noted), []
        for error in noted:
            if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                raise _out_of_range(self.partition, self._position, self._there())
            if error.code() not in WAITED_OUT and not error.retriable():
                raise WattierError(f"{self.partition.part}: {error.str()}.")
            self.errors += 1
            self.seen_at = time.monotonic()
            if not self._away:
                self._away = True
                _LOG.warning("%s: the broker is away, waiting for it (%s)", self.partition.part, error.str())

    def _there(self) -> tuple[int, int] | None:
        try:
            place = TopicPartition(self.partition.topic, self.partition.partition)
            low, high = self._consumer.get_watermark_offsets(place, timeout=ANSWER_SECONDS)
        except KafkaException:
            return None
        return low, high


def high_watermark(statistics: str, partition: Partition) -> int | None:
    """The offset after the last message, from the client's statistics; None unless its broker answers.

    >>> said = {"topics": {"t": {"partitions": {"0": {"leader": 1, "hi_offset": 7}}}}}
    >>> said["brokers"] = {"b:9092/1": {"nodeid": 1, "state": "UP", "rxidle": 400_000}}
    >>> high_watermark(json.dumps(said), Partition("meter_readings", "t", 0, 0, 0))
    7
    """
    said = json.loads(statistics)
    here = said["topics"].get(partition.topic, {}).get("partitions", {}).get(str(partition.partition))
    for broker in said["brokers"].values():
        if here and broker["nodeid"] == here["leader"] and broker["state"] == "UP":
            silent = broker["rxidle"]
            return int(here["hi_offset"]) if 0 <= silent < SILENCE_SECONDS * 1e6 and here["hi_offset"] >= 0 else None
    return None


class Readers:
    """The readers of this process that no bundle holds right now. Each belongs to a pipeline: its DoFns close them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str], PartitionReader] = {}
        self._users: Counter[str] = Counter()

    def enter(self, owner: str) -> None:
        """One more DoFn of a pipeline."""
        with self._lock:
            self._users[owner] += 1

    def leave(self, owner: str) -> None:
        """One less; the last one closes."""
        with self._lock:
            self._users[owner] -= 1
            mine = [key for key in self._idle if key[0] == owner and not self._users[owner]]
            closing = [self._idle.pop(key) for key in mine]
        for reader in closing:
            reader.close()

    def take(self, owner: str, part: str, make: Callable[[], PartitionReader]) -> PartitionReader:
        """The reader of a partition, for one bundle alone."""
        with self._lock:
            reader = self._idle.pop((owner, part), None)
        return reader or make()

    def give_back(self, owner: str, reader: PartitionReader) -> None:
        """Keep a reader for the next bundle."""
        with self._lock:
            spare = (
                not self._users[owner] or self._idle.setdefault((owner, reader.partition.part), reader) is not reader
            )
        if spare:
            reader.close()
