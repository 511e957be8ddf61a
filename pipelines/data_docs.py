"""great-expectations at work: validates counts of breaking rows, and builds Data Docs that need no network.

What is validated is one row per suite. Its columns are named after the expectations and hold the number of rows that
break them; each is expected to be 0. The counting is done before, in SQL (`pipelines/audit.py`).
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

KEEP = 10
"""Audits whose Data Docs are kept."""

SITE = "data_docs"

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70em; padding: 1em 2em; color: #222; }
table { border-collapse: collapse; margin: .5em 0; } td, th { border: 1px solid #ccc; padding: .3em .7em; }
th { background: #f2f2f2; text-align: left; } h5 { font-size: 1.05em; margin: 1.2em 0 .2em; }
ul { padding-left: 1.2em; } ol { list-style: none; padding: 0; } a { color: #0b5cad; }
.text-danger, .failed { color: #b00020; font-weight: bold; } .text-success, .passed { color: #1b7a2f; }
.fa-times::before { content: "\2718 failed"; } .fa-check-circle::before { content: "\2714 held"; }
.fa-exclamation-triangle::before { content: "\26A0 warning"; }
.card, .tooltip, .cooltip .top { display: none; }
"""
"""Replaces the style sheets that Data Docs would fetch from elsewhere."""


@dataclass(frozen=True)
class Check:
    """A counted expectation: its id, its words, what was seen, and how many rows break it."""

    id: str
    suite: str
    words: str
    observed: str
    broken: int
    severity: str

    @property
    def description(self) -> str:
        """What stands in Data Docs: the words, and what was seen where rows break them."""
        return f"{self.words}: {self.observed}" if self.broken else self.words


def warm() -> None:
    """Loads great-expectations, which takes seconds: a process pool can do so while the graph runs."""
    for module in ("great_expectations", "great_expectations.expectations", "pandas"):
        import_module(module)


def validate(checks: Sequence[Check], generation: int, docs_dir: Path) -> tuple[dict[str, bool], Path]:
    """Lets great-expectations validate the counts, and adds this audit's pages to the Data Docs below `docs_dir`.

    Returns whether each check held, by id, and the audit's index page. Raises RuntimeError where great-expectations
    could not check, as that is neither a pass nor a fault of the data.
    """
    building = docs_dir / ".building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    held = _run(checks, generation, building)
    for page in sorted(building.rglob("*.html")):
        page.write_text(localise(page.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.rmtree(building / "static", ignore_errors=True)
    (building / "index.html").write_text(_audit_index(checks, held, generation, building), encoding="utf-8")
    target = docs_dir / _directory_name(docs_dir, generation, all(held.values()))
    building.rename(target)
    for old in _audits(docs_dir)[:-KEEP]:
        shutil.rmtree(old)
    (docs_dir / "index.html").write_text(_index(docs_dir), encoding="utf-8")
    return held, target / "index.html"


def counts(checks: Sequence[Check]) -> pa.Table:
    """One row: a column per check, (1,) int64, the number of rows that break it."""
    return pa.table({check.id: pa.array([check.broken], pa.int64()) for check in checks})


def frame(table: pa.Table) -> Any:
    """The table as a pandas frame that keeps Arrow's types: a nullable integer never becomes a float."""
    import pandas as pd

    return table.to_pandas(types_mapper=pd.ArrowDtype)


def localise(page: str) -> str:
    """A Data Docs page without references to outside hosts: no scripts, no fetched style sheets, images or fonts.

    >>> localise('<img src="//a.example/x.png"><script>fetch()</script><a href="https://b.example">b</a>')
    '<a href="#">b</a>'
    """
    page = re.sub(r"(?is)<script\b.*?</script>|<style\b.*?</style>|<footer\b.*?</footer>", "", page)
    page = re.sub(r"(?is)<link\b[^>]*>|<img\b[^>]*>", "", page)
    page = re.sub(r"""(?is)\b(href|src)\s*=\s*(["'])(?:https?:)?//.*?\2""", r'\1="#"', page)
    page = re.sub(r'href="[^"]*\bexpectations/[^"]*"', 'href="#"', page)  # the words stand in the results already
    page = page.replace("</head>", f"<style>{STYLE}</style></head>", 1)
    return re.sub(r"\n\s*\n+", "\n", page)


def _run(checks: Sequence[Check], generation: int, site: Path) -> dict[str, bool]:
    """Validates suite by suite and renders the pages of the results into `site`."""
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier

    context = _context(site)
    source = context.data_sources.add_pandas("staging")
    held: dict[str, bool] = {}
    for suite in dict.fromkeys(check.suite for check in checks):
        members = [check for check in checks if check.suite == suite]
        batch = source.add_dataframe_asset(suite).add_batch_definition_whole_dataframe("counts")
        definition = gx.ValidationDefinition(
            name=suite,
            data=batch,
            suite=context.suites.add(gx.ExpectationSuite(name=suite, expectations=[_expect(c) for c in members])),
        )
        checkpoint = gx.Checkpoint(
            name=suite,
            validation_definitions=[context.validation_definitions.add(definition)],
            result_format="BASIC",
        )
        outcome = context.checkpoints.add(checkpoint).run(
            batch_parameters={"dataframe": frame(counts(members))},
            run_id=RunIdentifier(run_name=f"generation-{generation}"),
        )
        held.update(_outcomes(outcome, members))
    context.build_data_docs(site_names=[SITE], build_index=False)
    return held


def _context(site: Path) -> Any:
    """A context that lives in memory, writes its pages to `site`, and reports to nobody."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        data_docs_sites={
            SITE: {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site.absolute())},
                "site_section_builders": {"expectations": "None", "profiling": "None"},
            }
        },
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _expect(check: Check) -> Any:
    from great_expectations.expectations import ExpectColumnMaxToBeBetween

    return ExpectColumnMaxToBeBetween(
        column=check.id,
        min_value=0,
        max_value=0,
        description=check.description,
        meta={"id": check.id},
        severity="critical" if check.severity == "block" else "warning",
    )


def _outcomes(outcome: Any, checks: Sequence[Check]) -> dict[str, bool]:
    """Whether each check held; great-expectations must have seen exactly the number that was counted."""
    seen = {
        result.expectation_config.meta["id"]: result
        for validation in outcome.run_results.values()
        for result in validation.results
    }
    for check in checks:
        result = seen[check.id]
        observed = result.result.get("observed_value")
        exact = isinstance(observed, int) and observed == check.broken  # a NumPy float would equal its neighbours
        if not exact or bool(result.success) != (check.broken == 0):
            raise RuntimeError(
                f"great-expectations could not check {check.id}: counted {check.broken}, "
                f"it saw {result.result!r} ({result.exception_info!r})"
            )
    return {check.id: bool(seen[check.id].success) for check in checks}


def _audits(docs_dir: Path) -> list[Path]:
    """The audits kept, oldest first."""
    return sorted(path for path in docs_dir.glob("generation-*") if path.is_dir())


def _directory_name(docs_dir: Path, generation: int, passed: bool) -> str:
    """`generation-000012-02-failed`: the second audit for publication 12."""
    stem = f"generation-{generation:08d}"
    attempts = [int(path.name.split("-")[2]) for path in docs_dir.glob(f"{stem}-*")]
    return f"{stem}-{max(attempts, default=0) + 1:02d}-{'passed' if passed else 'failed'}"


def _audit_index(checks: Sequence[Check], held: Mapping[str, bool], generation: int, site: Path) -> str:
    failed = [check for check in checks if not held[check.id]]
    verdict = (
        f"{len(failed)} of {len(checks)} expectations failed" if failed else f"All {len(checks)} expectations held"
    )
    items = "".join(
        f'<li><span class="failed">{html.escape(check.severity)}</span> {html.escape(check.description)}'
        f" <code>{html.escape(check.id)}</code></li>"
        for check in failed
    )
    links = "".join(
        f'<li><a href="{html.escape(page.relative_to(site).as_posix())}">{html.escape(_suite_of(page, site))}</a></li>'
        for page in sorted(site.glob("validations/**/*.html"))
    )
    body = f"<p>{verdict}.</p><ul>{items}</ul><h2>Suites</h2><ul>{links}</ul>"
    return _page(f"Audit of publication {generation}", body + '<p><a href="../index.html">All audits</a></p>')


def _suite_of(page: Path, site: Path) -> str:
    return page.relative_to(site / "validations").parts[0]


def _index(docs_dir: Path) -> str:
    rows = []
    for path in reversed(_audits(docs_dir)):
        _, generation, attempt, verdict = path.name.split("-")
        rows.append(
            f'<tr><td><a href="{path.name}/index.html">publication {int(generation)}, audit {int(attempt)}</a></td>'
            f'<td class="{verdict}">{verdict}</td></tr>'
        )
    return _page("Data Docs", f"<table><tr><th>Audit</th><th>Outcome</th></tr>{''.join(rows)}</table>")


def _page(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"</head><body><h1>{title}</h1>{body}</body></html>\n"
    )
