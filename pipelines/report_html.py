"""How the report is written: tables and charts as HTML that asks for nothing outside. Whatever is data is escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import resources
from typing import Any

from pipelines.report_facts import Rows

INK = "#222222"
FONT = "'Helvetica Neue', Arial, 'Noto Sans CJK SC', 'Microsoft YaHei', 'WenQuanYi Zen Hei', sans-serif"
AT_THE_LEFT = ("tier", "text", "id", "cause", "class", "scope", "category", "day", "month")
"""Kinds of values that are no figures."""

Show = Callable[[str, Any], str]
"""How a value of a kind is read."""


@dataclass
class Table:
    """A table: columns as (heading, kind of value), rows of raw values. id: by which tests and readers find it."""

    id: str
    columns: Sequence[tuple[str, str]]
    rows: Rows
    title: str = ""
    folded: bool = False


@dataclass
class Section:
    """A heading, a sentence, charts, tables."""

    title: str
    says: str
    charts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    choice: str = ""  # HTML above the charts


def page(sections: Sequence[Section], show: Show, texts: Mapping[str, str], plotly_js: str) -> str:
    """The whole page. texts: lang, title, subtitle, how. Its content policy forbids what is outside, too."""
    frame = (resources.files("pipelines") / "report_page.html").read_text("utf-8")
    filled = {name: html.escape(text) for name, text in texts.items()} | {"font": FONT, "plotly": plotly_js}
    filled["body"] = "\n".join(_section(section, show) for section in sections)
    first, *parts = frame.split("{{")
    named = (part.split("}}", 1) for part in parts)
    return first + "".join(filled[name] + rest for name, rest in named)


def _section(section: Section, show: Show) -> str:
    charts = "".join(
        f'<div class="chart" id="{name}" style="min-height:{drawn["layout"]["height"]}px"></div>'
        f"<script>draw('{name}', {as_json(drawn)});</script>"
        for name, drawn in section.charts
    )
    tables = "".join(_table(table, show) for table in section.tables)
    title, says = html.escape(section.title), html.escape(section.says)
    return f"<section><h2>{title}</h2><p>{says}</p>{section.choice}{charts}{tables}</section>"


def _table(table: Table, show: Show) -> str:
    head = "".join(f"<th{_aligned(kind)}>{html.escape(name)}</th>" for name, kind in table.columns)
    kinds = [kind for _, kind in table.columns]
    rows = "".join(
        f"<tr>{''.join(_cell(kind, value, show) for kind, value in zip(kinds, row, strict=True))}</tr>"
        for row in table.rows
    )
    content = f'<table id="table-{table.id}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    content = f'<div class="wide">{content}</div>'
    if not table.title:
        return content
    opened = "" if table.folded else " open"
    return f"<details{opened}><summary>{html.escape(table.title)}</summary>{content}</details>"


def _cell(kind: str, value: Any, show: Show) -> str:
    raw = "" if value is None else html.escape(str(value), quote=True)
    # A spreadsheet that a table is pasted into takes an id for text, not for a formula.
    style = " style=\"mso-number-format:'\\@'\"" if kind == "id" else ""
    return f'<td{_aligned(kind)}{style} data-v="{raw}">{html.escape(show(kind, value))}</td>'


def _aligned(kind: str) -> str:
    return "" if kind in AT_THE_LEFT else ' class="n"'


def figure(data: Iterable[dict[str, Any]], layout: dict[str, Any]) -> dict[str, Any]:
    """A chart as plotly draws it: checked by plotly's own validators, with the page's look."""
    import plotly.graph_objects as go

    axis = {
        "gridcolor": "#ececec",
        "zerolinecolor": "#bbbbbb",
        "linecolor": "#bbbbbb",
        "automargin": True,
        "fixedrange": True,
    }
    look: dict[str, Any] = {
        "font": {"family": FONT, "size": 12, "color": INK}, "paper_bgcolor": "white", "plot_bgcolor": "white",
        "margin": {"l": 10, "r": 24, "t": 36, "b": 14}, "hoverlabel": {"font": {"family": FONT}}, "separators": ".,",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"} | layout.get("legend", {}),
        "xaxis": axis | layout.get("xaxis", {}), "yaxis": axis | layout.get("yaxis", {}),
    }  # fmt: skip
    drawn = go.Figure(data=list(data), layout=look | {k: v for k, v in layout.items() if k not in look})
    drawn.layout.template = None
    made: dict[str, Any] = json.loads(drawn.to_json())
    return made


def as_json(value: Any) -> str:
    """JSON that cannot end the script it stands in."""
    text = json.dumps(value, ensure_ascii=False, default=_plain)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> str:
    assert isinstance(value, date)
    return str(value)
