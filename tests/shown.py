"""Whether pages show of the demo what it printed: CI pipes the demo into it, and names the pages."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""What a page shows of a terminal."""


def not_shown(page: str, printed: str) -> Iterator[str]:
    """Lines of a page's terminal that were not printed. Spaces between words do not count; `...` stands for lines left out."""
    lines = {" ".join(line.split()) for line in printed.splitlines()}
    for block in BLOCK.findall(page):
        yield from (line for line in block.splitlines() if line != "..." and " ".join(line.split()) not in lines)


def main() -> None:
    """Ends with 1 and names the lines where a page shows others, or none at all."""
    printed = sys.stdin.read()
    print(printed)
    for name in sys.argv[1:]:
        page = Path(name).read_text("utf-8")
        if not BLOCK.search(page):
            sys.exit(f"{name}: shows nothing of a terminal")
        if lines := list(not_shown(page, printed)):
            sys.exit("\n".join([f"{name}: the demo does not print:", *lines]))


if __name__ == "__main__":
    main()
