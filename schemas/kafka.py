"""The `kafka:` part of `wattier.yaml`: where the broker is, and how topics are read and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from schemas.errors import ConfigError

OURS = (
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.idempotence",
    "enable.partition.eof",
    "statistics.interval.ms",
)
"""Options of the client that what we promise rests on; they cannot be set."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def check_topic(name: str) -> str:
    """A topic's name as Kafka allows it. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) or name in (".", ".."):
        raise ValueError("must be a topic's name: letters, digits, '.', '_' and '-', 249 at most")
    return name


def _check_option(name: str) -> str:
    if name in OURS:
        raise ValueError("is set by Wattier itself")
    return name


def _unseen(value: Any) -> Any:
    """What is neither text, number nor flag is refused without being shown: it may be a secret, wrongly quoted."""
    return value if isinstance(value, str | int) else None


Topic = Annotated[str, AfterValidator(check_topic)]
Option = Annotated[str, AfterValidator(_check_option)]
Setting = Annotated[str | int | bool, BeforeValidator(_unseen)]


class KafkaSettings(BaseModel):
    """How topics are reached. Options may name environment variables as `${NAME}`; they are never printed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: str = Field(min_length=1)
    options: dict[Option, Setting] = Field(default={}, repr=False)
    idle_timeout_seconds: int = Field(default=30, ge=1, le=86_400)
    out_of_order_days: int = Field(default=1, ge=0, le=365)
    max_poll_rows: int = Field(default=5000, ge=1, le=1_000_000)
    max_message_bytes: int = Field(default=10_000_000, ge=1_000, le=50_000_000)
    tier_changes_topic: Topic | None = None
    dead_letter_topic: Topic | None = None
    splittable: bool = False

    def client_options(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What the client is started with, variables filled in. Raises ConfigError naming one that is not set."""

        def fill(name: str, value: str) -> str:
            missing = [variable for variable in _VARIABLE.findall(value) if variable not in environment]
            if missing:
                raise ConfigError(
                    f"kafka.options.{name}: the environment variable {missing[0]} is not set; "
                    "set it where the workers run, too"
                )
            return _VARIABLE.sub(lambda found: environment[found[1]], value)

        plain = {
            name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in self.options.items()
        }
        return {
            "bootstrap.servers": self.bootstrap_servers,
            **{name: fill(name, value) for name, value in plain.items()},
        }
