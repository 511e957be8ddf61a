"""What a publication consists of beside its files: counts that balance, its header, its small tables."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipelines.calendar import Calendar
from pipelines.config import Config
from pipelines.plan import made_under
from pipelines.warehouse import Generation, stack
from schemas.errors import Unbalanced
from schemas.marts import PIPELINE_RUNS
from transforms.kernels.windows import date_of
from transforms.parts import FILES
from transforms.storage import Commit, Entry

TOLD = ("accounts", "meters", "tariffs", "meter_readings", "register_readings", "ledger_events", "conduct_events")
"""Sources in the order they are told of: what others refer to comes first."""

OUTCOMES = ("read", "redriven", "accepted", "superseded", "rejected", "pending")


class RowCounts:
    """Rows by source and outcome, over several portions of input."""

    def __init__(self) -> None:
        self.totals: dict[str, dict[str, int]] = {}

    def take(self, commits: Sequence[Commit]) -> None:
        """Add what the stages counted in one portion. What waited before it and waits after it counts once."""
        portion: dict[str, dict[str, int]] = {}
        for commit in commits:
            for source, counts in (commit.counts or {}).items():
                for outcome, rows in counts.items():
                    into = portion.setdefault(source, {})
                    into[outcome] = into.get(outcome, 0) + rows
        for source, counts in portion.items():
            total = self.totals.setdefault(source, {})
            waiting_again = total.pop("pending", 0)
            for outcome, rows in counts.items():
                total[outcome] = total.get(outcome, 0) + rows
            total["redriven"] = total.get("redriven", 0) - waiting_again

    def balance(self, files: Mapping[str, int], redelivered: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """Rows read, and pending before, against where they went, by source, in the order of `TOLD`. Raises Unbalanced."""
        balanced = {}
        for source in sorted(self.totals, key=TOLD.index):
            total = self.totals[source]
            c = {outcome: total.get(outcome, 0) for outcome in OUTCOMES}
            came, went = c["read"] + c["redriven"], c["accepted"] + c["superseded"] + c["rejected"] + c["pending"]
            if came != went:
                raise Unbalanced(
                    f"{source}: {came} rows came in ({c['read']} read, {c['redriven']} pending before), but {went} are accounted "
                    f"for ({c['accepted']} accepted, {c['superseded']} superseded, {c['rejected']} rejected, {c['pending']} "
                    "pending). Nothing was published. Please report this with the run's files."
                )
            c["files"], c["files_redelivered"] = files.get(source, 0), redelivered.get(source, 0)
            balanced[source] = c
        return balanced


def _of_topics(standing: Generation, last_delivery: int) -> dict[str, Any]:
    """What a stream goes on from after a bounded run, which reads files alone."""
    held = standing.header.get("stream", {})
    within = {**held.get("within", {}), FILES: last_delivery + 1}
    return {"offsets": held.get("offsets", {}), "within": within}


def _held_from(entries: Sequence[Entry], mart: str, wanted: int) -> int:
    """First service day that a mart shows. wanted: that of its retention; its files may begin later, and patches before them."""
    return max(wanted, min((e.first for e in entries if e.kind == f"mart:{mart}"), default=wanted))


def make_generation(
    standing: Generation, entries: Sequence[Entry], config: Config, started: datetime, register: pa.Table,
    calendar: Calendar | None, end: int | None, counts: Mapping[str, Mapping[str, int]], held: str | None,
    last_delivery: int, stream: Mapping[str, Any] | None = None,
) -> Generation:  # fmt: skip
    """The generation that follows `standing`. register: the file register after all; end: last service day; stream: how
    far each topic was taken in, None: as it stood.
    """
    keep, number = config.settings.retention, standing.number + 1
    header = {
        "shards": config.settings.shards,
        **made_under(config.policy),
        "currency": config.currency or standing.header.get("currency"),
        "held": held,
        "last_delivery": last_delivery,
        "through": end,
        "first": calendar.first if calendar else None,
        "started_at": started.isoformat(timespec="seconds"),
        "wattier_version": importlib.metadata.version("wattier"),
        "keep_from": {} if end is None else {
            "features": _held_from(entries, "features", end - keep.features + 1),
            "scores": _held_from(entries, "scores", end - keep.features + 1),
            "daily_consumption": _held_from(entries, "daily_consumption", end - keep.daily_consumption + 1),
        },
        "stream": dict(stream) if stream is not None else _of_topics(standing, last_delivery),
    }  # fmt: skip
    tables = dict(standing.tables)
    tables.pop("service_days", None)
    if calendar and end is not None:
        tables["service_days"] = calendar.service_days(config.policy, end)
    runs = [
        {
            "generation": number, "source": source, "started_at": header["started_at"], "files": c["files"],
            "files_redelivered": c["files_redelivered"], "rows_read": c["read"], "rows_redriven": c["redriven"],
            "rows_accepted": c["accepted"], "rows_superseded": c["superseded"], "rows_rejected": c["rejected"],
            "rows_pending": c["pending"], "through": date_of(end) if end is not None else None,
            "wattier_version": header["wattier_version"],
        }
        for source, c in sorted(counts.items())
    ]  # fmt: skip
    new = pa.Table.from_pylist(runs, schema=PIPELINE_RUNS.schema)
    tables["pipeline_runs"] = stack(tables.get("pipeline_runs"), new)
    return Generation(number, header, tuple(entries), register, tables)
