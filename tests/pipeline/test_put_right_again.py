"""Days that were put right, and then withdrawn, corrected again, kept longer or told by another policy."""

from __future__ import annotations

from datetime import date

import pytest

import transforms.checkpoints
from pipelines.warehouse import Warehouse
from tests.pipeline.bureau import POLICY
from tests.pipeline.put_right import ACCOUNTS, corrections, day, kinds, opened, used
from tests.pipeline.worlds import account, meter, reading
from transforms.kernels.windows import day_of

__all__ = ["corrections", "opened"]


@pytest.mark.slow
def test_days_that_were_put_right_are_withdrawn_and_come_again(tmp_path, opened, corrections):
    bureau = opened(tmp_path / "bureau")
    bureau.land_all([*used(12, revision=2, only=("three",), times=3), *used(64, revision=2, only=("two",), times=7)])
    bureau.run()
    assert len(corrections) == 3
    others = [f"other-{number}" for number in range(9)]
    for name in others:
        bureau.land_all([account(name, date(2020, 1, 1)), meter(f"M-{name}", name, day(60))])
    report = bureau.run()
    assert report.through == day(59)
    assert bureau.query("SELECT max(service_date) FROM features") == [(day(59),)]
    bureau.check()
    bureau.land_all(used(40, revision=2, only=("four",), times=6))
    bureau.run()
    assert corrections[-1] == (day_of(day(40)), day_of(day(59)))
    bureau.check()
    bureau.land_all([reading(f"M-{name}", day(number), 5_000) for name in others for number in range(60, 72)])
    bureau.run()
    assert bureau.query("SELECT max(service_date) FROM features") == [(day(71),)]
    bureau.check()


@pytest.mark.slow
def test_rows_put_right_do_not_stand_alone_where_retention_is_made_longer(tmp_path, opened, corrections, monkeypatch):
    """The files of days leave one by one; a patch is of all days between two checkpoints."""
    monkeypatch.setattr(transforms.checkpoints, "DAILY_CHECKPOINTS", 2)
    bureau = opened(
        tmp_path / "bureau", ("features: 4000", "features: 6"), ("daily_consumption: 4000", "daily_consumption: 6"),
        last=65, daily=10,
    )  # fmt: skip
    bureau.land_all(used(60, revision=2, only=("three",), times=3))
    bureau.run()
    assert corrections == [(day_of(day(60)), day_of(day(64)))]
    for number in (65, 66, 67):
        bureau.land_all(used(number))
        bureau.run()
    held = "SELECT min(service_date), count(*) FROM features GROUP BY service_date ORDER BY 1 LIMIT 1"
    assert bureau.query(held) == [(day(62), 6)]
    bureau.configure(("features: 6", "features: 40"), ("daily_consumption: 6", "daily_consumption: 40"))
    bureau.land_all(used(68))
    bureau.run()
    assert bureau.query(held) == [(day(62), 6)]
    bureau.check()


@pytest.mark.slow
def test_another_policy_after_the_days_that_are_put_right(tmp_path, opened, corrections):
    bureau = opened(tmp_path / "bureau")
    version = POLICY[POLICY.index('  - version: "1"') :]
    other = version.replace('"1"', '"2"').replace("2000-01-01", f"{day(71)}").replace("wh_7d", "wh_30d")
    bureau.set_policy(POLICY + other.replace("min_stay_days: 2", "min_stay_days: 4"))
    bureau.land_all([*used(12, revision=2, only=("three",), times=3), *used(70), *used(71), *used(72)])
    report = bureau.run()
    assert [last for _, last in corrections][-1] == day_of(day(69))
    assert report.through == day(72)
    assert {version for (version,) in bureau.query("SELECT policy_version FROM cutoffs")} == {"1", "2"}
    bureau.check()
    bureau.land_all(used(15, revision=2, only=("six", "two"), times=2))  # over both
    bureau.run()
    assert corrections[-1][-1] == day_of(day(72))
    bureau.check()


@pytest.mark.slow
def test_a_second_correction_after_the_checkpoints_of_the_first_are_gone(tmp_path, opened, corrections, monkeypatch):
    monkeypatch.setattr(transforms.checkpoints, "DAILY_CHECKPOINTS", 4)
    bureau = opened(tmp_path / "bureau")

    def checkpoints() -> set[int]:
        return {e.first for e in Warehouse(bureau.config.warehouse).load().of("windows")}

    bureau.land_all([*used(67, revision=2, only=("three",), times=3), *used(14, revision=2, only=("two",), times=2)])
    bureau.run()
    leaned_on = checkpoints()
    patches = kinds(bureau)["patch:features"]
    for number in range(70, 75):
        bureau.land_all([*used(number), *used(number - 3, revision=2, only=("six",), times=2)])
        bureau.run()
    assert {day_of(day(number)) for number in (66, 67, 68)} <= leaned_on - checkpoints()
    bureau.land_all([*used(67, revision=3, only=("three", "four"), times=5), *used(40, revision=2, only=("two",))])
    bureau.run()
    assert patches - kinds(bureau)["patch:features"]  # of stretches that are one now
    bureau.check()


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 20])
def test_days_whose_tier_inputs_are_gone_are_made_anew_for_everybody(tmp_path, opened, corrections, kept):
    bureau = opened(tmp_path / "bureau", ("retention:\n", f"retention:\n  tier_inputs: {kept}\n"))
    some = used(65, revision=2, only=("two",), times=3)
    bureau.land_all(some)
    bureau.run()
    assert corrections == ([(day_of(day(65)), day_of(day(69)))] if kept else [])
    bureau.check()
    bureau.land_all(used(12, revision=2, only=("three",), times=3))
    bureau.run()
    assert len(corrections) == (kept > 0)
    assert not {"patch:features", "tier_input_patch", "windows_patch"} & kinds(bureau).keys()
    inputs = {e.first for e in Warehouse(bureau.config.warehouse).load().of("tier_input")}
    assert inputs == {day_of(day(number)) for number in range(70 - kept, 70)}
    bureau.check()


@pytest.mark.slow
def test_patches_of_corrections_day_after_day_are_bounded_by_what_they_are_laid_over(tmp_path, opened, corrections):
    bureau = opened(
        tmp_path / "bureau", ("shards: 2", "shards: 1"), ("features: 4000", "features: 15"),
        ("retention:\n", "retention:\n  tier_inputs: 24\n"), last=38, daily=0,
    )  # fmt: skip
    bases = {
        "windows_patch": "windows", "tier_input_patch": "tier_input", "gone:features": "mart:features",
        "patch:features": "mart:features", "gone:daily_consumption": "mart:daily_consumption",
        "patch:daily_consumption": "mart:daily_consumption",
    }  # fmt: skip
    for number in range(38, 58):
        late, old = (ACCOUNTS[(number + at) % len(ACCOUNTS)] for at in (0, 1))
        bureau.land_all(used(number))
        bureau.land_all(used(number - 4, revision=number, only=(late,), times=1 + number % 3))
        bureau.land_all(used(number - 20, revision=number, only=(old,), times=1 + number % 4))
        bureau.run()
        entries = Warehouse(bureau.config.warehouse).load().entries
        for patch, base in bases.items():
            rows = {kind: sum(e.rows for e in entries if e.kind == kind) for kind in (patch, base)}
            assert rows[patch] <= rows[base] + 31 * len(ACCOUNTS)  # days of a month leave a patch together
            files = {kind: len({e.path for e in entries if e.kind == kind}) for kind in (patch, base)}
            assert files[patch] <= files[base]
        if number % 10 == 9:
            bureau.check()
    assert len(corrections) >= 17  # now and then the energy is told as it was
