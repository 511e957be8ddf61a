"""What is published and what waits; and whether every published file is still what it was."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from pipelines.config import Config
from pipelines.landing import discover
from pipelines.plan import policy_change, policy_waits
from pipelines.publish import generation_of
from pipelines.warehouse import Generation, Warehouse
from schemas.errors import ConfigError, StateError
from schemas.policy import Policy
from transforms.kernels.windows import date_of


def status(config: Config) -> dict[str, Any]:
    """Facts of the standing publication, by name."""
    warehouse = Warehouse(config.warehouse)
    standing = warehouse.load()
    landed = discover(config.landing, config.sources, standing.deliveries)
    files: dict[str, Any] = {"files_waiting": len(landed.deliveries), "files_of_no_source": landed.unmatched}
    if config.of_topics:
        files["sources_of_topics"] = ", ".join(config.of_topics)
    if not standing.number:
        return {"generation": 0, "published": "nothing yet", **files}
    days = standing.tables.get("service_days")
    provisional = int(pc.sum(pc.equal(days["status"], "provisional")).as_py() or 0) if days is not None else 0
    return {
        "generation": standing.number,
        "published_at": standing.header["published_at"],
        "through": date_of(standing.through) if standing.through is not None else "no service day yet",
        "service_days": days.num_rows if days is not None else 0,
        "provisional_days": provisional,
        "accounts": sum(entry.rows for entry in standing.of("mart:customer_tiers_current")),
        "rows_pending": standing.tables["pending"].num_rows,
        "rows_rejected": sum(entry.rows for entry in standing.of("mart:rejects")),
        **files,
        "policy": _policy(standing, config.policy),
        "days_held": standing.header.get("held") or "none",
        "shards": standing.header["shards"],
        "marts": str(warehouse.marts),
        "marts_of_generation": generation_of(warehouse.marts),
    }


def _policy(standing: Generation, policy: Policy) -> str:
    waits = policy_waits(standing.header, policy)
    return "as published" if waits is None else f"has changed: from {waits} on, `wattier run` goes by the new one"


def check_files(warehouse: Warehouse) -> list[str]:
    """A line for every file of the standing generation that is missing or whose checksum is not the recorded one."""
    problems = []
    for path, digest in sorted({(entry.path, entry.sha256) for entry in warehouse.load().entries}):
        try:
            if warehouse.store.digest(path) != digest:
                problems.append(
                    f"{path}: damaged: its checksum is not the one it was published with. Restore it from a backup."
                )
        except FileNotFoundError:
            problems.append(f"{path}: missing. Restore it from a backup.")
    return problems


def check_published(warehouse: Warehouse, policy: Policy) -> None:
    """Whether there is a publication that can be verified under a policy: whole files, its own marts, the same rules.

    Raises StateError, or ConfigError where the policy is not the one it was published under.
    """
    standing = warehouse.load()
    if not standing.number:
        raise StateError(f"{warehouse.root}: nothing has been published. Start with `wattier run`.")
    if problems := check_files(warehouse):
        raise StateError("\n".join(problems))
    if generation_of(warehouse.marts) != standing.number:
        raise StateError(f"{warehouse.marts} is not of generation {standing.number}. `wattier run` derives it anew.")
    if policy_change(standing.header["policy"], policy) is not None:
        raise ConfigError(
            "the policy has changed since the publication. Run `wattier run` to publish under it, or put the old one back."
        )
