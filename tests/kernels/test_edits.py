"""What counts where a rule of VEE edits: one account, or a few, whose numbers can be checked by hand."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.vee import JUDGED, Vee
from transforms.kernels.days_read import Account, DaysRead
from transforms.kernels.edits import Edits, edit
from transforms.kernels.reference import NEVER, Expected
from transforms.kernels.vee import judge
from transforms.kernels.windows import DayBlock, day_of

TODAY = day_of(date(2026, 3, 2))
WEEKS = {7: 2_000, 14: 4_000}
OTHER_UNIT = {"tolerance_ppm": 300_000, "at_least_wh": 1_000, "like_days": 1}
LIMITS = {"factor_ppm": 3_000_000, "at_least_wh": 1_000, "like_days": 2}


def rules(**severities):
    """Rules that are on, with their severities. A spike is above 12,000 Wh, too low below 200 Wh, 1 kVA gives 28,800 Wh."""
    all_of_them = {
        "unit_mismatch": OTHER_UNIT, "spike": LIMITS, "low": LIMITS | {"factor_ppm": 100_000}, "capacity": {},
        "inactive_use": {}, "sum_check": {},
    }  # fmt: skip
    return Vee.model_validate({name: all_of_them[name] | {"severity": s} for name, s in severities.items()})


def blocks(accounts, today=None):
    """Load of days: accounts: one dict each, days back -> Wh. One meter each. today: register -> Wh and meters by account."""

    def load(day):
        back = TODAY - day
        read = [of.get(back) for of in accounts]
        received = np.array([wh is not None for wh in read], np.int32)
        told = {0: today or {}, 7: {"peak": ([700] * len(read), received)}}.get(back, {})
        apart = {name: (np.array(wh), np.array(meters, np.int32)) for name, (wh, meters) in told.items()}
        energy = np.array([wh or 0 for wh in read])
        return DayBlock(energy, received, 0 * received, received, apart) if received.any() else None

    return load


def edited(vee, *accounts, today=None, passed_over=(), inside=True, capacity=-1):
    """What counts today: (edits, which rule decided of whom, the day as it counts)."""
    n, load = len(accounts), blocks(accounts, today)
    due = Expected(*(np.array(c, np.int32) for c in (range(n), [TODAY - 400] * n, [NEVER] * n, [1] * n)))
    known = Account(np.full(n, inside), np.ones(n, np.bool_), np.full(n, capacity), due)
    days = DaysRead(TODAY, n, load, known)
    found = judge(vee, days)
    edits, deciding = edit(days, found, lambda day: np.array(dict(passed_over).get(TODAY - day, ()), np.int32))
    names = [JUDGED[code] for code in found.rule[deciding]]
    assert found.slot[deciding].tolist() == edits.slot.tolist()
    return edits, dict(zip(edits.slot.tolist(), names, strict=True)), edits.on(load(TODAY))


@pytest.mark.parametrize(
    ("name", "trips", "just_not", "more", "like"),
    [
        ("spike", {0: 12_001, **WEEKS}, {0: 12_000, **WEEKS}, {}, 2_000),
        ("low", {0: 199, **WEEKS}, {0: 200, **WEEKS}, {}, 2_000),
        ("unit_mismatch", {0: 2_600_000, **WEEKS}, {0: 2_600_001, 7: 2_000, 14: 1_000}, {}, 2_000),
        ("unit_mismatch", {0: 3, 7: 3_900, 14: 2_100}, {0: 3, 7: 3_901, 14: 2_099}, {}, 3_900),
        ("capacity", {0: 28_801, 14: 4_000}, {0: 28_800, 14: 4_000}, {"capacity": 1_000}, 4_000),
    ],
)
def test_an_estimate_is_the_energy_of_the_latest_like_day_and_a_reject_is_none(name, trips, just_not, more, like):
    _, by, day = edited(rules(**{name: "estimate"}), trips, **more)
    assert (by, day.energy.tolist(), day.received.tolist(), day.estimated.tolist()) == ({0: name}, [like], [1], [1])
    edits, by, day = edited(rules(**{name: "reject"}), trips, **more)
    assert (by, day.energy.tolist(), day.received.tolist(), day.estimated.tolist()) == ({0: name}, [0], [0], [0])
    assert (edits.rejected.tolist(), day.conflict.tolist()) == ([0], [0])
    for severity in ("estimate", "reject"):
        assert edited(rules(**{name: severity}), just_not, **more)[1] == {}
    assert edited(rules(**{name: "flag"}), trips, **more)[1] == {}


def test_rules_that_have_no_estimate_reject():
    assert edited(rules(inactive_use="reject"), {0: 1}, inside=False)[2].received.tolist() == [0]
    assert edited(rules(inactive_use="reject"), {0: 0}, inside=False)[1] == {}
    told = {"peak": ([9_949], [1])}
    assert edited(rules(sum_check="reject"), {0: 10_000}, today=told)[1] == {0: "sum_check"}
    assert edited(rules(sum_check="reject"), {0: 10_000}, today={"peak": ([9_950], [1])})[1] == {}


def test_without_a_like_day_the_limit_counts():
    vee = rules(spike="estimate", capacity="estimate")
    assert edited(vee, {0: 30_000}, capacity=1_000)[2].energy.tolist() == [28_800]
    day = edited(rules(unit_mismatch="estimate"), {0: 2_500_000, **WEEKS}, passed_over={7: (0,), 14: (0,)})[2]
    assert day.energy.tolist() == [2_500]
    day = edited(vee, {0: 12_001, **WEEKS}, passed_over={7: (0,), 14: (0,)})[2]
    assert (day.energy.tolist(), day.apart) == ([12_000], {})


def test_a_like_day_that_was_edited_is_passed_over():
    assert edited(rules(spike="estimate"), {0: 99_999, **WEEKS}, passed_over={7: (0,)})[2].energy.tolist() == [4_000]


@pytest.mark.parametrize(
    ("severities", "rule", "energy"),
    [
        (("estimate", "estimate"), "spike", 2_000),
        (("estimate", "reject"), "capacity", 0),
        (("reject", "reject"), "spike", 0),
        (("flag", "estimate"), "capacity", 2_000),
    ],
)
def test_the_strongest_severity_decides_and_of_equal_ones_the_first_rule(severities, rule, energy):
    vee = rules(**dict(zip(("spike", "capacity"), severities, strict=True)))
    _, by, day = edited(vee, {0: 50_000, **WEEKS}, capacity=1_000)
    assert (by, day.energy.tolist()) == ({0: rule}, [energy])


def test_another_unit_decides_before_a_spike():
    assert edited(rules(unit_mismatch="estimate", spike="estimate"), {0: 2_000_000, **WEEKS})[1] == {0: "unit_mismatch"}
    assert edited(rules(unit_mismatch="estimate", low="estimate"), {0: 3, 7: 3_000, 14: 3_100})[1] == {
        0: "unit_mismatch"
    }


def test_periods_come_from_the_like_day_or_not_at_all_and_feed_in_stays():
    told = {name: ([wh] * 3, [1] * 3) for name, wh in (("valley", 5), ("reverse", 9))}
    spike, fine = {0: 99_999, **WEEKS}, {0: 5_000, **WEEKS}
    edits, by, day = edited(rules(spike="estimate"), fine, spike, spike, today=told)
    assert by == {1: "spike", 2: "spike"}
    assert day.energy.tolist() == [5_000, 2_000, 2_000]
    found = {name: (wh.tolist(), meters.tolist()) for name, (wh, meters) in day.apart.items()}
    assert found == {
        "peak": ([0, 700, 700], [0, 1, 1]), "valley": ([5, 0, 0], [1, 0, 0]), "reverse": ([9, 9, 9], [1, 1, 1]),
    }  # fmt: skip
    again = Edits.from_batch(edits.to_batch())
    assert again.on(blocks([fine, spike, spike], told)(TODAY)).energy.tolist() == day.energy.tolist()
    rejected = edited(rules(spike="reject"), fine, spike, spike, today=told)[2]
    assert {name: meters.tolist() for name, (_, meters) in rejected.apart.items()} == {
        "valley": [1, 0, 0], "reverse": [1, 1, 1],
    }  # fmt: skip


def test_a_rejected_day_has_no_maximum_demand_and_an_estimated_one_the_one_read():
    spike, fine, told = {0: 99_999, **WEEKS}, {0: 5_000, **WEEKS}, {"max_demand": ([300, 400], [1, 1])}
    for severity, watts, meters in (("estimate", [300, 400], [1, 1]), ("reject", [300, 0], [1, 0])):
        edits, _, day = edited(rules(spike=severity), fine, spike, today=told)
        assert [column.tolist() for column in day.apart["max_demand"]] == [watts, meters]
        assert "max_demand_w" not in edits.to_batch().schema.names


USES = st.fixed_dictionaries({back: st.sampled_from((None, 0, 500, 2_000, 9_000, 90_000)) for back in (0, 7, 14, 21)})


@settings(max_examples=40)
@given(st.lists(USES, min_size=2, max_size=5), st.sets(st.integers(0, 4)), st.sampled_from(("estimate", "reject")))
def test_accounts_are_edited_each_by_itself(uses, passed_over, severity):
    """Of few accounts the same counts as of all together: days may be worked out anew for some of them alone."""
    vee = rules(spike=severity, low="reject", capacity="estimate")

    def edits(of, over):
        if all(use[0] is None for use in of):
            return []
        _, by, day = edited(vee, *of, passed_over={7: sorted(over)}, capacity=1_000)
        return [(by.get(n), int(day.energy[n]), int(day.received[n])) for n in range(len(of))]

    together = edits(uses, {n for n in passed_over if n < len(uses)})
    for n, use in enumerate(uses):
        assert edits([use], {0} if n in passed_over else set()) in ([], together[n : n + 1])
