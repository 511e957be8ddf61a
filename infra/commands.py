"""What the command lines of `infra/` have in common: up, down, status, and what they answer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from infra import fetch
from infra.processes import Failed

About = dict[str, Any]


def answer(
    script: str,
    chosen: argparse.Namespace,
    up: Callable[[], About],
    down: Callable[[], Any],
    status: Callable[[], About],
    text: Callable[[About], str],
) -> int:
    """Do what was chosen. 0: done; 1: failed, or not up; 2: something has to be installed or mended first.

    text: what `up` did, for people.
    """
    try:
        if chosen.action == "up":
            about = up()
            print(json.dumps(about, indent=1) if chosen.json else text(about))
            return 0
        if chosen.action == "down":
            found = down()
            print(json.dumps({"stopped": found}) if chosen.json else "stopped" if found else "nothing was up")
            return 0
        said = status()
        print(json.dumps(said, indent=1))
        return 0 if said["up"] else 1
    except (fetch.Missing, ValueError) as missing:
        print(f"{script}: {missing}", file=sys.stderr)
        return 2
    except Failed as failed:
        print(f"{script}: {failed}", file=sys.stderr)
        return 1
