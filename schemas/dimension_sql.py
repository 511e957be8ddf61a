"""The dimensions of value of a policy as SQL, on features, their accounts' regions, and the percentiles among the cut-offs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from schemas.dimensions import Dimension, DimensionPart, TopBin
from schemas.marts import SCORE_COLUMNS
from schemas.policy import PolicyVersion
from schemas.rankings import PERCENTILE, Cut, Ranking, percentile
from schemas.rule_sql import literal, points_sql
from schemas.scorecard import FULL, ScorePart

REGIONS = """(
    SELECT f.account_id, f.service_date, arg_max(coalesce(a.region, ''), a.valid_from) AS region
    FROM features f
    JOIN (
        SELECT account_id, region, if(row_number() OVER account = 1, DATE '0001-01-01', valid_from) AS valid_from FROM accounts
        WINDOW account AS (PARTITION BY account_id ORDER BY valid_from)
    ) a ON a.account_id = f.account_id AND a.valid_from <= f.service_date
    GROUP BY ALL
)"""
"""The region of each account and service day of `features`, by the mart `accounts`."""


@dataclass(frozen=True)
class Source:
    """Where the figures are: names of features and cut-offs, and a table (account_id, service_date, region)."""

    features: str = "features"
    cutoffs: str = "cutoffs"
    regions: str = REGIONS


def joined(versions: Iterable[PolicyVersion], source: Source) -> str:
    """Features, each row with the percentiles of its scopes: what the expressions below are written on, after FROM."""
    cuts: dict[tuple[str, str, str, bool], tuple[Ranking, set[Cut]]] = {}
    for version in versions:
        for ranking in version.rankings()[1:]:
            cuts.setdefault(ranking.key, (ranking, set()))[1].update(ranking.cuts)
    text = f"{source.features} f"
    if any(ranking.by == "region" for ranking, _ in cuts.values()):
        text += f" LEFT JOIN {source.regions} q ON q.account_id = f.account_id AND q.service_date = f.service_date"
    scopes = {
        "all": "'all'",
        "category": "'category=' || f.category",
        "region": "'region=' || coalesce(q.region, '')",
    }
    for ranking, of in cuts.values():
        edges = ", ".join(
            f"max_by({{'amount': amount, 'account': boundary_account_id}}, service_date)"
            f" FILTER (cut_num = {cut.num} AND cut_den = {cut.den}) AS {_edge(cut)}"
            for cut in sorted(of, key=lambda cut: (cut.den, cut.num))
        )
        name = _name(ranking)
        text += (
            f" LEFT JOIN (SELECT service_date, scope, {edges} FROM {source.cutoffs} WHERE rule = '{PERCENTILE}'"
            f" AND metric = '{ranking.metric}' AND ranked = '{ranking.order}' GROUP BY ALL) {name}"
            f" ON {name}.service_date = f.service_date AND {name}.scope = {scopes[ranking.by]}"
        )
    return text


def part_points_sql(part: DimensionPart) -> str:
    """The points of one part."""
    column = f"f.{part.column}"
    if part.bins is not None:
        as_scored = ScorePart(part=part.part, column=column, weight=part.weight, bins=part.bins, if_null=part.if_null)
        return points_sql(as_scored)
    cases = [f"WHEN {column} IS NULL THEN {part.if_null}"] if part.if_null is not None else []
    ranking = part.ranking()
    if ranking is None:
        rest = f"greatest(0, least({column}, {FULL}))"
    else:
        *firsts, last = part.top or ()
        cases += [f"WHEN {_among_first(ranking, bin_)} THEN {bin_.points}" for bin_ in firsts]
        rest = str(last.points)
    return f"CASE {' '.join(cases)} ELSE {rest} END" if cases else rest


def dimension_score_sql(dimension: Dimension) -> str:
    """The score of one dimension."""
    return f"({' + '.join(f'{part.weight} * {part_points_sql(part)}' for part in dimension.parts)}) // {FULL}"


def scores_sql(version: PolicyVersion, source: Source, where: str) -> str:
    """The rows of `scores` of the days of one version, as a query. where: which days."""
    made = {SCORE_COLUMNS[d.dimension]: dimension_score_sql(d) for d in version.dimensions or ()}
    columns = ", ".join(f"({made.get(name, 'NULL')})::INTEGER AS {name}" for name in SCORE_COLUMNS.values())
    return f"SELECT f.account_id, f.service_date, {columns} FROM {joined([version], source)} WHERE {where}"


def score_parts_sql(versions: Sequence[PolicyVersion]) -> str:
    """The parts of every score as a query with the columns of `score_parts`, on the marts; empty where there are none.

    versions: ascending by their first day.
    """
    if not any(version.dimensions for version in versions):
        return ""
    whens = []
    for number, version in enumerate(versions):
        before = versions[number + 1].effective_from if number + 1 < len(versions) else date.max
        rows = [_row(d.dimension, part) for d in version.dimensions or () for part in d.parts]
        told = f"[{', '.join(rows)}]" if rows else "NULL"
        whens.append(f"WHEN f.service_date < {literal(before)} THEN {told}")
    return (
        "SELECT account_id, service_date, p.dimension, p.part, p.column, p.value, p.points, p.weight"
        f" FROM (SELECT f.account_id, f.service_date, unnest(CASE {' '.join(whens)} END) AS p"
        f" FROM {joined(versions, Source())})"
    )


def _row(dimension: str, part: DimensionPart) -> str:
    return (
        f"{{'dimension': {literal(dimension)}, 'part': {literal(part.part)}, 'column': {literal(part.column)},"
        f" 'value': f.{part.column}::BIGINT, 'points': ({part_points_sql(part)})::INTEGER, 'weight': {part.weight}::INTEGER}}"
    )


def _name(ranking: Ranking) -> str:
    return f"r_{ranking.metric}_{ranking.by}_{ranking.order}"


def _edge(cut: Cut) -> str:
    return f"first_{cut.num}_{cut.den}"


def _among_first(ranking: Ranking, bin_: TopBin) -> str:
    """Whether an account ranks not after the last one inside."""
    assert bin_.share is not None
    edge, column = f"{_name(ranking)}.{_edge(percentile(bin_.share))}", f"f.{ranking.metric}"
    ahead = ">" if ranking.order == "largest_first" else "<"
    return (
        f"({column} {ahead} {edge}.amount OR ({column} = {edge}.amount AND f.account_id <= {edge}.account))"
    )  # fmt: skip
