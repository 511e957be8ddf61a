"""Rows read against where they went: in a fixed order, and never out of balance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.generations import TOLD, RowCounts
from schemas.errors import Unbalanced
from schemas.inbound import SOURCES
from transforms.storage import Commit


def commit(source: str, **counts: int) -> Commit:
    return Commit("s", 0, (), counts={source: counts})


def test_all_sources_are_told_of():
    assert sorted(TOLD) == sorted(SOURCES)


@given(st.permutations(["accounts", "meters", "tariffs", "meter_readings", "ledger_events"]))
def test_the_order_is_not_that_of_the_steps(sources):
    counts = RowCounts()
    counts.take([commit(source, read=1, accepted=1) for source in sources])
    assert list(counts.balance({}, {})) == ["accounts", "meters", "tariffs", "meter_readings", "ledger_events"]


def test_a_row_that_goes_nowhere_stops_the_run():
    counts = RowCounts()
    counts.take([commit("meters", read=2, accepted=1)])
    with pytest.raises(Unbalanced, match=r"meters: 2 rows came in .* but 1 are accounted for"):
        counts.balance({}, {})
