"""One published utility for all tests of recovery; each test puts it back first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.recovery.commands import commands
from tests.recovery.utility import Rows, Utility


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Utility]:
    root = tmp_path_factory.mktemp("recovery")
    with commands(root) as run:
        yield Utility.build(root, run)


@pytest.fixture(scope="session")
def old(built: Utility) -> Rows:
    """What the publication before says."""
    built.restore()
    return built.rows()


@pytest.fixture
def utility(built: Utility) -> Utility:
    built.restore()
    return built
