"""Streams on the real cluster and broker. infra/ is imported from the checkout, after everything installed."""

from __future__ import annotations

import sys

import pytest

from tests.clusters import ROOT, Flink, Kafka
from tests.streaming.job import Landed, Stream

sys.path.append(str(ROOT))


@pytest.fixture
def streams(tmp_path, flink_cluster: Flink, kafka_broker: Kafka):
    """Makes streams; whatever still runs of them in the end is killed."""
    made: list[Stream] = []

    def make(utility: Landed, **settings: object) -> Stream:
        made.append(Stream(tmp_path / f"stream{len(made)}", utility, flink_cluster, kafka_broker, **settings))
        return made[-1]

    yield make
    for stream in made:
        stream.end()
