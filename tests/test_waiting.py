"""What a stream says that it waits for, before it has published anything."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from pipelines.calendar import Calendar
from pipelines.cut import NO_LIMIT
from pipelines.stalls import Stall
from pipelines.waiting import waits_for
from schemas.policy import default_policy_text, parse_policy
from transforms.kernels.windows import day_of

POLICY = parse_policy(default_policy_text(), "policy.yaml")
FIRST = day_of(date(2025, 1, 1))
COUNTS = {"accounts": {"read": 10, "accepted": 10}, "meter_readings": {"read": 1990, "pending": 4, "rejected": 2}}


def calendar(*received: int) -> Calendar:
    """So many of ten meters on each day from 1 January on."""
    days = len(received)
    none = np.zeros(days, np.int64)
    return Calendar(FIRST, np.array(received), none, np.full(days, 10), none, np.zeros((2, 0), np.int64))


@pytest.mark.parametrize(
    ("days", "through", "words"),
    [
        ([10, 10], None, "a service day may close once each partition of readings has brought one, or was silent for"),
        ([8, 10, 3], FIRST, "readings are there to 2025-01-02, but the partitions are only so far that days to 2025-01-01 may"),
        ([8, 0], NO_LIMIT, "readings go on to 2025-01-02; the first day not complete is 2025-01-01, with 8 of 10 meters"),
        ([0, 0], NO_LIMIT, "no service day is complete"),
        ([10, 10], FIRST, "days to 2025-01-01 are being made"),
        ([10, 10], NO_LIMIT, "days to 2025-01-02 are being made"),
    ],
)  # fmt: skip
def test_a_day_that_does_not_close(days: list[int], through: int | None, words: str) -> None:
    assert waits_for(COUNTS, calendar(*days), POLICY, through, []).startswith(f"2,000 rows taken in; {words}")


def test_nothing_that_counts_yet() -> None:
    said = waits_for({"accounts": {"read": 10}}, None, POLICY, None, [])
    assert said == "10 rows taken in; no reading or ledger event is among them yet."
    assert waits_for(COUNTS, None, POLICY, None, []) == (
        "2,000 rows taken in; of 1,990 readings and ledger events 4 name an account or meter that is not known yet, and 2 were "
        "rejected."
    )


def test_partitions_that_are_behind_are_named() -> None:
    said = waits_for(COUNTS, calendar(10), POLICY, None, [Stall("kafka:readings/1", 0, None, FIRST)])
    assert "kafka:readings/1 holds service days open" in said
    assert "it has brought no reading yet, others to 2025-01-01" in said
