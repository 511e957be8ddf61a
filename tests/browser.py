"""A headless Chromium that opens a page and says what it logged, what it asked for, and what it drew."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = os.environ.get("WATTIER_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None
)
"""The program, where there is one."""


@dataclass(frozen=True)
class Opened:
    """What came of opening a page. cells: table id -> rows of raw values; drawn: charts with an SVG in them."""

    logged: list[str]
    asked_for: list[str]
    cells: dict[str, list[list[str]]]
    drawn: set[str]
    title: str


READ = """() => ({
  title: document.title,
  drawn: [...document.querySelectorAll(".chart")].filter((c) => c.querySelector("svg")).map((c) => c.id),
  cells: Object.fromEntries([...document.querySelectorAll("table")].map((t) => [t.id.replace("table-", ""),
    [...t.tBodies[0].rows].map((r) => [...r.cells].map((c) => c.dataset.v))])),
})"""


def opened(path: Path, *, choose: str | None = None) -> Opened:
    """Open a page from a file. choose: another month to pick from its list."""
    from playwright.sync_api import sync_playwright

    logged: list[str] = []
    asked_for: list[str] = []
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        page = browser.new_page()
        page.on("console", lambda message: logged.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: logged.append(f"error: {error}"))
        page.on("request", lambda request: asked_for.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_function("[...document.querySelectorAll('.chart')].every((c) => c.querySelector('svg'))")
        if choose:
            page.select_option("#month", choose)
        found = page.evaluate(READ)
        browser.close()
    return Opened(logged, asked_for, found["cells"], set(found["drawn"]), found["title"])
