"""Service strategies of a policy version: which actions customers get, by conditions, and who goes first where places are few."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from schemas.actions import LONGEST_REST, RESOURCES, STANDING, Action, Resource
from schemas.conditions import MOST_RULES, Codes, Conditional, Fault, Part, condition_faults, rule_name
from schemas.document import one_of
from schemas.fields import Column


class ActionRule(Conditional):
    """An action and its conditions. resource: what it takes a place of; again_days: not again within so many days."""

    action: Action
    reason: Annotated[str, AfterValidator(rule_name)]
    due_days: Annotated[int, Field(ge=1, le=3650)]
    priority: Annotated[int, Field(ge=1, le=9)]
    resource: Resource | None = None
    again_days: Annotated[int, Field(ge=1, le=LONGEST_REST)] | None = None


class Strategy(Part):
    """Who gets what. value: the feature that an account counts by, None: the metric of `abc`.

    keep_bonus_ppm: so much more does who holds a standing assignment count. Of the rules for one action the first that holds.
    """

    value: str | None = None
    order: Literal["priority_then_value", "value"] = "priority_then_value"
    keep_bonus_ppm: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    actions: Annotated[tuple[ActionRule, ...], Field(max_length=MOST_RULES)]

    def columns(self) -> frozenset[str]:
        """The columns that the conditions name."""
        return frozenset(condition.column for rule in self.actions for condition in rule.when)

    def of(self, resource: str | None) -> list[int]:
        """Numbers of the rules that take a place of a resource."""
        return [number for number, rule in enumerate(self.actions) if rule.resource == resource]


def strategy_faults(
    strategy: Strategy, metrics: Sequence[str], codes: Codes, numbers: Mapping[str, Column], path: tuple[str | int, ...]
) -> Iterator[Fault]:
    """What is wrong with a strategy.

    metrics: features that accounts can count by; codes, numbers: text columns and numbers that conditions may name.
    """
    if strategy.value is not None and strategy.value not in metrics:
        yield (*path, "value"), strategy.value, one_of(strategy.value, metrics)
    if not strategy.actions:
        yield (*path, "actions"), [], "at least one action is needed; or leave `strategy:` out"
    takes: dict[str, str | None] = {}
    reasons: list[str] = []
    for i, rule in enumerate(strategy.actions):
        at = (*path, "actions", i)
        if takes.setdefault(rule.action, rule.resource) != rule.resource:
            before = takes[rule.action] or "none"
            yield (
                (*at, "resource"),
                rule.resource,
                f"an action takes one resource; the rule before for it says {before}",
            )
        if rule.reason in reasons:
            yield (*at, "reason"), rule.reason, "another action of this version has that reason; give each its own"
        reasons.append(rule.reason)
        yield from _rest_faults(rule, at)
        for j, condition in enumerate(rule.when):
            yield from condition_faults(condition, codes, (*at, "when", j), numbers)


def _rest_faults(rule: ActionRule, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """What is done once must say when it may be done again; what lasts, or takes nothing, must not."""
    by_day = rule.resource not in (None, STANDING)
    if by_day and rule.again_days is None:
        yield (
            (*path, "again_days"),
            None,
            f"{rule.resource} are counted by day: say after how many days it may be done again",
        )
    if not by_day and rule.again_days is not None:
        daily = ", ".join(name for name in RESOURCES if name != STANDING)
        yield (*path, "again_days"), rule.again_days, f"is for actions that take one of {daily}; leave it out"
