"""The audit between staging and publication: counts, in SQL, the rows that break each expectation.

One aggregate per staged relation counts what concerns single rows; keys, order and presence take a query each. The
counts go to great-expectations, which judges them and writes Data Docs (`pipelines/data_docs.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.data_docs import Check, validate
from schemas import ddl
from schemas.errors import AuditFailed, ConfigError
from schemas.fields import Relation
from schemas.inbound import SOURCES
from schemas.marts import DATA_QUALITY_RESULTS, MARTS
from schemas.policy import Policy
from schemas.suites import Expectation, expectations, percent

RELATIONS: dict[str, Relation] = {**MARTS, **SOURCES}
"""What can be audited. `accounts` is the inbound source."""

NAMED = 5
"""Failed expectations a message spells out."""

MEND = "Mend the input and run again, or override by name"
WAIT = "What comes in is audited together with this, and may outweigh it. Or start the stream anew with --override, by name"
"""What to do after a failed audit of a run, and of a stream."""


@dataclass(frozen=True)
class Facts:
    """What the audit must know beside the rows: the last service day, and each source's rows read and rejected."""

    through: date
    rows_read: Mapping[str, int] = field(default_factory=dict)
    rows_rejected: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """An expectation, whether it held, and what was seen."""

    expectation: Expectation
    success: bool
    observed: str
    overridden: bool = False

    @property
    def blocks(self) -> bool:
        """Whether it stops the publication."""
        return not self.success and self.expectation.severity == "block" and not self.overridden


@dataclass(frozen=True)
class AuditResult:
    """The outcome of an audit.

    rows: the publication's rows of `data_quality_results`. failed: what did not hold, warnings and overridden ones
    included. docs: the audit's page in Data Docs. message: the outcome in plain words.
    """

    rows: pa.Table
    failed: list[Finding]
    docs: Path
    message: str

    @property
    def blocked(self) -> bool:
        """Whether the publication must not happen."""
        return any(finding.blocks for finding in self.failed)

    def enforce(self) -> None:
        """Raises AuditFailed, with the message, when the publication must not happen."""
        if self.blocked:
            raise AuditFailed(self.message)


def audit(
    staging: Mapping[str, Sequence[str]],
    policy: Policy,
    generation: int,
    docs_dir: Path,
    facts: Facts,
    overrides: AbstractSet[str] = frozenset(),
    judge: Callable[[Sequence[Check], int, Path], tuple[dict[str, bool], Path]] = validate,
    advice: str = MEND,
) -> AuditResult:
    """Checks what a run is about to publish, and writes this audit's Data Docs below `docs_dir`.

    staging: relation -> Parquet files with the publication's new rows: inbound sources by their own name (accepted
    rows), `daily_consumption`, `features`, `customer_tiers_current` (in full), `tier_migrations`, `abuse_steps`,
    `cutoffs`. Others
    are not audited. A relation without files has no rows to check.
    overrides: ids of expectations that may fail without stopping the publication; this is recorded.
    advice: what the message says to do before it names what failed.
    judge: stands in for `data_docs.validate`, to run it in a process that has great-expectations loaded already.
    Raises ConfigError for an override that names no expectation. A failed expectation raises nothing: see
    `AuditResult.enforce`.
    """
    everything = expectations(policy.audit.reject_share_limit_ppm, policy.audit.severities)
    _known(overrides, everything)
    seen = measure(staging, everything, facts)
    checks = [
        Check(e.id, e.suite, e.words, seen[e.id].text, seen[e.id].broken, e.severity)
        for e in everything
        if e.id in seen
    ]
    held, docs = judge(checks, generation, docs_dir)
    findings = [
        Finding(e, held[e.id], seen[e.id].text, not held[e.id] and e.severity == "block" and e.id in overrides)
        for e in everything
        if e.id in seen
    ]
    failed = [finding for finding in findings if not finding.success]
    message = plain_message(failed, docs, advice) if failed else f"Audit passed: {len(findings)} expectations hold."
    return AuditResult(result_rows(findings, generation), failed, docs, message)


def plain_message(failed: Sequence[Finding], docs: Path | None = None, advice: str = MEND) -> str:
    """What the audit found, for a person: what broke, where first, what stands now, where to read on."""
    stopping = [finding for finding in failed if finding.blocks]
    others = [finding for finding in failed if not finding.blocks]
    if not failed:
        return "Audit passed."
    parts = [f"Audit stopped the publication: {_listed(stopping)}. The last publication stands."] if stopping else []
    if others:
        parts.append(f"{'Also failed' if stopping else 'Audit passed'}, without blocking: {_listed(others)}.")
    if docs is not None:
        parts.append(f"Data Docs: {docs}")
    if stopping:
        names = ", ".join(finding.expectation.id for finding in stopping[:NAMED])
        parts.append(f"{advice}: {names}")
    return "\n".join(parts)


def _listed(findings: Sequence[Finding]) -> str:
    named = "; ".join(f"{finding.expectation.words}: {finding.observed}" for finding in findings[:NAMED])
    return named + (f"; and {len(findings) - NAMED} more" if len(findings) > NAMED else "")


def result_rows(findings: Iterable[Finding], generation: int) -> pa.Table:
    """The findings as rows of `data_quality_results`."""
    rows = [
        {
            "generation": generation,
            "suite": finding.expectation.suite,
            "relation": finding.expectation.relation,
            "column": finding.expectation.column,
            "expectation": finding.expectation.words,
            "severity": finding.expectation.severity,
            "success": finding.success,
            "observed": finding.observed,
            "overridden": finding.overridden,
        }
        for finding in findings
    ]
    return pa.Table.from_pylist(rows, schema=DATA_QUALITY_RESULTS.schema)


def _known(overrides: AbstractSet[str], everything: Iterable[Expectation]) -> None:
    names = {expectation.id for expectation in everything}
    for override in sorted(overrides):
        if override not in names:
            raise ConfigError(
                f"override {override!r} names no expectation. Take the name from the message of the audit or from "
                "Data Docs, such as features.wh_365d.minimum"
            )


# ------------------------------------------------------------------------------------------------------------ counting


@dataclass(frozen=True)
class Count:
    """How many rows (or groups of rows) break an expectation, and that in words with the first of them."""

    broken: int
    text: str


def measure(staging: Mapping[str, Sequence[str]], wanted: Iterable[Expectation], facts: Facts) -> dict[str, Count]:
    """Counts by expectation id, for every expectation that has something to look at."""
    staged = {name: files for name, files in staging.items() if files and name in RELATIONS}
    by_relation: dict[str, list[Expectation]] = {}
    for expectation in wanted:
        by_relation.setdefault(expectation.relation, []).append(expectation)
    result: dict[str, Count] = {}
    with duckdb.connect() as con:
        for relation in RELATIONS.values():
            con.execute(f"CREATE VIEW {ddl.name(relation.name)} AS {_select(relation, staged.get(relation.name, ()))}")
        for name, members in by_relation.items():
            result.update(_shares(members, facts))
            result.update(_presence(con, members, staged, facts))
            if name in staged:
                result.update(_rows(con, RELATIONS[name], members))
                result.update(_groups(con, members, RELATIONS[name], facts))
    return result


def _select(relation: Relation, files: Sequence[str]) -> str:
    if not files:
        return ddl.select_nothing(relation)
    listed = ", ".join(map(ddl.literal, files))
    return f"SELECT {ddl.column_names(relation)} FROM read_parquet([{listed}], hive_partitioning = false)"


def predicate(expectation: Expectation) -> str | None:
    """The SQL condition of a row that breaks the expectation; None where it is not about single rows."""
    column, kwargs = ddl.name(expectation.column), expectation.kwargs
    match expectation.kind:
        case "not_null":
            return f"{column} IS NULL"
        case "minimum":
            return f"{column} < {kwargs['minimum']}"
        case "maximum":
            return f"{column} > {kwargs['maximum']}"
        case "values":
            return f"{column} NOT IN ({', '.join(map(ddl.literal, kwargs['values']))})"
        case "differs":
            return f"{column} = {ddl.name(kwargs['other'])}"
        case "leads_to":
            fit = ", ".join(f"({', '.join(map(ddl.literal, pair))})" for pair in kwargs["pairs"])
            return f"({column}, {ddl.name(kwargs['other'])}) NOT IN ({fit})"
        case "at_most":
            return f"{column} > {ddl.name(kwargs['other'])}"
        case _:
            return None


def offenders(expectation: Expectation, relation: Relation, through: date) -> str:
    """The SELECT of what breaks the expectation: key columns, and the value at fault last, as `value`."""
    table, kwargs = ddl.name(relation.name), expectation.kwargs
    condition = predicate(expectation)
    if condition is not None:
        keys = ", ".join(map(ddl.name, relation.keys))
        return f"SELECT {keys}, {ddl.name(expectation.column)} AS value FROM {table} WHERE {condition}"
    match expectation.kind:
        case "unique":
            keys = ", ".join(map(ddl.name, kwargs["columns"]))
            return f"SELECT {keys}, count(*) || ' rows' AS value FROM {table} GROUP BY ALL HAVING count(*) > 1"
        case "present_in":
            column, other = ddl.name(kwargs["column"]), ddl.name(kwargs["other"])
            return (
                f"SELECT {column}, 'absent' AS value FROM {other} ANTI JOIN {table} USING ({column}) "
                f"WHERE service_date = DATE {ddl.literal(through.isoformat())}"
            )
        case "ordered":
            return _falling(relation, **kwargs)
        case _:
            raise ValueError(f"{expectation.id}: kind {expectation.kind!r} is not about rows")


def _falling(
    relation: Relation, by: str, order: Sequence[str], value: str, where: Mapping[str, str] | None = None,
    apart: Sequence[str] = (),
) -> str:  # fmt: skip
    """The SELECT of groups in which `value` falls along the given order of `by`. apart: key columns that tell no groups apart."""
    keys = ", ".join(ddl.name(key) for key in relation.keys if key not in (by, *apart))
    conditions = " AND ".join(f"{ddl.name(k)} = {ddl.literal(v)}" for k, v in (where or {}).items()) or "true"
    steps = ", ".join(
        f"max({ddl.name(value)}) FILTER (WHERE {ddl.name(by)} = {ddl.literal(step)}) AS step_{i}"
        for i, step in enumerate(order)
    )
    shown = ", ".join(f"{ddl.literal(step + ' ')} || step_{i}" for i, step in enumerate(order))
    falls = " OR ".join(f"step_{i} > step_{j}" for i, j in combinations(range(len(order)), 2))
    return (
        f"SELECT {keys}, concat_ws(', ', {shown}) AS value FROM "
        f"(SELECT {keys}, {steps} FROM {ddl.name(relation.name)} WHERE {conditions} GROUP BY ALL) WHERE {falls}"
    )


def _rows(con: duckdb.DuckDBPyConnection, relation: Relation, members: Iterable[Expectation]) -> dict[str, Count]:
    """Counts of all expectations about single rows, by one aggregate over the relation."""
    conditions = {member: condition for member in members if (condition := predicate(member)) is not None}
    counters = "".join(f", count(*) FILTER (WHERE {condition})" for condition in conditions.values())
    rows, *broken = _one(con, f"SELECT count(*){counters} FROM {ddl.name(relation.name)}")
    return {
        member.id: Count(
            number, f"{number:,} of {_number(rows, 'row')} {_verb(number)} it{_first(con, member, number)}"
        )
        for member, number in zip(conditions, broken, strict=True)
    }


def _groups(
    con: duckdb.DuckDBPyConnection, members: Iterable[Expectation], relation: Relation, facts: Facts
) -> dict[str, Count]:
    """Counts of the expectations about keys and order, by one query each."""
    return {
        member.id: _group(con, member, relation, facts, "case")
        for member in members
        if member.kind in {"unique", "ordered"}
    }


def _presence(
    con: duckdb.DuckDBPyConnection, members: Iterable[Expectation], staged: Mapping[str, object], facts: Facts
) -> dict[str, Count]:
    """Counts of what should be there and is not. Looked at as soon as either side is staged."""
    return {
        member.id: _group(con, member, RELATIONS[member.relation], facts, "account")
        for member in members
        if member.kind == "present_in" and (member.relation in staged or member.kwargs["other"] in staged)
    }


def _group(con: duckdb.DuckDBPyConnection, member: Expectation, relation: Relation, facts: Facts, noun: str) -> Count:
    (number,) = _one(con, f"SELECT count(*) FROM ({offenders(member, relation, facts.through)})")
    return Count(number, f"{_number(number, noun)} {_verb(number)} it{_first(con, member, number, facts.through)}")


def _shares(members: Iterable[Expectation], facts: Facts) -> dict[str, Count]:
    """The share of rejected rows, against its limit: all rejected rows count as breaking once it is passed."""
    result = {}
    for member in members:
        if member.kind != "reject_share" or member.relation not in facts.rows_read:
            continue
        read, rejected = facts.rows_read[member.relation], facts.rows_rejected.get(member.relation, 0)
        share = rejected * 1_000_000 // read if read else 0
        text = f"{rejected:,} of {_number(read, 'row')} rejected ({percent(share)})"
        over = rejected * 1_000_000 > member.kwargs["limit_ppm"] * read
        result[member.id] = Count(rejected if over else 0, text)
    return result


def _first(con: duckdb.DuckDBPyConnection, member: Expectation, broken: int, through: date = date.min) -> str:
    """` (first: account A17 on 2016-03-01: -5)`, the first in key order; empty where nothing is broken."""
    if not broken:
        return ""
    cursor = con.execute(f"{offenders(member, RELATIONS[member.relation], through)} ORDER BY ALL LIMIT 1")
    names = [column[0] for column in cursor.description or ()]
    row = cursor.fetchone()
    assert row is not None
    *keys, value = row
    where = " ".join(_place(name, key) for name, key in zip(names[:-1], keys, strict=True))
    return f" (first: {where}: {'empty' if value is None else value})"


def _place(name: str, key: object) -> str:
    text = "empty" if key is None else str(key)
    return {"account_id": f"account {text}", "meter_id": f"meter {text}", "service_date": f"on {text}"}.get(
        name, f"{name} {text}"
    )


def _one(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    row = con.execute(sql).fetchone()
    assert row is not None
    return row


def _number(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _verb(number: int) -> str:
    return "breaks" if number == 1 else "break"
