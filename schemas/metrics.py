"""What a stream tells of itself while it runs: the metrics of its steps, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NAMESPACE = "stream"
"""Beam's namespace of all of them."""


@dataclass(frozen=True)
class Metric:
    """One metric. name: with {placeholders}; a gauge holds the last value told, a distribution count, sum, least and most."""

    name: str
    kind: Literal["counter", "gauge", "distribution"]
    unit: str
    meaning: str


METRICS = (
    Metric("events_in_{source}", "counter", "rows", "Rows that messages of topics brought, rejected ones included"),
    Metric("events_rejected_{source}", "counter", "rows", "Of these, rejected where they were read"),
    Metric("events_accepted_{source}", "counter", "rows", "Rows accepted by the folds, from topics and files"),
    Metric("events_superseded_{source}", "counter", "rows", "Rows that another revision or a repetition stands for"),
    Metric("events_pending_{source}", "counter", "rows",
           "Rows found waiting for reference data, once for each epoch and shard that looked at them"),
    Metric("rows_taken", "counter", "rows", "Rows that went to the folds, of whole epochs"),
    Metric("append_lag_ms", "distribution", "ms", "From Kafka's time of the last message of a block to its reading"),
    Metric("broker_errors", "counter", "errors", "Errors of a broker that were waited out"),
    Metric("watermark_lag_days_{topic}_{partition}", "gauge", "days",
           "Today less the day that a partition has come to, late days and silence considered"),
    Metric("watermark_day", "gauge", "day since 1970", "Last service day that may close, by what all partitions have come to"),
    Metric("held_open_seconds", "gauge", "s",
           "For how long the slowest partition of readings has kept a day open that others have passed; 0: none does"),
    Metric("epochs_cut", "counter", "epochs", "Epochs cut"),
    Metric("epochs_{stage}", "counter", "epochs", "Epochs that a stage has done, summed over its shards"),
    Metric("fold_ms_{stage}", "counter", "ms",
           "Time that a stage took for its epochs, summed like them: divided by their number, how long a shard takes for one. "
           "Those of `features`, the cut-offs' stages and `tiers` make up a tick"),
    Metric("state_bytes_{stage}", "gauge", "bytes",
           "State cell of the shard that was done last, after an epoch: where the shard's files are"),
    Metric("days_made", "counter", "days", "Service days made"),
    Metric("days_restated", "counter", "days", "Of these, made anew"),
    Metric("restatements", "counter", "epochs", "Epochs that made published days anew"),
    Metric("provisional_changes", "counter", "changes", "Provisional changes of tier"),
    Metric("provisional_lag_ms", "distribution", "ms", "From Kafka's time of an event to its provisional tier"),
    Metric("messages_out_{topic}", "counter", "messages", "Messages written to a topic"),
)  # fmt: skip

BY_NAME = {metric.name: metric for metric in METRICS}
