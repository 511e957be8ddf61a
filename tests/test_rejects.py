"""What a failed audit says of rejected rows: why, where the first is, and what to do, of files and of messages."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.publish import reject_summary
from schemas.marts import REJECTS


def summary(folder: Path, *files: str) -> str:
    """Of one reject from each of some files."""
    rows = [
        {"source": "meter_readings", "delivery": 1, "file": file, "row": 7, "column": "energy_wh", "value": "x"}
        | {"reason": f"bad_{number}"}
        for number, file in enumerate(files)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECTS.schema), folder / "rejects.parquet")
    return reject_summary([str(folder / "rejects.parquet")])


def test_a_file_is_to_be_mended(tmp_path):
    assert summary(tmp_path, "readings.csv") == (
        "\nRows were rejected for: 1 x energy_wh bad_0, such as 'x' (readings.csv row 7). Mend the file, or its mapping in "
        "wattier.yaml."
    )


def test_a_message_cannot_be_mended_but_what_sends_it(tmp_path):
    said = summary(tmp_path, "kafka:meter-readings/0")
    assert (
        "(kafka:meter-readings/0 row 7). Mend what sends the messages; or mend their mapping in wattier.yaml and"
        in said
    )
    assert "file" not in said


def test_both(tmp_path):
    said = summary(tmp_path, "kafka:meter-readings/0", "readings.csv")
    assert "Mend the file" in said
    assert "Mend what sends the messages" in said


def test_nothing_was_rejected():
    assert reject_summary([]) == ""
