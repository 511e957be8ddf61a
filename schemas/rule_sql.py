"""Rules of a policy as SQL, on the columns of `features` and what the rules name besides."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from schemas.conditions import Condition
from schemas.policy import PolicyVersion
from schemas.scorecard import FULL, CreditScore, Demerit, ScorePart

_OPERATORS = {
    "at_least": ">=", "at_most": "<=", "above": ">", "below": "<",
    "equals": "=", "one_of": "IN", "not_one_of": "NOT IN",
}  # fmt: skip


def condition_sql(condition: Condition, has_it: str = "false") -> str:
    """A policy condition as SQL, on the columns of features and on `abc`, `credit_grade`. Null does not hold.

    has_it: SQL of whether an account has already what the rule gives; never null.
    """
    if condition.exit is not None:
        enters = condition.model_copy(update={"exit": None})
        return f"CASE WHEN {has_it} THEN {condition_sql(condition.to_stay())} ELSE {condition_sql(enters)} END"
    values = ", ".join(map(literal, condition.values))
    text = f"{condition.column} {_OPERATORS[condition.op]} ({values})"
    return f"({condition.column} IS NULL OR {text})" if condition.or_null else text


def score_sql(card: CreditScore | None) -> str:
    """A scorecard as SQL on the columns of features; null where there is none."""
    if card is None:
        return "NULL"
    points = " + ".join(f"{part.weight} * {points_sql(part)}" for part in card.parts)
    return f"greatest(0, {' - '.join([f'({points}) // 100', *map(demerit_sql, card.demerits)])})"


def points_sql(part: ScorePart) -> str:
    """The points of one part."""
    cases = [f"WHEN {part.column} IS NULL THEN {part.if_null}"] if part.if_null is not None else []
    for bin_ in part.bins[:-1]:
        limit = f">= {bin_.at_least}" if bin_.at_most is None else f"<= {bin_.at_most}"
        cases.append(f"WHEN {part.column} {limit} THEN {bin_.points}")
    last = str(part.bins[-1].points)
    return f"CASE {' '.join(cases)} ELSE {last} END" if cases else last


def demerit_sql(demerit: Demerit) -> str:
    """The points that a demerit takes off."""
    held = " AND ".join(map(condition_sql, demerit.when)) or "true"
    times = f"greatest(0, coalesce({demerit.per}, 0))::HUGEINT * " if demerit.per else ""
    return f"CASE WHEN {held} THEN least({times}{demerit.points}, {demerit.at_most})::BIGINT ELSE 0 END"


def literal(value: str | int | date) -> str:
    """A value as an SQL literal."""
    if isinstance(value, date):
        return f"DATE '{value.isoformat()}'"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def parts_sql(versions: Iterable[PolicyVersion]) -> str:
    """The parts of every score in a table `features`, as a query with the columns of `credit_score_parts`.

    versions: ascending by their first day. Empty where none has a scorecard.
    """
    spans, whens = list(versions), []
    for number, version in enumerate(spans):
        before = spans[number + 1].effective_from if number + 1 < len(spans) else date.max
        card = version.credit_score
        rows = [] if card is None else [*map(_part_row, card.parts), *map(_demerit_row, card.demerits)]
        told = f"[{', '.join(rows)}]" if rows else "NULL"
        whens.append(f"WHEN service_date < {literal(before)} THEN {told}")
    if not any(version.credit_score for version in spans):
        return ""
    return (
        "SELECT account_id, service_date, p.part, p.column, p.value, p.points, p.weight, p.hundredths "
        f"FROM (SELECT account_id, service_date, unnest(CASE {' '.join(whens)} END) AS p FROM features)"
    )


def _part_row(part: ScorePart) -> str:
    points = points_sql(part)
    return _row(part.part, part.column, points, str(part.weight), f"{part.weight} * {points}")


def _demerit_row(demerit: Demerit) -> str:
    points = demerit_sql(demerit)
    return _row(demerit.demerit, demerit.per, f"-{points}", "NULL", f"-{FULL} * {points}")


def _row(part: str, column: str | None, points: str, weight: str, hundredths: str) -> str:
    value, named = (column, literal(column)) if column else ("NULL", "NULL")
    return (
        f"{{'part': {literal(part)}, 'column': {named}::VARCHAR, 'value': {value}::BIGINT, 'points': ({points})::INTEGER, "
        f"'weight': {weight}::INTEGER, 'hundredths': ({hundredths})::INTEGER}}"
    )
