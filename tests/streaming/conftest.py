"""The cluster and the broker, for every test of a stream."""

from tests.clusters import flink_cluster, kafka_broker

__all__ = ["flink_cluster", "kafka_broker"]
