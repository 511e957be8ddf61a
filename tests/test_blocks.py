"""Blocks and their coder: what goes in comes out, equal blocks give equal bytes, and nothing is lost by sharding."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.coders import Coder, registry
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from schemas.inbound import SOURCES
from schemas.marts import MARTS
from transforms import cutoffs, fold_days, fold_features, fold_meters, fold_reference, fold_tiers, shards, storage
from transforms.blocks import (
    URN,
    BlockCoder,
    Keyed,
    by_kind,
    concat,
    fact,
    group,
    kind_of,
    one_batch,
    split,
    split_by_id,
    tag,
)
from transforms.kernels import order_statistics, readings, windows
from transforms.kernels.keys import shard_of

CODER = BlockCoder()


def every_schema() -> Iterator[tuple[str, pa.Schema]]:
    """All relations, and every schema that a module of transforms names."""
    for relation in (*SOURCES.values(), *MARTS.values()):
        yield relation.name, relation.schema
    modules = (
        cutoffs, fold_days, fold_features, fold_meters, fold_reference, fold_tiers, shards, storage, order_statistics,
        readings, windows,
    )  # fmt: skip
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, pa.Schema):
                yield f"{module.__name__}.{name}", value


SCHEMAS = dict(every_schema())


def rows_of(schema: pa.Schema, n: int, start: int = 0) -> pa.RecordBatch:
    """n rows with different values; every other one null where the schema allows it."""

    def value(field: pa.Field, row: int) -> object:
        if field.nullable and row % 2:
            return None
        if pa.types.is_boolean(field.type):
            return row % 3 == 0
        return f"户{row}" if pa.types.is_string(field.type) else row

    columns = []
    for field in schema:
        plain = pa.int32() if pa.types.is_date(field.type) else field.type
        columns.append(pa.array([value(field, start + row) for row in range(n)], plain).cast(field.type))
    return pa.record_batch(columns, schema=schema)


@pytest.mark.parametrize("n", [0, 1, 17])
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_block_of_every_schema_round_trips(name: str, n: int) -> None:
    batch = rows_of(SCHEMAS[name], n)
    again = CODER.decode(CODER.encode(batch))
    again.validate(full=True)
    assert again.equals(batch, check_metadata=True)
    assert again.schema.equals(batch.schema, check_metadata=True)


@pytest.mark.parametrize("name", SCHEMAS)
def test_equal_blocks_give_equal_bytes(name: str) -> None:
    """However they came about: made, cut out of a longer one, or decoded."""
    made, part = rows_of(SCHEMAS[name], 13, start=5), rows_of(SCHEMAS[name], 29).slice(5, 13)
    assert made.equals(part)
    bytes_of_it = CODER.encode(made)
    assert CODER.encode(part) == bytes_of_it
    assert CODER.encode(CODER.decode(bytes_of_it)) == bytes_of_it
    assert CODER.is_deterministic()


def test_a_slice_carries_its_own_rows_only() -> None:
    whole = rows_of(SCHEMAS["meters"], 10_000)
    assert CODER.encode(whole.slice(0, 1)) == CODER.encode(rows_of(SCHEMAS["meters"], 1))


def test_dictionary_columns_round_trip() -> None:
    batch = pa.record_batch({"tier": pa.array(["high", None, "low", "high"]).dictionary_encode(), "n": [1, 2, 3, 4]})
    for block in (batch, batch.slice(1, 2), batch.slice(4)):
        again = CODER.decode(CODER.encode(block))
        assert again.equals(block)
        assert again.schema == batch.schema


def test_the_coder_is_found_by_type_and_by_urn() -> None:
    assert isinstance(registry.get_coder(pa.RecordBatch), BlockCoder)
    assert CODER.to_runner_api_parameter(None) == (URN, None, ())
    context = PipelineContext()
    assert Coder.from_runner_api(CODER.to_runner_api(context), context) == CODER
    assert CODER.to_type_hint() is pa.RecordBatch


def test_tags_say_what_a_block_holds() -> None:
    plain = rows_of(SCHEMAS["meters"], 3)
    tagged = CODER.decode(CODER.encode(tag(plain, "meters", ranking="16000|wh_30d|all")))
    assert (kind_of(tagged), fact(tagged, "ranking")) == ("meters", "16000|wh_30d|all")
    assert tagged.equals(plain)
    found = by_kind([tagged, tag(plain, "state"), tagged])
    assert {kind: len(blocks) for kind, blocks in found.items()} == {"meters": 2, "state": 1}


def test_blocks_of_a_kind_become_one_table() -> None:
    schema = SCHEMAS["meters"]
    blocks = [tag(rows_of(schema, 2), "meters"), tag(rows_of(schema, 0), "meters"), rows_of(schema, 3)]
    table = concat(blocks, schema)
    assert table.num_rows == 5
    assert all(column.num_chunks == 1 for column in table.columns)
    assert concat([], schema).num_rows == 0
    assert one_batch(concat([], schema)).num_rows == 0
    assert one_batch(table).num_rows == 5


@given(st.lists(st.text(max_size=5)), st.integers(1, 64))
def test_sharding_keeps_every_row_once_and_in_order(ids: list[str], count: int) -> None:
    batch = pa.record_batch({"id": pa.array(ids, pa.string()), "row": pa.array(range(len(ids)), pa.int64())})
    parts = list(split_by_id(batch, "id", count))
    assert sorted(row for _, part in parts for row in part.column("row").to_pylist()) == list(range(len(ids)))
    for number, part in parts:
        assert set(shard_of(part.column("id"), count).tolist()) == {number}
        assert part.column("row").to_pylist() == sorted(part.column("row").to_pylist())
    assert len({number for number, _ in parts}) == len(parts)


def test_keys_are_plain_integers() -> None:
    batch = pa.record_batch({"row": [1, 2, 3]})
    assert [(type(key), key, part.num_rows) for key, part in split(batch, np.array([5, 0, 5], np.int32))] == [
        (int, 0, 1), (int, 5, 2),
    ]  # fmt: skip


def test_blocks_of_several_kinds_are_grouped_by_shard() -> None:
    def kinds(element: tuple[int, list[pa.RecordBatch]]) -> tuple[int, list[str]]:
        return element[0], sorted(kind_of(block) for block in element[1])

    states = [(shard, tag(rows_of(SCHEMAS["meters"], 1), "state")) for shard in range(2)]
    meters = [(1, tag(rows_of(SCHEMAS["meters"], 2), "meters"))]
    with beam.Pipeline(runner="FnApiRunner") as p:
        inputs = [p | name >> beam.Create(values, reshuffle=False) for name, values in (("S", states), ("M", meters))]
        typed = [pcoll | f"{n}" >> beam.Map(lambda e: e).with_output_types(Keyed) for n, pcoll in enumerate(inputs)]
        assert_that(group(typed, "ByShard") | beam.Map(kinds), equal_to([(0, ["state"]), (1, ["meters", "state"])]))
