"""A tick of two worlds, one after the other in one run: the plain one, and one that an option of tick.py makes otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tick
from world import World, go_back


@dataclass(frozen=True)
class Checked:
    """Whether the answers are right, and what is said of it: as text, and as JSON values."""

    ok: bool
    text: str
    said: dict[str, Any]


def measure(
    argv: Sequence[str] | None,
    option: str,
    names: tuple[str, str],
    check: Callable[[World, World, Sequence[str]], Checked],
) -> int:
    """Prepare both, measure both, check the answers of the days measured, print. Returns 0 where they are right.

    option: of tick.py, given for the second world alone; names: of both sides. The options are those of tick.py.
    """
    arguments = tick.options([*(argv if argv is not None else sys.argv[1:]), "--only=warm"])
    arguments.contender = None
    outcomes: list[tick.Outcome] = []
    worlds: list[World] = []
    with tick.work_folder(arguments.work) as work:
        for other in (False, True):
            setattr(arguments, option, other)
            worlds.append(tick.world_of(arguments, Path(work)))
            tick.contend(arguments, worlds[-1], "prepare")
            if not arguments.prepare_only:
                outcomes.append(tick.contend(arguments, worlds[-1], "warm"))
        if arguments.prepare_only:
            return 0
        plain, second = worlds
        checked = check(plain, second, [plain.date_of(day).isoformat() for day in tick.days_of(arguments)[1:]])
        for world in worlds:
            go_back(world)
    one, two = outcomes
    ratios = {"seconds": two.median / one.median, "cpu": two.median_cpu / one.median_cpu}
    if arguments.json:
        print(json.dumps({"ratios": ratios, **checked.said}))
    else:
        print(f"{arguments.accounts:,} accounts, {plain.shards} shards; {tick.machine()}")
        for name, outcome in zip(names, outcomes, strict=True):
            print(f"{name:<16} {outcome.median:>8.2f} s {outcome.median_cpu:>8.2f} CPU s; {outcome.stage_text()}")
        print(f"{names[1]} / {names[0]}: {ratios['seconds']:.2f} by the clock, {ratios['cpu']:.2f} in CPU seconds")
        print(checked.text)
    return 0 if checked.ok else 1
