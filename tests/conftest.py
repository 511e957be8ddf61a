"""Settings all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Here alone: a fixture that two conftests import is two fixtures, with a cluster each.
from tests.clusters import flink_cluster, kafka_broker

__all__ = ["flink_cluster", "kafka_broker"]

# No test asserts a time, so no example has a deadline; in CI the same examples run every time.
settings.register_profile("local", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", parent=settings.get_profile("local"), max_examples=25, derandomize=True, print_blob=True
)
settings.load_profile("ci" if os.environ.get("CI") else "local")


LONGEST = (
    "tests/real/test_tianchi.py",
    "tests/real/test_tianchi_registers.py",
    "tests/pipeline/test_closed_ledger.py",
    "tests/streaming/test_equalities.py",
    "tests/pipeline/test_put_right_again.py",
    "tests/streaming/test_flink.py",
    "tests/pipeline/test_three_years.py",
    "tests/test_docs.py",
    "tests/pipeline/test_put_right.py",
    "tests/test_benchmarks.py",
    "tests/infra/test_flink.py",
    "tests/pipeline/test_stories.py",
    "tests/pipeline/test_ledger_stories.py",
    "tests/recovery/test_kill.py",
    "tests/real/test_receivables.py",
    "tests/pipeline/test_stream_scores.py",
    "tests/streaming/test_metering.py",
    "tests/pipeline/test_stream_clock.py",
    "tests/pipeline/test_stream_publisher.py",
)
"""Files that take minutes, begun first: a worker has a file to itself, and none is to be left with a long one in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others as they are."""
    place = {file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of `tests/streaming/test_equalities.py`: runners, and the rows that the marts of each have in common."""
    found = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "equalities"
    ]
    if not found:
        return
    marts = list(found[0][1])
    terminalreporter.section("a month of real days: rows of each mart, equal row for row to those of the first line")
    width = max(len(runner) for runner, _ in found)
    terminalreporter.write_line(" " * width + "  " + "  ".join(marts))
    for runner, rows in found:
        numbers = (f"{rows[mart]:>{len(mart)},}" for mart in marts)
        terminalreporter.write_line(f"{runner:<{width}}  " + "  ".join(numbers))
