"""Files of the warehouse: written whole or not at all, entries that say what they are, commit records that come back."""

from __future__ import annotations

import hashlib
import pickle
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import StateError
from transforms.storage import ENTRY_SCHEMA, WHOLE, Commit, Entry, Store, entries_from_batch, entries_to_batch

INT32 = st.integers(-1, (1 << 31) - 1)
TEXT = st.text(max_size=20)
ENTRY = st.builds(Entry, TEXT, INT32, INT32, INT32, TEXT, INT32, st.integers(0, 1 << 62), st.integers(0, 1 << 62), TEXT)
COUNTS = st.none() | st.dictionaries(TEXT, st.dictionaries(TEXT, st.integers(0, 1 << 62)))
COMMIT = st.builds(
    Commit, st.sampled_from(["read", "days"]), st.integers(0, 4095), st.lists(ENTRY, max_size=3).map(tuple),
    st.lists(TEXT, max_size=3).map(tuple), COUNTS, st.none() | INT32,
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def block(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"wh": pa.array(values, pa.int64())})


@given(st.lists(ENTRY))
def test_entries_round_trip_through_a_block(entries: list[Entry]) -> None:
    batch = entries_to_batch(entries)
    assert batch.schema == ENTRY_SCHEMA
    assert entries_from_batch(batch) == entries
    assert entries_from_batch(pa.Table.from_batches([batch, batch.slice(0, 1)])) == entries + entries[:1]


@given(st.lists(COMMIT, max_size=4, unique_by=lambda commit: (commit.stage, commit.shard)))
def test_commit_records_come_back(tmp_path_factory: pytest.TempPathFactory, commits: list[Commit]) -> None:
    store = Store(str(tmp_path_factory.mktemp("run")))
    for commit in commits:
        commit.write(store, "data/1/0001")
    assert list(Commit.read_all(store, "data/1/0001")) == sorted(commits, key=lambda c: (c.stage, c.shard))
    assert list(Commit.read_all(store, "data/2")) == []


def test_a_stage_that_runs_again_overwrites_its_record(store: Store) -> None:
    Commit("days", 3, (), restate_from=1).write(store, "run")
    Commit("days", 3, (), restate_from=2).write(store, "run")
    assert [commit.restate_from for commit in Commit.read_all(store, "run")] == [2]


def test_a_record_that_is_being_written_is_not_there_yet(store: Store) -> None:
    commit = Commit("fold", 1, (), (), {})
    commit.write(store, "run")
    store.write_bytes("run/commits/fold-000002.json.0f1e2d3c.tmp", b"")
    assert list(Commit.read_all(store, "run")) == [commit]


def test_a_write_that_fails_leaves_the_old_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_bytes("a/current.json", b"old")

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, data: bytes) -> None:
            raise OSError("no space left on device")

    class FullDisk:
        create_dir = store.fs.create_dir

        def open_output_stream(self, path: str) -> Full:
            Path(path).write_bytes(b"ne")
            return Full()

    with monkeypatch.context() as patch:
        patch.setattr(store, "fs", FullDisk())
        patch.setattr(Store, "local", True)
        with pytest.raises(OSError, match="no space"):
            store.write_bytes("a/current.json", b"new")
    assert store.read_bytes("a/current.json") == b"old"


def test_a_write_leaves_nothing_but_the_file(store: Store, tmp_path: Path) -> None:
    store.write_json("a/b/value.json", {"b": 1, "a": [2]})
    store.write_bytes("a/b/value.json", b'{"a": [2]}')
    assert store.read_json("a/b/value.json") == {"a": [2]}
    assert [file.name for file in (tmp_path / "a/b").iterdir()] == ["value.json"]
    with pytest.raises(FileNotFoundError):
        store.read_bytes("a/b/other.json")


@pytest.mark.parametrize("compress", [True, False])
def test_day_blocks_share_a_file_and_each_has_its_entry(store: Store, compress: bool) -> None:
    days = [(16_000, block(1, 2)), (16_001, block()), (16_005, block(3))]
    entries = store.write_blocks("data/day.arrow", "day_block", 2, days, compress=compress)
    assert [(e.kind, e.shard, e.first, e.last, e.part, e.rows) for e in entries] == [
        ("day_block", 2, day, day, part, batch.num_rows) for part, (day, batch) in enumerate(days)
    ]
    assert [store.read_block(entry) for entry in entries] == [batch for _, batch in days]
    assert store.read_table(entries[0])["wh"].to_pylist() == [1, 2, 3]
    content = store.read_bytes("data/day.arrow")
    assert {(e.bytes, e.sha256) for e in entries} == {(len(content), hashlib.sha256(content).hexdigest())}
    assert store.digest("data/day.arrow") == entries[0].sha256


def test_a_block_of_no_day_is_the_whole_file(store: Store) -> None:
    (entry,) = store.write_blocks("data/slots.arrow", "account_slots", 0, [(-1, block(7))])
    assert (entry.first, entry.last, entry.part, entry.rows) == (-1, -1, WHOLE, 1)
    assert store.read_block(entry) == block(7)
    assert store.write_blocks("data/none.arrow", "account_slots", 0, []) == []
    assert not (Path(store.root) / "data/none.arrow").exists()


def test_marts_are_parquet_with_their_schema(store: Store) -> None:
    schema = pa.schema([pa.field("day", pa.date32(), metadata={"unit": "days"}), pa.field("id", pa.string())])
    table = pa.table([[date(2015, 1, 1)], ["a"]], schema=schema)
    entry = store.write_parquet("data/mart.parquet", "mart:x", 1, table, (16_436, 16_436))
    assert (entry.first, entry.last, entry.rows, entry.part) == (16_436, 16_436, 1, WHOLE)
    assert store.read_parquet(entry).equals(table)
    assert store.read_parquet(entry, ["id"]).column_names == ["id"]
    assert pq.read_schema(store.full(entry.path)).field("day").metadata[b"unit"] == b"days"


def test_equal_tables_give_equal_files(store: Store) -> None:
    table = pa.table({"id": ["b", "a"] * 100, "wh": range(200)})
    entries = [store.write_parquet(f"data/{n}.parquet", "mart:x", 1, table) for n in range(2)]
    assert entries[0].sha256 == entries[1].sha256


@pytest.mark.parametrize("content", [None, b"", b"no arrow file"])
def test_damaged_state_is_named(store: Store, content: bytes | None) -> None:
    if content is not None:
        store.write_bytes("data/day.arrow", content)
    with pytest.raises(StateError, match=r"data/day\.arrow: cannot be read as state"):
        store.open_blocks("data/day.arrow")


def test_listing_finds_files_below_a_folder(store: Store) -> None:
    store.write_bytes("a/b/c.json", b"")
    store.write_bytes("a/d.json", b"")
    assert sorted(info.base_name for info in store.files("a")) == ["c.json", "d.json"]
    assert store.files("nowhere") == []


def test_a_store_is_pickled_by_its_root(store: Store) -> None:
    store.write_bytes("a", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again.root == store.root
    assert again.local
    assert again.read_bytes("a") == b"1"


def test_a_root_can_be_a_url(tmp_path: Path) -> None:
    store = Store(tmp_path.as_uri())
    (entry,) = store.write_blocks("data/day.arrow", "day_block", 0, [(1, block(5))])
    assert (tmp_path / "data/day.arrow").is_file()
    assert store.read_block(entry) == block(5)
