"""The oracle: every figure of docs/explanation/definitions.md, recomputed in plain DuckDB SQL from all events.

It shares no code with `transforms/`. Each `.sql` file beside this one is a section of the definitions, and creates
tables and views in the schema `oracle` of the connection it is given; those named like a mart have its columns.
Python only passes the days and the policy, and steps from one service day's tiers to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from importlib import resources

import duckdb

from schemas.conditions import Condition
from schemas.credit import CREDIT
from schemas.inbound import CATEGORIES
from schemas.marts import TIER_ORDER, TIERS
from schemas.policy import Policy, PolicyVersion
from schemas.rule_sql import condition_sql, literal, score_sql
from schemas.vee import VEE_RULES

LEDGER_COLUMNS = frozenset(column.name for column in CREDIT)
"""Features that come from the ledger."""

OTHER_TABLES = {
    **dict.fromkeys(LEDGER_COLUMNS, "ledger"),
    **dict.fromkeys(("period_wh_30d", "reverse_wh_30d", "period_wh_90d", "reverse_wh_90d"), "apart_features"),
    **dict.fromkeys(("valued_wh_30d", "valued_30d_minor", "valued_wh_365d", "valued_365d_minor"), "valued"),
}
"""Table of the features that can be ranked and do not come from consumption."""

EDITING = ("estimate", "reject")
"""Severities that change what counts: cut-offs then follow from the VEE of all accounts."""

_ALL_DELIVERIES = (1 << 31) - 1


def calendar(
    con: duckdb.DuckDBPyConnection, policy: Policy, through: date, as_known: int | None = None
) -> tuple[date | None, date | None]:
    """First service day, and the last one at or before `through`; None where there is none."""
    _known_events(con, as_known)
    _set(con, through=through, coverage_floor_ppm=policy.day_close.coverage_floor_ppm)
    ((first_day, last_day),) = con.execute(_sql("s8_calendar_bounds")).fetchall()
    return first_day, through if policy.day_close.below_floor == "provisional" else last_day


def recompute(
    con: duckdb.DuckDBPyConnection,
    policy: Policy,
    first_day: date,
    through: date,
    accounts: Sequence[str] | None = None,
    as_known: int | None = None,
    features_from: date | None = None,
) -> None:
    """Create every mart in the schema `oracle` of `con`, for the service days `first_day` to `through`.

    `con` must see the events as accepted_readings, accepted_registers, accepted_ledger_events,
    accepted_conduct_events, accepted_accounts, accepted_meters and accepted_tariffs.
    `first_day` is the first day of the calendar, since tiers follow from the day before. With `accounts`, features
    and tiers are those of these accounts; cut-offs and the calendar always come from all. With `as_known`, only
    events of deliveries up to that number count. `features_from` is the first day that features are published of.
    """
    _known_events(con, as_known)
    _set(con, first_day=first_day, through=through, coverage_floor_ppm=policy.day_close.coverage_floor_ppm)
    _set(con, allocation=policy.ledger.allocation, features_from=features_from or date.min)
    con.execute("CREATE OR REPLACE TABLE oracle.compared_account AS FROM oracle.known_account")
    if accounts is not None:
        con.execute("DELETE FROM oracle.compared_account WHERE NOT list_contains(?, account_id)", [list(accounts)])
    con.execute(_sql("s2_received"))
    _policy_tables(con, policy)
    metrics = [row[0] for row in con.execute("SELECT DISTINCT metric FROM oracle.policy_scope").fetchall()]
    everyone = not LEDGER_COLUMNS.isdisjoint(metrics)
    con.execute(
        "CREATE OR REPLACE TABLE oracle.ledger_account AS FROM"
        f" {'oracle.known_account' if everyone else 'oracle.compared_account'}"
    )
    edits = any(rule.severity in EDITING for v in policy.versions if v.vee for rule in v.vee.on().values())
    con.execute(
        "CREATE OR REPLACE TABLE oracle.judged_account AS FROM"
        f" {'oracle.known_account' if edits else 'oracle.compared_account'}"
        " UNION (FROM oracle.known_account SEMI JOIN oracle.beyond_limit USING (account_id))"
    )
    con.execute(_sql("s3_vee"))
    con.execute(_sql("s3_vee_edits"))
    con.execute(_sql("s4_consumption"))
    con.execute(_sql("s4_valued"))
    con.execute(_sql("s4_demand"))
    con.execute(_sql("s3_ledger"))
    con.execute(_sql("s3_ledger_exceptions"))
    con.execute(_sql("s3_credit"))
    con.execute(_sql("s4_conduct"))
    con.execute(_sql("s4_features", credit=_credit()))
    for policy_version in policy.versions:
        con.execute(_sql("s4_score", **_texts(policy_version)))
    con.execute("CREATE OR REPLACE TABLE oracle.measured AS " + " UNION ALL ".join(map(_measured, metrics)))
    con.execute(_sql("s5_cutoffs"))
    con.execute(_sql("s8_calendar"))
    con.execute(_sql("s6_thresholds"))
    tier_day = {
        version.version: _sql("s6_tier_day", **_texts(version)) + _sql("s6_abuse_day", **_texts(version))
        for version in policy.versions
    }
    for day, version in con.execute(
        "SELECT service_date, policy_version FROM oracle.policy_day ORDER BY ALL"
    ).fetchall():
        con.execute(tier_day[version].replace("{{day}}", literal(day)))
    con.execute(_sql("s7_tiers"))
    for policy_version in policy.versions:
        con.execute(_sql("s7_migrations", **_texts(policy_version)))
    _places(con, policy)
    for section in ("s9_matrix", "s9_moves", "s9_shares"):
        con.execute(_sql(section))


def _credit() -> str:
    """SQL of the credit columns, zeros and nulls where an account has no ledger event yet."""
    names = ((column.name, column.nullable) for column in CREDIT)
    return ",\n    ".join(f"l.{name}" if null else f"coalesce(l.{name}, 0) AS {name}" for name, null in names)


def _sql(name: str, **texts: str) -> str:
    """The SQL file `name`, with `{{key}}` replaced by each text."""
    sql = (resources.files(__name__) / f"{name}.sql").read_text(encoding="utf-8")
    for key, text in texts.items():
        sql = sql.replace("{{" + key + "}}", text)
    return sql


def _set(con: duckdb.DuckDBPyConnection, **variables: date | int | str) -> None:
    for name, value in variables.items():
        con.execute(f"SET VARIABLE {name} = {literal(value)}")


def _known_events(con: duckdb.DuckDBPyConnection, as_known: int | None) -> None:
    _set(con, as_known=_ALL_DELIVERIES if as_known is None else as_known)
    for section in ("s0_arithmetic", "s1_readings", "s1_registers", "s1_counted"):
        con.execute(_sql(section))


def _policy_tables(con: duckdb.DuckDBPyConnection, policy: Policy) -> None:
    """The policy's versions as tables: the version of each day, what it ranks, how it cuts, what it classes by."""
    con.execute(_sql("s5_policy"))
    for until, version in zip([*policy.versions[1:], None], policy.versions, strict=True):
        con.execute(
            "INSERT INTO oracle.policy_version VALUES (?, ?, ?, ?, ?, ?)",
            [
                version.version,
                date.min if version is policy.versions[0] else version.effective_from,
                until.effective_from if until else date.max,
                version.abc.metric,
                version.abc.rule,
                version.credit_decay.table(),
            ],
        )
        for scope, category in _scopes(version):
            con.execute(
                "INSERT INTO oracle.policy_scope VALUES (?, ?, ?, ?)",
                [version.version, version.abc.metric, scope, category],
            )
        for name, rule in version.vee.on().items() if version.vee else ():
            said = rule.model_dump()
            names = ("severity", "factor_ppm", "at_least_wh", "like_days", "days", "tolerance_ppm", "tolerance_wh")
            con.execute(
                "INSERT INTO oracle.policy_vee VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [version.version, name, list(VEE_RULES).index(name), *(said.get(parameter) for parameter in names)],
            )
        for cut in version.cuts():
            con.execute(
                "INSERT INTO oracle.policy_cut VALUES (?, ?, ?, ?, ?, ?, ?)",
                [version.version, cut.rule, cut.cls, cut.side, cut.kind, cut.num, cut.den],
            )


def _places(con: duckdb.DuckDBPyConnection, policy: Policy) -> None:
    """The tiers, and of each version which is above which."""
    con.execute("CREATE OR REPLACE TABLE oracle.tier_code AS SELECT unnest(?) AS tier", [list(TIERS)])
    con.execute("CREATE OR REPLACE TABLE oracle.tier_place (policy_version VARCHAR, tier VARCHAR, place INTEGER)")
    for version in policy.versions:
        for place, tier in enumerate(getattr(version, "tier_order", TIER_ORDER)):
            con.execute("INSERT INTO oracle.tier_place VALUES (?, ?, ?)", [version.version, tier, place])


def _scopes(version: PolicyVersion) -> list[tuple[str, str | None]]:
    """Scopes that are ranked, each with its category."""
    if version.abc.scope == "all":
        return [("all", None)]
    return [(f"category={category}", category) for category in CATEGORIES]


def _measured(metric: str) -> str:
    """SQL of one metric of the whole population, day by day."""
    table = OTHER_TABLES.get(metric, "consumption")
    return (
        f"SELECT p.service_date, p.account_id, p.category, '{metric}' AS metric, m.{metric}::BIGINT AS amount"
        f" FROM oracle.population p JOIN oracle.{table} m USING (account_id, service_date)"
    )


def _texts(version: PolicyVersion) -> dict[str, str]:
    """What a policy version says, as SQL, for the gaps in the tier statements."""
    tiers, ladder = version.tiers, version.abuse_ladder
    return {
        "policy_version": literal(version.version),
        "metric": version.abc.metric,
        "scope": "'all'" if version.abc.scope == "all" else "'category=' || f.category",
        "score": score_sql(version.credit_score),
        "grade": _first_that_holds((grade.grade, grade.when) for grade in version.credit_grades),
        "candidate_rule": _first_that_holds((rule.rule, rule.when) for rule in tiers),
        "tier": _case("candidate_rule", ((rule.rule, literal(rule.tier)) for rule in tiers)),
        "immediate": _case("candidate_rule", ((rule.rule, str(rule.immediate).lower()) for rule in tiers)),
        "min_stay_days": str(version.min_stay_days),
        "has_ladder": str(ladder is not None).lower(),
        "warn_days": str(ladder.warn_days if ladder else 0),
        "restrict_days": str(ladder.restrict_days if ladder else 0),
        "inspection_releases": str(ladder is not None and ladder.release == "inspection_passed").lower(),
    }


def _first_that_holds(rules: Iterable[tuple[str, Sequence[Condition]]]) -> str:
    """SQL of the first name whose conditions all hold."""
    cases = (
        f"WHEN {' AND '.join(map(condition_sql, conditions)) or 'true'} THEN {literal(name)}"
        for name, conditions in rules
    )
    return f"CASE {' '.join(cases)} END"


def _case(column: str, values: Iterable[tuple[str, str]]) -> str:
    return f"CASE {column} {' '.join(f'WHEN {literal(name)} THEN {value}' for name, value in values)} END"
