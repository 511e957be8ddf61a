"""The reference pages follow from the schemas, and a stale one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas import reference
from schemas.inbound import SOURCES
from schemas.marts import MARTS

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def test_every_column_of_every_relation_stands_on_its_page() -> None:
    marts, sources = reference.marts_page(), reference.sources_page()
    for page, relations in ((marts, MARTS), (sources, SOURCES)):
        for relation in relations.values():
            section = page.split(f"\n## {relation.name}\n", 1)[1].split("\n## ", 1)[0]
            for column in relation.columns:
                assert f"| `{column.name}` |" in section
                assert column.meaning.rstrip(".") in section


def test_a_row_says_type_unit_meaning_bounds_null_key_and_privacy() -> None:
    rows = reference.marts_page().splitlines()
    assert "| `account_id` | string |  | Account. |  | yes | pseudonymous |" in rows
    assert (
        "| `on_time_365d_ppm` | int64 | ppm | On-time ratio; null where no bill fell due. 0 to 1000000. | yes |  |  |"
        in rows
    )


def test_a_bar_in_a_text_does_not_split_its_cell() -> None:
    assert reference.table(["a"], [["x|y"]]).splitlines()[-1] == "| x\\|y |"


def test_the_committed_pages_are_fresh() -> None:
    assert reference.stale(REFERENCE) == []


def test_check_names_the_stale_page_and_writing_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--directory", str(tmp_path)]
    assert reference.main(where) == 0
    assert reference.main([*where, "--check"]) == 0
    page = tmp_path / "sources.md"
    page.write_text(page.read_text(encoding="utf-8").replace("Wh", "kWh"), encoding="utf-8")
    capsys.readouterr()
    assert reference.main([*where, "--check"]) == 1
    assert capsys.readouterr().err == f"{page} is stale. Run: python -m schemas.reference\n"
    assert reference.main(where) == 0
    assert reference.main([*where, "--check"]) == 0
