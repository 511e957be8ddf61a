"""What the report tells, as tables of plain figures, asked of a published marts.duckdb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from schemas.errors import ConfigError, StateError
from schemas.marts import TIER_ORDER, TIERS
from transforms.kernels.moves import generator, transition

DAYS_SHOWN = 92
ACCOUNTS_SHOWN = 50
MONTHS_A_YEAR = 12

ORDER = (*reversed(TIER_ORDER), *(tier for tier in TIERS if tier not in TIER_ORDER), "none")
"""Tiers in the order they are shown: from the highest value down."""

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Facts:
    """One field a table; rows in the order they are shown. Shares are ppm, amounts in Wh and minor units."""

    generation: int
    published_at: str
    through: date
    policy: str
    days: tuple[date, date] | None  # those that moves are shown between
    today: Rows  # tier, accounts, ppm, Wh, ppm, minor, ppm, mean tenure
    by_month: Rows  # month, tier, accounts
    by_day: Rows  # service day, tier, accounts
    moves: Rows  # from, to, accounts
    month_moves: Rows  # month, from, to, accounts
    causes: Rows  # month, cause, migrations
    pareto: Rows  # scope, percent, customers, sum, ppm
    cuts: Rows  # scope, class, customers inside, ranked, ppm of customers, ppm of total
    concentration: Rows  # month, scope, top 20 ppm, Gini ppm
    metric: str
    stability: Rows  # month, then as the mart, of the scope all
    scopes: Rows  # scope, then the same, of the last month
    tenure: Rows  # scope, tier, accounts, mean tenure
    year: Rows  # from, to, ppm
    year_months: int
    resources: Rows  # tier, accounts ppm, turnover ppm, actions, ppm
    accounts: Rows | None  # account, category, from, to, Wh, minor; None where they were not asked for


_STABILITY = (
    "migrations, upgrades, downgrades, upgrade_ratio_ppm, flaps, flap_rate_ppm, mobility_ppm, psi_month_micro,"
    " psi_year_micro"
)


def gather(marts: Path, first: date | None = None, last: date | None = None, *, accounts: bool = False) -> Facts:
    """The facts of a publication. first, last: the days to show moves between; a month apart up to the last one otherwise.

    Raises StateError where nothing is published, ConfigError for a day that is not published, or two in the wrong order.
    """
    if not marts.is_file():
        raise StateError(f"{marts} is not there yet: nothing has been published. Start with `wattier run`.")
    with duckdb.connect(str(marts), read_only=True) as con:
        try:
            return _Asked(con).facts(first, last, accounts=accounts)
        except duckdb.CatalogException as error:
            raise StateError(
                f"{marts} lacks a mart that the report needs: {error}. `wattier run` writes it anew."
            ) from None


class _Asked:
    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con

    def rows(self, sql: str, **params: Any) -> Rows:
        return self.con.execute(sql, params).fetchall() if params else self.con.execute(sql).fetchall()

    def facts(self, first: date | None, last: date | None, *, accounts: bool) -> Facts:
        ((generation, through, published_at),) = self.rows(
            "SELECT generation, through, published_at FROM wattier_generation"
        )
        if through is None:
            raise StateError(
                "No service day is published yet, so there is nothing to report. Run again once days are complete."
            )
        ((policy,),) = self.rows("SELECT policy_version FROM service_days ORDER BY service_date DESC LIMIT 1")
        days = self._days(first, last)
        year, months = self._year()
        metric = self.rows("SELECT DISTINCT metric FROM pareto")
        return Facts(
            generation, published_at, through, policy, days,
            today=self._today(through),
            by_month=self._tiers("SELECT month, tier, accounts FROM tier_tenure WHERE scope = 'all' ORDER BY month"),
            by_day=self._by_day(through),
            moves=self._moves(*days) if days else [],
            month_moves=self._tiers("SELECT month, from_tier, to_tier, accounts FROM tier_migration_matrix ORDER BY month"),
            causes=self.rows(
                "SELECT date_trunc('month', service_date)::DATE AS month, cause, count(*) FROM tier_migrations"
                " GROUP BY ALL ORDER BY month, count(*) DESC, cause"
            ),
            pareto=self.rows("SELECT scope, percent, customers, amount_sum, share_ppm FROM pareto ORDER BY ALL"),
            cuts=self._cuts(through),
            concentration=self._concentration(),
            metric=metric[0][0] if metric else "",
            stability=self.rows(f"SELECT month, {_STABILITY} FROM tier_stability WHERE scope = 'all' ORDER BY month"),
            scopes=self.rows(
                f"SELECT scope, {_STABILITY} FROM tier_stability"
                " WHERE month = (SELECT max(month) FROM tier_stability) ORDER BY scope"
            ),
            tenure=self._tiers(
                "SELECT scope, tier, accounts, mean_tenure_days FROM tier_tenure"
                " WHERE month = (SELECT max(month) FROM tier_tenure) AND scope = 'all'"
            ),
            year=year, year_months=months,
            resources=self._resources(through),
            accounts=(self._accounts(*days) if days else []) if accounts else None,
        )  # fmt: skip

    def _days(self, first: date | None, last: date | None) -> tuple[date, date] | None:
        days = {day for (day,) in self.rows("SELECT service_date FROM service_days")}
        for asked in (first, last):
            if asked is not None and asked not in days:
                raise ConfigError(f"{asked} is no published service day; there are {min(days)} to {max(days)}")
        end = last or max(days)
        begin = first or max(_month_before(end), min(days))
        if first is None and begin >= end:
            return None
        if begin >= end:
            raise ConfigError(f"--from {begin} is not before --to {end}")
        return begin, end

    def _tiers(self, sql: str) -> Rows:
        """Rows with tiers in the order that they are shown in, within whatever stands before them."""

        def place(row: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(ORDER.index(value) if value in ORDER else value for value in row[:-1])

        return sorted(self.rows(sql), key=place)

    def _today(self, through: date) -> Rows:
        rows = self.rows(
            """SELECT s.tier, s.accounts, accounts_ppm, energy_wh, energy_ppm, turnover_minor, turnover_ppm, mean_tenure_days
               FROM tier_shares s
               LEFT JOIN tier_tenure t ON t.scope = s.scope AND t.tier = s.tier AND t.month = date_trunc('month', s.service_date)
               WHERE s.scope = 'all' AND s.service_date = $day""",
            day=through,
        )
        return sorted(rows, key=lambda row: ORDER.index(row[0]))

    def _by_day(self, through: date) -> Rows:
        since = through - timedelta(days=DAYS_SHOWN - 1)
        rows = self.rows(
            """WITH step AS (
                   SELECT greatest(valid_from, $since) AS day, tier, count(*) AS accounts FROM customer_tiers
                   WHERE coalesce(valid_to, $through) >= $since AND tier <> 'closed' GROUP BY ALL
                   UNION ALL
                   SELECT valid_to + 1, tier, -count(*) FROM customer_tiers
                   WHERE valid_to >= $since AND tier <> 'closed' GROUP BY ALL
               ),
               grid AS (
                   FROM (SELECT DISTINCT service_date AS day FROM service_days WHERE service_date >= $since)
                   CROSS JOIN (SELECT DISTINCT tier FROM step)
               )
               SELECT day, tier, sum(sum(coalesce(accounts, 0))) OVER (PARTITION BY tier ORDER BY day)::BIGINT
               FROM grid LEFT JOIN step USING (day, tier) GROUP BY day, tier""",
            since=since, through=through,
        )  # fmt: skip
        return sorted(rows, key=lambda row: (row[0], ORDER.index(row[1])))

    def _moves(self, first: date, last: date) -> Rows:
        rows = self.rows(
            """SELECT coalesce(a.tier, 'none'), coalesce(b.tier, 'none'), count(*)
               FROM (FROM customer_tiers WHERE $first BETWEEN valid_from AND coalesce(valid_to, $first)) a
               FULL JOIN (FROM customer_tiers WHERE $last BETWEEN valid_from AND coalesce(valid_to, $last)) b USING (account_id)
               WHERE NOT coalesce(a.tier = 'closed' AND b.tier = 'closed', false) GROUP BY ALL""",
            first=first, last=last,
        )  # fmt: skip
        return sorted(rows, key=lambda row: (ORDER.index(row[0]), ORDER.index(row[1])))

    def _accounts(self, first: date, last: date) -> Rows:
        return self.rows(
            f"""SELECT b.account_id, coalesce(f.category, g.category), a.tier, b.tier, coalesce(f.wh_365d, g.wh_365d) AS wh,
                    coalesce(f.billed_365d_minor, g.billed_365d_minor) AS turnover
                FROM (FROM customer_tiers WHERE $first BETWEEN valid_from AND coalesce(valid_to, $first)) a
                JOIN (FROM customer_tiers WHERE $last BETWEEN valid_from AND coalesce(valid_to, $last)) b USING (account_id)
                LEFT JOIN (FROM features WHERE service_date = $last) f USING (account_id)
                LEFT JOIN (FROM features WHERE service_date = $first) g USING (account_id)
                WHERE a.tier <> b.tier
                ORDER BY turnover DESC NULLS LAST, wh DESC NULLS LAST, account_id LIMIT {ACCOUNTS_SHOWN}""",
            first=first, last=last,
        )  # fmt: skip

    def _cuts(self, through: date) -> Rows:
        """Of the rule that classes go by, which alone has an entry and an exit."""
        return self.rows(
            """SELECT scope, class, inside_customers, customers, inside_customers * 1000000 // nullif(customers, 0),
                   inside_total::HUGEINT * 1000000 // nullif(total, 0)
               FROM cutoffs c WHERE service_date = $day AND side = 'cut' AND metric IN (SELECT metric FROM pareto) AND EXISTS (
                   FROM cutoffs e WHERE e.service_date = c.service_date AND e.metric = c.metric AND e.scope = c.scope
                       AND e.rule = c.rule AND e.side = 'entry')
               ORDER BY scope, class""",
            day=through,
        )

    def _concentration(self) -> Rows:
        return self.rows(
            """SELECT date_trunc('month', service_date)::DATE AS month, scope, arg_max(top20_share_ppm, service_date),
                   arg_max(gini_ppm, service_date)
               FROM cutoffs WHERE metric IN (SELECT metric FROM pareto) AND rule <> 'percentile'
               GROUP BY ALL ORDER BY month, scope"""
        )

    def _year(self) -> tuple[Rows, int]:
        """A year's transitions by the rates of the last months, at most twelve; how many they are."""
        found = self.rows(
            f"""SELECT from_tier, to_tier, sum(migrations), sum(account_days)
                FROM tier_transition_rates
                WHERE month > (SELECT max(month) - INTERVAL {MONTHS_A_YEAR} MONTH FROM tier_transition_rates) GROUP BY ALL"""
        )
        ((months,),) = self.rows(f"SELECT least(count(DISTINCT month), {MONTHS_A_YEAR}) FROM tier_transition_rates")
        seen = [tier for tier in ORDER if any(tier in row[:2] for row in found)]
        moves, spent = np.zeros((len(seen), len(seen)), np.int64), np.zeros(len(seen), np.int64)
        for a, b, migrations, account_days in found:
            if a == b:
                spent[seen.index(a)] = account_days
            else:
                moves[seen.index(a), seen.index(b)] = migrations
        if not seen:
            return [], 0
        chances = transition(generator(moves, spent), 1)
        return [
            (a, b, round(float(chances[i, j]) * 1e6)) for i, a in enumerate(seen) for j, b in enumerate(seen)
        ], months

    def _resources(self, through: date) -> Rows:
        """Service actions of the day by tier, beside what the tier brings in."""
        rows = self.rows(
            """WITH taken AS (
                   SELECT tier, count(*) AS actions FROM service_actions s
                   JOIN customer_tiers t ON t.account_id = s.account_id AND $day BETWEEN valid_from AND coalesce(valid_to, $day)
                   WHERE s.service_date = $day AND planned GROUP BY ALL
               )
               SELECT tier, accounts_ppm, turnover_ppm, coalesce(actions, 0),
                   coalesce(actions, 0) * 1000000 // nullif(sum(actions) OVER (), 0)
               FROM tier_shares LEFT JOIN taken USING (tier) WHERE scope = 'all' AND service_date = $day""",
            day=through,
        )
        return sorted(rows, key=lambda row: ORDER.index(row[0]))


def _month_before(day: date) -> date:
    """The day a month before, or the last one of that month."""
    last = day.replace(day=1) - timedelta(days=1)
    return last.replace(day=min(day.day, last.day))


def totals(rows: Rows, at: int, key: Sequence[int]) -> dict[tuple[Any, ...], int]:
    """Sums of a column by others.

    >>> totals([("a", 1), ("b", 2), ("a", 3)], 1, [0])
    {('a',): 4, ('b',): 2}
    """
    found: dict[tuple[Any, ...], int] = {}
    for row in rows:
        of = tuple(row[n] for n in key)
        found[of] = found.get(of, 0) + row[at]
    return found
