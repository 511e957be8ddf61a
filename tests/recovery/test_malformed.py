"""Malformed files, each kind through the command line: what comes of it is as documented, and no row is lost."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recovery.utility import Rows, Utility

pytestmark = pytest.mark.slow

HEADER = "meter_id,service_date,energy_kwh,quality,revision\n"
ROWS = "".join(f"M{n:09d},2025-02-03,{n}.125,A,1\n" for n in range(20))


def csv(text: str) -> Callable[[Path], Path]:
    """A file of that text, in UTF-8."""
    return binary(text.encode())


def binary(content: bytes, suffix: str = ".csv") -> Callable[[Path], Path]:
    """A file of these bytes."""

    def write(folder: Path) -> Path:
        file = folder / f"landing/readings/readings-20250204{suffix}"
        file.write_bytes(content)
        return file

    return write


FILE_FAULTS = {
    "missing column": (
        csv((HEADER + ROWS).replace("energy_kwh", "energy")), "has no column 'energy_kwh'. It has 'meter_id'",
    ),
    "wrong delimiter": (csv((HEADER + ROWS).replace(",", ";")), "Its delimiter looks like ';': set `delimiter`."),
    "truncated gzip": (
        binary(gzip.compress((HEADER + ROWS).encode(), mtime=0)[:-30], ".csv.gz"), "is truncated or corrupt gzip",
    ),
    "wrong encoding": (
        binary((HEADER + ROWS).encode() + "M电,2025-02-03,1,A,1\n".encode("gb18030")),
        "is not utf-8: byte 0xb5 at offset 701, line 22. Set `encoding`",
    ),
    "empty file": (csv(""), "is empty, without even a header."),
}  # fmt: skip

ROW_FAULTS = {
    "bad decimal": ("M000000001,2025-02-03,1.2.3,A,1", "energy_wh", "1.2.3", "bad_decimal"),
    "too many digits": ("M000000002,2025-02-03,1.2345,A,1", "energy_wh", "1.2345", "too_many_digits"),
    "date out of range": ("M000000003,2031-02-03,1,A,1", "service_date", "2031-02-03", "date_out_of_range"),
    "no such date": ("M000000003,2025-02-30,1,A,1", "service_date", "2025-02-30", "bad_date"),
    "NaN": ("M000000004,2025-02-03,NaN,A,1", "energy_wh", "NaN", "bad_decimal"),
    "negative": ("M000000004,2025-02-03,-1,A,1", "energy_wh", "-1", "out_of_range"),
    "no value": ("M000000005,2025-02-03,,A,1", "energy_wh", "", "missing_value"),
    "unknown code": ("M000000006,2025-02-03,1,X,1", "quality", "X", "unknown_code"),
    "too few fields": ("M000000007,2025-02-03", "", "M000000007,2025-02-03", "column_count"),
}


@pytest.mark.parametrize("kind", FILE_FAULTS)
def test_a_file_that_cannot_be_read_stops_the_run(kind: str, utility: Utility, old: Rows) -> None:
    write, problem = FILE_FAULTS[kind]
    utility.land()
    for file in utility.folder.glob("landing/readings/*20250204*"):
        file.unlink()
    file = write(utility.folder)
    ended = utility("run")
    assert (ended.code, ended.out) == (3, "")
    assert f"wattier: {file}: " in ended.err
    assert problem in ended.err
    assert "Traceback" not in ended.err
    assert utility.generation() == 1
    assert utility.rows() == old


@pytest.fixture(scope="module")
def mixed(built: Utility) -> Utility:
    """One run over a file with a row of each kind of fault among good rows, and one with a header and no row."""
    built.restore()
    faulty = "".join(f"{line}\n" for line, *_ in ROW_FAULTS.values())
    csv(HEADER + ROWS + faulty)(built.folder)
    (built.folder / "landing/ledger/ledger-20250204.csv").write_text(
        "account_id,event_id,event_type,event_date,due_date,amount_yuan,bill_id,ref_event_id,revision\n"
    )
    built.must(built("run", "--override", "meter_readings.reject_share"))
    return built


def test_rows_at_fault_are_rejects_with_reason_and_place(mixed: Utility) -> None:
    rejects = [row for row in mixed.rows()["rejects"] if str(row[2]).endswith("readings-20250204.csv")]
    expected = [
        ("meter_readings", row, column, value, reason)
        for row, (_, column, value, reason) in enumerate(ROW_FAULTS.values(), start=21)
    ]
    assert [(source, row, column, value, reason) for source, _, _, row, column, value, reason in rejects] == expected


def test_a_header_alone_is_accepted_with_no_rows(mixed: Utility) -> None:
    assert runs(mixed)["ledger_events"] == {
        "files": 1, "read": 0, "redriven": 0, "accepted": 0, "superseded": 0, "rejected": 0, "pending": 0,
    }  # fmt: skip


def test_every_row_is_accounted_for(mixed: Utility) -> None:
    for generation in (1, 2):
        for c in runs(mixed, generation).values():
            assert c["read"] + c["redriven"] == c["accepted"] + c["superseded"] + c["rejected"] + c["pending"]
    readings = runs(mixed)["meter_readings"]
    assert (readings["read"], readings["rejected"]) == (20 + len(ROW_FAULTS), len(ROW_FAULTS))


def runs(utility: Utility, generation: int = 2) -> dict[object, dict[str, int]]:
    """The conservation ledger of a generation, by source."""
    names = ("files", "files_redelivered", "read", "redriven", "accepted", "superseded", "rejected", "pending")
    found = {
        row[1]: dict(zip(names, row[2:10], strict=True))
        for row in utility.rows()["pipeline_runs"]
        if row[0] == generation
    }
    for counts in found.values():
        assert counts.pop("files_redelivered") == 0
    return found  # type: ignore[return-value]
