"""Two-rate days by a mapping alone: against plain sums of the file; and a worked bill against somebody else's spreadsheet."""

from __future__ import annotations

import json
import zipfile
from decimal import Decimal
from xml.etree import ElementTree

import duckdb
import numpy as np
import pytest

from tests.real.conftest import FIXTURE, REAL, Example, data_folder
from transforms.kernels.valuation import lines, scaled_price

METERS, DAYS = (40, 392) if REAL else (6, 100)
SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


@pytest.fixture(scope="module")
def slovak(tmp_path_factory):
    """The example, published with the audit."""
    example = Example("slovak", data_folder(), tmp_path_factory.mktemp("data"))
    done = example.wattier("run", "--json")
    assert done.returncode == 0, done.stderr
    return example, json.loads(done.stdout)


@pytest.mark.slow
def test_every_row_is_accepted_and_every_day_published(slovak):
    _, report = slovak
    counts = report["counts"]["meter_readings"]
    assert (counts["read"], counts["accepted"]) == (METERS * DAYS, METERS * DAYS)
    assert (report["days"], report["through"]) == (DAYS, "2017-01-26" if REAL else "2016-04-09")


@pytest.mark.slow
def test_energy_by_rate_is_that_of_the_file(slovak):
    """Every meter and day: the file's own text, rounded half up to a Wh by DuckDB's decimals, not by ours."""
    example, _ = slovak
    with duckdb.connect(str(example.marts()), read_only=True) as con:
        con.execute(
            """
            CREATE TEMP TABLE file AS
            SELECT format('S{:04d}', meterID::INTEGER) AS account_id,
                make_date(year::INTEGER, month::INTEGER, day::INTEGER) AS service_date,
                (round(highConsumptionSum::DECIMAL(28, 18), 3) * 1000)::BIGINT AS peak_wh,
                (round(lowConsumptionSum::DECIMAL(28, 18), 3) * 1000)::BIGINT AS valley_wh
            FROM read_csv(?, all_varchar = true)
            """,
            [str(data_folder() / "slovak_meters" / "daily.csv.gz")],
        )
        ours = "SELECT account_id, service_date, peak_wh, valley_wh, energy_wh FROM daily_consumption"
        file = "SELECT account_id, service_date, peak_wh, valley_wh, peak_wh + valley_wh FROM file"
        assert con.execute(f"SELECT count(*) FROM ({ours})").fetchone() == (METERS * DAYS,)
        for one, other in ((ours, file), (file, ours)):
            assert con.execute(f"({one}) EXCEPT ALL ({other}) LIMIT 3").fetchall() == []
        untold = "SELECT count(*) FROM daily_consumption WHERE num_nonnulls(sharp_wh, flat_wh, reverse_wh) > 0"
        assert con.execute(
            untold.replace(
                "num_nonnulls(sharp_wh, flat_wh, reverse_wh) > 0", "coalesce(sharp_wh, flat_wh, reverse_wh) IS NOT NULL"
            )
        ).fetchone() == (0,)
        shares = con.execute(
            """
            SELECT count(*) FROM features f
            WHERE valley_share_30d_ppm IS DISTINCT FROM (
                SELECT sum(valley_wh)::HUGEINT * 1000000 // nullif(sum(peak_wh + valley_wh), 0) FROM file
                WHERE account_id = f.account_id AND service_date BETWEEN f.service_date - 29 AND f.service_date
            )
            """
        ).fetchone()
        assert shares == (0,)


@pytest.mark.slow
def test_verify_finds_nothing(slovak):
    done = slovak[0].wattier("verify", "--all", "--json")
    assert (done.returncode, json.loads(done.stdout)["mismatches"]) == (0, 0)


@pytest.mark.slow
def test_the_readme_shows_what_the_query_gives(slovak):
    lacking = slovak[0].not_shown("valley.sql")
    assert not (REAL and lacking)


# --- the bill ---------------------------------------------------------------------------------------------------------


def cells() -> dict[str, Decimal]:
    """The numbers on the first sheet of `price_calculation.xlsx`, or those of them that the fixture keeps."""
    if not REAL:
        kept = json.loads((FIXTURE / "slovak_meters" / "price_calculation.json").read_text())
        return {cell: Decimal(text) for cell, text in kept["cells"].items()}
    with zipfile.ZipFile(data_folder() / "slovak_meters" / "price_calculation.xlsx") as book:
        sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
    return {
        cell.attrib["r"]: Decimal(value)
        for cell in sheet.iter(f"{SHEET}c")
        if cell.attrib.get("t") is None and (value := cell.findtext(f"{SHEET}v"))
    }


def test_the_energy_charges_of_the_worked_bill():
    """Items 1, 2, 7 and 8. The sheet computes in floats, so its results are compared to 12 decimals: the scale of a line."""
    sheet = cells()
    high, low = (int(sheet[cell] * 1000) for cell in ("F7", "F8"))  # kWh at the high and the low rate
    assert (high, low) == (267_250, 120_250)

    def price(*cells: str) -> int:
        return sum(int(round(sheet[cell], 9) * 10**9) for cell in cells)

    under = 980_000  # F64: the price's part where less was used than agreed, times 98 %
    assert round(sheet["F64"], 9) * 1_000_000 == under
    charges = [  # item, Wh, price for one kWh, the sheet's cells that say what comes out
        (1, high + low, price("J9"), ("M9",)),
        (2, high + low, price("J13"), ("M13",)),
        (7, high + low, price("F46", "F47", "F48", "F49"), ("M53",)),
        (8, high, scaled_price(price("F60"), under), ("M71",)),
        (8, low, scaled_price(price("F61"), under), ("M73",)),
    ]
    amounts = lines(*(np.array([charge[at] for charge in charges], np.int64) for at in (1, 2)))
    for (_, _, _, wanted), found in zip(charges, amounts.rounded(12).tolist(), strict=True):
        assert found == round(sum(sheet[cell] for cell in wanted), 12) * 10**12
    items = amounts.by_bill(np.array([0, 1, 2, 3, 3]), 4)
    assert items.rounded(12)[3] == round(sheet["M75"], 12) * 10**12

    # One bill, rounded once, halves up: 74.571954235 euro are 7,457 cent.
    bill = amounts.by_bill(np.zeros(len(charges), np.int64), 1)
    assert bill.rounded(12).tolist() == [74_571_954_235_000]
    assert bill.rounded(2).tolist() == [7_457]
