"""Past days put right for the accounts concerned are what making them anew for everybody gives."""

from __future__ import annotations

import random
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipelines.restate
import transforms.checkpoints
from pipelines.warehouse import Warehouse
from tests.pipeline.bureau import POLICY, Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.streams import Epochs
from tests.pipeline.test_known_now import WHOLE_RUNS
from tests.pipeline.worlds import account, meter, reading, worlds
from transforms.kernels.windows import day_of

FIRST = date(2023, 1, 10)
ACCOUNTS = ("one", "two", "three", "four", "five", "six")


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def used(number: int, *, revision: int = 1, only: tuple[str, ...] = ACCOUNTS, times: int = 1) -> list:
    """Energy of a service day: some more than others, moving, and not of every account on every day."""
    rows = []
    for at, name in enumerate(ACCOUNTS):
        if name in only and (revision > 1 or (number + at) % 13):
            rows.append(
                reading(
                    f"M-{name}", day(number), times * (1_000 * (at + 1) ** 3 + 700 * (number * (at + 2) % 11)), revision
                )
            )
    return rows


@pytest.fixture
def corrections(monkeypatch):
    """Corrections go by account, however many accounts they concern; which spans were put right."""
    taken = []
    take = pipelines.restate.Restatement.take

    def watched(self, place, plan, commits):
        taken.append((plan.first, plan.last))
        take(self, place, plan, commits)

    monkeypatch.setattr(pipelines.restate, "MOST_PPM", 10**9)
    monkeypatch.setattr(pipelines.restate, "DAYS_AT_ONCE", 20)
    monkeypatch.setattr(pipelines.restate.Restatement, "take", watched)
    return taken


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A bureau published day by day over the latest of its days; made once, and copied. daily: how many these are."""
    made: dict[tuple, Bureau] = {}

    def opened(folder, *changes: tuple[str, str], last: int = 70, daily: int = 3) -> Bureau:
        which = (changes, last, daily, transforms.checkpoints.DAILY_CHECKPOINTS)
        if which not in made:
            bureau = made[which] = Bureau(tmp_path_factory.mktemp("opened") / "bureau", *changes)
            for rows in landed(last, daily):
                bureau.land_all(rows)
                if rows[0][0] == "meter_readings":
                    bureau.run()
        return made[which].copy(folder)

    return opened


def landed(last: int, daily: int) -> list[list]:
    """What lands up to then, by day."""
    reference = [[account(name, date(2020, 1, 1)), meter(f"M-{name}", name, date(2020, 1, 1))] for name in ACCOUNTS]
    first = [row for number in range(last - daily) for row in used(number)]
    return [*reference, first, *(used(number) for number in range(last - daily, last))]


def kinds(bureau: Bureau) -> dict[str, set[str]]:
    """The files that stand, by kind."""
    found: dict[str, set[str]] = {}
    for entry in Warehouse(bureau.config.warehouse).load().entries:
        found.setdefault(entry.kind, set()).add(entry.path)
    return found


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
        tmp_path / "bureau", ("shards: 4", "shards: 1"), ("features: 4000", "features: 15"),
        ("retention:\n", "retention:\n  tier_inputs: 24\n"), last=30, daily=0,
    )  # fmt: skip
    bases = {
        "windows_patch": "windows", "tier_input_patch": "tier_input", "gone:features": "mart:features",
        "patch:features": "mart:features", "gone:daily_consumption": "mart:daily_consumption",
        "patch:daily_consumption": "mart:daily_consumption",
    }  # fmt: skip
    for number in range(30, 58):
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
    assert len(corrections) >= 24  # now and then the energy is told as it was


@pytest.mark.slow
@WHOLE_RUNS
@given(world=worlds(), seed=st.integers(0, 2**32 - 1))
def test_worlds_told_day_by_day_and_late(tmp_path_factory, world, seed):
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines.restate, "MOST_PPM", rng.choice((10**9, 300_000)))
        patch.setattr(pipelines.restate, "LEAST_DAYS", 1)
        patch.setattr(pipelines.restate, "DAYS_AT_ONCE", 7)
        bureau = Bureau(tmp_path_factory.mktemp("world") / "bureau", policy=world.policy)
        n = len(world.events)
        late = {at: at + (rng.randrange(n // 3) if rng.random() < 0.1 else 0) for at in range(n)}
        events = [event for _, event in sorted(zip(late.values(), world.events, strict=True), key=lambda pair: pair[0])]
        edges = sorted(rng.sample(range(n // 3, n), k=4))
        for start, end in zip([0, *edges], [*edges, n], strict=True):
            bureau.land_all(events[start:end])
            bureau.run()
        assert_balanced(bureau)
        bureau.check()
