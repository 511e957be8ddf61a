"""`wattier explain`: why an account is in its tier on a service day, and what would move it.

From the marts and the policy they were published under. What is told is plain data; `explain_text` puts it into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from pipelines.config import Config
from pipelines.plan import policy_waits, published_policy
from pipelines.publish import published_generation
from pipelines.warehouse import Warehouse
from pipelines.words import inert
from schemas.conditions import Condition, Conditional
from schemas.credit import TENURE
from schemas.errors import ConfigError
from schemas.marts import CLASSES, CREDIT_SCORE_PARTS, SCORE_COLUMNS, TIERS
from schemas.policy import PolicyVersion
from schemas.scorecard import SCORE
from transforms.kernels.tiers import CODES, NONE, Columns, first_match, grades_of, holds, rule_candidates, settle
from transforms.kernels.ways import Change, Option, least_changes, thresholds
from transforms.kernels.windows import date_of

MOST = 3
"""Tiers that are told of beside the account's own, those first that take the least."""

Row = dict[str, Any]


def explain(config: Config, account: str, as_of: date | None) -> Row:
    """What is known of an account's tier. as_of: None: the last service day published.

    Raises ConfigError where the account, or its tier on the day, is not known; StateError where nothing is published.
    """
    warehouse = Warehouse(config.warehouse)
    standing, end = published_generation(warehouse)
    through = date_of(end)
    day = as_of or through
    with _Marts(warehouse.marts, account) as marts:
        history = marts.rows("customer_tiers", "valid_from")
        if not history:
            raise ConfigError(f"account {inert(account)!r} is not known: no tier of it is published")
        first = history[0]["valid_from"]
        if not first <= day <= through:
            raise ConfigError(
                f"--as-of {day}: account {inert(account)} has a tier from {first} to {through}, the last service day published"
            )
        policy = published_policy(standing.header["policy"], config.policy)
        version = policy.on(day)
        now, before = _on(history, day), _on(history, day - timedelta(days=1))
        told = {
            "account_id": account, "service_date": day, "generation": standing.number, "currency": standing.header.get("currency"),
            **{name: now[name] for name in ("tier", "tier_since", "abc", "credit_grade")},
            "policy_version": version.version, "category": None, "figures_kept": False,
            "policy_waits_from": policy_waits(standing.header, config.policy),
        }  # fmt: skip
        features = marts.on("features", day)
        if features is not None and now["tier"] != "closed":
            scores = marts.on("scores", day) or {}
            told |= _Reasons(version, features | scores, now, before, day, marts).told()
        if now["tier"] == "closed":
            told["rule"] = now["rule"]
        told["history"] = history
        told["metrics"] = {v.version: v.abc.metric for v in policy.versions}
        told["migrations"] = marts.rows("tier_migrations", "service_date")
    return told


def _on(history: Sequence[Row], day: date) -> Row:
    """The row of a history that holds on a day; nothing where none does."""
    return next((row for row in history if row["valid_from"] <= day <= (row["valid_to"] or date.max)), {})


class _Marts:
    """The marts, as rows of one account."""

    def __init__(self, path: Path, account: str) -> None:
        self.con, self.account = duckdb.connect(str(path), read_only=True), account
        self.names = {row[0] for row in self.con.execute("SELECT table_name FROM information_schema.tables").fetchall()}

    def __enter__(self) -> _Marts:
        return self

    def __exit__(self, *_: object) -> None:
        self.con.close()

    def rows(self, mart: str, order: str) -> list[Row]:
        """All of the account, without its id."""
        return self.ask(
            f'SELECT * EXCLUDE (account_id) FROM {mart} WHERE account_id = ? ORDER BY "{order}"', self.account
        )

    def on(self, mart: str, day: date) -> Row | None:
        """That of a day; None where there is none, or no such mart."""
        rows = self.parts(mart, day)
        return rows[0] if rows else None

    def parts(self, mart: str, day: date) -> list[Row]:
        """Those of a day."""
        if mart not in self.names:
            return []
        asked = f"SELECT * EXCLUDE (account_id, service_date) FROM {mart} WHERE account_id = ? AND service_date = ?"
        return self.ask(asked, self.account, day)

    def ask(self, sql: str, *values: object) -> list[Row]:
        """Rows by name of column."""
        cursor = self.con.execute(sql, list(values))
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@dataclass
class _Reasons:
    """What decided on a day whose figures are kept. now, before: rows of the tier history, of the day and the one before."""

    version: PolicyVersion
    features: Row
    now: Row
    before: Row
    day: date
    marts: _Marts

    def __post_init__(self) -> None:
        again = self.before.get("tier") == "closed"
        self.tier_before = _code(TIERS, self.before.get("tier"))
        self.grade_before = NONE if again else _code(CLASSES, self.before.get("credit_grade"))
        self.values: Row = {
            **dict.fromkeys(SCORE_COLUMNS.values()),
            **self.features,
            "abc": self.now["abc"],
            "credit_grade": self.now["credit_grade"],
            "credit_grade_before": None if self.grade_before == NONE else CLASSES[self.grade_before],
        }
        self.columns: Columns = {name: _column(name, value) for name, value in self.values.items()}
        self.limits = self._limits()

    def told(self) -> Row:
        """Everything but the history."""
        version = self.version
        number, candidate = rule_candidates(
            version, self.columns, self.columns["abc"], self.columns["credit_grade"], _one(self.tier_before)
        )
        self.fired = int(number[0])
        rule, tier = version.tiers[self.fired], TIERS[int(candidate[0])]
        stayed = (self.day - self.before["tier_since"]).days if self.before else 0
        kept = None
        if tier != self.now["tier"]:
            stays = self.now["tier"] == self.before.get("tier")
            left = max(version.min_stay_days, 1) - stayed if stays else 0
            kept = {"by": "stay" if stays else "one_notch", "days_left": left}
            kept["candidate"] = tier
        tomorrow = (self.day - self.now["tier_since"]).days + 1
        return {
            "category": self.features["category"], "figures_kept": True, "rule": rule.rule,
            "conditions": [self._condition(c, self._has(tier, self.tier_before)) for c in rule.when],
            "kept": kept,
            "stay_days_left": max(version.min_stay_days - tomorrow, 0),
            "min_stay_days": version.min_stay_days,
            "abc_by": self._abc(),
            "grade_by": self._grade(),
            "credit_score": self.features.get(SCORE),
            "credit_score_parts": self.marts.parts(CREDIT_SCORE_PARTS.name, self.day),
            "scores": self.marts.on("scores", self.day) or {},
            "score_parts": self.marts.parts("score_parts", self.day),
            "ways": self._ways(tomorrow),
        }  # fmt: skip

    # --- conditions --------------------------------------------------------------------------------------------------
    @staticmethod
    def _has(gives: str, before: int) -> bool:
        return before != NONE and before < len(TIERS) and TIERS[before] == gives

    def _condition(self, condition: Condition, has_it: bool) -> Row:
        """A condition with the threshold that counts, and how far the value is from it. has_it: whether the exit counts."""
        counts = condition.to_stay() if has_it else condition.model_copy(update={"exit": None})
        value = self.values[condition.column]
        out: Row = {
            "column": counts.column, "op": counts.op, "wanted": list(counts.values), "or_null": counts.or_null,
            "by_exit": has_it and condition.exit is not None, "value": value, "holds": bool(holds(counts, self.columns)[0]),
        }  # fmt: skip
        return out

    # --- ABC ---------------------------------------------------------------------------------------------------------
    def _limits(self) -> dict[tuple[str, str], Row]:
        abc = self.version.abc
        scope = "all" if abc.scope == "all" else f"category={self.features['category']}"
        rows = self.marts.ask(
            """SELECT class, side, amount, boundary_account_id FROM cutoffs
               WHERE service_date = ? AND metric = ? AND scope = ? AND rule = ?""",
            self.day, abc.metric, scope, abc.rule,
        )  # fmt: skip
        self.scope = scope
        return {(row["class"], row["side"]): row for row in rows}

    def _abc(self) -> Row:
        abc, value = self.version.abc, self.features[self.version.abc.metric] or 0
        limits = [
            {
                "class": cls, "side": side, "amount": row["amount"],
                "distance": None if row["amount"] is None else value - row["amount"],
            }
            for (cls, side), row in sorted(self.limits.items(), key=lambda item: (item[0][0], _SIDES.index(item[0][1])))
        ]  # fmt: skip
        return {"metric": abc.metric, "scope": self.scope, "rule": abc.rule, "value": value, "limits": limits}

    def _to_class(self, cls: str) -> int | None:
        """The change of the metric that leads to another class; None where no cut-off tells."""
        value, now = self.features[self.version.abc.metric] or 0, self.now["abc"]
        if cls < now:  # a better class is come into by its entry
            limit = self.limits.get((cls, "entry"), {}).get("amount")
            return None if limit is None else max(limit - value, 0)
        limit = self.limits.get(("A" if cls == "B" else "B", "exit"), {}).get("amount")
        return None if limit is None else min(limit - value - 1, 0)  # a worse one by leaving that before it by its exit

    # --- credit ------------------------------------------------------------------------------------------------------
    def _grade(self) -> Row:
        rules, had = self.version.credit_grades, _one(self.grade_before)
        gives = np.array([CLASSES.index(rule.grade) for rule in rules], np.int8)
        rule = rules[int(first_match(rules, self.columns, 1, gives, had)[0])]
        has_it = self.grade_before == CLASSES.index(rule.grade)
        return {"grade": rule.grade, "conditions": [self._condition(c, has_it) for c in rule.when]}

    def _to_grades(self) -> dict[str, tuple[Change, ...]]:
        """What would lead to other credit grades on the next day."""
        rules, now = self.version.credit_grades, CLASSES.index(self.now["credit_grade"])
        values = self._coded() | {"credit_grade_before": now}

        def decide_grades(columns: Columns, n: int) -> Any:
            return grades_of(self.version, columns, np.full(n, now, np.int8))

        found = least_changes(values, self._numbers(rules), decide_grades, now)
        return {CLASSES[grade]: changes for grade, changes in found.items()}

    # --- other tiers -------------------------------------------------------------------------------------------------
    def _coded(self) -> Row:
        """The account's values, codes as numbers."""
        return {
            name: CODES[name].index(value) if name in CODES and value is not None else value
            for name, value in self.values.items()
            if name in CODES or value is None or (isinstance(value, int) and not isinstance(value, bool))
        }

    def _numbers(self, rules: Sequence[Conditional]) -> dict[str, list[Option]]:
        """Other values of the numbers that rules name."""
        out = {}
        for name in dict.fromkeys(c.column for rule in rules for c in rule.when if c.column not in CODES):
            value = self.values[name]
            out[name] = [
                Option(n, far=value is None or (name == TENURE.name and n < value))
                for n in thresholds(rules, name, value)
            ]
        return out

    def _ways(self, dwell: int) -> list[Row]:
        """What would lead to other tiers on the next day, the least first. dwell: days in the tier by then."""
        version, now, grades = self.version, TIERS.index(self.now["tier"]), self._to_grades()
        options, named = self._numbers(version.tiers), version.reads()
        if "abc" in named:
            ways = {cls: by for cls in CLASSES if cls != self.now["abc"] and (by := self._to_class(cls)) is not None}
            options["abc"] = [Option(CLASSES.index(cls)) for cls in sorted(ways, key=lambda cls: abs(ways[cls]))]
        if "credit_grade" in named:
            far = {grade: any(option.far for _, option in changes) for grade, changes in grades.items()}
            options["credit_grade"] = [Option(CLASSES.index(grade), far[grade]) for grade in grades]

        def decide_tiers(columns: Columns, n: int) -> Any:
            grade, abc = (np.ma.getdata(columns[name]) for name in ("credit_grade", "abc"))
            return rule_candidates(version, columns, abc, grade, np.full(n, now, np.int8))[1]

        out: list[Row] = []
        for code, changes in least_changes(self._coded(), options, decide_tiers, now).items():
            columns = {**self.columns} | {name: _typed(name, option.value) for name, option in changes}
            number, _ = rule_candidates(version, columns, columns["abc"], columns["credit_grade"], _one(now))
            rule = version.tiers[int(number[0])]
            gets = settle(version, number, _one(code), _one(now), np.array([1 << 30], np.int32))
            out.append({
                "tier": TIERS[code], "rule": rule.rule, "far": any(option.far for _, option in changes),
                "changes": [self._change(name, option, grades) for name, option in changes],
                "wait_days": 0 if rule.immediate else max(version.min_stay_days - dwell, 0),
                "first": None if int(gets[0]) == code else TIERS[int(gets[0])],
            })  # fmt: skip
        return sorted(out, key=lambda way: (way["far"], len(way["changes"]), self._steps(way["tier"])))[:MOST]

    def _change(self, name: str, option: Option, grades: dict[str, tuple[Change, ...]]) -> Row:
        """A change in words of the marts. by: of the column; by_metric: of the metric that classes go by."""
        value = self.values[name]
        if name not in CODES:
            return {
                "column": name,
                "value": value,
                "to": option.value,
                "by": None if value is None else option.value - value,
            }
        to = CODES[name][option.value]
        out: Row = {"column": name, "value": value, "to": to}
        if name == "abc":
            out["by_metric"] = self._to_class(to)
        else:
            out["changes"] = [self._change(*change, grades) for change in grades[to]]
        return out

    def _steps(self, tier: str) -> int:
        """How far a tier is from the account's, in the order of tiers."""
        order = self.version.tier_order
        known = tier in order and self.now["tier"] in order
        return abs(order.index(tier) - order.index(self.now["tier"])) if known else len(TIERS)


_SIDES = ("entry", "cut", "exit")


def _code(names: Sequence[str], name: str | None) -> int:
    return NONE if name is None else names.index(name)


def _one(code: int) -> Any:
    return np.array([code], np.int8)


def _typed(name: str, value: int) -> Any:
    return np.array([value], np.int8 if name in CODES else np.int64)


def _column(name: str, value: Any) -> Any:
    """A column of one account."""
    if name in CODES:
        code = _one(_code(CODES[name], value))
        return np.ma.masked_array(code, [True]) if value is None else code
    if isinstance(value, bool) or not (value is None or isinstance(value, int)):
        return np.zeros(1, np.int64)
    return np.ma.masked_array(np.array([value or 0], np.int64), [value is None])
