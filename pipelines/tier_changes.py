"""Changes of tier on their way out of a stream: provisional ones into their mart, published ones to their topic.

Workers write a file of provisional changes for each block of events that causes some. These files are collected into each
publication, which keeps what no published service day holds yet; then they are removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.warehouse import Generation, Warehouse
from schemas.kafka import KafkaSettings
from schemas.marts import CUSTOMER_TIERS_CURRENT, PROVISIONAL_TIERS, TIER_MIGRATIONS, TIER_RESTATEMENTS
from schemas.topics import TIER_CHANGES
from transforms.kernels.windows import date_of
from transforms.provisional import FOLDER, overtaken
from transforms.storage import Entry, Store

TABLE = "tier_changes"
"""In a generation: the published changes of tier that are to be told, of `TIER_CHANGES`."""

NONE_YET = PROVISIONAL_TIERS.schema.empty_table()


@dataclass(frozen=True)
class Early:
    """Provisional changes at a publication, of `PROVISIONAL_TIERS`: those that stand, and those it overtakes."""

    standing: pa.Table = field(default_factory=lambda: NONE_YET)
    overtaken: pa.Table = field(default_factory=lambda: NONE_YET)

    @classmethod
    def of(cls, rows: pa.Table, within: Mapping[str, int], day: int | None) -> Early:
        """Divide changes. day: last service day made, if any; within: how far the inputs reach that it is made of."""
        over = pa.array(overtaken(rows, within, -1 if day is None else day))
        return cls(rows.filter(pc.invert(over)), rows.filter(over))


class EarlyFiles:
    """The files of provisional changes that a stream's workers write below its folder.

    rows: those that stand in the last publication; collected: the files that it collected, and which may be there still,
    where its publisher died.
    """

    def __init__(self, store: Store, folder: str, rows: pa.Table | None, collected: Iterable[str]) -> None:
        self.store, self.folder = store, f"{folder}/{FOLDER}"
        self.rows = NONE_YET if rows is None else rows
        self.seen = set(collected)

    def collect(self, within: Mapping[str, int], day: int | None) -> Early:
        """All that was written so far, each change once. See `Early.of`."""
        tables = [self.rows]
        for info in self.store.files(self.folder):
            if info.path not in self.seen and info.path.endswith(".parquet"):
                tables.append(pq.read_table(info.path, filesystem=self.store.fs, partitioning=None))
                self.seen.add(info.path)
        self.rows = _once(pa.concat_tables([table.cast(PROVISIONAL_TIERS.schema) for table in tables]))
        return Early.of(self.rows, within, day)

    def settle(self, early: Early) -> None:
        """A publication stands: what it overtakes is forgotten, and the files that it collected go.

        Files written since `collect` are read by the next one. So is a file that a replay writes again: its changes were
        told again, and may have to be taken back again.
        """
        self.rows = early.standing
        for info in self.store.files(self.folder):
            if info.path in self.seen:
                self.store.fs.delete_file(info.path)
        self.seen.clear()


def _once(rows: pa.Table) -> pa.Table:
    """Each change once, as it was told on the latest service day, in the order in which they came."""
    with duckdb.connect() as con:
        found = con.sql(
            "SELECT DISTINCT ON (account_id, event_id, source_part, source_offset) * FROM rows "
            "ORDER BY append_ms, source_part, source_offset, account_id, event_id, base_date DESC, as_of DESC, tier"
        )
        return found.to_arrow_table().cast(PROVISIONAL_TIERS.schema)


def published_changes(warehouse: Warehouse, before: Generation, after: Generation, early: Early) -> pa.Table:
    """What a publication has to tell, of `TIER_CHANGES`.

    Migrations that were not published before, restatements, and the tier of accounts of which another was told last, by a
    provisional change that is overtaken.
    """

    def files(kind: str, of: Generation, other: Generation | None) -> list[Entry]:
        known = {entry.path for entry in other.of(kind)} if other else set()
        return [entry for entry in of.of(kind) if entry.path not in known]

    def read(entries: list[Entry], schema: pa.Schema) -> pa.Table:
        tables = [warehouse.store.read_parquet(entry).cast(schema) for entry in entries]
        return pa.concat_tables([schema.empty_table(), *tables])

    kind = "mart:tier_migrations"
    tables = {
        "now": read(files(kind, after, before), TIER_MIGRATIONS.schema),
        "was": read(files(kind, before, after), TIER_MIGRATIONS.schema),
        "restated": after.tables.get("tier_restatements", TIER_RESTATEMENTS.schema.empty_table()),
        "present": read(files("mart:customer_tiers_current", after, None), CUSTOMER_TIERS_CURRENT.schema),
        "standing": early.standing,
        "overtaken": early.overtaken,
    }
    told = "account_id, service_date, from_tier, to_tier, cause, rule, policy_version"
    through = f"DATE '{date_of(after.through)}'" if after.through is not None else "NULL::DATE"
    with duckdb.connect() as con:
        for name, table in tables.items():
            con.register(name, table)
        found = con.sql(f"""
            WITH moved AS (SELECT {told} FROM now EXCEPT SELECT {told} FROM was),
            told AS (
                SELECT * FROM (SELECT *, true AS over FROM overtaken UNION ALL SELECT *, false FROM standing)
                QUALIFY row_number() OVER (PARTITION BY account_id ORDER BY append_ms DESC, source_part, source_offset DESC) = 1
            )
            SELECT account_id, 'final' AS status, service_date, NULL::DATE AS valid_to, from_tier, to_tier, cause, rule,
                   policy_version FROM moved
            UNION ALL
            SELECT account_id, 'restated', valid_from, valid_to, from_tier, to_tier, cause, NULL, NULL
            FROM restated WHERE generation = {after.number}
            UNION ALL
            SELECT account_id, 'final', {through}, NULL, told.tier, present.tier, 'provisional_ended', present.rule,
                   present.policy_version
            FROM told LEFT JOIN present USING (account_id)
            WHERE over AND told.tier IS DISTINCT FROM present.tier AND {through} IS NOT NULL
              AND account_id NOT IN (SELECT account_id FROM moved WHERE service_date = {through})
            ORDER BY service_date, account_id, status""").to_arrow_table()
    n = found.num_rows
    columns: dict[str, Any] = {name: found[name] for name in found.column_names}
    columns["generation"] = pa.array([after.number] * n, pa.int32())
    return pa.table(
        {f.name: columns.get(f.name, pa.nulls(n, f.type)) for f in TIER_CHANGES.schema}
    ).cast(TIER_CHANGES.schema)  # fmt: skip


def tell(settings: KafkaSettings, topic: str, changes: pa.Table) -> None:
    """Write changes to a topic, and wait until the broker has them. Raises WattierError."""
    from transforms.tier_changes import change_messages
    from transforms.write_kafka import WriteMessages

    messages = WriteMessages(settings, topic)
    messages.setup()
    messages.start_bundle()
    messages.process((0, change_messages(changes)))
    messages.finish_bundle()
    messages.teardown()
