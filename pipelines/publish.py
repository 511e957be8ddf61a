"""Audit what a run has staged, then publish it: one generation, one pointer, and the DuckDB file derived from it.

The publisher needs nothing of the run but its generation, so it can be started again at any point: before the pointer
has moved nothing has happened; after it, `recover` derives what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.audit import MEND, WAIT, Facts, audit
from pipelines.config import Config
from pipelines.marts import Patch, Publication, derive, mart_query
from pipelines.tier_changes import NONE_YET, TABLE, Early, published_changes
from pipelines.warehouse import TAKEN_IN, Generation, Warehouse, commit_point, stack
from pipelines.watching import FLAP_DAYS, WATCHED, Window, days_to_make, months_without_energy, watch
from schemas.dimension_sql import score_parts_sql
from schemas.errors import AuditFailed, StateError
from schemas.marts import (
    ACCOUNTS,
    CREDIT_SCORE_PARTS,
    CUSTOMER_TIERS,
    CUSTOMER_TIERS_CURRENT,
    FEATURES,
    MARTS,
    PENDING,
    SCORE_PARTS,
    TIER_MIGRATIONS,
    TIER_RESTATEMENTS,
    VIEWS,
)
from schemas.policy import Policy, PolicyVersion
from schemas.rule_sql import parts_sql
from transforms.kernels.windows import date_of, day_of
from transforms.parts import is_partition
from transforms.storage import Entry, Store

SMALL = (
    "service_days",
    "pipeline_runs",
    "data_quality_results",
    "tier_restatements",
    *(relation.name for relation in WATCHED),
    "pending",
    "provisional_tiers",
)
"""Marts that live inside the DuckDB file; a generation carries them whole."""

ACCEPTED = {
    "accepted_readings": "log:meter_readings", "accepted_registers": "log:register_readings",
    "accepted_ledger_events": "log:ledger_events", "accepted_conduct_events": "log:conduct_events",
    "accepted_accounts": "log:accounts", "accepted_meters": "log:meters", "accepted_tariffs": "log:tariffs",
}  # fmt: skip
"""Views over the accepted-event log."""

AUDITED = {
    "meter_readings": "log:meter_readings", "register_readings": "log:register_readings",
    "ledger_events": "log:ledger_events", "conduct_events": "log:conduct_events",
    "accounts": "log:accounts", "meters": "log:meters", "tariffs": "log:tariffs",
    "features": "mart:features", "daily_consumption": "mart:daily_consumption",
    "customer_tiers_current": "mart:customer_tiers_current", "tier_migrations": "mart:tier_migrations",
    "abuse_steps": "mart:abuse_steps", "cutoffs": "mart:cutoffs", "scores": "mart:scores",
    "service_actions": "mart:service_actions",
    "planned_actions": "mart:planned_actions", "plan_capacity": "mart:plan_capacity",
}  # fmt: skip

MEND_REJECTS = {
    False: "Mend the file, or its mapping in wattier.yaml.",
    True: "Mend what sends the messages; or mend their mapping in wattier.yaml and start the stream anew: it reads again what is "
    "not published.",
}  # fmt: skip
"""What to do about rejected rows; True: of messages."""

TAKEN_BACK = "service_days.taken_back"
"""The id to override by, where published service days shall be withdrawn."""


class Publisher:
    """Publishes generations of one warehouse."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse

    def recover(self) -> None:
        """Derive the DuckDB file anew where an earlier publisher died between the pointer and it."""
        standing = self.warehouse.load()
        if standing.number and generation_of(self.warehouse.marts) != standing.number:
            self.derive(standing)

    def publish(
        self, before: Generation, draft: Generation, config: Config, started: datetime, *, restated_from: date | None,
        corrected_from: date | None, facts: Mapping[str, tuple[int, int]], audit: bool, overrides: frozenset[str],
        progress: Callable[[str, int, int], None], fresh: Sequence[Entry], early: Early | None = None,
    ) -> None:  # fmt: skip
        """Audit the draft's new rows, then move the pointer to it. Raises AuditFailed; nothing has moved then.

        restated_from: first day published before that was made anew; corrected_from: first day that deliveries changed.
        fresh: files of the rows taken in; the draft may hold these rows in larger files, with others.
        early: a stream's provisional changes; None in a bounded run. The generation keeps what there is to tell, that of
        bounded runs before it included.
        """
        progress("audit", 0, 1)
        store, tables = self.warehouse.store, dict(draft.tables)
        tables["pending"] = pending_table(store, draft)
        if restated_from is not None:
            new = restatements(self.warehouse, before, draft, restated_from, corrected_from)
            tables["tier_restatements"] = stack(tables.get("tier_restatements"), new)
        tables |= watched(self.warehouse, draft, tables, config.policy, restated_from, before)
        advice = MEND if early is None else WAIT
        untold = tables.pop(TABLE, None) if early is None else None
        if early is None:
            within = draft.header.get("stream", {}).get("within", {})
            early = Early.of(tables.get("provisional_tiers", NONE_YET), within, draft.through)
        tables["provisional_tiers"] = early.standing
        kafka = config.settings.kafka
        if kafka and kafka.tier_changes_topic:
            told = published_changes(self.warehouse, before, replace(draft, tables=tables), early)
            tables[TABLE] = stack(untold, told)
        else:
            tables.pop(TABLE, None)
        if audit:
            results = self._audit(before, draft, config, facts, fresh, overrides, advice)
            tables["data_quality_results"] = stack(tables.get("data_quality_results"), results)
        commit_point("after_audit")
        progress("publish", 0, 1)
        generation = replace(
            draft,
            tables=tables,
            header={**draft.header, "published_at": datetime.now(UTC).isoformat(timespec="seconds")},
        )
        digest = self.warehouse.write(generation)
        commit_point("before_pointer")
        self.warehouse.point(generation.number, digest)
        commit_point("after_pointer")
        self.derive(generation)
        commit_point("after_marts")
        progress("publish", 1, 1)

    def _audit(
        self, before: Generation, draft: Generation, config: Config, facts: Mapping[str, tuple[int, int]],
        fresh: Sequence[Entry], overrides: frozenset[str], advice: str,
    ) -> pa.Table:  # fmt: skip
        old = {entry.path for entry in before.entries}
        staging = {
            relation: [
                self._full(e)
                for e in (fresh if kind.startswith(TAKEN_IN) else draft.entries)
                if e.kind in (kind, kind.replace("mart:", "patch:"))
                and (e.path not in old or relation == "customer_tiers_current")
            ]
            for relation, kind in AUDITED.items()
        }
        self._hold_on_to_days(before, draft, overrides)
        through = date_of(draft.through) if draft.through is not None else date.min
        seen = Facts(through, {s: read for s, (read, _) in facts.items()}, {s: bad for s, (_, bad) in facts.items()})
        docs = Path(self.warehouse.root) / "data_docs"
        result = audit(staging, config.policy, draft.number, docs, seen, overrides - {TAKEN_BACK}, advice=advice)
        if result.blocked:
            rejects = [self._full(e) for e in fresh if e.kind == "mart:rejects"]
            raise AuditFailed(result.message + reject_summary(rejects))
        return result.rows

    def _hold_on_to_days(self, before: Generation, draft: Generation, overrides: frozenset[str]) -> None:
        """Published days are not withdrawn unseen, say by reference data of a district whose readings have yet to come."""
        last, was = draft.through, before.through
        if was is None or (last is not None and last >= was) or TAKEN_BACK in overrides:
            return
        raise AuditFailed(
            f"Audit stopped the publication: service days to {date_of(was)} are published, and of these only days to "
            f"{date_of(last) if last is not None else 'none'} are complete now. The last publication stands. See coverage in "
            f"service_days and the meters delivered last; to withdraw the days, run with --override {TAKEN_BACK}."
        )

    def _full(self, entry: Entry) -> str:
        return str(self.warehouse.store.full(entry.path))

    def derive(self, generation: Generation, path: Path | None = None) -> None:
        """Write marts.duckdb from a generation; or another file, elsewhere."""

        def paths(kind: str) -> list[str]:
            return [e.path if path is None else self._full(e) for e in generation.of(kind)]

        files = {name: paths(f"mart:{name}") for name in MARTS if name not in SMALL and name not in VIEWS}
        extra = {view: paths(kind) for view, kind in ACCEPTED.items()}
        header = generation.header
        publication = Publication(
            generation.number, date_of(generation.through) if generation.through is not None else None,
            header["published_at"], header["wattier_version"],
        )  # fmt: skip
        tables = {name: table for name, table in generation.tables.items() if name in SMALL}
        since = {name: date_of(day) for name, day in header["keep_from"].items()}
        patches = {name: Patch(paths(f"gone:{name}"), paths(f"patch:{name}")) for name in header["keep_from"]}
        versions = [PolicyVersion.model_validate_json(text) for _, text, _ in header.get("policy") or () if text]
        views = {CREDIT_SCORE_PARTS.name: parts_sql(versions), SCORE_PARTS.name: score_parts_sql(versions)}
        derive(path or self.warehouse.marts, publication, files, tables, extra, since, patches, views)


def generation_of(marts: Path) -> int | None:
    """The generation a DuckDB file was derived from; None where there is no such file."""
    if not marts.exists():
        return None
    try:
        with duckdb.connect(str(marts), read_only=True) as con:
            row = con.execute("SELECT generation FROM wattier_generation").fetchone()
    except duckdb.Error:
        return None
    return int(row[0]) if row else None


def published_generation(warehouse: Warehouse) -> tuple[Generation, int]:
    """The publication that stands, and its last service day. Raises StateError where there is none, or marts are of another."""
    standing = warehouse.load()
    if not standing.number or standing.through is None:
        raise StateError(f"{warehouse.root}: no service day has been published. Start with `wattier run`.")
    if generation_of(warehouse.marts) != standing.number:
        raise StateError(f"{warehouse.marts} is not of generation {standing.number}. `wattier run` derives it anew.")
    return standing, standing.through


def reject_summary(files: list[str]) -> str:
    """The three most frequent reasons of rejected rows, with an example of each, as a sentence."""
    if not files:
        return ""
    with duckdb.connect() as con:
        rows = con.sql(
            """SELECT count(*), reason, "column", any_value(value), any_value({'file': file, 'row': row})
               FROM read_parquet($files) GROUP BY reason, "column" ORDER BY 1 DESC, 2, 3 LIMIT 3""",
            params={"files": files},
        ).fetchall()
    found = "; ".join(
        f"{n:,} x {column or 'row'} {reason}, such as {value!r} ({at['file']} row {at['row']})"
        for n, reason, column, value, at in rows
    )
    mend = " ".join(MEND_REJECTS[sent] for sent in sorted({is_partition(at["file"]) for *_, at in rows}))
    return f"\nRows were rejected for: {found}. {mend}"


def pending_table(store: Store, generation: Generation) -> pa.Table:
    """The `pending` mart, from the waiting rows of all shards."""
    from transforms.account_events import EVENT_SOURCES
    from transforms.fold_meters import WAITING, pending_reasons
    from transforms.fold_reference import METERS_SCHEMA
    from transforms.meter_assignments import HELD_SCHEMA

    parts = []

    def add(source: str, table: pa.Table, name: Any, day: str, reason: Any) -> None:
        n = table.num_rows
        parts.append(pa.table(
            [pa.array([source] * n), table["delivery"], table["row"], name, table[day], reason], schema=PENDING.schema
        ))  # fmt: skip

    held = {e.shard: e for e in generation.of("assignments")}
    for source, (schema, kind) in WAITING.items():
        for entry in generation.of(kind):
            table = store.read_table(entry).cast(schema).combine_chunks()
            known = store.read_table(held[entry.shard]) if entry.shard in held else HELD_SCHEMA.empty_table()
            name, reason = pending_reasons(source, table, known)
            add(source, table, name, "service_date", reason)
    for kind, source, schema, day in (
        *((events.pending, events.source, events.landed, "event_date") for events in EVENT_SOURCES),
        ("waiting_meters", "meters", METERS_SCHEMA, "installed_on"),
    ):
        for entry in generation.of(kind):
            table = store.read_table(entry).cast(schema)
            add(source, table, table["account_id"], day, pa.array(["unknown_account"] * table.num_rows))
    return pa.concat_tables(parts) if parts else PENDING.schema.empty_table()


def _tiers_view(
    con: duckdb.DuckDBPyConnection,
    name: str,
    warehouse: Warehouse,
    generation: Generation,
    since: date | None,
    goes_on: str = "NULL::DATE",
) -> None:
    """A view of a generation's tier history, of the files alone that reach to `since` or later.

    `goes_on` is the `valid_to` of what goes on.
    """
    columns = "account_id, valid_from, valid_to, tier, abc"

    def scan(kind: str, select: str) -> str:
        late = [e for e in generation.of(kind) if since is None or e.last >= day_of(since)]
        files = [str(warehouse.store.full(e.path)) for e in late]
        listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        return f"SELECT {select} FROM read_parquet([{listed}])" if files else ""

    closed = scan("mart:customer_tiers", columns)
    current = scan("mart:customer_tiers_current", f"account_id, valid_from, {goes_on} AS valid_to, tier, abc")
    empty = "SELECT ''::VARCHAR account_id, NULL::DATE valid_from, NULL::DATE valid_to, '' tier, '' abc WHERE false"
    con.execute(f"CREATE VIEW {name} AS " + " UNION ALL ".join(part for part in (closed, current, empty) if part))


def restatements(
    warehouse: Warehouse, before: Generation, after: Generation, restated_from: date, corrected_from: date | None
) -> pa.Table:
    """Stretches of days for which the tier published before differs from the tier published now.

    The cause is `correction` from the first day that deliveries changed, and before that `policy_changed`.
    """
    assert before.through is not None
    first, last = f"DATE '{restated_from}'", f"DATE '{date_of(before.through)}'"
    cause = "'policy_changed'"
    if corrected_from is not None:
        cause = f"CASE WHEN day >= DATE '{corrected_from}' THEN 'correction' ELSE {cause} END"

    def days(side: str, other: str) -> str:
        return f"""
            SELECT account_id, tier,
                   unnest(generate_series(greatest(valid_from, {first}), least(valid_to, {last}), INTERVAL 1 DAY))::DATE AS day
            FROM (FROM {side} EXCEPT FROM {other}) WHERE valid_from <= {last} AND valid_to >= {first}"""

    with duckdb.connect() as con:
        for name, generation in (("old_tiers", before), ("new_tiers", after)):  # both up to the days published before
            until = min(before.through, before.through if generation.through is None else generation.through)
            _tiers_view(con, name, warehouse, generation, restated_from, f"DATE '{date_of(until)}'")
        found = con.sql(f"""
            WITH was AS ({days("old_tiers", "new_tiers")}), is_now AS ({days("new_tiers", "old_tiers")}),
            changed AS (
                SELECT account_id, day, was.tier AS from_tier, is_now.tier AS to_tier, {cause} AS cause,
                       day - row_number() OVER (
                           PARTITION BY account_id, was.tier, is_now.tier, {cause} ORDER BY day)::INTEGER AS island
                FROM was FULL JOIN is_now USING (account_id, day) WHERE was.tier IS DISTINCT FROM is_now.tier
            )
            SELECT {after.number}::INTEGER AS generation, account_id, min(day) AS valid_from, max(day) AS valid_to,
                   from_tier, to_tier, cause
            FROM changed GROUP BY account_id, from_tier, to_tier, cause, island ORDER BY account_id, valid_from""")
        return found.to_arrow_table().cast(TIER_RESTATEMENTS.schema)


def watched(
    warehouse: Warehouse, draft: Generation, tables: Mapping[str, pa.Table], policy: Policy, restated_from: date | None,
    before: Generation,
) -> dict[str, pa.Table]:  # fmt: skip
    """The marts of `pipelines.watching` of a draft; months and days that the run did not touch are carried over."""
    calendar = tables.get("service_days", MARTS["service_days"].schema.empty_table())
    carried = {r.name: tables[r.name] for r in WATCHED if r.name in tables}
    keep_from = draft.header["keep_from"].get("features")
    held = date_of(keep_from) if keep_from is not None else date.max
    days = calendar["service_date"].to_pylist()
    since, anew = None, restated_from
    if (
        len(carried) == len(WATCHED)
        and before.through is not None
        and draft.header["first"] == before.header.get("first")
    ):
        since = min(date_of(before.through), restated_from or date.max).replace(day=1)
        since = min([since, *months_without_energy(carried["tier_migration_matrix"], days, held)])
    else:
        carried, anew = {}, date.min
    window = Window(since, days_to_make([day for day in days if day >= held], carried.get("tier_shares"), anew), held)
    # What history reaches back to: the day before the months to be made, and migrations from which one can flap back.
    from_day = since - timedelta(days=FLAP_DAYS + 1) if since else None
    wanted = {
        "features": min([*window.days, since or date.max, held]),
        "customer_tiers": from_day,
        "tier_migrations": from_day,
    }
    with duckdb.connect() as con:
        con.register("service_days", calendar)
        for relation in (ACCOUNTS, CUSTOMER_TIERS_CURRENT, CUSTOMER_TIERS, TIER_MIGRATIONS, FEATURES):
            first = wanted.get(relation.name)
            late = replace(draft, entries=tuple(e for e in draft.entries if first is None or e.last >= day_of(first)))

            def paths(kind: str, late: Generation = late) -> list[str]:
                return [str(warehouse.store.full(e.path)) for e in late.of(kind)]

            patch = Patch(paths(f"gone:{relation.name}"), paths(f"patch:{relation.name}"))
            files = {relation.name: paths(f"mart:{relation.name}")}
            since_day = held if relation is FEATURES and held < date.max else None
            con.execute(f"CREATE VIEW {relation.name} AS {mart_query(relation, files, Path(), since_day, patch)}")
        return watch(con, policy, window, carried)
