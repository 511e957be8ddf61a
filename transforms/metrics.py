"""Metrics of a stream's steps: made by the name that `schemas.metrics` explains, so that none goes unexplained."""

from __future__ import annotations

from typing import Any

from apache_beam.metrics import Metrics

from schemas.metrics import BY_NAME, NAMESPACE


def metric(name: str, **of: object) -> Any:
    """A counter, gauge or distribution. name: as `schemas.metrics` has it; of: its placeholders. Raises KeyError.

    >>> metric("events_in_{source}", source="meters").metric_name.name
    'events_in_meters'
    """
    make = {"counter": Metrics.counter, "gauge": Metrics.gauge, "distribution": Metrics.distribution}
    return make[BY_NAME[name].kind](NAMESPACE, name.format(**of))
