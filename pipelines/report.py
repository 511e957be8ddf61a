"""`wattier report`: one HTML file that shows a publication's tiers; it needs no server and asks for nothing outside."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pipelines.report_facts import gather
from schemas.labels import Lang


def write_report(
    marts: Path, out: Path | None, *, lang: Lang = "en", accounts: bool = False, first: date | None = None,
    last: date | None = None, currency: str | None = None,
) -> Path:  # fmt: skip
    """Write the report of a published marts.duckdb, and say where it is.

    out: where to; by default beside the marts, `reports/tiers-000012-en.html`. accounts: tell of single accounts, too.
    first, last: the days that migration is shown between. Raises StateError, ConfigError.
    """
    facts = gather(marts, first, last, accounts=accounts)
    from plotly.offline import get_plotlyjs

    from pipelines.report_page import Page

    path = out or marts.parent / "reports" / f"tiers-{facts.generation:06d}-{lang}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = Page(facts, lang, currency).html(get_plotlyjs())
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path
