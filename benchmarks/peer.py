"""The peers: the same day's marts in DuckDB SQL by a good hand. (a) recomputes them in full, (b) incrementally.

The SQL is in `peers/`, numbered in the order in which it runs. Both peers share everything but the rolling sums and the
ledger. Where they are spared something that Wattier does, README.md says so.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

import duckdb
from world import World, say

from pipelines.config import Retention
from schemas import ddl
from schemas.conditions import Condition
from schemas.dimension_sql import Source, scores_sql
from schemas.inbound import CATEGORIES
from schemas.marts import MARTS
from schemas.policy import Policy, PolicyVersion
from schemas.rankings import Ranking
from schemas.rule_sql import condition_sql, literal, score_sql

Kind = Literal["full", "incremental"]
LABELS: dict[Kind, str] = {"full": "(a) full recompute", "incremental": "(b) incremental update"}

MARTS_WRITTEN = (
    "daily_consumption", "features", "cutoffs", "scores", "customer_tiers", "tier_migrations", "customer_tiers_current", "accounts",
    "service_days", "tier_migration_matrix", "tier_shares", "pareto", "service_actions", "planned_actions", "plan_capacity",
)  # fmt: skip
BY_DAY = {
    "daily_consumption": "service_date", "features": "service_date", "cutoffs": "service_date", "tier_migrations": "service_date",
    "scores": "service_date", "customer_tiers": "valid_to + 1", "planned_actions": "service_date", "plan_capacity": "service_date",
    "tier_shares": "service_date",
}  # fmt: skip
"""Marts of which a tick writes the rows of its own day, and how the day is found in what is published."""

SUMS = (
    *(f"{kind}_{window}" for window in ("7d", "30d", "90d", "365d") for kind in ("wh", "received")),
    "wh_mtd", "received_mtd", "days_90d", "squares_90d", "wh_90d_year_ago", "received_90d_year_ago", "used_days_365d",
)  # fmt: skip
OPTIONS = "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"


def sql(name: str, **texts: str) -> str:
    """A file of `peers/`, with `{{key}}` replaced by each text."""
    text = (Path(__file__).parent / "peers" / f"{name}.sql").read_text(encoding="utf-8")
    for key, value in texts.items():
        text = text.replace("{{" + key + "}}", value)
    return text


def policy_texts(version: PolicyVersion) -> dict[str, str]:
    """What a policy version says, as SQL."""

    def first(rules: Iterable[tuple[str, Sequence[Condition], str]]) -> str:
        cases = (
            f"WHEN {' AND '.join(condition_sql(c, has_it) for c in when) or 'true'} THEN {literal(name)}"
            for name, when, has_it in rules
        )
        return f"CASE {' '.join(cases)} END"

    def by_rule(value: Callable[[Any], str]) -> str:
        return f"CASE candidate_rule {' '.join(f'WHEN {literal(r.rule)} THEN {value(r)}' for r in version.tiers)} END"

    everyone = version.abc.scope == "all"
    scopes = ["all"] if everyone else [f"category={name}" for name in CATEGORIES]
    return {
        "metric": version.abc.metric, "rule": literal(version.abc.rule), "policy_version": literal(version.version),
        "scope": "'all'" if everyone else "'category=' || f.category", "scopes": f"[{', '.join(map(literal, scopes))}]",
        "score": score_sql(version.credit_score), "grade": first(
            (g.grade, g.when, f"coalesce(credit_grade_before = '{g.grade}', false)") for g in version.credit_grades
        ),
        "candidate_rule": first(
            (r.rule, r.when, f"coalesce(tier_before = '{r.tier}', false)") for r in version.tiers
        ),
        "tier": by_rule(lambda rule: literal(rule.tier)), "immediate": by_rule(lambda rule: str(rule.immediate).lower()),
        "min_stay_days": str(version.min_stay_days),
    }  # fmt: skip


def ranking_texts(ranking: Ranking) -> dict[str, str]:
    """What a ranking of percentiles says, as SQL. Regions are not known here."""
    scopes = {"all": "'all'", "category": "'category=' || f.category"}
    cuts = ", ".join(f"{{'num': {cut.num}::BIGINT, 'den': {cut.den}::BIGINT}}" for cut in ranking.cuts)
    return {
        "metric": ranking.metric, "scope": scopes[ranking.by], "ranked": literal(ranking.order), "cuts": f"[{cuts}]",
        "order": "DESC" if ranking.order == "largest_first" else "ASC",
    }  # fmt: skip


def actions_texts(policy: Policy, day: date) -> dict[str, str]:
    """What the strategy in force on a day says, and the places of its plan, as SQL."""
    version, staff, after = policy.on(day), policy.capacity, day + timedelta(days=1)
    strategy, ladder = version.strategy, version.abuse_ladder
    assert strategy is not None
    assert staff is not None
    assert ladder is not None
    places = staff.on(after).places().items()
    free = {name: usual if name == "managers" or staff.works(after) else 0 for name, usual in places}
    candidates = (
        f"SELECT account_id, {number} AS rule_number, {literal(rule.action)} AS action, {literal(rule.reason)} AS action_reason,"
        f" {rule.due_days} AS due_days, {rule.priority} AS priority,"
        f" {literal(rule.resource) if rule.resource else 'NULL'} AS resource,"
        f" {rule.again_days or 0} AS again_days, value FROM fact WHERE {' AND '.join(map(condition_sql, rule.when)) or 'true'}"
        for number, rule in enumerate(strategy.actions)
    )
    named = strategy.columns() - {"tier", "abc", "credit_grade", "abuse_step"}
    rests = {(rule.action, rule.resource): rule.again_days for rule in strategy.actions if rule.again_days}
    return {
        "warn_days": str(ladder.warn_days), "value": strategy.value or version.abc.metric,
        "columns": "".join(f"f.{name}, " for name in sorted(named)), "bonus": str(strategy.keep_bonus_ppm),
        "places": ", ".join(f"({literal(name)}, {free[name]}, {usual})" for name, usual in places),
        "candidates": " UNION ALL ".join(candidates), "policy_version": literal(version.version),
        "order": "counted DESC, priority" if strategy.order == "value" else "priority, counted DESC",
        "rests": ", ".join(f"({literal(action)}, {literal(takes or '')}, {days})" for (action, takes), days in rests.items()),
        "resources": ", ".join(sorted({literal(rule.resource) for rule in strategy.actions if rule.resource})),
    }  # fmt: skip


def connect(path: Path, threads: int, memory: str) -> duckdb.DuckDBPyConnection:
    """The peers' store; spills to a folder beside it."""
    con = duckdb.connect(str(path), config={"threads": threads, "memory_limit": memory})
    con.execute(f"SET temp_directory = {literal(str(path) + '.spill')}")
    con.execute("SET preserve_insertion_order = false")
    con.execute(sql("0_macros"))
    return con


def at(con: duckdb.DuckDBPyConnection, day: date, policy: Policy) -> None:
    """Set the service day, and the cuts and weights of the policy in force on it."""
    con.execute(f"SET VARIABLE day = {literal(day)}")
    con.execute(f"SET VARIABLE weights = {list(policy.on(day).credit_decay.table())}")
    con.execute(
        "CREATE OR REPLACE TEMP TABLE policy_cut (rule VARCHAR, class VARCHAR, side VARCHAR, kind VARCHAR,"
        " cut_num BIGINT, cut_den BIGINT)"
    )
    con.executemany(
        "INSERT INTO policy_cut VALUES (?, ?, ?, ?, ?, ?)",
        [[c.rule, c.cls, c.side, c.kind, c.num, c.den] for c in policy.on(day).cuts()],
    )


def make_store(world: World, policy: Policy, threads: int, memory: str) -> None:
    """Make the store both peers start from, of what is published through the world's last prepared day."""
    if world.peer.exists():
        return
    day, started = world.date_of(world.days), time.monotonic()
    say(f"the peers' store through {day}")
    new = world.peer.with_suffix(".new")
    new.unlink(missing_ok=True)
    version, con = policy.on(day), connect(new, threads, memory)
    texts = policy_texts(version)
    con.execute(f"ATTACH {literal(str(world.warehouse / 'marts.duckdb'))} AS published (READ_ONLY)")
    at(con, day, policy)
    threshold = sql("6_threshold", **texts, cutoffs="published.cutoffs").strip()
    con.execute(sql("1_store", threshold=threshold))
    con.execute(sql("1_store_tiers", **texts))
    month = world.date_of(1).replace(day=1)
    while month <= day:
        con.execute(sql("1_store_daily", month=literal(month)))
        month = (month + timedelta(days=31)).replace(day=1)
    con.execute(sql("2_events"))
    say(f"  history is in, {time.monotonic() - started:,.0f} s")
    # What the incremental peer keeps, by the full peer's own statements.
    con.execute(sql("3_windows_full").replace("TEMP TABLE sums", "TABLE sums"))
    _full_ledger(con, "")
    con.execute("CREATE TABLE bill_state AS SELECT * FROM some_state ORDER BY bill_key")
    con.close()
    new.replace(world.peer)
    say(f"  done, {time.monotonic() - started:,.0f} s")


def _full_ledger(con: duckdb.DuckDBPyConnection, kind: str) -> None:
    con.execute(sql("4_ledger_full"))
    con.execute(sql("4_allocate"))
    con.execute(sql("4_age", bills="some_state", credits="credit"))
    con.execute(sql("4_ledger_row_full", kind=kind))


def _incremental_ledger(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(sql("4_ledger_incremental"))
    con.execute(sql("4_allocate"))
    con.execute(sql("4_ledger_row_incremental"))
    con.execute(sql("4_age", bills="changed_bill", credits="changed_credit"))
    con.execute(sql("4_ledger_row_merge"))


def tick(
    con: duckdb.DuckDBPyConnection, kind: Kind, world: World, day: int, policy: Policy, out: Path
) -> dict[str, float]:
    """One day's tick of a peer, marts written below `out`. Returns seconds by stage."""
    seconds: dict[str, float] = {}
    today = world.date_of(day)
    version = policy.on(today)
    texts = policy_texts(version)
    clock = time.perf_counter()

    def stage(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[name], clock = now - clock, now

    at(con, today, policy)
    con.execute("BEGIN")
    _take_in(con, world, day)
    stage("take_in")
    if kind == "full":
        con.execute(sql("3_windows_full"))
    else:
        starts = today.day == 1
        added = ", ".join(
            f"coalesce(c.{n}, 0) AS {n}"
            if starts and n.endswith("mtd")
            else f"coalesce(s.{n}, 0) + coalesce(c.{n}, 0) AS {n}"
            for n in SUMS
        )
        con.execute(sql("3_windows_incremental", added=added))
    con.execute(sql("3_expected"))
    stage("windows")
    if kind == "full":
        _full_ledger(con, "TEMP")
    else:
        _incremental_ledger(con)
    stage("ledger")
    con.execute(sql("5_features", **texts))
    stage("features")
    con.execute(sql("6_cutoffs", **texts))
    for ranking in version.rankings():
        if ranking.percentiles:
            con.execute(sql("6_percentiles", **ranking_texts(ranking), policy_version=texts["policy_version"]))
    stage("cutoffs")
    con.execute(sql("6_scores", scores=scores_sql(version, Source("feature", "cut_row", "account_region"), "true")))
    stage("scores")
    new_month = "CREATE OR REPLACE TABLE month_end_tier AS SELECT slot, tier FROM tier_state;" if today.day == 1 else ""
    kept = str(Retention().features)
    floor = str(policy.day_close.coverage_floor_ppm)
    threshold = sql("6_threshold", **texts, cutoffs="cut_row").strip()
    con.execute(sql("7_tiers", **texts, threshold=threshold, new_month=new_month, floor=floor, features_kept=kept))
    stage("tiers")
    con.execute(sql("7_actions", **actions_texts(policy, today)))
    stage("actions")
    folder = out / f"{today}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {mart: literal(str(folder / f"{mart}.parquet")) for mart in MARTS_WRITTEN}
    con.execute(sql("8_write", **files, options=OPTIONS))
    con.execute("COMMIT")
    stage("write")
    return seconds


def _take_in(con: duckdb.DuckDBPyConnection, world: World, day: int) -> None:
    """Read the files that land after a service day."""
    files = {path.parent.name: literal(str(path)) for path in world.files(day)}
    if file := files.get("accounts"):
        con.execute(sql("2_accounts", file=file))
    if file := files.get("meters"):
        con.execute(sql("2_meters", file=file))
    con.execute(sql("2_readings", file=files["readings"]))
    con.execute(
        sql("2_ledger", file=files["ledger"]) + sql("2_events")
        if "ledger" in files
        else "CREATE OR REPLACE TEMP TABLE event AS FROM bill_name WHERE false"
    )


def run_peer(
    world: World, kind: Kind, days: Iterable[int], policy: Policy, threads: int, memory: str
) -> tuple[list[dict[str, float]], list[float]]:
    """The ticks of some days in one process, on a copy of the store; the first is to warm up.

    Returns wall seconds by stage, and processor seconds, of the others.
    """
    copy, out = world.home / f"peer-{kind}.duckdb", world.home / f"peer-{kind}"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copyfile(world.peer, copy)
    con = connect(copy, threads, memory)
    stages, cpu = [], []
    try:
        for day in days:
            started = time.process_time()
            stages.append(tick(con, kind, world, day, policy, out))
            cpu.append(time.process_time() - started)
        return stages[1:], cpu[1:]
    finally:
        con.close()
        for path in (copy, copy.with_name(copy.name + ".wal")):
            path.unlink(missing_ok=True)


def _told(mart: str) -> str:
    """The columns that are compared: the peers look for no causes."""
    names = [column.name for column in MARTS[mart].columns if (mart, column.name) != ("tier_migrations", "cause")]
    return ", ".join(map(ddl.name, names))


def compare(world: World, kind: Kind, days: Sequence[int]) -> dict[str, dict[str, int]]:
    """By mart, the rows published and how many rows differ from what a peer wrote, EXCEPT ALL both ways.

    Marts that hold one day are compared on each of the days, the others as of the last.
    """
    compared: dict[str, dict[str, int]] = {}
    with duckdb.connect(str(world.warehouse / "marts.duckdb"), read_only=True) as con:
        for mart in MARTS_WRITTEN:
            columns, total = _told(mart), [0, 0]
            for day in days if mart in BY_DAY else days[-1:]:
                today = world.date_of(day)
                file = literal(str(world.home / f"peer-{kind}" / f"{today}" / f"{mart}.parquet"))
                where = f"WHERE {BY_DAY[mart]} = {literal(today)}" if mart in BY_DAY else ""
                ours, theirs = f"(SELECT {columns} FROM {mart} {where})", f"(SELECT {columns} FROM {file})"
                counts = con.execute(f"""
                    SELECT (SELECT count(*) FROM {ours}),
                        (SELECT count(*) FROM ({ours} EXCEPT ALL {theirs}))
                        + (SELECT count(*) FROM ({theirs} EXCEPT ALL {ours}))
                """).fetchall()[0]
                total = [a + b for a, b in zip(total, counts, strict=True)]
            compared[mart] = dict(zip(("rows", "differing"), total, strict=True))
    return compared
