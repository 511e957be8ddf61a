"""Provisional tiers: events that come before their day closes, one after the other, and what a publication makes of them."""

from __future__ import annotations

import json

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.coders import TupleCoder, VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream

from pipelines import stream_publish
from pipelines.stream_publish import StreamPublisher
from pipelines.tier_changes import Early, published_changes
from pipelines.warehouse import Generation, Warehouse
from schemas.credit import CREDIT
from schemas.marts import (
    CUSTOMER_TIERS_CURRENT,
    FEATURES,
    PROVISIONAL_TIERS,
    REJECTS,
    TIER_MIGRATIONS,
    TIER_RESTATEMENTS,
)
from schemas.policy import PolicyVersion
from schemas.scorecard import SCORE
from schemas.topics import DEAD_LETTERS, TIER_CHANGES
from tests.pipeline.bureau import Bureau
from tests.pipeline.streams import Epochs
from tests.pipeline.test_stories import day, opened, reference, tiers, used
from tests.pipeline.worlds import ledger
from transforms import provisional
from transforms.blocks import BlockCoder, fact, tag, with_facts
from transforms.epochs import TICKS, read_entries
from transforms.fold_features import Plan
from transforms.inbox import Cut, cut_path
from transforms.kernels.conduct import CONDUCT_FEATURES
from transforms.kernels.messages import OFFSET
from transforms.kernels.parse import accepted_schema
from transforms.kernels.windows import day_of
from transforms.provisional import ProvisionalTiers, Since
from transforms.provisional_view import load_base
from transforms.shards import State, state_block
from transforms.tick_stages import BASE_STATE, Tick
from transforms.tier_changes import ToDeadLetters, ToTierChanges, change_key

pytestmark = pytest.mark.slow

PART = "kafka:ledger/0"
CHARGE = {"kind": "charge", "on": day(1), "due": day(2)}
"""Overdue since day 3."""


@pytest.fixture
def bureau(tmp_path):
    return opened(Bureau(tmp_path / "bureau", shards=1))


def event(account, event_id, kind, on, fen=10_000, due=None, ref=None):
    """One ledger event as accepted."""
    return {"account_id": account, "event_id": event_id, "event_type": kind, "event_date": on, "due_date": due,
            "amount_minor": fen, "ref_event_id": ref, "revision": 0, "delivery": 0, "row": 0}  # fmt: skip


def finding(account, event_id, kind, on, revision=0):
    """One conduct event as accepted."""
    return {"account_id": account, "event_id": event_id, "event_type": kind, "event_date": on,
            "revision": revision, "delivery": 0, "row": 0}  # fmt: skip


def stretch(first, *events, part=PART, source="ledger_events", revision="delivery"):
    """A stretch of messages, one event each."""
    rows = pa.RecordBatch.from_pylist(list(events), schema=accepted_schema(source))
    rows = rows.append_column(OFFSET, pa.array(range(first, first + len(events)), pa.int64()))
    after = str(first + len(events))
    return tag(rows, source, part=part, first=str(first), next=after, revision=revision, append_ms="1700")


def base_of(session, epoch, ends, number=0):
    """The state of the snapshot again, as the base that a tick of an epoch leaves; the epoch is written down."""
    store, plan = session.place.store(), Plan(0, 0, 0, 0)
    cut = Cut(epoch, {}, ends, {}, "2025-01-01T00:00:00+00:00")
    store.create_bytes(cut_path(session.place.folder, epoch), cut.to_json().encode())
    entries = [e for e in read_entries(store, session.snapshot, 0) if e.kind in BASE_STATE]
    return with_facts(state_block(entries), tick=Tick(epoch * TICKS + number, 0, plan).to_json())


def run(bureau, session, *blocks):
    """Send blocks one by one to the one bucket there is."""
    source = test_stream.TestStream(coder=TupleCoder([VarIntCoder(), BlockCoder()]))
    for block in blocks:
        source = source.add_elements([(0, block)])
    options = PipelineOptions(["--runner=BundleBasedDirectRunner", "--streaming"])
    with beam.Pipeline(options=options) as p:
        early = ProvisionalTiers(session.place, bureau.config.policy, session.snapshot)
        p | source.advance_watermark_to_infinity() | beam.ParDo(early)


def written(bureau, session):
    """What was written, by file: (account, from, to, as of, event, offset)."""
    folder = bureau.folder / "warehouse" / session.place.folder / "provisional"
    found = []
    for path in sorted(folder.glob("*/*.parquet")):
        names = ("account_id", "from_tier", "tier", "as_of", "event_id", "source_offset")
        found.append([tuple(row[name] for name in names) for row in pq.read_table(path).to_pylist()])
    return found


def test_whatever_a_rule_may_read_is_at_hand(bureau, monkeypatch):
    """Columns of the base day; those of credit and conduct are made of the day looked at."""
    session = Epochs(bureau).session
    state = State(session.place.store(), read_entries(session.place.store(), session.snapshot, 0))
    monkeypatch.setattr(PolicyVersion, "reads", lambda _: frozenset(FEATURES.schema.names))
    made = {*(column.name for column in CREDIT), *CONDUCT_FEATURES, SCORE, "account_id", "service_date"}
    assert (
        load_base(state, bureau.config.policy, pa.array(["a", "b", "c", "d"])).columns.keys()
        == set(FEATURES.schema.names) - made
    )


class Forgetful(dict):
    """Nothing decoded is found again, as in another process."""

    def pop(self, key, default=None):
        return default


@pytest.mark.parametrize("views", [{}, Forgetful()], ids=["kept", "read again"])
def test_each_event_is_answered_with_what_the_tier_would_be(bureau, monkeypatch, views):
    monkeypatch.setattr(provisional, "_VIEWS", views)
    session = Epochs(bureau).session
    blocks = [
        stretch(5, event("big", "c1", **CHARGE), event("tiny", "c2", **CHARGE), event("nobody", "c3", **CHARGE)),
        stretch(8, event("big", "p1", "payment", day(4))),
        stretch(9, event("middle", "p9", "payment", day(3)), event("big", "r1", "reversal", day(4), ref="p1")),
    ]
    run(bureau, session, *blocks, blocks[1])  # the last: a message that is read again changes nothing
    assert written(bureau, session) == [
        [("big", "high", "low_risk", day(3), "c1", 5)],
        [("big", "low_risk", "high", day(4), "p1", 8)],
        [("big", "high", "low_risk", day(4), "r1", 10)],
    ]


@pytest.mark.parametrize("views", [{}, Forgetful()], ids=["kept", "read again"])
def test_a_theft_is_answered_at_once_and_so_is_its_withdrawal(bureau, monkeypatch, views):
    monkeypatch.setattr(provisional, "_VIEWS", views)
    session = Epochs(bureau).session
    found = {"part": "kafka:conduct/0", "source": "conduct_events", "revision": "column"}
    run(
        bureau,
        session,
        stretch(
            3, finding("big", "t1", "theft_confirmed", day(4)), finding("nobody", "t2", "tampering", day(4)), **found
        ),
        stretch(5, event("big", "c1", **CHARGE)),  # in arrears too, but a thief is one first
        stretch(5, finding("tiny", "i1", "inspection_passed", day(4)), **found),
        stretch(6, finding("big", "t1", "withdrawn", day(5), 1), **found),
    )
    assert written(bureau, session) == [
        [("big", "high", "abuse", day(4), "t1", 3)],
        [("big", "abuse", "low_risk", day(5), "t1", 6)],
    ]


def test_it_does_not_matter_how_events_come_in_blocks(bureau):
    events = [event("big", "c1", **CHARGE), event("big", "p1", "payment", day(4)), event("middle", "c2", **CHARGE),
              event("big", "r1", "reversal", day(4), ref="p1")]  # fmt: skip
    found = []
    for blocks in ([stretch(5, *events)], [stretch(5 + n, one) for n, one in enumerate(events)]):
        session = Epochs(bureau).session
        run(bureau, session, *blocks)
        found.append([row for rows in written(bureau, session) for row in rows])
    assert found[0] == found[1]
    assert [row[4] for row in found[0]] == ["c1", "p1", "r1"]


def test_blocks_of_one_landed_file_are_written_apart(bureau):
    session = Epochs(bureau).session
    events = [event("big", "c1", **CHARGE), event("big", "p1", "payment", day(4))]
    file = f"file:{Warehouse(bureau.config.warehouse).load().last_delivery + 1}"
    run(bureau, session, *(stretch(0, one | {"row": row}, part=file) for row, one in enumerate(events, 1)))
    assert [[row[4] for row in rows] for rows in written(bureau, session)] == [["c1"], ["p1"]]


def test_a_new_base_takes_the_place_of_what_it_holds(bureau):
    session = Epochs(bureau).session
    file = f"file:{Warehouse(bureau.config.warehouse).load().last_delivery + 1}"
    charged = stretch(5, event("big", "c1", **CHARGE))
    paid = stretch(6, event("big", "p1", "payment", day(4), fen=1))
    run(
        bureau,
        session,
        charged,
        base_of(session, 1, {PART: 6}),  # as published: the charge did not make it, and nothing told is left
        charged,  # comes late: the base has it
        paid,  # nothing is due: high, as published
        stretch(7, event("big", "c2", **CHARGE)),
        base_of(session, 2, {PART: 7, file: 1}),  # the charge of offset 7 is still to come
        base_of(session, 1, {PART: 6}),  # a base that is behind
        stretch(8, event("big", "c3", **CHARGE)),
        stretch(0, event("big", "c4", **CHARGE), part=file),
        stretch(9, event("big", "p2", "payment", day(4), fen=20_000)),
    )
    assert [(row[2], row[4]) for rows in written(bureau, session) for row in rows] == [
        ("low_risk", "c1"), ("low_risk", "c2"), ("high", "p2"),
    ]  # fmt: skip


def test_what_came_since_a_base_is_held_in_few_blocks():
    since = Since.of([stretch(n, event("big", f"c{n}", **CHARGE)) for n in range(5, 105)], [])
    assert len(since.blocks()) <= 8
    since.add(stretch(0, event("big", "c", **CHARGE), part="kafka:ledger/1"))
    since = since.after({PART: 50, "kafka:ledger/1": 1}, day_of(day(0)))
    assert [fact(block, "part") for block in since.blocks()] == [PART] * len(since.blocks())
    offsets = [offset for block in since.blocks() for offset in block.column(OFFSET).to_pylist()]
    assert offsets == list(range(50, 105))
    assert sorted((int(fact(b, "first")), int(fact(b, "next"))) for b in since.blocks())[-1][1] == 105


def test_what_was_told_stays_in_order_when_a_base_takes_some_of_it():
    def change(offset, part, as_of=0):
        blank = {"string": "x", "date32[day]": day(as_of), "int64": 0}
        row = {f.name: blank[str(f.type)] for f in PROVISIONAL_TIERS.schema} | {
            "source_offset": offset, "source_part": part,
        }  # fmt: skip
        return pa.RecordBatch.from_pylist([row], schema=PROVISIONAL_TIERS.schema)

    given = [(3, PART), (2, PART, 1), (0, "file:1"), (4, PART), (7, "kafka:ledger/1"), (5, PART)]
    since = Since.of([], [change(*one) for one in given]).after({PART: 4, "file:": 2}, day_of(day(0)))
    kept = [(r["source_offset"], r["source_part"]) for changes in since.told for r in changes.to_pylist()]
    assert kept == [(2, PART), (4, PART), (7, "kafka:ledger/1"), (5, PART)], (
        "a day later than the base is still to come"
    )


def test_before_the_first_service_day_events_wait(tmp_path):
    bureau = Bureau(tmp_path / "bureau", shards=1)
    bureau.land_all(reference())
    session = Epochs(bureau).session
    run(bureau, session, stretch(5, event("big", "c1", **CHARGE)))
    assert written(bureau, session) == []


# --- publications


def changed(bureau, kafka="tier_changes_topic: out"):
    """Make the bureau tell of changes; what is told is kept here."""
    bureau.configure(("shards: 1", f"shards: 1\nkafka:\n  bootstrap_servers: nowhere:1\n  {kafka}"))


@pytest.fixture
def told(monkeypatch):
    out = []
    monkeypatch.setattr(stream_publish, "tell", lambda kafka, topic, changes: out.append(changes.to_pylist()))
    return out


def brief(rows):
    return [(r["account_id"], r["status"], r["service_date"], r["from_tier"], r["to_tier"], r["cause"]) for r in rows]


def test_provisional_changes_stand_until_their_day_is_published(bureau, told):
    changed(bureau)
    bureau.land_all([ledger("big", "c1", "charge", day(1), 10_000, due=day(2))])
    bureau.run()
    epochs = Epochs(bureau)
    bureau.land_all([ledger("big", "p1", "payment", day(5), 10_000)])
    epochs.cut()
    bureau.land_all(used(4, 5))
    epochs.cut()
    epochs.run()
    (first, second) = epochs.publish(each=True)
    assert (first.days, second.days) == (0, 2)
    early = epochs.warehouse.read(first.generation).tables["provisional_tiers"].to_pylist()
    assert [(r["account_id"], r["tier"], r["as_of"], r["base_date"]) for r in early] == [
        ("big", "high", day(5), day(3))
    ]
    assert bureau.query("SELECT count(*) FROM provisional_tiers") == [(0,)]
    assert [brief(rows) for rows in told] == [[("big", "final", day(5), "low_risk", "high", "stay_ended")]]
    assert not list((bureau.folder / "warehouse" / epochs.session.place.folder).glob("provisional/*/*"))


def test_a_publisher_that_starts_tells_the_standing_publication_again(bureau, told):
    changed(bureau)
    epochs = Epochs(bureau)
    bureau.land_all([ledger("big", "c1", "charge", day(3), 10_000, due=day(3)), *used(4, 4)])
    epochs.cut()
    epochs.run()
    epochs.publish()
    with epochs.warehouse.lock():
        StreamPublisher(bureau.config, epochs.session.place.folder).tell()
    assert len(told) == 2
    assert told[0] == told[1]
    keys = [change_key(row) for row in told[0]]
    assert keys == [f"big|{day(4)}|final|2"]


def test_what_a_bounded_run_has_to_tell_is_told_by_the_next_stream(bureau, told):
    changed(bureau)
    bureau.land_all([ledger("big", "c1", "charge", day(3), 10_000, due=day(3)), *used(4, 4)])
    bureau.run()
    bureau.land_all([ledger("big", "p1", "payment", day(5), 10_000), *used(5, 6)])
    bureau.run()
    epochs = Epochs(bureau)
    with epochs.warehouse.lock():
        StreamPublisher(bureau.config, epochs.session.place.folder).tell()
    assert [row[:5] for row in brief(told[0]) if row[0] == "big" and row[1] == "final"][-2:] == [
        ("big", "final", day(4), "high", "low_risk"), ("big", "final", day(6), "low_risk", "high"),
    ]  # fmt: skip


def test_what_was_told_of_a_day_that_is_still_open_stands_until_it_is_made(bureau, told):
    """The event is taken in with an epoch that makes an earlier day; a bounded run follows, then another stream."""
    changed(bureau)
    epochs = Epochs(bureau)
    paid = event("big", "c1", "charge", day(5), due=day(5))
    bureau.land_all([*used(4, 4), ledger("big", "c1", "charge", day(5), 10_000, due=day(5))])
    last = epochs.warehouse.load().last_delivery
    epochs.cut()
    epochs.run()
    late = event("big", "c0", "charge", day(6), due=day(5))
    run(bureau, epochs.session, stretch(0, paid, part=f"file:{last + 1}"), stretch(0, late))
    assert [(row[2], row[4]) for rows in written(bureau, epochs.session) for row in rows] == [("low_risk", "c0")]
    epochs.publish()
    standing = "SELECT account_id, tier, as_of FROM provisional_tiers"
    assert bureau.query(standing) == [("big", "low_risk", day(6))]
    bureau.land_all(used(5, 5))
    bureau.run()
    assert bureau.query(standing) == [("big", "low_risk", day(6))], "no run has taken the event in"
    session = Epochs(bureau).session
    run(bureau, session, stretch(0, late))
    assert written(bureau, session) == [], "told before"


def test_restated_days_tell_what_differs_and_nothing_else(bureau, told):
    changed(bureau)
    epochs = Epochs(bureau)
    bureau.land_all([ledger("big", "c1", "charge", day(1), 10_000, due=day(2))])
    epochs.cut()
    epochs.run()
    epochs.publish()
    assert brief(told[0]) == [
        ("big", "final", day(3), "high", "low_risk", "due_date"),
        ("big", "restated", day(3), "high", "low_risk", "correction"),
    ]
    assert told[0][1]["valid_to"] == day(3)
    assert tiers(bureau)["big"] == "low_risk"


def test_what_was_told_and_did_not_come_is_taken_back(bureau):
    """big: told high, published low_risk, as before; middle: told again since; small: published as told."""
    warehouse = Warehouse(bureau.config.warehouse)
    store = warehouse.store

    def rows(relation, *given):
        blank = {"string": "x", "date32[day]": day(0), "int32": 0, "int64": 0}
        full = [{f.name: row.get(f.name, blank[str(f.type)]) for f in relation.schema} for row in given]
        return pa.Table.from_pylist(full, schema=relation.schema)

    def change(account, tier, offset):
        return {"account_id": account, "tier": tier, "source_offset": offset, "event_id": f"e{offset}"}

    present = [{"account_id": name, "tier": "low_risk", "rule": "risky"} for name in ("big", "middle", "small")]
    moves = [{"account_id": "small", "service_date": day(3), "from_tier": "high", "to_tier": "low_risk"}]
    entries = [
        store.write_parquet(f"data/x/{kind}.parquet", f"mart:{kind}", 0, rows(relation, *given))
        for kind, relation, given in (
            ("customer_tiers_current", CUSTOMER_TIERS_CURRENT, present),
            ("tier_migrations", TIER_MIGRATIONS, moves),
        )
    ]
    after = Generation(7, {"through": day_of(day(3))}, tuple(entries), pa.table({}),
                       {"tier_restatements": TIER_RESTATEMENTS.schema.empty_table()})  # fmt: skip
    early = Early(
        standing=rows(PROVISIONAL_TIERS, change("middle", "high", 9)),
        overtaken=rows(PROVISIONAL_TIERS, change("big", "low_risk", 3), change("big", "high", 4),
                       change("middle", "mid_steady", 5), change("small", "low_risk", 6)),
    )  # fmt: skip
    found = published_changes(warehouse, Generation.none(), after, early).to_pylist()
    assert brief(found) == [
        ("big", "final", day(3), "high", "low_risk", "provisional_ended"),
        ("small", "final", day(3), "high", "low_risk", "x"),
    ]
    assert (found[0]["rule"], found[0]["generation"]) == ("risky", 7)

    # A late reading: the same migration beside another metric.
    later = store.write_parquet(
        "data/y/tier_migrations.parquet",
        "mart:tier_migrations",
        0,
        rows(TIER_MIGRATIONS, {**moves[0], "metric_after": 21}),
    )
    corrected = Generation(8, after.header, (entries[0], later), pa.table({}), after.tables)
    none = Early(rows(PROVISIONAL_TIERS), rows(PROVISIONAL_TIERS))
    assert published_changes(warehouse, after, corrected, none).num_rows == 0


# --- messages


def test_a_provisional_change_as_a_message():
    row = {"account_id": "A1", "as_of": day(4), "tier": "high", "from_tier": "low_risk", "credit_grade": "A", "rule": "big",
           "policy_version": "1", "event_id": "p1", "source_part": PART, "source_offset": 8, "append_ms": 17,
           "base_date": day(3)}  # fmt: skip
    again = {**row, "as_of": day(5), "base_date": day(4)}  # after a failure, from the next base
    block = pa.RecordBatch.from_pylist([row, again], schema=PROVISIONAL_TIERS.schema)
    ((_, messages),) = ToTierChanges().process((0, block))
    assert messages.column("key").to_pylist() == [f"A1|provisional|p1|{PART}:8"] * 2
    said = json.loads(messages.column("value")[0].as_py())
    assert {name: said[name] for name in ("schema", "status", "service_date", "from_tier", "to_tier", "append_ms")} == {
        "schema": "wattier.tier_change/1", "status": "provisional", "service_date": f"{day(4)}",
        "from_tier": "low_risk", "to_tier": "high", "append_ms": 17,
    }  # fmt: skip
    assert said["to_tier_label"] == {"en": "High value", "zh": "高价值客户"}
    assert said.keys() == {"schema", "from_tier_label", "to_tier_label", *TIER_CHANGES.schema.names}


def test_rejected_messages_as_dead_letters():
    names = [*REJECTS.schema.names, OFFSET]
    given = [("m", 0, PART, 8, "amount_minor", "x", "not_a_number", 8), ("m", 0, PART, 8, "event_date", "y", "not_a_date", 8),
             ("m", 0, PART, 9, "", None, "not_json", 9)]  # fmt: skip
    rejects = pa.RecordBatch.from_pylist([dict(zip(names, row, strict=True)) for row in given])
    block = tag(rejects, "rejects", part=PART, topic="ledger", partition="0")
    assert list(ToDeadLetters().process((3, tag(rejects, "ledger_events")))) == []
    ((_, messages),) = ToDeadLetters().process((3, block))
    assert messages.column("key").to_pylist() == [f"{PART}:8", f"{PART}:9"]
    values = [json.loads(value) for value in messages.column("value").to_pylist()]
    assert [(v["topic"], v["partition"], v["offset"], v["reason"], v["value"], v["faults"]) for v in values] == [
        ("ledger", 0, 8, "not_a_number", "x", 2), ("ledger", 0, 9, "not_json", None, 1),
    ]  # fmt: skip
    assert all(v.keys() == set(DEAD_LETTERS.schema.names) for v in values)
