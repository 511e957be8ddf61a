"""Past days put right for the accounts concerned are what making them anew for everybody gives."""

from __future__ import annotations

import pytest

import pipelines.restate
from pipelines.warehouse import Warehouse
from tests.pipeline.bureau import POLICY, Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.put_right import corrections, day, kinds, landed, opened, used
from tests.pipeline.streams import Epochs
from transforms.kernels.windows import day_of

__all__ = ["corrections", "opened"]


def test_an_old_correction_puts_one_account_right_and_leaves_the_files_of_the_others(
    tmp_path, opened, corrections, monkeypatch
):
    monkeypatch.setattr(pipelines.restate, "DAYS_AT_ONCE", 7)
    bureau = opened(tmp_path / "some", last=34, daily=2)
    before = kinds(bureau)
    bureau.land_all(used(12, revision=2, only=("three",), times=3))
    report = bureau.run()
    assert report.restated_from == day(12)
    assert report.days == 22
    assert len(corrections) == 3  # some days at a time
    bureau.check()
    assert_balanced(bureau)
    after = kinds(bureau)
    for kind in ("mart:features", "mart:daily_consumption", "tier_input"):
        assert after[kind] == before[kind]
    for kind in ("patch:features", "gone:features", "patch:daily_consumption", "tier_input_patch", "windows_patch"):
        assert after[kind]
        assert kind not in before

    monkeypatch.setattr(pipelines.restate, "MOST_PPM", 0)
    everybody = opened(tmp_path / "all", last=34, daily=2)
    everybody.land_all(used(12, revision=2, only=("three",), times=3))
    everybody.run()
    assert "patch:features" not in kinds(everybody)
    assert_equal_marts(bureau.marts, everybody.marts, same_deliveries=True)


@pytest.mark.slow
def test_corrections_of_corrections_the_days_after_them_and_all_days_anew(tmp_path, opened, corrections):
    bureau = opened(tmp_path / "bureau")
    for rows in (
        used(12, revision=2, only=("three",), times=3),
        [*used(40, revision=2, only=("three", "five"), times=5), *used(70)],  # with a new day
        used(12, revision=3, only=("three",)),
        [*used(71), *used(69, revision=2, only=("one",), times=9)],
    ):
        bureau.land_all(rows)
        bureau.run()
        bureau.check()
    assert len(corrections) > 4
    bureau.set_policy(POLICY.replace("min_stay_days: 2", "min_stay_days: 5"))
    bureau.run()
    bureau.check()
    assert not {"patch:features", "tier_input_patch", "windows_patch"} & kinds(bureau).keys()


@pytest.mark.slow
def test_rows_that_retention_hides_are_put_right_and_those_that_are_gone_stay_so(tmp_path, opened, corrections):
    bureau = opened(
        tmp_path / "bureau", ("features: 4000", "features: 21"), ("daily_consumption: 4000", "daily_consumption: 21")
    )
    held = "SELECT min(service_date), count(DISTINCT account_id) FROM features"
    assert bureau.query(held) == [(day(49), 6)]
    bureau.land_all(used(12, revision=2, only=("three",), times=3))
    bureau.land_all(used(47, revision=2, only=("three",), times=3))
    bureau.run()
    bureau.check()
    assert bureau.query(held) == [(day(49), 6)]
    bureau.configure(("features: 21", "features: 40"), ("daily_consumption: 21", "daily_consumption: 40"))
    bureau.land_all([*used(70), *used(14, revision=2, only=("two",), times=3)])
    bureau.run()
    assert len(corrections) > 4
    first = day(46)  # of the file that holds day 49, which begins then
    assert bureau.query(held) == [(first, 6)]
    assert bureau.query(f"SELECT count(*) FROM features WHERE service_date = DATE '{first}'") == [(6,)]
    bureau.check()


# --- few accounts up to a day, many after it


@pytest.mark.slow
def test_days_are_put_right_for_few_up_to_a_checkpoint_and_from_there_made_anew_for_all(
    tmp_path, opened, corrections, monkeypatch
):
    monkeypatch.setattr(pipelines.restate, "MOST_PPM", 340_000)  # two of six
    bureau = opened(tmp_path / "bureau")
    bureau.land_all([*used(69, revision=2, times=3), *used(67, revision=2, only=("one",), times=2)])
    report = bureau.run()
    assert (report.days, report.days_by_account) == (3, 0)  # two days for some alone: not worth it
    told = []
    bureau.land_all([*used(12, revision=2, only=("three",), times=3), *used(64, revision=2, only=("three",), times=40)])
    bureau.land_all(used(40, revision=2, only=("six",), times=2))
    bureau.land_all([row for number in (67, 68) for row in used(number, revision=3, times=4)])
    bureau.land_all(used(70))
    report = bureau.run(progress=lambda what, done, of: told.append(what))
    assert (report.restated_from, report.days, report.days_by_account) == (day(12), 59, 55)
    assert corrections[-1][1] == day_of(day(66))
    assert [what for what in told if "service days" in what][-1] == f"service days to {day(70)}"
    assert f"service days to {day(66)}, again" in told
    bureau.check()
    assert_balanced(bureau)
    found = kinds(bureau)
    assert found["patch:features"]
    entries = Warehouse(bureau.config.warehouse).load().entries
    assert max(e.last for e in entries if e.kind == "patch:features") == day_of(day(66))

    # Two more are concerned, of days not so old; then everybody, of old days.
    bureau.land_all([*used(50, revision=2, times=2), *used(20, revision=2, only=("three",), times=2), *used(71)])
    report = bureau.run()
    assert (report.days, report.days_by_account) == (52, 30)  # up to the end of a month, before day 50
    bureau.check()
    bureau.land_all([*used(13, revision=2, times=3), *used(70, revision=2, only=("one",))])
    report = bureau.run()
    assert report.days_by_account == 0
    bureau.check()
    assert not {"patch:features", "tier_input_patch", "windows_patch"} & kinds(bureau).keys()


@pytest.mark.slow
def test_another_policy_within_the_days_that_a_correction_reaches(tmp_path, opened, corrections):
    """Days up to it are put right for the account concerned, and those after are made anew under it."""
    bureau = opened(tmp_path / "bureau")
    version = POLICY[POLICY.index('  - version: "1"') :]
    other = version.replace('"1"', '"2"').replace("2000-01-01", f"{day(60)}").replace("wh_7d", "wh_30d")
    bureau.set_policy(POLICY + other)
    bureau.land_all(used(12, revision=2, only=("three",), times=3))
    report = bureau.run()
    assert (report.days, report.days_by_account) == (58, 38)
    bureau.check()


# --- what else happens to a warehouse that was put right


@pytest.mark.slow
def test_a_stream_goes_on_from_what_was_put_right(tmp_path, opened, corrections):
    old = used(12, revision=2, only=("three",), times=3)
    portions = (
        [*used(70), *used(55, revision=2, only=("five",), times=4)],
        [*used(71), *used(20, revision=2, only=("three", "one"), times=2)],
    )
    streamed = opened(tmp_path / "streamed")
    streamed.land_all(old)
    streamed.run()
    assert len(corrections) == 3
    assert kinds(streamed)["windows_patch"]
    Epochs(streamed).take_all(portions[:1])
    assert kinds(streamed)["windows_patch"]  # of the ends of months that the stream leaned on
    streamed.check()
    epochs = Epochs(streamed)
    epochs.take_all(portions[1:])
    assert "windows_patch" not in kinds(streamed)
    bounded = Bureau(tmp_path / "bounded")
    for rows in (*landed(70, 3), old, *portions):
        bounded.land_all(rows)
    bounded.run()
    assert_equal_marts(streamed.marts, bounded.marts, same_deliveries=True)
    assert list(bounded.folder.rglob("concerns-*"))
    stream = streamed.folder / "warehouse" / epochs.session.place.folder
    assert not list(stream.rglob("concerns-*"))  # nobody would read them
