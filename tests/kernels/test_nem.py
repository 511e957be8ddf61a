"""NEM12 and NEM13 files by mapping alone: sums that can be checked by hand, against fractions, and what is wrong with a file."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from fractions import Fraction

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import FileFault
from schemas.mapping import parse_sources
from transforms.kernels.files import read_delivery
from transforms.kernels.nem import nem12_rows
from transforms.kernels.parse import Delivery

NEM12 = """
meter_readings:
  files: "*.csv"
  format: nem12
  columns:
    meter_id: nmi
    service_date: {column: date, format: "%Y%m%d"}
    energy_wh: {column: E1, unit: kWh}
    reverse_wh: {column: B1, unit: kWh}
    quality: {column: quality, map: {A: actual, F: edited, S: estimated, E: estimated}}
"""
NEM13 = """
register_readings:
  files: "*.csv"
  format: nem13
  columns:
    meter_id: nmi
    service_date: {column: read_at, format: "%Y%m%d%H%M%S", time_of_day: drop, shift_days: -1}
    register: {column: suffix, map: {"11": total, "B1": reverse, "Q1": null}}
    index: {column: index, unit: kWh}
    quality: {column: quality, map: {A: actual, F: edited, S: estimated, E: estimated}}
"""
HEADER = "100,NEM12,202603010000,MDP,RETAILER"


def stream(suffix, nmi="NMI1", unit="kWh", minutes=30):
    return f"200,{nmi},E1B1,{suffix},{suffix},N1,METER1,{unit},{minutes},"


def day(date, values, quality="A", updated="20260302000000"):
    return ",".join(["300", date, *values, quality, "", "", updated, ""])


HALF_HOURS = ["0.25"] * 47 + ["1.1234"]
FILE = [
    HEADER, stream("E1"), day("20260301", HALF_HOURS), day("20260302", ["1"] * 48, "V"), "400,1,20,A,,", "400,21,48,S14,51,",
    "500,O,S01,20260302120000,123.4", stream("B1"), day("20260301", ["0.5"] * 48, "F14"),
    stream("E1", "NMI2", "Wh", 15), day("20260301", ["2.5"] * 96), "900",
]  # fmt: skip


def read(tmp_path, mapping, lines):
    path = tmp_path / "nem.csv"
    path.write_text("\n".join(lines) + "\n")
    (parsed,) = parse_sources(yaml.safe_load(mapping), "w").values()
    delivery = Delivery(1, parsed.source, str(path), "", datetime(2026, 6, 1, tzinfo=UTC))
    blocks = list(read_delivery(delivery, parsed))
    rows = [row for block in blocks for row in block.rows.to_pylist()]
    rejects = [(r["row"], r["column"], r["value"], r["reason"]) for block in blocks for r in block.rejects.to_pylist()]
    assert sum(block.rows_read for block in blocks) == len(rows) + len(rejects)
    return rows, rejects


def energy(rows):
    return [
        (row["meter_id"], f"{row['service_date']}", row["energy_wh"], row["reverse_wh"], row["quality"], row["row"])
        for row in rows
    ]


def test_a_day_is_the_sum_of_its_intervals(tmp_path):
    text = NEM12.replace("unit: kWh}", "unit: kWh, round: half_up}")
    rows, rejects = read(tmp_path, text, FILE)
    assert energy(rows) == [
        ("NMI1", "2026-03-01", 12_873, 24_000, "edited", 3),  # 47 x 0.25 + 1.1234 kWh; the worse of A and F
        ("NMI1", "2026-03-02", 48_000, None, "estimated", 4),  # varies: its 400 records say A and S
        ("NMI2", "2026-03-01", 240, None, "actual", 11),  # 96 x 2.5 Wh
    ]
    assert rejects == []
    _, rejects = read(tmp_path, NEM12, FILE)
    assert rejects == [(3, "energy_wh", "12.873400000", "too_many_digits")]


@pytest.mark.parametrize(
    ("record", "reject"),
    [
        (day("20260301", ["1"] * 46), ("energy_wh", "46 intervals, not 48", "bad_decimal")),
        (day("20260301", ["1"] * 49), ("energy_wh", "49 intervals, not 48", "bad_decimal")),
        ("300,20260301,1,2", ("energy_wh", "2 intervals, not 48", "bad_decimal")),
        (day("20260301", ["1"] * 47 + ["x"]), ("energy_wh", "x", "bad_decimal")),
        (day("20260301", ["1"] * 47 + [""]), ("energy_wh", None, "missing_value")),
        (day("20260230", ["1"] * 48), ("service_date", "20260230", "bad_date")),
        (day("20260301", ["1"] * 48, "N"), ("quality", "N", "unknown_code")),
        (day("20260301", ["1"] * 48, "V"), ("quality", "V", "unknown_code")),
    ],
)
def test_a_bad_day_is_rejected_and_stops_no_other(tmp_path, record, reject):
    rows, rejects = read(tmp_path, NEM12, [HEADER, stream("E1"), record, day("20260302", ["1"] * 48), "900"])
    assert [row["energy_wh"] for row in rows] == [48_000]
    assert rejects == [(3, *reject)]


@pytest.mark.parametrize("how", [NEM12, NEM12.replace("unit: kWh}", "unit: kWh, round: half_up}")])
def test_an_interval_has_nine_decimals_at_most(tmp_path, how):
    """Half up rounds the day, not an interval; one that is too long is not taken for the day."""
    nine, ten = day("20260301", ["0.000000005"] * 48), day("20260302", ["1"] * 47 + ["0.1234567891"])
    rows, rejects = read(tmp_path, how, [HEADER, stream("E1", unit="MWh"), nine, ten, "900"])
    long = "0.1234567891, with more than 9 decimals"
    if "round" in how:
        assert [row["energy_wh"] for row in rows] == [0]
        assert rejects == [(4, "energy_wh", long, "bad_decimal")]
    else:
        assert rejects == [(3, "energy_wh", "0.000240", "too_many_digits"), (4, "energy_wh", long, "bad_decimal")]


def test_another_unit_is_no_energy(tmp_path):
    _, rejects = read(tmp_path, NEM12, [HEADER, stream("E1", unit="kvarh"), day("20260301", ["1"] * 48), "900"])
    assert rejects == [(3, "energy_wh", "kvarh", "bad_decimal")]


def test_a_second_record_of_a_stream_and_day_is_a_row_of_its_own(tmp_path):
    lines = [HEADER, stream("E1"), day("20260301", ["1"] * 48), stream("E1"), day("20260301", ["2"] * 48), "900"]
    rows, _ = read(tmp_path, NEM12, lines)
    assert [(row["energy_wh"], row["row"]) for row in rows] == [(48_000, 3), (96_000, 5)]


def one(value, updated="02"):
    return day("20260301", [value] * 48, updated=f"202603{updated}000000")


def versions(rows):
    """Row number, NMI, kWh used and fed in on average per interval, and day of update."""
    return [
        (row["row"], row["meter_id"], row["energy_wh"] // 48_000, row["reverse_wh"] and row["reverse_wh"] // 48_000,
         row["revision"] // 10**6 % 100)
        for row in rows
    ]  # fmt: skip


OF_UPDATES = NEM12 + "  revision: {column: updated}\n"


def test_the_streams_of_a_day_need_not_stand_together(tmp_path):
    lines = [HEADER, stream("E1"), one("1"), stream("E1", "NMI2"), one("2"), stream("B1"), one("3"), "900"]
    rows, rejects = read(tmp_path, OF_UPDATES, lines)
    assert rejects == []
    assert sorted(versions(rows)) == [(3, "NMI1", 1, 3, 2), (5, "NMI2", 2, None, 2)]


@pytest.mark.parametrize(
    ("used", "fed_in", "found"),
    [
        # (value, updated on) of E1, from line 3 on, and of B1 -> (row, E1, B1, updated)
        ([(1, 2), (2, 3)], [(5, 2), (6, 3)], [(3, 1, 5, 2), (4, 2, 6, 3)]),
        ([(2, 3), (1, 2)], [(5, 2), (6, 3)], [(3, 2, 6, 3), (4, 1, 5, 2)]),
        ([(1, 2), (2, 3)], [(5, 2)], [(3, 1, 5, 2), (4, 2, 5, 3)]),  # what was fed in is not corrected: it stands
        ([(1, 2)], [(5, 2), (6, 3)], [(3, 1, 5, 2), (6, 1, 6, 3)]),
        ([(1, 2)], [(5, 3)], [(3, 1, 5, 3)]),
        ([(1, 2), (2, 3)], [(5, 4)], [(3, 1, None, 2), (4, 2, 5, 4)]),  # on the second nothing fed in was known
        ([(1, 2), (2, 2)], [(5, 2), (6, 2)], [(3, 1, 5, 2), (4, 2, 6, 2)]),
    ],
)
def test_records_of_a_day_are_paired_by_the_time_of_their_update(tmp_path, used, fed_in, found):
    lines = [HEADER, stream("E1"), *(one(f"{value}", f"{at:02}") for value, at in used), stream("B1")]
    rows, rejects = read(tmp_path, OF_UPDATES, [*lines, *(one(f"{value}", f"{at:02}") for value, at in fed_in), "900"])
    assert rejects == []
    assert [(row, energy, reverse, updated) for row, _, energy, reverse, updated in versions(rows)] == found


def test_a_day_that_no_column_is_asked_for_is_rejected(tmp_path):
    """Of an NMI, one stream of which is asked for, another says nothing."""
    lines = [HEADER, stream("E1"), one("1"), stream("Q1", unit="kvarh"), one("9"), stream("E2", "NMI2"), one("1"),
             day("20260302", ["1"] * 48), stream("Q1", "NMI2", "kvarh"), one("9"), "900"]  # fmt: skip
    rows, rejects = read(tmp_path, OF_UPDATES, lines)
    assert versions(rows) == [(3, "NMI1", 1, None, 2)]
    assert rejects == [
        (7, "", "NMI2 20260301: E2", "stream_not_mapped"),
        (8, "", "NMI2 20260302: E2", "stream_not_mapped"),
    ]


records = st.lists(st.tuples(st.sampled_from(["NMI1", "NMI2", "NMI3"]), st.sampled_from(["E1", "B1", "E2"]),
                             st.sampled_from(["20260301", "20260302"]), st.integers(2, 4)), max_size=12)  # fmt: skip


@given(records, st.integers(1, 5), st.integers(1, 3))
def test_blocks_of_any_size_hold_the_same_rows(told, block_rows, summed):
    """Each record is in one row: as new, and in later ones where no newer one of its stream takes its place."""
    lines = [HEADER]
    for value, (nmi, suffix, date, updated) in enumerate(told):
        lines += [stream(suffix, nmi), day(date, ["0"] * 47 + [f"{value}"], updated=f"2026030{updated}")]
    if not any(suffix != "E2" for _, suffix, *_ in told):
        lines += [stream("E1", "NMI4")]
    asked = ["nmi", "date", "updated", "E1", "B1"]

    def rows_in(size):
        found = list(nem12_rows("f", lambda: [*lines, "900"], asked, size))
        assert all(block.row == sorted(block.row) for block in found)
        broken = [bad for block in found for bad in block.broken]
        return sorted(
            row for block in found
            for row in zip(block.row, *(block.columns[name].to_pylist() for name in asked), strict=True)
        ), sorted(broken)  # fmt: skip

    whole, broken = rows_in(100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transforms.kernels.nem.SUMMED_AT_ONCE", summed)
        assert rows_in(block_rows) == (whole, broken)
    mapped = {nmi for nmi, suffix, *_ in told if suffix != "E2"}
    energies = {f"{value}.000000000" for value, (_, suffix, *_) in enumerate(told) if suffix != "E2"}
    assert {energy for row in whole for energy in row[4:] if energy} == energies
    assert len(broken) == len({(nmi, date) for nmi, _, date, _ in told if nmi not in mapped})
    assert len({row[0] for row in whole} | {bad.row for bad in broken}) == len(whole) + len(broken)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (FILE[:-1], "ends after line 11 without a 900 record: it is cut off"),
        (FILE[1:], "does not begin with 100,NEM12: line 1 is '200,NMI1"),
        ([HEADER, day("20260301", ["1"] * 48), "900"], "line 2 is a 300 record before any 200 record"),
        ([HEADER, stream("E1", minutes=7), "900"], r"line 2 is a 200 record with the interval length \['7'\]"),
        ([HEADER, "999,x", "900"], "line 2 is a record '999'"),
        ([HEADER, stream("E2"), day("20260301", ["1"] * 48), "900"], "has no data stream 'E1' or 'B1'. It has 'E2'"),
        ([HEADER, f'"{"x" * 200_000}', "900"], "line 2 is no record"),
        ([*FILE, "200"], "line 13 is a record after the 900 record"),
        ([], "is empty|ends after line"),
    ],
)
def test_what_is_wrong_with_a_file_stops_it(tmp_path, lines, says):
    with pytest.raises(FileFault, match=says):
        read(tmp_path, NEM12, lines)


def test_a_compressed_file_is_read(tmp_path):
    path = tmp_path / "nem.csv.gz"
    path.write_bytes(gzip.compress("\n".join(FILE).encode()))
    (parsed,) = parse_sources(yaml.safe_load(NEM12), "w").values()
    (block,) = read_delivery(Delivery(1, parsed.source, str(path), "", datetime(2026, 6, 1, tzinfo=UTC)), parsed)
    assert block.rows["row"].to_pylist() == [4, 11]


def test_no_sum_passes_what_an_integer_holds():
    """The most that nine decimals leave room for in an interval, 48 times; modulo 2^64 it would be another figure."""
    most = "9223372036.854775807"
    (block,) = nem12_rows("f", lambda: [HEADER, stream("E1"), day("20260301", [most] * 48), "900"], ["E1"], 9)
    assert [Fraction(text) for text in block.columns["E1"].to_pylist()] == [48 * Fraction(most)]


@given(
    st.lists(st.lists(st.decimals(0, 999, places=4), min_size=48, max_size=48), min_size=1, max_size=4),
    st.integers(1, 9),
)
def test_sums_are_exact_in_blocks_of_any_size(days, block_rows):
    lines = [HEADER]
    for n, values in enumerate(days):
        lines += [stream("E1", f"NMI{n}"), day("20260301", [f"{value}" for value in values])]
    blocks = list(nem12_rows("f", lambda: [*lines, "900"], ["nmi", "E1"], block_rows))
    found = [Fraction(text) for block in blocks for text in block.columns["E1"].to_pylist()]
    assert found == [sum(map(Fraction, values)) for values in days]


def test_accumulated_reads_are_indexes_of_a_register(tmp_path):
    def read_of(suffix, before, after):
        return (
            f"250,NMI3,11,01,{suffix},N1,METER3,E,{before},20260101000000,A,,,{after},20260401000000,S14,51,,99,kWh,,"
            "20260402000000,"
        )

    lines = [
        "100,NEM13,202604020000,MDP,RETAILER",
        read_of("11", "100.5", "199.5"),
        read_of("Q1", "1", "2"),
        "550,N,,A,",
        "900",
    ]
    rows, rejects = read(tmp_path, NEM13, lines)
    assert rejects == []
    assert [(f"{r['service_date']}", r["index_total"], r["quality"], r["row"]) for r in rows] == [
        ("2025-12-31", 100_500_000, "actual", 1),
        ("2026-03-31", 199_500_000, "estimated", 2),
        ("2025-12-31", None, "actual", 3),
        ("2026-03-31", None, "estimated", 4),
    ]
    rows, rejects = read(tmp_path, NEM13, [lines[0], "250,NMI3,11", lines[1], "900"])
    assert [row["row"] for row in rows] == [3, 4]
    assert rejects == [(1, "", "250,NMI3,11", "column_count")]
    with pytest.raises(FileFault, match="has no column 'E1'"):
        read(tmp_path, NEM13.replace("column: index,", "column: E1,"), lines)
