"""What a stream writes to topics, as messages: changes of tier, and rejected messages. Fields: `schemas.topics`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import apache_beam as beam
import pyarrow as pa

from schemas.labels import LANGS, label
from schemas.topics import TIER_CHANGE_SCHEMA, TIER_CHANGES
from transforms.blocks import Keyed, fact, kind_of
from transforms.kernels.messages import OFFSET
from transforms.write_kafka import KEY, VALUE


def change_messages(changes: pa.Table) -> pa.RecordBatch:
    """Rows of `TIER_CHANGES` as messages: columns key and value."""
    rows = changes.to_pylist()
    return _block([change_key(row) for row in rows], [_change(row) for row in rows])


def change_key(row: dict[str, Any]) -> str:
    """The key of a change: a change that is told again has it again. Of several with one key the last counts.

    A provisional change is known by the event that caused it, and by nothing that its answer rests on: told again after a
    failure, it may rest on another service day.

    >>> change_key({"account_id": "A1", "service_date": date(2025, 1, 2), "status": "final", "generation": 7})
    'A1|2025-01-02|final|7'
    >>> early = {"account_id": "A1", "service_date": date(2025, 1, 2), "status": "provisional", "event_id": "P8"}
    >>> change_key({**early, "source_part": "kafka:ledger-events/1", "source_offset": 42})
    'A1|provisional|P8|kafka:ledger-events/1:42'
    """
    if row["status"] == "provisional":
        return "{account_id}|{status}|{event_id}|{source_part}:{source_offset}".format(**row)
    return "{account_id}|{service_date}|{status}|{generation}".format(**row)


def _change(row: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"schema": TIER_CHANGE_SCHEMA, **row}
    for name in ("from_tier", "to_tier"):
        out[f"{name}_label"] = {lang: label("tier", row[name], lang) for lang in LANGS} if row[name] else None
    return out


def early_changes(rows: pa.RecordBatch) -> pa.Table:
    """Rows of the mart `provisional_tiers` as rows of `TIER_CHANGES`."""
    n = rows.num_rows
    named = {"service_date": "as_of", "to_tier": "tier"}
    found = {
        field.name: rows.column(name)
        for field in TIER_CHANGES.schema
        if (name := named.get(field.name, field.name)) in rows.schema.names
    }
    found["status"] = pa.array(["provisional"] * n, pa.string())
    columns = [found.get(field.name, pa.nulls(n, field.type)) for field in TIER_CHANGES.schema]
    return pa.table(columns, schema=TIER_CHANGES.schema)


@beam.typehints.with_output_types(Keyed)
class ToTierChanges(beam.DoFn):
    """(bucket, rows of the mart `provisional_tiers`) -> (bucket, messages)."""

    def process(self, element: Keyed) -> Iterator[Keyed]:
        """element: changes of one bucket."""
        yield element[0], change_messages(early_changes(element[1]))


@beam.typehints.with_output_types(Keyed)
class ToDeadLetters(beam.DoFn):
    """What is read from topics -> (index of the partition, messages), one for each message with a fault."""

    def process(self, element: Keyed) -> Iterator[Keyed]:
        """element: a block of rows or rejects; see `transforms.read_kafka`."""
        if kind_of(element[1]) == "rejects":
            yield element[0], dead_letters(element[1])


def dead_letters(rejects: pa.RecordBatch) -> pa.RecordBatch:
    """Rejects of a stretch as messages. The key is `PART:OFFSET`."""
    topic, partition = fact(rejects, "topic"), int(fact(rejects, "partition"))
    letters: dict[int, dict[str, Any]] = {}
    for row in rejects.to_pylist():
        told = {name: row[name] for name in ("reason", "column", "value")}
        first = {"topic": topic, "partition": partition, "offset": row[OFFSET], **told, "faults": 0}
        letters.setdefault(row[OFFSET], first)["faults"] += 1
    return _block([f"{fact(rejects, 'part')}:{offset}" for offset in letters], list(letters.values()))


def _block(keys: list[str], values: list[dict[str, Any]]) -> pa.RecordBatch:
    texts = [json.dumps(value, ensure_ascii=False, default=date.isoformat).encode() for value in values]
    return pa.record_batch([pa.array(keys, KEY.type), pa.array(texts, VALUE.type)], schema=pa.schema([KEY, VALUE]))
