"""`wattier.yaml`: where things lie, how they are read, how long they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from schemas.capacity import load_capacity
from schemas.document import fault_line, parse_document, read_yaml
from schemas.errors import ConfigError
from schemas.kafka import KafkaSettings
from schemas.mapping import SourceMapping, parse_sources
from schemas.policy import Policy, load_policy


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Retention(_Part):
    """Days of rows that the large marts keep. State keeps what its windows need, whatever stands here."""

    features: int = Field(default=35, ge=1, le=36_525)
    daily_consumption: int = Field(default=400, ge=1, le=36_525)
    tier_inputs: int = Field(default=400, ge=0, le=36_525)


class Settings(_Part):
    """`wattier.yaml` but for `sources`."""

    landing: str = "landing"
    warehouse: str = "warehouse"
    policy: str = "policy.yaml"
    capacity: str | None = None
    shards: int = Field(default=4, ge=1, le=4096)
    retention: Retention = Retention()
    keep_generations: int = Field(default=3, ge=1, le=1000)
    kafka: KafkaSettings | None = None
    sources: dict[str, Any]


@dataclass(frozen=True)
class Config:
    """A checked configuration, with absolute paths."""

    path: Path
    landing: str
    warehouse: str
    settings: Settings
    policy: Policy
    sources: dict[str, SourceMapping]

    @property
    def currency(self) -> str | None:
        """The currency of all amounts, where the mapping of the ledger names it."""
        return self.sources["ledger_events"].currency if "ledger_events" in self.sources else None

    @property
    def of_topics(self) -> list[str]:
        """Sources that have topics and no files: `wattier stream` alone takes them in."""
        return [name for name, mapping in self.sources.items() if mapping.topics and not mapping.files]


def load_config(path: Path) -> Config:
    """Read and check the configuration, its source mappings and its policy. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). Make one with `wattier init DIR`, or name it with --config FILE."
        ) from error
    settings = parse_document(text, str(path), Settings)
    raw = read_yaml(text, str(path))
    assert isinstance(raw, dict)
    sources = parse_sources(raw["sources"], str(path))
    _check_topics(sources, settings.kafka, str(path))
    if "://" in settings.warehouse:
        raise ConfigError(
            f"{path}: warehouse: {settings.warehouse!r}: must be a local folder; only `landing` may be a URL"
        )
    folder = path.absolute().parent
    return Config(
        path, _place(folder, settings.landing), _place(folder, settings.warehouse), settings,
        _rules(folder, settings), sources,
    )  # fmt: skip


def _rules(folder: Path, settings: Settings) -> Policy:
    """The policy with the staff. Raises ConfigError with the faults of both files."""
    capacity, faults = None, list[str]()
    if settings.capacity is not None:
        try:
            capacity = load_capacity(Path(_place(folder, settings.capacity)))
        except ConfigError as error:
            faults = [str(error)]
    try:
        policy = load_policy(Path(_place(folder, settings.policy)))
    except ConfigError as error:
        raise ConfigError("\n".join((str(error), *faults))) from None
    if faults:
        raise ConfigError(*faults)
    return policy if capacity is None else policy.model_copy(update={"capacity": capacity})


def _check_topics(sources: Mapping[str, SourceMapping], kafka: KafkaSettings | None, where: str) -> None:
    """Topics need a broker, and none is both read and written. Raises ConfigError."""
    for source, mapping in sources.items():
        for topic in mapping.topics:
            if kafka is None:
                fault = fault_line(where, ["sources", source, "topics"], topic, "needs the part `kafka:`")
                raise ConfigError(f"{fault} with `bootstrap_servers`")
            if topic in (kafka.tier_changes_topic, kafka.dead_letter_topic):
                path = ["sources", source, "topics"]
                raise ConfigError(fault_line(where, path, topic, "is written by Wattier, as `kafka:` says"))


def _place(folder: Path, where: str) -> str:
    return where if "://" in where else str(folder / where)
