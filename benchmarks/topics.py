"""A simulated utility as topics: one JSON object a message, and the same rows as Arrow, some thousand a message.

Readings lie in two partitions, half of each day in each, day after day. Nothing here is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 2
ARROW_ROWS = 5_000
"""Rows of one Arrow message."""


def create(address: str, topics: Iterable[str]) -> None:
    """Topics anew: what they held is gone."""
    admin = AdminClient({"bootstrap.servers": address})
    there = [topic for topic in topics if topic in admin.list_topics(timeout=10).topics]
    for gone in admin.delete_topics(there).values() if there else ():
        gone.result()
    for made in admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics]).values():
        made.result()


def feed(address: str, topic: str, files: Iterable[Path], payload: str) -> int:
    """Send the rows of Parquet files, in their order. Returns how many rows."""
    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    messages = json_messages if payload == "json" else arrow_messages
    sent = 0
    for path in files:
        table = pq.read_table(path)
        for partition, message in messages(table):
            while True:
                try:
                    producer.produce(topic, message, partition=partition)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.poll(0)
        sent += table.num_rows
    producer.flush()
    return sent


def json_messages(table: pa.Table) -> Iterator[tuple[int, str]]:
    """(partition, JSON object) of each row. A number keeps its digits, an empty field is left out."""
    fields = []
    for field in table.schema:
        bare = pa.types.is_decimal(field.type) or pa.types.is_integer(field.type)
        before, after = (f'"{field.name}":', "") if bare else (f'"{field.name}":"', '"')
        fields.append(f"'{before}' || {field.name} || '{after}'")
    with duckdb.connect() as con:
        con.register("rows", table)
        texts = con.sql(
            f"SELECT '{{' || concat_ws(',', {', '.join(fields)}) || '}}' AS text FROM rows"
        ).to_arrow_table()
    for at, text in enumerate(texts["text"].to_pylist()):
        yield at % PARTITIONS, text


def arrow_messages(table: pa.Table) -> Iterator[tuple[int, bytes]]:
    """(partition, Arrow IPC stream) of every so many rows."""
    for at, batch in enumerate(table.combine_chunks().to_batches(max_chunksize=ARROW_ROWS)):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        yield at % PARTITIONS, sink.getvalue().to_pybytes()
