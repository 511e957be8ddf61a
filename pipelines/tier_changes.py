"""Changes of tier on their way out of a stream: provisional ones into their mart, published ones to their topic.

Workers write a file of provisional changes for each block of events that causes some. What no published service day holds
yet is collected into each publication. When a day is published, files that it overtakes are removed.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from transforms.provisional import FOLDER, part_folder, reached
from transforms.storage import Entry, Store

TABLE = "tier_changes"
"""In a generation: the published changes of tier that are to be told, of `TIER_CHANGES`."""

NONE_YET = PROVISIONAL_TIERS.schema.empty_table()


@dataclass(frozen=True)
class Early:
    """Provisional changes at a publication, of `PROVISIONAL_TIERS`: those that stand, and those it overtakes."""

    standing: pa.Table = field(default_factory=lambda: NONE_YET)
    overtaken: pa.Table = field(default_factory=lambda: NONE_YET)


class EarlyFiles:
    """The files of provisional changes that a stream's workers write below its folder."""

    def __init__(self, store: Store, folder: str, rows: pa.Table | None, within: Mapping[str, int]) -> None:
        self.store, self.folder = store, f"{folder}/{FOLDER}"
        self.rows = NONE_YET if rows is None else rows
        self.seen: set[str] = set()
        for path in self._overtaken(within):  # left by a publisher that died
            self.seen.add(path)

    def collect(self, within: Mapping[str, int]) -> Early:
        """All that was written so far, by how far the last service day made reaches; each change once."""
        tables = [self.rows]
        for info in self.store.files(self.folder):
            if info.path not in self.seen and info.path.endswith(".parquet"):
                tables.append(pq.read_table(info.path, filesystem=self.store.fs, partitioning=None))
                self.seen.add(info.path)
        self.rows = _once(pa.concat_tables([table.cast(PROVISIONAL_TIERS.schema) for table in tables]))
        parts = self.rows["source_part"].to_pylist()
        ends = pa.array([reached(part, within) for part in parts], pa.int64())
        over = pc.less(self.rows["source_offset"], ends)
        return Early(self.rows.filter(pc.invert(over)), self.rows.filter(over))

    def settle(self, early: Early, within: Mapping[str, int]) -> None:
        """A publication stands: forget what it overtakes. Files written since `collect` are read by the next one."""
        self.rows = early.standing
        for path in self._overtaken(within):
            if path in self.seen:
                self.store.fs.delete_file(path)
                self.seen.discard(path)  # a replay that writes it again is heard of again

    def _overtaken(self, within: Mapping[str, int]) -> list[str]:
        """Files all of whose changes a published service day holds."""
        ends = {part_folder(part): end for part, end in within.items()}
        files = within.get("file:", 0)
        found = []
        for info in self.store.files(self.folder):
            part, name = info.path.rsplit("/", 2)[1:]
            end = int(int(part[5:]) < files) if part.startswith("file=") else ends.get(part, 0)
            if info.path.endswith(".parquet") and int(name.split("-")[1]) <= end:
                found.append(info.path)
        return found


def _once(rows: pa.Table) -> pa.Table:
    """Each change once, in the order in which they came."""
    with duckdb.connect() as con:
        found = con.sql(
            "SELECT DISTINCT ON (account_id, event_id, source_part, source_offset) * FROM rows "
            "ORDER BY append_ms, source_part, source_offset, account_id, event_id"
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
    through = f"DATE '{date_of(after.through)}'" if after.through is not None else "NULL::DATE"
    with duckdb.connect() as con:
        for name, table in tables.items():
            con.register(name, table)
        found = con.sql(f"""
            WITH moved AS (FROM now EXCEPT FROM was),
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
