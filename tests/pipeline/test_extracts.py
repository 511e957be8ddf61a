"""Every extract of docs/examples/extracts by its mapping: what is rejected, and each day's energy, as its files say."""

from __future__ import annotations

import csv
import shutil
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from pipelines.config import load_config
from pipelines.run import run
from pipelines.verify import verify
from transforms.kernels.files import read_delivery
from transforms.kernels.parse import Delivery

EXTRACTS = Path(__file__).parents[2] / "docs" / "examples" / "extracts"
REJECT = ("file", "row", "column", "value", "reason")
NAMES = sorted(path.parent.name for path in EXTRACTS.glob("*/wattier.yaml"))


def rows_of(path: Path) -> list[tuple[str, ...]]:
    """The rows of a CSV file without its header."""
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def test_there_are_extracts() -> None:
    assert NAMES == ["green_button", "irregular", "nem12", "obis", "state_grid"]


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_read_as_the_mapping_says(name: str) -> None:
    config, rejects = load_config(EXTRACTS / name / "wattier.yaml"), []
    for source, mapping in config.sources.items():
        for pattern in mapping.files:
            paths = sorted(Path(config.landing).glob(pattern))
            assert paths, f"{name}: no file is {pattern}"
            for path in paths:
                delivery = Delivery(1, source, str(path), "", datetime(2026, 6, 1, tzinfo=UTC))
                for block in read_delivery(delivery, mapping):
                    assert block.rows_read == block.rows.num_rows + block.rejects.num_rows
                    rejects += [tuple(str(row[key]) for key in REJECT) for row in block.rejects.to_pylist()]
    assert rejects == rows_of(EXTRACTS / name / "rejects.csv")


@pytest.mark.slow
def test_when_registers_were_read_stands_in_the_accepted_log_alone(tmp_path: Path) -> None:
    """State grows by it only where rows wait."""
    shutil.copytree(EXTRACTS, tmp_path / "extracts")
    config = load_config(tmp_path / "extracts" / "state_grid" / "wattier.yaml")
    run(config)
    with duckdb.connect(str(Path(config.warehouse) / "marts.duckdb"), read_only=True) as con:
        rows = con.execute("SELECT service_date, read_at FROM accepted_registers ORDER BY ALL").fetchall()
    landed = rows_of(EXTRACTS / "state_grid" / "landing" / "E_MP_DAY_READ_20260309.csv")
    rejected = ("10:15:00", "9")  # closes no day; no status that is known
    told = sorted((line[1], line[2]) for line in landed if line[2][11:] not in rejected and line[-1] not in rejected)
    assert [(f"{day:%Y%m%d}", f"{at}") for day, at in rows] == told
    blocks = [path for path in Path(config.warehouse).rglob("*.arrow") if "pending" not in path.name]
    assert blocks
    assert not any(b"read_at" in path.read_bytes() for path in blocks)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_day_has_the_energy_that_its_reader_works_out(name: str, tmp_path: Path) -> None:
    shutil.copytree(EXTRACTS, tmp_path / "extracts")
    config = load_config(tmp_path / "extracts" / name / "wattier.yaml")
    run(config)
    marts = Path(config.warehouse) / "marts.duckdb"
    with duckdb.connect(str(marts), read_only=True) as con:
        found = con.execute((EXTRACTS / "days.sql").read_text("utf-8")).fetchall()
        columns = ", ".join(f'"{key}"' for key in REJECT)
        reasons = con.execute(f"SELECT {columns} FROM rejects ORDER BY file, row").fetchall()
        assert con.execute("SELECT count(*) FROM pending").fetchone() == (0,)
    assert [tuple("" if value is None else str(value) for value in row) for row in found] == rows_of(
        EXTRACTS / name / "expected.csv"
    )
    assert [tuple(map(str, row)) for row in reasons] == rows_of(EXTRACTS / name / "rejects.csv")
    report = verify(str(marts), config.policy, all_days=True)
    assert report.ok, str(report)
