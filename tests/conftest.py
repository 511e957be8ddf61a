"""Settings all tests share."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Here alone: a fixture that two conftests import is two fixtures, with a cluster each.
from tests.clusters import flink_cluster, kafka_broker

__all__ = ["flink_cluster", "kafka_broker"]

# No test asserts a time, so no example has a deadline; in CI the same examples run every time.
settings.register_profile("local", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
