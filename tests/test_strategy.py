"""Strategy and capacity file: faults with their path, and from which day on a change counts."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.plan import policy_change, policy_state, policy_waits
from pipelines.templates import write_templates
from schemas.actions import ACTIONS, RESOURCES
from schemas.capacity import default_capacity_text, load_capacity, parse_capacity
from schemas.errors import ConfigError
from schemas.policy import Policy, default_policy_text, parse_policy
from transforms.kernels.action_plan import places
from transforms.kernels.windows import date_of, day_of

TEXT, STAFF = default_policy_text(), default_capacity_text()
AT = "versions[0].strategy"
POLICY_FAULTS = [
    ("order: priority_then_value", "order: worth", f"{AT}.order: 'worth': must be 'priority_then_value' or 'value'"),
    ("order: priority_then_value", "value: growth_90d_ppm", f"{AT}.value: 'growth_90d_ppm': must be one of wh_7d, "),
    ("keep_bonus_ppm: 200000", "keep_bonus_ppm: -1", f"{AT}.keep_bonus_ppm: -1: must be greater than or equal to 0"),
    ("keep_bonus_ppm: 200000", "keep_bonus_ppm: 1000001", f"{AT}.keep_bonus_ppm: 1000001: must be less than or equal"),
    ("action: visit\n", "action: phone\n", f"{AT}.actions[1].action: 'phone': must be 'account_manager', 'visit', "),
    ("resource: visits", "resource: vans", f"{AT}.actions[1].resource: 'vans': must be 'managers', 'visits', "),
    ("again_days: 90\n", "again_days: 0\n", f"{AT}.actions[1].again_days: 0: must be greater than or equal to 1"),
    ("          again_days: 90\n", "", f"{AT}.actions[1].again_days: null: visits are counted by day"),
    (
        "resource: managers\n",
        "resource: managers\n          again_days: 9\n",
        f"{AT}.actions[0].again_days: 9: is for actions",
    ),
    (
        "reason: high_value_visit",
        "reason: high_value_manager",
        f"{AT}.actions[1].reason: 'high_value_manager': another",
    ),
    ("reason: high_value_visit", "reason: High", f"{AT}.actions[1].reason: 'High': write a name"),
    (
        "action: visit\n",
        "action: account_manager\n",
        f"{AT}.actions[1].resource: 'visits': an action takes one resource",
    ),
    ("priority: 1\n", "priority: 0\n", f"{AT}.actions[0].priority: 0: must be greater than or equal to 1"),
    ("due_days: 5\n", "due_days: 0\n", f"{AT}.actions[0].due_days: 0: must be greater than or equal to 1"),
    (
        "tier, equals: high",
        "tier, equals: highest",
        f"{AT}.actions[0].when[0].equals: 'highest': must be one of high, ",
    ),
    (
        "abuse_step, equals: restrict",
        "abuse_step, equals: hang",
        f"{AT}.actions[11].when[0].equals: 'hang': must be one",
    ),
    (
        "tier, equals: high",
        "teir, equals: high",
        f"{AT}.actions[0].when[0].column: 'teir': did you mean 'tier'? It must be one of category, ",
    ),
    ("day_close:", "capacity: {versions: []}\nday_close:", "capacity: '...': has a file of its own"),
]


@pytest.mark.parametrize(("old", "new", "fault"), POLICY_FAULTS)
def test_a_fault_of_the_strategy_is_told_with_its_path_and_what_is_allowed(old, new, fault):
    begin = 0 if old == "day_close:" else TEXT.index("    strategy:")
    with pytest.raises(ConfigError) as told:
        parse_policy(TEXT[:begin] + TEXT[begin:].replace(old, new, 1), "policy.yaml")
    assert f"policy.yaml: {fault}" in str(told.value)


STAFF_FAULTS = [
    ("{staff: 2, accounts", "{staff: -2, accounts", "versions[0].managers.staff: -2: must be greater than or equal to 0"),
    ("inspections_each: 4", "inspections_each: 0.5", "versions[0].inspectors.inspections_each: 0.5: must be a whole number"),
    ("calls: 60", "calls: many", "versions[0].calls: 'many': must be a whole number"),
    ("calls: 60", "cals: 60", "versions[0].cals: 60: no such key; there are effective_from, managers, inspectors, calls, "),
    ("[mon, tue, wed, thu, fri]", "[mon, day]", "versions[0].working_days[1]: 'day': must be 'mon', 'tue', "),
    ("[mon, tue, wed, thu, fri]", "[mon, mon]", 'versions[0].working_days: ["mon", "mon"]: names a day twice'),
    ("holidays: []", "holidays: [2025-02-30]", "holidays[0]: '2025-02-30': must be a day"),
    ("holidays: []", "holidays: [2025-01-01, 2025-01-01]", "holidays[1]: '2025-01-01': stands twice"),
    ("2000-01-01", "soon", "versions[0].effective_from: 'soon': must be a day"),
    ("holidays: []", "  - {effective_from: 1999-01-01, calls: 1}", "versions[1].effective_from: '1999-01-01': must be later"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "fault"), STAFF_FAULTS)
def test_a_fault_of_the_capacity_file_is_told_with_its_path_and_what_is_allowed(old, new, fault):
    with pytest.raises(ConfigError) as told:
        parse_capacity(STAFF.replace(old, new, 1), "capacity.yaml")
    assert str(told.value).startswith(f"capacity.yaml: {fault}")


def test_what_init_writes_is_accepted_and_the_shipped_policy_has_every_action(tmp_path):
    *_, path = write_templates(tmp_path)
    assert set(load_capacity(path).on(date(2025, 1, 1)).places()) == set(RESOURCES)
    strategy = parse_policy(TEXT, "policy.yaml").versions[0].strategy
    assert {rule.action for rule in strategy.actions} == set(ACTIONS)


def under(staff: str | None) -> Policy:
    policy = parse_policy(TEXT, "policy.yaml")
    return policy.model_copy(update={"capacity": parse_capacity(staff, "capacity.yaml") if staff else None})


MORE = STAFF.replace("\nholidays: []", "\n  - {effective_from: 2025-02-03, calls: 61}\nholidays: []")


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        (STAFF, STAFF, None),
        (STAFF, STAFF + "# a comment\n", None),
        (STAFF, MORE, date(2025, 2, 2)),  # the plan of the day before is for it
        (STAFF, STAFF.replace("holidays: []", "holidays: [2025-10-01]"), date(2025, 9, 30)),
        (MORE, MORE.replace("61", "62"), date(2025, 2, 2)),
    ],
)
def test_a_change_of_the_staff_counts_from_the_day_before_it_works(was, now, expected):
    changed = policy_change(policy_state(under(was)), under(now))
    assert (changed and date_of(changed)) == expected


def test_a_change_of_all_days_and_of_none():
    long_ago = day_of(date(1900, 1, 1))
    for was, now in ((STAFF, STAFF.replace("calls: 60", "calls: 61")), (STAFF, None), (None, STAFF)):
        assert policy_change(policy_state(under(was)), under(now)) < long_ago
    without = parse_policy(TEXT[: TEXT.index("    # 7. Service")] + TEXT[TEXT.index("    # 8. VEE") :], "policy.yaml")
    staffed = without.model_copy(update={"capacity": parse_capacity(STAFF, "capacity.yaml")})
    assert policy_change(policy_state(without), staffed) is None, "nobody asks for the staff"


def test_a_change_waits_from_the_first_service_day_on_at_the_earliest():
    was, now = under(STAFF), under(STAFF.replace("calls: 60", "calls: 61"))
    assert policy_waits({"policy": policy_state(was), "first": day_of(date(2025, 1, 1))}, was) is None
    assert policy_waits({"policy": policy_state(was), "first": day_of(date(2025, 1, 1))}, now) == date(2025, 1, 1)
    assert policy_waits({"policy": policy_state(was), "first": None}, now) == was.versions[0].effective_from
    later = under(MORE)
    assert policy_waits({"policy": policy_state(was), "first": day_of(date(2025, 1, 1))}, later) == date(2025, 2, 2)
    same = under(STAFF.replace("2000-01-01", "2010-01-01"))
    assert policy_waits({"policy": policy_state(was), "first": None}, same) is None


@given(
    starts=st.sets(st.integers(0, 12), min_size=1, max_size=3), holidays=st.sets(st.integers(0, 14), max_size=3),
    other=st.sets(st.integers(0, 14), max_size=3),
)  # fmt: skip
def test_before_the_first_changed_day_places_are_as_they_were(starts, holidays, other):
    first = date(2025, 3, 3)

    def staff(off: set[int]) -> str:
        versions = [f"  - {{effective_from: {first + timedelta(n)}, calls: {n}}}" for n in sorted(starts)]
        return "\n".join(
            ["versions:", *versions, f"holidays: [{', '.join(str(first + timedelta(n)) for n in sorted(off))}]"]
        )

    was, now = under(staff(holidays)), under(staff(other))
    changed = policy_change(policy_state(was), now)
    days = range(day_of(first) - 3, day_of(first) + 20)
    differ = [day for day in days if places(was.capacity, day) != places(now.capacity, day)]
    assert changed is None or not [day for day in differ if day < changed]
    assert changed is not None or not differ
