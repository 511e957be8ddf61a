"""Where the tests of this folder find their data: the files WATTIER_REAL_DATA names, or the fixture where it is unset."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from schemas.policy import Policy, load_policy

FIXTURE = Path(__file__).parent / "fixture"
EXAMPLES = FIXTURE.parents[2] / "docs" / "examples"
REAL = os.environ.get("WATTIER_REAL_DATA")


class Example:
    """A copy of an example's folder, with its files landed as its README says."""

    def __init__(self, name: str, data: Path, folder: Path) -> None:
        self.data, self.folder = data, folder / name
        shutil.copytree(EXAMPLES / name, self.folder)
        subprocess.run([sys.executable, "prepare.py", str(self.data)], cwd=self.folder, check=True)

    def config(self, warehouse: str = "warehouse", shards: int | None = None) -> Path:
        """The example's configuration, into another warehouse or number of shards where asked for."""
        lines = (self.folder / "wattier.yaml").read_text("utf-8").splitlines()
        lines[lines.index("warehouse: warehouse")] = f"warehouse: {warehouse}"
        if shards is not None:
            (at,) = [n for n, line in enumerate(lines) if line.startswith("shards: ")]
            lines[at] = f"shards: {shards}"
        path = self.folder / f"{warehouse}.yaml"
        path.write_text("\n".join(lines), "utf-8")
        return path

    @property
    def policy(self) -> Policy:
        """The example's policy."""
        return load_policy(self.folder / "policy.yaml")

    def wattier(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command, as a user starts it."""
        command = [sys.executable, "-P", "-m", "pipelines", *arguments]
        return subprocess.run(command, cwd=self.folder, check=False, capture_output=True, text=True)

    def not_shown(self, query: str) -> list[str]:
        """Rows that a query of the example gives and its README does not show, as lines of a Markdown table."""
        with duckdb.connect(str(self.marts()), read_only=True) as con:
            rows = con.sql((self.folder / query).read_text("utf-8")).fetchall()
        assert rows or not REAL
        shown = (self.folder / "README.md").read_text("utf-8").replace(",", "").splitlines()
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
        return [line for line in lines if line not in shown]

    def marts(self, warehouse: str = "warehouse") -> Path:
        return self.folder / warehouse / "marts.duckdb"


def data_folder() -> Path:
    """The real files where WATTIER_REAL_DATA names them, else the fixture."""
    return Path(REAL).absolute() if REAL else FIXTURE


@pytest.fixture(scope="module")
def tianchi(tmp_path_factory):
    return Example("tianchi", data_folder(), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def small_tianchi(tmp_path_factory):
    """The fixture, whether or not there are real files."""
    return Example("tianchi", FIXTURE, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def receivables(tmp_path_factory):
    return Example("receivables", data_folder(), tmp_path_factory.mktemp("data"))
