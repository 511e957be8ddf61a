"""The oracle: every figure of docs/explanation/definitions.md, recomputed in plain DuckDB SQL from all events.

It shares no code with `transforms/`. Each `.sql` file beside this one is a section of the definitions, and creates
tables and views in the schema `oracle` of the connection it is given; those named like a mart have its columns.
Python only passes the days and the policy, and steps from one service day's tiers to the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from importlib import resources

import duckdb

from schemas.conditions import Condition
from schemas.credit import CREDIT
from schemas.dimension_sql import Source, scores_sql
from schemas.inbound import CATEGORIES
from schemas.marts import FEATURES, SCORE_COLUMNS, SCORES, TIERS
from schemas.policy import Policy, PolicyVersion
from schemas.rule_sql import condition_sql, literal, score_sql
from schemas.scorecard import SCORE
from schemas.strategy import Strategy
from schemas.vee import VEE_RULES

LEDGER_COLUMNS = frozenset(column.name for column in CREDIT)
"""Features that come from the ledger."""

NULLABLE = frozenset(column.name for column in FEATURES.columns if column.nullable)
"""Features that may be null; of the others an account without a row in their table has 0."""

TABLES = ("consumption", "ledger", "apart_features", "valued", "demand")
"""Tables of features of the whole population. Where what is ranked is in none of them, `features` are made of everybody."""

_CREDIT_COLUMNS = sorted(LEDGER_COLUMNS - {"billed_365d_minor"})
_CONDUCT_COLUMNS = (
    "days_since_theft", "days_since_tampering", "days_since_violation", "days_since_inspection", "thefts_730d", "violations_365d",
    "disconnected",
)  # fmt: skip
_OTHERS = {
    "account_id",
    "service_date",
    "category",
    "capacity_va",
    "tenure_days",
    "credit_score",
    *_CREDIT_COLUMNS,
    *_CONDUCT_COLUMNS,
}
_USE_COLUMNS = tuple(column.name for column in FEATURES.columns if column.name not in _OTHERS)

_PUT_BACK: dict[str, dict[str, str]] = {
    "reference": {"category": "y", "capacity_va": "y"},
    "conduct": dict.fromkeys(_CONDUCT_COLUMNS, "c"),
    "lockout_ended": dict.fromkeys(_CONDUCT_COLUMNS, "y"),
    "new_ended": {"tenure_days": "y"},
    "payment": dict.fromkeys(_CREDIT_COLUMNS, "c"),
    "own_use": dict.fromkeys(_USE_COLUMNS, "c"),
    "window_decay": dict.fromkeys(_USE_COLUMNS, "y"),
}
"""definitions.md, "Causes": features by input, and what they are put back to: y the day before, c the day's clock."""

_PUT_BACK_WHERE = {
    "due_date": dict.fromkeys(_CREDIT_COLUMNS, "p.is_due"),
    "window_decay": dict.fromkeys(_CREDIT_COLUMNS, "NOT p.is_due"),
}

_SCORED = ", ".join(f"{name} = s.{name}" for name in SCORE_COLUMNS.values())
"""Takes the scores of dimensions from a query named s."""

EDITING = ("estimate", "reject")
"""Severities that change what counts: cut-offs then follow from the VEE of all accounts."""

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

DAYS_AT_ONCE = 10
"""Days whose candidates for actions are found at once."""

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
    *,
    counted: bool = False,
) -> None:
    """Create every mart in the schema `oracle` of `con`, for the service days `first_day` to `through`.

    `con` must see the events as accepted_readings, accepted_registers, accepted_ledger_events,
    accepted_conduct_events, accepted_accounts, accepted_meters and accepted_tariffs.
    `first_day` is the first day of the calendar, since tiers follow from the day before. With `accounts`, features
    and tiers are those of these accounts; cut-offs and the calendar always come from all. With `as_known`, only
    events of deliveries up to that number count. `features_from` is the first day that features are published of.
    `counted`: `calendar` has been asked on this connection, of the same events, and has counted them.
    """
    if not counted:
        _known_events(con, as_known)
    _set(con, first_day=first_day, through=through, coverage_floor_ppm=policy.day_close.coverage_floor_ppm)
    _set(con, allocation=policy.ledger.allocation, features_from=features_from or date.min)
    con.execute("CREATE OR REPLACE TABLE oracle.compared_account AS FROM oracle.known_account")
    if accounts is not None:
        con.execute("DELETE FROM oracle.compared_account WHERE NOT list_contains(?, account_id)", [list(accounts)])
    con.execute(_sql("s2_received"))
    _policy_tables(con, policy)
    metrics = sorted({ranking.metric for version in policy.versions for ranking in version.rankings()})
    everyone = not LEDGER_COLUMNS.isdisjoint(metrics) or SCORE in metrics
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
    now = {"clock": "", "population": "population", "up_to": "<="}
    _sections(con, ("s4_windows", "s3_credit"), **now)
    homes = {metric: _home(con, metric) for metric in metrics}
    if "features" in homes.values():
        con.execute("CREATE OR REPLACE TABLE oracle.sampled_account AS FROM oracle.compared_account")
        con.execute("CREATE OR REPLACE TABLE oracle.compared_account AS FROM oracle.known_account")
    _sections(con, ("s4_conduct", "s4_features"), **now)
    for policy_version in policy.versions:
        con.execute(_sql("s4_score", **_texts(policy_version)))
    con.execute(
        f"CREATE OR REPLACE TABLE oracle.measured AS {' UNION ALL '.join(_measured(*home) for home in homes.items())}"
    )
    if "features" in homes.values():
        con.execute("CREATE OR REPLACE TABLE oracle.compared_account AS FROM oracle.sampled_account")
        con.execute(
            "DELETE FROM oracle.features WHERE account_id NOT IN (SELECT account_id FROM oracle.compared_account)"
        )
    con.execute(_sql("s5_cutoffs"))
    con.execute(_sql("s5_percentiles"))
    for policy_version in policy.versions:
        con.execute(_sql("s6_scores", scores=_scores(policy_version), scored=_SCORED))
    _scores_view(con, policy)
    con.execute(_sql("s8_calendar"))
    con.execute(_sql("s6_thresholds"))
    tier_day = {
        version.version: _sql("s6_tier_day", decide=_sql("s6_decide"), **_texts(version))
        + _sql("s6_abuse_day", **_texts(version))
        for version in policy.versions
    }
    days = con.execute("SELECT service_date, policy_version FROM oracle.policy_day ORDER BY ALL").fetchall()
    for day, version in days:
        con.execute(tier_day[version].replace("{{day}}", literal(day)))
    if accounts is None:  # a plan is made of all accounts, so a sample has none
        _plans(con, policy, days)
    con.execute(_sql("s7_tiers"))
    _migrations(con, policy)
    _tier_places(con, policy)
    for section in ("s9_matrix", "s9_moves", "s9_shares"):
        con.execute(_sql(section))


def _migrations(con: duckdb.DuckDBPyConnection, policy: Policy) -> None:
    """Changes of tier, and their causes."""
    con.execute(_sql("s7_migrations"))
    _clock(con)
    for before, version in zip([None, *policy.versions], policy.versions, strict=False):
        for earlier in (version, before) if before else (version,):
            _causes(con, version, earlier)
        con.execute(_sql("s7_told", **_texts(version)))


def _causes(con: duckdb.DuckDBPyConnection, version: PolicyVersion, earlier: PolicyVersion) -> None:
    """Find the causes of changes of tier on days of `version` after days of `earlier`: put back one input after another."""
    con.execute(_sql("s7_causes", policy_version=literal(version.version), version_before=literal(earlier.version)))
    ((some,),) = con.execute("SELECT count(*) FROM oracle.put_back").fetchall()
    alike, rules = _cut_alike(con, version, earlier), version
    for cause in version.cause_order if some else ():
        changes = {name: f"{state}.{name}" for name, state in _PUT_BACK.get(cause, {}).items()}
        for name, where in _PUT_BACK_WHERE.get(cause, {}).items():
            changes[name] = f"CASE WHEN {where} THEN y.{name} ELSE p.{name} END"
        if cause == "stay_ended":
            changes |= {"credit_grade_before": "grade_before_yesterday", "dwell": "p.dwell - 1"}
        if cause == "reference":
            unused = "unused_capacity_ppm"
            moved = "y.capacity_va IS DISTINCT FROM p.capacity_va"
            changes |= {"region": "region_before", unused: f"CASE WHEN {moved} THEN y.{unused} ELSE p.{unused} END"}
        if cause == "policy_changed":
            rules = earlier
        if (cause == "policy_changed" and not alike) or (cause == "cutoff_moved" and (alike or rules is earlier)):
            changes["cut_day"] = "p.service_date - 1"
        told = ", ".join(f"{value} AS {name}" for name, value in (changes or {"dwell": "p.dwell"}).items())
        texts = _texts(rules)
        texts |= {"scope_before": texts["scope"].replace("f.category", "p.category"), "cause": literal(cause)}
        texts["scores"] = scores_sql(rules, Source("oracle.as_cut", "oracle.cutoffs", "oracle.as_cut"), "true")
        con.execute(_sql("s7_put_back", decide=_sql("s6_decide"), changes=told, scored=_SCORED, **texts))


def _cut_alike(con: duckdb.DuckDBPyConnection, version: PolicyVersion, other: PolicyVersion) -> bool:
    """definitions.md, "Causes": whether two versions rank and cut alike."""
    if score_sql(version.credit_score) != score_sql(other.credit_score):
        return False
    of = "SELECT * EXCLUDE (policy_version) FROM oracle.{} WHERE policy_version = ?"
    for table in ("policy_cut", "policy_percentile", "policy_scope", "policy_ranking"):
        for a, b in ((version, other), (other, version)):
            differ = f"{of.format(table)} EXCEPT {of.format(table)}"
            if con.execute(differ, [a.version, b.version]).fetchone():
                return False
    return True


def _sections(con: duckdb.DuckDBPyConnection, names: Sequence[str], **texts: str) -> None:
    """Sections of the features. texts: of which events, for whom, and what the tables are called."""
    for name in names:
        con.execute(_sql(name, credit=_credit(), **texts))


def _clock(con: duckdb.DuckDBPyConnection) -> None:
    """oracle.features_clock: features as of the day's clock of the accounts and service days in oracle.moved_pair.

    Columns as in oracle.features; the scores are null.
    """
    con.execute(_sql("s4_clock"))
    sections = ("s4_windows", "s3_credit", "s4_conduct", "s4_features")
    _sections(con, sections, clock="_clock", population="moved_population", up_to="<")


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
        for ranking in version.rankings():
            for cut in ranking.cuts if ranking.percentiles else ():
                con.execute(
                    "INSERT INTO oracle.policy_percentile VALUES (?, ?, ?, ?, ?, ?)",
                    [version.version, ranking.metric, ranking.by, ranking.order, cut.num, cut.den],
                )
        for cut in version.cuts():
            con.execute(
                "INSERT INTO oracle.policy_cut VALUES (?, ?, ?, ?, ?, ?, ?)",
                [version.version, cut.rule, cut.cls, cut.side, cut.kind, cut.num, cut.den],
            )


def _scores(version: PolicyVersion) -> str:
    """The query of a version's scores."""
    days = f"SELECT service_date FROM oracle.policy_day WHERE policy_version = {literal(version.version)}"
    source = Source("oracle.features", "oracle.cutoffs", "oracle.population")
    return scores_sql(version, source, f"f.service_date IN ({days})")


def _scores_view(con: duckdb.DuckDBPyConnection, policy: Policy) -> None:
    """`scores`: of the days whose version has dimensions."""
    named = ", ".join(literal(version.version) for version in policy.versions if version.dimensions)
    con.execute(
        f"CREATE OR REPLACE VIEW oracle.scores AS SELECT {', '.join(SCORES.schema.names)} FROM oracle.features"
        f" JOIN oracle.policy_day USING (service_date) WHERE policy_version IN ({named or 'NULL'})"
    )


def _tier_places(con: duckdb.DuckDBPyConnection, policy: Policy) -> None:
    """The tiers, and of each version which is above which."""
    con.execute(
        "CREATE OR REPLACE TABLE oracle.tier_code AS SELECT unnest(?) AS tier",
        [[tier for tier in TIERS if tier != "closed"]],
    )
    con.execute("CREATE OR REPLACE TABLE oracle.tier_place (policy_version VARCHAR, tier VARCHAR, place INTEGER)")
    for version in policy.versions:
        for place, tier in enumerate(version.tier_order):
            con.execute("INSERT INTO oracle.tier_place VALUES (?, ?, ?)", [version.version, tier, place])


def _scopes(version: PolicyVersion) -> list[tuple[str, str | None]]:
    """Scopes that are ranked, each with its category."""
    if version.abc.scope == "all":
        return [("all", None)]
    return [(f"category={category}", category) for category in CATEGORIES]


def _home(con: duckdb.DuckDBPyConnection, metric: str) -> str:
    """The table that has a feature: of the whole population, if one does."""
    found = con.execute(
        "SELECT table_name FROM duckdb_columns() WHERE schema_name = 'oracle' AND column_name = ?", [metric]
    ).fetchall()
    return next((name for name in TABLES if (name,) in found), "features")


def _measured(metric: str, home: str) -> str:
    """SQL of one metric of the whole population, day by day, where it is known."""
    value = f"m.{metric}" if metric in NULLABLE else f"coalesce(m.{metric}, 0)"
    return (
        f"SELECT p.service_date, p.account_id, p.category, p.region, '{metric}' AS metric, {value}::BIGINT AS amount"
        f" FROM oracle.population p LEFT JOIN oracle.{home} m USING (account_id, service_date) WHERE {value} IS NOT NULL"
    )


def _texts(version: PolicyVersion) -> dict[str, str]:
    """What a policy version says, as SQL, for the gaps in the tier statements."""
    tiers, ladder = version.tiers, version.abuse_ladder
    return {
        "policy_version": literal(version.version),
        "metric": version.abc.metric,
        "scope": "'all'" if version.abc.scope == "all" else "'category=' || f.category",
        "score": score_sql(version.credit_score),
        "grade": _first_that_holds(
            (g.grade, g.when, _is("credit_grade_before", g.grade)) for g in version.credit_grades
        ),
        "candidate_rule": _first_that_holds((rule.rule, rule.when, _is("tier_before", rule.tier)) for rule in tiers),
        "tier": _case("candidate_rule", ((rule.rule, literal(rule.tier)) for rule in tiers)),
        "immediate": _case("candidate_rule", ((rule.rule, str(rule.immediate).lower()) for rule in tiers)),
        "min_stay_days": str(version.min_stay_days),
        "one_notch": f"([{', '.join(map(literal, version.one_notch))}]::VARCHAR[])",
        "has_ladder": str(ladder is not None).lower(),
        "warn_days": str(ladder.warn_days if ladder else 0),
        "restrict_days": str(ladder.restrict_days if ladder else 0),
        "inspection_releases": str(ladder is not None and ladder.release == "inspection_passed").lower(),
    }


def _plans(con: duckdb.DuckDBPyConnection, policy: Policy, days: Sequence[tuple[date, str]]) -> None:
    """Service actions, and their plan day after day. days: in order, each with its policy version."""
    _places(con, policy)
    sections = ("s6_candidates", "s6_plan_day", "s6_plan_capacity", "s6_service_actions")
    in_order = _sql("s6_in_order")
    statements = {
        version.version: [_sql(name, in_order=in_order, **_strategy(version, version.strategy)) for name in sections]
        for version in policy.versions
        if version.strategy
    }
    for begin in range(0, len(days), DAYS_AT_ONCE):
        for version, some in itertools.groupby(days[begin : begin + DAYS_AT_ONCE], key=lambda day: day[1]):
            if version not in statements:
                continue
            span = [literal(day) for day, _ in some]
            candidates, plan_day, capacity, last_day = (
                sql.replace("{{first}}", span[0]).replace("{{last}}", span[-1]) for sql in statements[version]
            )
            con.execute(candidates)
            for day in span:
                con.execute(plan_day.replace("{{day}}", day))
            con.execute(capacity)
            if span[-1] == literal(days[-1][0]):
                con.execute(last_day.replace("{{day}}", span[-1]))


def _strategy(version: PolicyVersion, strategy: Strategy) -> dict[str, str]:
    """What a version's strategy says, as SQL, for the gaps in the statements about actions."""
    value = strategy.value or version.abc.metric
    candidates = (
        f"SELECT service_date, account_id, {number} AS rule_number, {literal(rule.action)} AS action,"
        f" {literal(rule.reason)} AS reason, {rule.due_days} AS due_days, {rule.priority} AS priority,"
        f" {literal(rule.resource) if rule.resource else 'NULL'}::VARCHAR AS resource, {rule.again_days or 0} AS again_days,"
        f" {value}::BIGINT AS value FROM facts WHERE {' AND '.join(map(condition_sql, rule.when)) or 'true'}"
        for number, rule in enumerate(strategy.actions)
    )
    again: dict[tuple[str, str], int] = {}
    for rule in strategy.actions:
        key = rule.action, rule.resource or ""
        again[key] = max(again.get(key, 0), rule.again_days or 0)
    return {
        "candidates": " UNION ALL ".join(candidates),
        "bonus": str(strategy.keep_bonus_ppm),
        "order": "counted DESC, priority" if strategy.order == "value" else "priority, counted DESC",
        "rests": ", ".join(f"({literal(action)}, {literal(takes)}, {days})" for (action, takes), days in again.items()),
        "resources": ", ".join(sorted({literal(rule.resource or "") for rule in strategy.actions})),
        "policy_version": literal(version.version),
    }


def _places(con: duckdb.DuckDBPyConnection, policy: Policy) -> None:
    """The places of each day's plan, which is for the day after: what the capacity file says, as a table."""
    staff = policy.capacity
    if staff is None:
        return
    rows: list[tuple[date, str, int, int]] = []
    for (day,) in con.execute("SELECT service_date FROM oracle.service_day").fetchall():
        after = day + timedelta(days=1)
        said = staff.on(after)
        works = WEEKDAYS[after.weekday()] in said.working_days and after not in staff.holidays
        people = said.managers
        usual = {
            "managers": people.staff * people.accounts_each if people else None,
            "visits": people.staff * people.visits_each if people and people.visits_each is not None else None,
            "inspectors": said.inspectors.staff * said.inspectors.inspections_each if said.inspectors else None,
            "calls": said.calls,
        }
        for resource, places in usual.items():
            if places is not None:
                rows.append((day, resource, places if works or resource == "managers" else 0, places))
    if rows:
        columns = [list(column) for column in zip(*rows, strict=True)]
        con.execute("INSERT INTO oracle.places SELECT unnest($1), unnest($2), unnest($3), unnest($4)", columns)


def _first_that_holds(rules: Iterable[tuple[str, Sequence[Condition], str]]) -> str:
    """SQL of the first name whose conditions all hold; each with SQL of whether an account has already what the rule gives."""
    cases = (
        f"WHEN {' AND '.join(condition_sql(c, has_it) for c in conditions) or 'true'} THEN {literal(name)}"
        for name, conditions, has_it in rules
    )
    return f"CASE {' '.join(cases)} END"


def _is(column: str, value: str) -> str:
    return f"coalesce({column} = {literal(value)}, false)"


def _case(column: str, values: Iterable[tuple[str, str]]) -> str:
    return f"CASE {column} {' '.join(f'WHEN {literal(name)} THEN {value}' for name, value in values)} END"
