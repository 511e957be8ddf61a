"""Another policy tried on past days gives the marts of a real run under it, row for row, and leaves those published alone."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date, timedelta

import duckdb
import pytest

import pipelines.restate
import pipelines.what_if
from pipelines.warehouse import Warehouse
from pipelines.what_if import _Held, in_force_from, what_if
from pipelines.what_if_report import SIDES, Report, as_text
from schemas.errors import ConfigError
from schemas.policy import parse_policy
from tests.pipeline.bureau import WITH_ACTIONS, Bureau
from tests.pipeline.test_dimensions import BY_SCORE, DIMENSIONS
from tests.pipeline.worlds import INGREDIENTS, a_world, second_version
from transforms.checkpoints import TIER_INPUT_PATCH
from transforms.kernels.windows import day_of

FIRST = date(2023, 3, 13)
DAYS = 26
FROM, TO = FIRST + timedelta(days=10), FIRST + timedelta(days=DAYS - 3)

HELD = (
    ("rule: cumulative_share", "rule: top_fraction"), ("min_stay_days: 2", "min_stay_days: 0"),
    ("cv_90d_ppm, above: 500000", "cv_90d_ppm, above: 200000"), ("warn_days: 2", "warn_days: 1"),
    ("{at_least: 900000, points: 100}", "{at_least: 700000, points: 100}"),
)  # fmt: skip
"""A policy that reads what the published one reads."""

MORE = (
    ("metric: wh_7d", "metric: wh_30d"), ("      scope: all", "      scope: category"), *HELD[1:3],
    ("    credit_grades:\n", f"{DIMENSIONS}    credit_grades:\n"),
    ("      - {rule: unsteady", f"{BY_SCORE}      - {{rule: unsteady"),
)  # fmt: skip
"""One that ranks by what `features` alone holds, and has dimensions, one of them by region."""

COLUMNS = {
    "customer_tiers": "account_id, greatest(valid_from, $first) AS a, least(coalesce(valid_to, $last), $last) AS b, "
    "* EXCLUDE (account_id, valid_from, valid_to)",
    "tier_migrations": "*", "cutoffs": "*", "abuse_steps": "*", "scores": "*",
    "planned_actions": "*", "plan_capacity": "*",
}  # fmt: skip
REACHES = {"customer_tiers": "valid_from <= $last AND coalesce(valid_to, $last) >= $first"}
BY_DAY = "service_date BETWEEN $first AND $last"


def as_read(changes):
    """A policy of one version: the test's, with texts replaced."""
    text = WITH_ACTIONS.replace('version: "1"', 'version: "2"')
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_policy(text, "b.yaml")


def try_out(bureau, changes, out=None, first=FROM, last=TO, **more):
    return what_if(bureau.config, as_read(changes), "b.yaml", first, last, out=out, progress=lambda *_: None, **more)


def differing(marts, folder, mart, *, without=""):
    """Rows of the days that only one side has."""
    select = f"SELECT {COLUMNS[mart]}{without} FROM"
    reaches = REACHES.get(mart, BY_DAY)
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{marts}' AS real (READ_ONLY)")
        sides = [f"{select} real.{mart} WHERE {reaches}", f"{select} '{folder}/{mart}.parquet' WHERE {reaches}"]
        params = {"first": FROM, "last": TO}
        rows = [con.execute(f"{a} EXCEPT ALL {b}", params).fetchall() for a, b in (sides, sides[::-1])]
        (told,) = con.execute(f"SELECT count(*) FROM ({sides[0]})", params).fetchall()[0]
    return rows[0] + rows[1], told


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A utility to which everything happens, published in three runs, the last of which puts days right by account."""
    bureau = Bureau(tmp_path_factory.mktemp("what-if") / "bureau", policy=WITH_ACTIONS)
    world = a_world(random.Random(7), 14, DAYS, frozenset(INGREDIENTS) - {"units", "bad_rows"}, FIRST)
    events = list(world.events)
    random.Random(1).shuffle(events)
    late = [event for event in events if event[0] in ("meter_readings", "ledger_events", "conduct_events")][::9]
    bureau.land_all(event for event in events if event not in late)
    bureau.run(through=FIRST + timedelta(days=14))
    bureau.run(through=FIRST + timedelta(days=DAYS - 1))
    bureau.land_all(late)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines.restate, "MOST_PPM", 10**9)
        assert bureau.run(through=FIRST + timedelta(days=DAYS - 1)).days_by_account > 0
    kinds = {entry.kind for entry in Warehouse(bureau.config.warehouse).load().entries}
    assert {TIER_INPUT_PATCH, "gone:features", "patch:features"} <= kinds
    return bureau


@pytest.mark.slow
@pytest.mark.parametrize("changes", [HELD, MORE], ids=["held", "more"])
def test_what_if_equals_a_run(changes, published, tmp_path, monkeypatch):
    monkeypatch.setattr(pipelines.what_if, "DAYS_AT_ONCE", 8)
    before = published.marts.read_bytes()
    report = try_out(published, changes, tmp_path / "out", accounts=True)
    assert published.marts.read_bytes() == before
    real = published.copy(tmp_path / "real")
    real.set_policy(second_version(FROM, *changes, policy=WITH_ACTIONS))
    assert real.run(through=FIRST + timedelta(days=DAYS - 1)).restated_from == FROM
    for mart in COLUMNS:
        # where the day's clock is not held, a cause may be told more coarsely
        without = " EXCLUDE (cause)" if changes is MORE and mart == "tier_migrations" else ""
        rows, told = differing(real.marts, tmp_path / "out", mart, without=without)
        assert rows == [], mart
        assert told > 0 or mart == "abuse_steps" or (mart, changes) == ("scores", HELD), mart
    assert report.clockless == (("wh_30d",) if changes is MORE else ())
    assert report.moved > 0
    assert report.migrations["tried"]["policy_changed"] > 0
    listed = (tmp_path / "out" / "accounts.csv").read_text().splitlines()
    assert len(listed) == report.moved + 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "abuse_steps.parquet", "accounts.csv", "customer_tiers.parquet", "cutoffs.parquet", "plan_capacity.parquet",
        "planned_actions.parquet", "report.json", "scores.parquet", "tier_migrations.parquet",
    ]  # fmt: skip


@pytest.mark.slow
def test_what_cannot_be_tried_is_refused_before_anything_runs(published, tmp_path, monkeypatch):
    monkeypatch.setattr(pipelines.what_if, "_Work", None)  # nothing runs
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    decay = ("    credit_score:\n", "    credit_decay: {half_life_days: 30}\n    credit_score:\n")
    edits = ("frozen: {days: 3}", "frozen: {days: 4}")
    for changes, more, words in (
        (HELD, {"first": FIRST - timedelta(days=1)}, "service days 2023-03-13 to"),
        (HELD, {"last": FIRST + timedelta(days=DAYS)}, "are published"),
        (HELD, {"first": TO, "last": FROM}, "the first day is after the last"),
        ([decay], {}, r"b.yaml: versions\[0\].credit_decay: is another"),
        ([edits], {}, r"b.yaml: versions\[0\].vee: is another"),
        (
            [('version: "2"', 'version: "1"'), *HELD],
            {},
            r"b.yaml: versions\[0\].version: '1': a published version of other rules",
        ),
        (HELD, {"accounts": True}, "--accounts needs --out"),
        (HELD, {"out": tmp_path / "full"}, "is there already"),
    ):
        with pytest.raises(ConfigError, match=words):
            try_out(published, changes, **more)


@pytest.mark.slow
def test_columns_that_are_not_held_are_named_with_their_days(published):
    standing = Warehouse(published.config.warehouse).load()
    short = {**standing.header, "keep_from": {"features": day_of(FROM + timedelta(days=3))}}
    held = _Held(Warehouse(published.config.warehouse).store, replace(standing, header=short))
    begin, end = day_of(FROM) - 1, day_of(TO)
    policy = in_force_from(published.config.policy, as_read(MORE), day_of(FROM))
    lacking = f"wh_30d of {FROM - timedelta(days=1)} to {FROM + timedelta(days=2)}.*retention.features"
    with pytest.raises(ConfigError, match=lacking):
        held.check(policy, begin, end)
    assert held.check(policy, begin + 4, end) == {"wh_30d"}
    assert held.check(in_force_from(published.config.policy, as_read(HELD), day_of(FROM)), begin, end) == set()
    held.inputs.pop(day_of(FROM))
    with pytest.raises(ConfigError, match=f"tiers of {FROM} were made of .* retention.tier_inputs"):
        held.check(policy, begin, end)


def test_the_policy_is_that_of_the_publication_up_to_the_first_day():
    both = in_force_from(parse_policy(second_version(FROM, policy=WITH_ACTIONS), "a.yaml"), as_read(MORE), day_of(TO))
    assert [(v.version, v.effective_from, v.abc.metric) for v in both.versions] == [
        ("1", date(2000, 1, 1), "wh_7d"), ("2", FROM, "wh_7d"), ("2", TO, "wh_30d"),
    ]  # fmt: skip
    late = in_force_from(
        parse_policy(second_version(FROM, policy=WITH_ACTIONS), "a.yaml"), as_read(MORE), day_of(date(1999, 1, 1))
    )
    assert [v.effective_from for v in late.versions] == [date(1998, 12, 31), date(1999, 1, 1)]


def test_it_is_said_where_the_days_are_fewer_than_the_stay():
    none = {
        "migrations": {side: {} for side in SIDES},
        "flaps": {side: {"flaps": 0, "flap_rate_ppm": None} for side in SIDES},
    }
    said = [as_text(Report("b.yaml", ("b",), FROM, TO, None, **none, stay_days=stay), "en") for stay in (30, None)]
    assert ["minimum stay of 30 days" in text for text in said] == [True, False]
