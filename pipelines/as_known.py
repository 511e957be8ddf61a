"""The marts as they were published at an earlier moment: what was known then."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time
from pathlib import Path

from pipelines.config import Config
from pipelines.publish import Publisher
from pipelines.warehouse import Generation, Warehouse
from schemas.errors import ConfigError, StateError


def moment_of(text: str) -> datetime:
    """A moment as a user writes it, in UTC unless it names an offset; a day alone is its end. Raises ConfigError.

    >>> moment_of("2026-03-01T06:30+08:00").isoformat(), moment_of("2026-03-01").isoformat(timespec="minutes")
    ('2026-02-28T22:30:00+00:00', '2026-03-01T23:59+00:00')
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--as-known-at {text!r}: write a day, 2026-03-01, or a moment, 2026-03-01T06:30 or 2026-03-01T06:30+08:00"
        ) from None
    if len(text) <= len("2026-03-01"):
        found = datetime.combine(found.date(), time.max)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def published_at(generation: Generation) -> datetime:
    """When a generation was published."""
    return datetime.fromisoformat(generation.header["published_at"])


def generation_at(warehouse: Warehouse, moment: datetime) -> Generation:
    """The publication that stood at a moment. Raises StateError where it is not kept any more, or there was none yet."""
    standing = warehouse.load()
    if not standing.number:
        raise StateError(f"{warehouse.root}: nothing has been published. Start with `wattier run`.")
    found = standing
    while published_at(found) > moment:
        if found.number == 1:
            raise StateError(f"nothing was published before {published_at(found):%Y-%m-%d %H:%M:%S} UTC")
        if not warehouse.store.exists(f"{warehouse.folder(found.number - 1)}/header.json"):
            raise StateError(
                f"what was published before {published_at(found):%Y-%m-%d %H:%M:%S} UTC has been removed by `wattier gc`. "
                "To keep more publications, raise keep_generations in wattier.yaml; tier_restatements tells which tiers each "
                "publication changed"
            )
        found = warehouse.read(found.number - 1)
    return found


@contextmanager
def marts_at(config: Config, moment: datetime) -> Iterator[Path]:
    """A DuckDB file of the marts as they were published at a moment, over the same immutable files; removed in the end."""
    warehouse = Warehouse(config.warehouse)
    generation = generation_at(warehouse, moment)
    with tempfile.TemporaryDirectory(prefix="wattier-as-known-") as folder:
        path = Path(folder) / "marts.duckdb"
        Publisher(warehouse).derive(generation, path)
        yield path
