"""What `explain` found, in words, English or Chinese."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.explain import Row
from pipelines.words import amount, decimal, inert, listed, table
from schemas.conditions import NUMBERS
from schemas.labels import KINDS, Lang, label, labels
from schemas.marts import SCORE_COLUMNS


def as_text(told: Row, lang: Lang) -> str:
    """told: see `explain`."""
    return "\n".join(_Teller(told, lang).lines())


class _Teller:
    """Puts what was found into words."""

    def __init__(self, told: Row, lang: Lang) -> None:
        self.told, self.lang, self.currency = told, lang, told["currency"]

    def lines(self) -> Iterator[str]:
        """Paragraph by paragraph."""
        told = self.told
        yield self._say("title", account=inert(told["account_id"]), day=told["service_date"])
        yield from self._tier()
        if told["figures_kept"]:
            yield from ["", *self._abc(), "", *self._credit(), *self._scores(), "", *self._ways()]
        elif told["tier"] == "closed":
            yield self._say("closed")
        else:
            yield self._say("no_figures")
        yield from ["", *self._history(), "", *self._migrations()]
        if told["policy_waits_from"] is not None:
            yield from ["", self._say("policy_waits", day=told["policy_waits_from"])]

    # --- words -------------------------------------------------------------------------------------------------------
    def _say(self, code: str, **values: object) -> str:
        return label("explain", code, self.lang).format(**values)

    def _name(self, kind: str, code: str | None) -> str:
        """The label of a code; the code where there is none."""
        return (
            self._say("none_yet") if code is None else labels().get(kind, {}).get(code, {}).get(self.lang, inert(code))
        )

    def _days(self, days: int) -> str:
        return amount(days, "days", self.lang)

    def _value(self, column: str, value: Any) -> str:
        if value is None:
            return self._say("none")
        if column in NUMBERS:
            return amount(value, NUMBERS[column].unit, self.lang, self.currency)
        if isinstance(value, str):
            return self._name("credit_grade" if column.startswith("credit_grade") else KINDS.get(column, column), value)
        return amount(value, "points", self.lang)  # of a dimension

    def _column(self, column: str) -> str:
        dimension = next((name for name, score in SCORE_COLUMNS.items() if score == column), None)
        return self._name("feature", column) if dimension is None else self._score(dimension)

    def _score(self, dimension: str) -> str:
        return self._say("score_of", dimension=self._name("dimension", dimension))

    # --- conditions --------------------------------------------------------------------------------------------------
    def _condition(self, condition: Row) -> str:
        name, op = condition["column"], condition["op"]
        values = listed([self._value(name, value) for value in condition["wanted"]], self.lang)
        op = "equals" if len(condition["wanted"]) == 1 and op == "one_of" else op
        wanted = label("comparison", op, self.lang).format(value=values)
        for more, there in (("or_null", condition["or_null"]), ("by_exit", condition["by_exit"])):
            wanted = label("comparison", more, self.lang).format(wanted=wanted) if there else wanted
        return self._say(
            "condition", column=self._column(name), value=self._value(name, condition["value"]), wanted=wanted
        )

    def _checked(self, conditions: Sequence[Row]) -> list[str]:
        if not conditions:
            return [f"  {self._say('otherwise')}"]
        return table([[self._say("holds" if c["holds"] else "fails"), self._condition(c)] for c in conditions])

    def _change(self, change: Row, indent: str) -> Iterator[str]:
        """What would have to be otherwise."""
        name, by, metric = change["column"], change.get("by"), change.get("by_metric")
        value, to = (self._value(name, change[side]) for side in ("value", "to"))
        text = self._say("change", column=self._column(name), value=value, to=to)
        if by:
            more = self._say("more" if by > 0 else "less", by=self._value(name, abs(by)))
            text = self._say("then", one=text, other=more)
        if metric is not None:
            of = self.told["abc_by"]["metric"]
            code = "metric_less" if metric < 0 else "metric_more"
            more = self._say(code, by=self._value(of, abs(metric)), metric=self._column(of))
            text = self._say("then", one=text, other=more)
        yield f"{indent}{text}"
        for part in change.get("changes", ()):
            yield from self._change(part, f"{indent}  ")

    # --- paragraphs --------------------------------------------------------------------------------------------------
    def _tier(self) -> Iterator[str]:
        told = self.told
        if told["category"] is not None:
            yield self._say("category", category=self._name("category", told["category"]))
        days = self._days((told["service_date"] - told["tier_since"]).days + 1)
        yield self._say("tier", tier=self._name("tier", told["tier"]), since=told["tier_since"], days=days)
        if told["figures_kept"]:
            rule, version = self._name("tier_rule", told["rule"]), inert(told["policy_version"])
            yield self._say("rule", rule=rule, version=version)
            yield from self._checked(told["conditions"])
            if told["kept"]:
                kept = told["kept"]
                tier = self._name("tier", kept["candidate"])
                yield self._say(f"kept_{kept['by']}", tier=tier, days=self._days(kept["days_left"]))

    def _abc(self) -> Iterator[str]:
        by = self.told["abc_by"]
        category = by["scope"].removeprefix("category=")
        everybody = category == by["scope"]
        scope = (
            self._say("everybody") if everybody else self._say("of_category", category=self._name("category", category))
        )
        yield self._say(
            "abc", cls=self._name("class", self.told["abc"]), metric=self._column(by["metric"]), scope=scope,
            rule=self._name("abc_rule", by["rule"]), value=self._value(by["metric"], by["value"]),
        )  # fmt: skip
        rows = []
        for limit in by["limits"]:
            cells = [
                self._say("limit", cls=self._name("class", limit["class"]), side=self._name("side", limit["side"]))
            ]
            if limit["amount"] is None:
                cells += [self._say("nobody_inside"), ""]
            else:
                away = limit["distance"]
                said = self._say(
                    "distance_above" if away >= 0 else "distance_below", by=self._value(by["metric"], abs(away))
                )
                cells += [self._value(by["metric"], limit["amount"]), said]
            rows.append(cells)
        yield from table(rows, frozenset((1, 2)))

    def _credit(self) -> Iterator[str]:
        told = self.told
        yield self._say("grade", grade=self._name("credit_grade", told["credit_grade"]))
        yield from self._checked(told["grade_by"]["conditions"])
        if told["credit_score"] is None:
            yield self._say("no_score")
            return
        yield self._say("score", score=told["credit_score"])
        rows = [
            [
                self._name("score_part", part["part"]), *self._part_value(part), str(part["points"]),
                "" if part["weight"] is None else f"{part['weight']} %", decimal(part["hundredths"], 2),
            ]
            for part in told["credit_score_parts"]
        ]  # fmt: skip
        yield from self._parts(rows, "adds")

    def _part_value(self, part: Row) -> tuple[str, str]:
        column = part["column"]
        return ("", "") if column is None else (self._column(column), self._value(column, part["value"]))

    def _parts(self, rows: list[list[str]], *more: str) -> list[str]:
        head = [self._say(code) for code in ("part", "goes_by", "value", "points", "weight", *more)]
        return table([head, *rows], frozenset(range(2, len(head)))) if rows else []

    def _scores(self) -> Iterator[str]:
        told = self.told
        for dimension, column in SCORE_COLUMNS.items():
            score = told["scores"].get(column)
            parts = [part for part in told["score_parts"] if part["dimension"] == dimension]
            if score is None:
                continue
            yield ""
            yield self._say("dimension", dimension=self._score(dimension), score=score)
            rows = [
                [
                    self._name("score_part", part["part"]),
                    *self._part_value(part),
                    str(part["points"]),
                    f"{part['weight']} %",
                ]
                for part in parts
            ]
            yield from self._parts(rows)

    def _ways(self) -> Iterator[str]:
        told = self.told
        if not told["ways"]:
            yield self._say("no_ways")
            return
        yield self._say("ways")
        for way in told["ways"]:
            tier, rule = self._name("tier", way["tier"]), self._name("tier_rule", way["rule"])
            yield f"  {self._say('to', tier=tier, rule=rule)}"
            for change in way["changes"]:
                yield from self._change(change, "    ")
            if way["wait_days"]:
                stay = self._days(told["min_stay_days"])
                yield f"    {self._say('waits', days=self._days(way['wait_days']), stay=stay)}"
            if way["first"]:
                yield f"    {self._say('first_to', tier=self._name('tier', way['first']))}"

    def _history(self) -> Iterator[str]:
        yield self._say("history")
        head = [self._say(code) for code in ("from", "until", "tier_head", "class_head", "grade_head", "rule_head")]
        rows = [
            [
                str(row["valid_from"]), str(row["valid_to"] or self._say("now")), self._name("tier", row["tier"]),
                self._name("class", row["abc"]), self._name("credit_grade", row["credit_grade"]),
                self._name("tier_rule", row["rule"]),
            ]
            for row in self.told["history"]
        ]  # fmt: skip
        yield from table([head, *rows])

    def _migrations(self) -> Iterator[str]:
        yield self._say("migrations")
        rows = self.told["migrations"]
        if not rows:
            yield f"  {self._say('none_yet')}"
            return
        codes = ("day_head", "from_head", "to_head", "cause_head", "rule_head", "metric_head", "score_head")
        metrics = self.told["metrics"]
        told = [
            [
                str(row["service_date"]), self._name("tier", row["from_tier"]), self._name("tier", row["to_tier"]),
                self._name("cause", row["cause"]), self._name("tier_rule", row["rule"]),
                self._both(metrics[row["policy_version"]], row["metric_before"], row["metric_after"]),
                self._both("credit_score", row["score_before"], row["score_after"]),
            ]
            for row in rows
        ]  # fmt: skip
        yield from table([[self._say(code) for code in codes], *told])

    def _both(self, column: str, before: int | None, after: int | None) -> str:
        return f"{self._value(column, before)} → {self._value(column, after)}"
