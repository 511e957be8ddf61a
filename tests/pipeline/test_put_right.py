"""Past days put right for the accounts concerned are what making them anew for everybody gives."""

from __future__ import annotations

import random
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipelines.restate
from pipelines.warehouse import Warehouse
from tests.pipeline.bureau import POLICY, Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.test_known_now import WHOLE_RUNS
from tests.pipeline.worlds import account, meter, reading, worlds

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


def opened(folder, *changes: tuple[str, str], last: int = 70) -> Bureau:
    """A bureau published day by day over the latest of its days."""
    bureau = Bureau(folder, *changes)
    for name in ACCOUNTS:
        bureau.land_all([account(name, date(2020, 1, 1)), meter(f"M-{name}", name, date(2020, 1, 1))])
    bureau.land_all([row for number in range(last - 3) for row in used(number)])
    bureau.run()
    for number in (last - 3, last - 2, last - 1):
        bureau.land_all(used(number))
        bureau.run()
    return bureau


def kinds(bureau: Bureau) -> dict[str, set[str]]:
    """The files that stand, by kind."""
    found: dict[str, set[str]] = {}
    for entry in Warehouse(bureau.config.warehouse).load().entries:
        found.setdefault(entry.kind, set()).add(entry.path)
    return found


def test_an_old_correction_puts_one_account_right_and_leaves_the_files_of_the_others(
    tmp_path, corrections, monkeypatch
):
    bureau = opened(tmp_path / "some")
    before = kinds(bureau)
    bureau.land_all(used(12, revision=2, only=("three",), times=3))
    report = bureau.run()
    assert report.restated_from == day(12)
    assert report.days == 58
    assert len(corrections) == 3  # some weeks at a time
    bureau.check()
    assert_balanced(bureau)
    after = kinds(bureau)
    for kind in ("mart:features", "mart:daily_consumption", "tier_input"):
        assert after[kind] == before[kind]
    for kind in ("patch:features", "gone:features", "patch:daily_consumption", "tier_input_patch", "windows_patch"):
        assert after[kind]
        assert kind not in before

    monkeypatch.setattr(pipelines.restate, "MOST_PPM", 0)
    everybody = opened(tmp_path / "all")
    everybody.land_all(used(12, revision=2, only=("three",), times=3))
    everybody.run()
    assert "patch:features" not in kinds(everybody)
    assert_equal_marts(bureau.marts, everybody.marts, same_deliveries=True)


def test_corrections_of_corrections_the_days_after_them_and_all_days_anew(tmp_path, corrections):
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


def test_rows_that_retention_hides_are_put_right_and_those_that_are_gone_stay_so(tmp_path, corrections):
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


@pytest.mark.slow
@WHOLE_RUNS
@given(world=worlds(), seed=st.integers(0, 2**32 - 1))
def test_worlds_told_day_by_day_and_late(tmp_path_factory, world, seed):
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines.restate, "MOST_PPM", 10**9)
        patch.setattr(pipelines.restate, "DAYS_AT_ONCE", 7)
        bureau = Bureau(tmp_path_factory.mktemp("world") / "bureau", policy=world.policy)
        n = len(world.events)
        late = {at: at + (rng.randrange(n // 3) if rng.random() < 0.1 else 0) for at in range(n)}
        events = [event for _, event in sorted(zip(late.values(), world.events, strict=True), key=lambda pair: pair[0])]
        edges = sorted(rng.sample(range(n // 3, n), k=6))
        for start, end in zip([0, *edges], [*edges, n], strict=True):
            bureau.land_all(events[start:end])
            bureau.run()
        assert_balanced(bureau)
        bureau.check()
