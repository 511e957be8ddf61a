"""What late readings cost: a run in which one reading of a hundred is one to five days late, beside one without, in one run.

    python benchmarks/late.py --accounts 1000000 --days 36 --work /somewhere/large

The same utility, told in time and told late. Both ticks are Wattier's own, warm, without audit. A late reading restates the days
from its own on. The late world's marts are compared with the oracle in the end, for 200 accounts and all cut-offs; exit code 1
where they differ.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sides import Checked, measure
from world import World


def check(plain: World, late: World, days: Sequence[str]) -> Checked:
    """The late world's marts beside the oracle's."""
    from pipelines.config import load_config
    from pipelines.verify import verify

    report = verify(str(late.warehouse / "marts.duckdb"), load_config(late.config).policy)
    return Checked(report.ok, str(report), {"mismatches": report.mismatches})


def main(argv: Sequence[str] | None = None) -> int:
    """0 where the oracle agrees."""
    return measure(argv, "late", ("all in time", "1 % late"), check)


if __name__ == "__main__":
    sys.exit(main())
