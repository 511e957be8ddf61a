"""The sections of the report: a sentence, charts, and tables of what was asked, in one language."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.report_facts import ACCOUNTS_SHOWN, MONTHS_A_YEAR, ORDER, Facts, Rows, totals
from pipelines.report_html import Section, Table, as_json, figure, page
from pipelines.words import MINOR_DIGITS, amount
from schemas.labels import Lang, label

PALETTE = ("#1b4965", "#3d7ea6", "#7fb2d0", "#c9b79c", "#d9a441", "#b23a48", "#6a994e", "#8d6b94", "#5c5c5c")
"""Colors of tiers in `ORDER`; also of causes, and of scopes."""
OUTSIDE = "#d8d8d8"
QUIET = "#8a8a8a"
EMPTY = "–"
ENOUGH_MONTHS = 6
"""Of fewer it is said that they tell little about a year."""


class Page:
    """One report in one language."""

    def __init__(self, facts: Facts, lang: Lang, currency: str | None) -> None:
        self.facts, self.lang, self.currency = facts, lang, currency
        tiers = {row[0] for row in facts.today} | {row[1] for row in (*facts.by_month, *facts.by_day)}
        tiers |= {tier for row in facts.month_moves for tier in row[1:3]} | {t for row in facts.moves for t in row[:2]}
        major = 10 ** MINOR_DIGITS.get(currency, 2) if currency else 1
        self.tiers = [tier for tier in ORDER if tier in tiers]
        self.shown: dict[str, Callable[[Any], str]] = {
            "text": str, "day": str, "month": lambda day: f"{day:%Y-%m}", "count": lambda n: f"{n:,}",
            "ppm": lambda ppm: f"{ppm / 10_000:.1f} %", "ratio": lambda ppm: f"{ppm / 1e6:.2f}",
            "micro": lambda n: f"{n / 1e6:.3f}",
            "mwh": lambda wh: f"{wh / 1e6:,.1f}", "money": lambda minor: f"{minor // major:,}", "id": str,
            "tier": lambda code: label("tier", code, lang), "cause": lambda code: label("cause", code, lang),
            "class": lambda code: label("class", code, lang), "scope": self.scope,
            "category": lambda code: label("category", code, lang),
        }  # fmt: skip

    def say(self, key: str, **words: Any) -> str:
        """A text of the report, words filled in."""
        return label("report", key, self.lang).format(**words)

    def scope(self, scope: str) -> str:
        """`all`, or the name of a category."""
        return self.say("all") if scope == "all" else label("category", scope.removeprefix("category="), self.lang)

    def show(self, kind: str, value: Any) -> str:
        """A value as it is read."""
        return EMPTY if value is None else self.shown[kind](value)

    def columns(self, *named: tuple[str, str]) -> list[tuple[str, str]]:
        """Headings by key, with their kinds."""
        return [
            (self.say(f"col_{key}", currency=self.currency or label("unit", "minor units", self.lang)), kind)
            for key, kind in named
        ]

    def tier(self, code: str) -> str:
        """A tier's label."""
        return self.show("tier", code)

    # --- sections ------------------------------------------------------------------------------------------------------
    def sections(self) -> list[Section]:
        """All of them that have anything to show."""
        made = [
            self.today(),
            self.over_time(),
            self.moves(),
            self.causes(),
            self.pareto(),
            self.stability(),
            self.year(),
        ]
        if self.facts.resources:
            made.insert(5, self.resources())
        if self.facts.accounts is not None:
            made.append(self.accounts())
        return made

    def today(self) -> Section:
        """What each tier has today."""
        rows = self.facts.today
        many = f"{sum(row[1] for row in rows):,}"
        most = max(rows, key=lambda row: row[5], default=None)
        says = self.say("today_plain", accounts=many)
        if most and most[6]:
            says = self.say(
                "today_says", accounts=many, tier=self.tier(most[0]), share=self.show("ppm", most[6]),
                of_accounts=self.show("ppm", most[2]),
            )  # fmt: skip
        parts = (("accounts_ppm", 2, "#b8c4cc"), ("energy_ppm", 4, "#3d7ea6"), ("turnover_ppm", 6, "#1b4965"))
        names = [self.tier(row[0]) for row in rows][::-1]
        data = [
            {"type": "bar", "orientation": "h", "name": self.say(f"col_{key}"), "y": names, "marker": {"color": color},
             "x": [(row[at] or 0) / 1e4 for row in rows][::-1], "hovertemplate": "%{y}: %{x:.1f} %<extra>%{fullData.name}</extra>"}
            for key, at, color in parts[::-1]
        ]  # fmt: skip
        layout = {
            "barmode": "group",
            "xaxis": {"ticksuffix": " %"},
            "legend": {"traceorder": "reversed"},
            "height": 90 + 62 * len(rows),
        }
        columns = self.columns(
            ("tier", "tier"), ("accounts", "count"), ("accounts_ppm", "ppm"), ("energy", "mwh"), ("energy_ppm", "ppm"),
            ("turnover", "money"), ("turnover_ppm", "ppm"), ("tenure", "count"),
        )  # fmt: skip
        return Section(self.say("today"), says, [("today", figure(data, layout))], [Table("today", columns, rows)])

    def over_time(self) -> Section:
        """Accounts by tier, by month and by day."""
        f = self.facts
        months = [("month", f.by_month, "bar"), ("day", f.by_day, "scatter")]
        charts = []
        for name, rows, kind in months:
            ends = sorted({row[0] for row in rows})
            count = {(row[0], row[1]): row[2] for row in rows}
            data = []
            for tier in [t for t in self.tiers if t != "none"][::-1]:
                trace: dict[str, Any] = {
                    "type": kind, "name": self.tier(tier), "y": [count.get((end, tier), 0) for end in ends],
                    "x": [f"{end:%Y-%m}" if name == "month" else str(end) for end in ends],
                }  # fmt: skip
                look: dict[str, Any] = {"marker": {"color": self.color(tier)}}
                if kind == "scatter":
                    look = {"stackgroup": "one", "mode": "lines", "line": {"width": 0}, "fillcolor": self.color(tier)}
                data.append(trace | look)
            axis: dict[str, Any] = {"type": "category"} if name == "month" else {"type": "date", "tickformat": "%m-%d"}
            layout = {
                "barmode": "stack",
                "xaxis": axis,
                "bargap": 0.25,
                "height": 330,
                "legend": {"traceorder": "reversed"},
            }
            charts.append((f"by_{name}", figure(data, layout)))
        tables = [
            self._wide("by_month", f.by_month, "month"),
            self._wide("by_day", f.by_day, "day", self.say("by_day")),
        ]
        says = self.say("over_time_says", through=f.through)
        says += " " + self.say("by_day_says", days=len({row[0] for row in f.by_day}))
        return Section(self.say("over_time"), says, charts, tables)

    def _wide(self, name: str, rows: Rows, by: str, title: str = "") -> Table:
        """Accounts with a column for each tier."""
        tiers = [tier for tier in self.tiers if tier != "none"]
        count = {(row[0], row[1]): row[2] for row in rows}
        columns = [*self.columns((by, by)), *((self.tier(tier), "count") for tier in tiers)]
        ends = sorted({row[0] for row in rows})
        wide = [(end, *(count.get((end, tier), 0) for tier in tiers)) for end in ends]
        return Table(name, columns, wide, title, folded=bool(title))

    def moves(self) -> Section:
        """Who went where between two days, as flows and as a matrix."""
        f = self.facts
        if f.days is None:
            return Section(self.say("moves"), self.say("moves_none"))
        both = [row for row in f.moves if not {"none", "closed"} & set(row[:2])]
        accounts, moved = sum(row[2] for row in both), sum(row[2] for row in both if row[0] != row[1])
        says = self.say(
            "moves_says", **{"from": f.days[0], "to": f.days[1]}, moved=f"{moved:,}", accounts=f"{accounts:,}",
            share=self.show("ppm", moved * 1_000_000 // accounts if accounts else 0),
        )  # fmt: skip
        choice = ""
        months = sorted({row[0] for row in f.month_moves}, reverse=True)
        if months:
            flows = {"": self.flow(f.moves)}
            flows |= {f"{m:%Y-%m}": self.flow([row[1:] for row in f.month_moves if row[0] == m]) for m in months}
            names = [("", self.say("chosen_days")), *((f"{m:%Y-%m}",) * 2 for m in months)]
            options = "".join(f'<option value="{value}">{html.escape(name)}</option>' for value, name in names)
            choice = (
                f'<p class="choice"><label>{html.escape(self.say("month_choice"))}: '
                f'<select id="month">{options}</select></label></p>'
                f"<script>choose('month', 'flow', {as_json(flows)});</script>"
            )
        columns = self.columns(("from", "tier"), ("to", "tier"), ("accounts", "count"), ("share", "ppm"))
        of_row = totals(f.moves, 2, [0])
        rows = [(*row, row[2] * 1_000_000 // of_row[row[0],]) for row in f.moves]
        tables = [
            self._matrix("matrix", f.moves, "count", self.say("matrix")),
            Table("moves", columns, rows, self.say("shares"), folded=True),
            Table(
                "month_moves",
                [*self.columns(("month", "month")), *columns[:3]],
                f.month_moves,
                self.say("every_month"),
                folded=True,
            ),
        ]
        charts = [("flow", self.flow(f.moves)), ("heat", self.heat(rows))]
        return Section(self.say("moves"), says, charts, tables, choice)

    def _matrix(self, name: str, rows: Rows, kind: str, title: str = "") -> Table:
        """Tiers by tiers."""
        value = {row[:2]: row[2] for row in rows}
        firsts = [t for t in self.tiers if any(row[0] == t for row in rows)]
        lasts = [t for t in self.tiers if any(row[1] == t for row in rows)]
        columns = [(self.say("col_from"), "tier"), *((self.tier(tier), kind) for tier in lasts)]
        return Table(name, columns, [(a, *(value.get((a, b), 0) for b in lasts)) for a in firsts], title)

    def flow(self, rows: Rows) -> dict[str, Any]:
        """An alluvial chart: tiers on the first day at the left, on the second at the right."""
        left = [tier for tier in self.tiers if any(row[0] == tier for row in rows)]
        right = [tier for tier in self.tiers if any(row[1] == tier for row in rows)]
        height, pad = 420, 14
        gap = pad / (height - 50)  # less the margins
        scale = 1 - gap * (max(len(left), len(right)) - 1)
        node = {
            "label": [self.tier(tier) for tier in (*left, *right)], "color": [self.color(tier) for tier in (*left, *right)],
            "x": [0.001] * len(left) + [0.999] * len(right),
            "y": [*_middles(rows, 0, left, gap, scale), *_middles(rows, 1, right, gap, scale)],
            "pad": pad, "thickness": 14, "line": {"width": 0}, "hovertemplate": "%{label}: %{value:,.0f}<extra></extra>",
        }  # fmt: skip
        link = {
            "source": [left.index(row[0]) for row in rows], "target": [len(left) + right.index(row[1]) for row in rows],
            "value": [row[2] for row in rows], "color": [_pale(self.color(row[0])) for row in rows],
            "hovertemplate": "%{source.label} → %{target.label}: %{value:,.0f}<extra></extra>",
        }  # fmt: skip
        return figure([{"type": "sankey", "arrangement": "snap", "node": node, "link": link}], {"height": height})

    def heat(self, rows: Rows) -> dict[str, Any]:
        """Shares of rows as shades: (from, to, accounts, ppm)."""
        firsts = [t for t in self.tiers if any(row[0] == t for row in rows)]
        lasts = [t for t in self.tiers if any(row[1] == t for row in rows)]
        share, count = {r[:2]: r[3] for r in rows}, {r[:2]: r[2] for r in rows}

        def text(a: str, b: str) -> str:
            return f"{count[a, b]:,}<br>{share[a, b] / 1e4:.1f} %" if (a, b) in share else ""

        data = [{
            "type": "heatmap", "x": [_broken(self.tier(t)) for t in lasts],
            "y": [self.tier(t) for t in firsts],
            "z": [[share.get((a, b), 0) / 1e4 for b in lasts] for a in firsts],
            "text": [[text(a, b) for b in lasts] for a in firsts],
            "texttemplate": "%{text}", "textfont": {"size": 11}, "colorscale": [[0, "#f7f8f9"], [1, "#3d7ea6"]], "showscale": False,
            "zmin": 0, "zmax": 100, "xgap": 2, "ygap": 2, "hovertemplate": "%{y} → %{x}: %{text}<extra></extra>",
        }]  # fmt: skip
        layout = {
            "height": 110 + 52 * len(firsts),
            "yaxis": {"autorange": "reversed"},
            "xaxis": {"side": "top", "tickangle": 0},
        }
        return figure(data, layout)

    def causes(self) -> Section:
        """Why tiers changed, month by month."""
        rows = self.facts.causes
        if not rows:
            return Section(self.say("causes"), self.say("causes_none"))
        of_cause = sorted(totals(rows, 2, [1]).items(), key=lambda item: (-item[1], item[0]))
        months, count = sorted({row[0] for row in rows}), {(row[0], row[1]): row[2] for row in rows}
        many = sum(n for _, n in of_cause)
        data = [
            {"type": "bar", "name": self.show("cause", cause), "x": [f"{m:%Y-%m}" for m in months],
             "y": [count.get((m, cause), 0) for m in months], "marker": {"color": PALETTE[n % len(PALETTE)]}}
            for n, ((cause,), _) in enumerate(of_cause)
        ]  # fmt: skip
        layout = {"barmode": "stack", "xaxis": {"type": "category"}, "bargap": 0.25, "height": 330}
        columns = [
            *self.columns(("month", "month")),
            *((self.show("cause", cause), "count") for (cause,), _ in of_cause),
        ]
        table = Table("causes", columns, [(m, *(count.get((m, cause), 0) for (cause,), _ in of_cause)) for m in months])
        says = self.say(
            "causes_says", migrations=f"{many:,}", cause=self.show("cause", of_cause[0][0][0]),
            share=self.show("ppm", of_cause[0][1] * 1_000_000 // many),
        )  # fmt: skip
        return Section(self.say("causes"), says, [("causes", figure(data, layout))], [table])

    def pareto(self) -> Section:
        """What the largest accounts have, and where classes are cut."""
        f = self.facts
        if not f.pareto:
            return Section(self.say("pareto"), self.say("pareto_none"))
        scopes = list(dict.fromkeys(row[0] for row in f.pareto))
        last = {row[1]: row[2:] for row in f.concentration if row[0] == max(r[0] for r in f.concentration)}
        shapes, notes = [], []
        for n, (scope, cls, _, _, of_customers, of_total) in enumerate(f.cuts):
            if of_customers is None:
                continue
            at = of_customers / 1e4
            line = {"color": QUIET, "width": 1, "dash": "dash"}
            shapes.append({"type": "line", "x0": at, "x1": at, "y0": 0, "y1": of_total / 1e4, "line": line})
            name = self.show("class", cls) + (f" {self.scope(scope)}" if len(scopes) > 1 else "")
            notes.append({"x": at, "y": 4 + 7 * (n % 8) if len(scopes) > 1 else 4, "text": f" {name}", "showarrow": False,
                          "xanchor": "left", "font": {"size": 11}})  # fmt: skip
        data = [
            {"type": "scatter", "mode": "lines", "name": self.scope(scope), "x": [0, *(r[1] for r in f.pareto if r[0] == scope)],
             "y": [0, *(r[4] / 1e4 for r in f.pareto if r[0] == scope)], "line": {"color": PALETTE[n % len(PALETTE)], "width": 2},
             "hovertemplate": "%{x} %: %{y:.1f} %<extra>%{fullData.name}</extra>"}
            for n, scope in enumerate(scopes)
        ]  # fmt: skip
        layout = {
            "height": 380, "shapes": shapes, "annotations": notes, "showlegend": len(scopes) > 1,
            "xaxis": {"range": [0, 100], "ticksuffix": " %", "title": {"text": self.say("largest")}},
            "yaxis": {"range": [0, 102], "ticksuffix": " %", "title": {"text": self.say("col_curve"), "standoff": 12}},
        }  # fmt: skip
        metric = label("metric", f.metric, self.lang)
        says = " ".join(
            self.say("pareto_says", top20=self.show("ppm", top), gini=self.show("ratio", gini), metric=metric,
                     scope=self.scope(scope))
            for scope, (top, gini) in last.items() if top is not None
        )  # fmt: skip
        shown = [(row[0], *row[1:3], row[4]) for row in f.pareto if row[1] in (1, 5, 10, 20, 30, 50, 80, 100)]
        tables = [
            Table("pareto", self.columns(("scope", "scope"), ("percent", "count"), ("customers", "count"), ("curve", "ppm")),
                  shown),
            Table("cuts", self.columns(("scope", "scope"), ("class", "class"), ("inside", "count"), ("customers", "count"),
                  ("inside_ppm", "ppm"), ("inside_share", "ppm")), f.cuts, self.say("cut_table")),
            Table("concentration", self.columns(("month", "month"), ("scope", "scope"), ("top20", "ppm"), ("gini", "ratio")),
                  f.concentration, self.say("concentration"), folded=len(f.concentration) > MONTHS_A_YEAR),
        ]  # fmt: skip
        return Section(self.say("pareto"), says, [("pareto", figure(data, layout))], tables)

    def resources(self) -> Section:
        """What tiers bring in, and what they take."""
        columns = self.columns(
            ("tier", "tier"),
            ("accounts_ppm", "ppm"),
            ("turnover_ppm", "ppm"),
            ("actions", "count"),
            ("actions_ppm", "ppm"),
        )
        return Section(
            self.say("resources"), self.say("resources_says"), [], [Table("resources", columns, self.facts.resources)]
        )

    def stability(self) -> Section:
        """How much tiers moved, month by month."""
        f = self.facts
        names = (
            ("migrations", "count"), ("upgrades", "count"), ("downgrades", "count"), ("ratio", "ratio"), ("flaps", "count"),
            ("flap_rate", "ppm"), ("mobility", "ratio"), ("psi_month", "micro"), ("psi_year", "micro"),
        )  # fmt: skip
        month, migrations, up, down, _, flaps, *_ = f.stability[-1]
        says = self.say(
            "stability_says",
            month=f"{month:%Y-%m}",
            up=f"{up:,}",
            down=f"{down:,}",
            flaps=f"{flaps:,}",
            migrations=f"{migrations:,}",
        )
        months = [f"{row[0]:%Y-%m}" for row in f.stability]
        data = [
            {"type": "bar", "name": self.say("col_upgrades"), "x": months, "y": [r[2] for r in f.stability],
             "marker": {"color": "#3d7ea6"}},
            {"type": "bar", "name": self.say("col_downgrades"), "x": months, "y": [-r[3] for r in f.stability],
             "marker": {"color": "#d9a441"}, "customdata": [r[3] for r in f.stability],
             "hovertemplate": "%{x}: %{customdata:,}<extra>%{fullData.name}</extra>"},
        ]  # fmt: skip
        layout = {"barmode": "relative", "xaxis": {"type": "category"}, "bargap": 0.25, "height": 300}
        tables = [
            Table("stability", self.columns(("month", "month"), *names), f.stability),
            Table("scopes", self.columns(("scope", "scope"), *names), f.scopes, self.say("scopes")),
            Table("tenure", self.columns(("tier", "tier"), ("accounts", "count"), ("tenure", "count")), [r[1:] for r in f.tenure],
                  self.say("tenure")),
        ]  # fmt: skip
        return Section(self.say("stability"), says, [("stability", figure(data, layout))], tables)

    def year(self) -> Section:
        """A year's transitions."""
        rows = self.facts.year
        months = self.facts.year_months
        says = self.say("year_ahead_says", months=amount(months, "months", self.lang))
        if months < ENOUGH_MONTHS:
            says = f"{says} {self.say('year_short')}"
        return Section(self.say("year_ahead"), says, [], [self._matrix("year", rows, "ppm")] if rows else [])

    def accounts(self) -> Section:
        """Single accounts, where they were asked for."""
        columns = self.columns(
            ("account", "id"),
            ("scope", "category"),
            ("from", "tier"),
            ("to", "tier"),
            ("energy", "mwh"),
            ("turnover", "money"),
        )
        if not self.facts.accounts:
            return Section(self.say("accounts"), self.say("accounts_none"), [], [])
        weighed = any(row[-2:] != (None, None) for row in self.facts.accounts)
        says = self.say("accounts_says" if weighed else "accounts_unweighed", limit=ACCOUNTS_SHOWN)
        return Section(self.say("accounts"), says, [], [Table("accounts", columns, self.facts.accounts)])

    def color(self, tier: str) -> str:
        """A tier's color: the same in every chart."""
        return OUTSIDE if tier == "none" else PALETTE[ORDER.index(tier) % len(PALETTE)]

    def html(self, plotly_js: str) -> str:
        """The report as one HTML page."""
        f = self.facts
        texts = {
            "lang": "zh-Hans" if self.lang == "zh" else "en", "title": self.say("title"), "how": self.say("how"),
            "subtitle": self.say(
                "subtitle", through=f.through, generation=f.generation, published=f.published_at.replace("T", " ")[:16],
                policy=f.policy,
            ),
        }  # fmt: skip
        return page(self.sections(), self.show, texts, plotly_js)


def _broken(name: str) -> str:
    """A tier's label on two lines, where it has a word in brackets."""
    return name.replace(" (", "<br>(").replace("（", "<br>（")


def _middles(rows: Rows, at: int, tiers: Sequence[str], gap: float, scale: float) -> list[float]:
    """Where the middle of each tier's bar is, from 0 at the top to 1; gap: between two bars, scale: of all bars together."""
    of = totals(rows, 2, [at])
    above, found = 0, []
    for n, tier in enumerate(tiers):
        found.append(n * gap + (above + of[tier,] / 2) / sum(of.values()) * scale)
        above += of[tier,]
    return found


def _pale(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.35)"
