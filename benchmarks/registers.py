"""What a day of cumulative registers costs beside one of interval energy: the same utility told both ways, in one run.

    python benchmarks/registers.py --accounts 1000000 --days 60 --work /somewhere/large

Five registers for each meter: the total, and four periods. Both ticks are Wattier's own, warm, without audit; the marts of
the measured days must be equal but for the energy by period, which only registers tell. Exit code 1 where they are not.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import duckdb
from peer import BY_DAY, MARTS_WRITTEN
from sides import Checked, measure
from world import World

from pipelines.oracle import literal
from schemas.inbound import PERIODS
from schemas.marts import MARTS

BY_PERIOD = ("service_actions", "planned_actions", "plan_capacity")
"""Marts that follow from energy by period: who gets a valley-tariff offer, and who then has no place."""

MAY_BE_EMPTY = ("customer_tiers", "tier_migrations", "tier_migration_matrix")
"""Marts that some days add nothing to."""


def told_by_both(mart: str) -> str:
    """The columns of a mart that do not tell energy by period, and do not follow from it."""
    names = [column.name for column in MARTS[mart].columns if column.name != "potential_score"]
    return ", ".join(name for name in names if not name.startswith((*(f"{period}_" for period in PERIODS), "period_")))


def compare(plain: World, registers: World, days: Sequence[str]) -> Checked:
    """By mart, rows of the measured days and how many differ, EXCEPT ALL both ways."""
    found: dict[str, dict[str, int]] = {}
    with duckdb.connect() as con:
        for name, world in (("plain", plain), ("registers", registers)):
            con.execute(f"ATTACH {literal(str(world.warehouse / 'marts.duckdb'))} AS {name} (READ_ONLY)")
        for mart in (name for name in MARTS_WRITTEN if name not in BY_PERIOD):
            where = f"WHERE {BY_DAY[mart]} IN ({', '.join(map(literal, days))})" if mart in BY_DAY else ""
            one, other = (
                f"(SELECT {told_by_both(mart)} FROM {side}.{mart} {where})" for side in ("plain", "registers")
            )
            rows, differing = con.execute(f"""
                SELECT (SELECT count(*) FROM {one}),
                    (SELECT count(*) FROM ({one} EXCEPT ALL {other})) + (SELECT count(*) FROM ({other} EXCEPT ALL {one}))
            """).fetchall()[0]
            found[mart] = {"rows": rows, "differing": differing}
    text = "; ".join(f"{mart}: {c['rows']:,} rows, {c['differing']:,} differ" for mart, c in found.items())
    ok = all(not c["differing"] and (c["rows"] or mart in MAY_BE_EMPTY) for mart, c in found.items())
    return Checked(ok, text, {"compared": found})


def main(argv: Sequence[str] | None = None) -> int:
    """0 where the answers are equal."""
    return measure(argv, "registers", ("interval energy", "five registers"), compare)


if __name__ == "__main__":
    sys.exit(main())
