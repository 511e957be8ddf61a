"""What `wattier init` writes: a commented configuration and the default policy."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from schemas.capacity import default_capacity_text
from schemas.errors import ConfigError
from schemas.policy import default_policy_text


def config_text(*, registers: bool = False) -> str:
    """The configuration; for cumulative registers, `registers.yaml` in place of the sources that it is about."""
    text = (files(__name__) / "wattier.yaml").read_text(encoding="utf-8")
    if registers:
        readings, meters = (files(__name__) / "registers.yaml").read_text(encoding="utf-8").strip("\n").split("\n\n")
        for source, instead in (("meter_readings", readings), ("meters", meters)):
            begin = text.index(f"\n  {source}:") + 1
            text = text[:begin] + instead + "".join(text[begin:].partition("\n\n")[1:])
    return text.rstrip("\n") + "\n"


def write_templates(directory: Path, *, registers: bool = False) -> list[Path]:
    """Write configuration, policy and capacity file into a folder, and make its landing folder. Returns what was written.

    Raises ConfigError where one of them is there already: nothing is overwritten.
    """
    texts = {
        "wattier.yaml": config_text(registers=registers),
        "policy.yaml": default_policy_text(),
        "capacity.yaml": default_capacity_text(),
    }
    taken = [name for name in texts if (directory / name).exists()]
    if taken:
        raise ConfigError(f"{directory / taken[0]} is there already; choose another folder, or remove it first.")
    (directory / "landing").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in texts]
