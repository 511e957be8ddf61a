"""What the rules of a policy cover: that every account meets one, and that every rule is met by some account.

A rule is a box: for each column that it names, the values that it takes. The rules before it are cut out of it, piece by piece;
what is left are the accounts that it decides on. With the rules all cut out of everything, what is left is a hole.

    everything   - rule 0 - rule 1 - ... - rule n   = the hole, if any
    rule 2       - rule 0 - rule 1                  = whom rule 2 decides on

An account that has the tier already meets conditions with `exit` more easily. A rule takes what it may ever take, by its exits
where another rule gives the same, and those before it take from it only what they always do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.conditions import NULLABLE, NUMBERS, Codes, Condition, Conditional, Fault, condition_faults
from schemas.fields import Column

LOW, HIGH = -(1 << 63), (1 << 63) - 1
PIECES = 20_000
"""Pieces that a rule may fall into before nothing is said of it: no policy that people write comes near."""

Span = tuple[int, int]
Values = tuple[tuple[Span, ...], bool]
"""Of a column: stretches of numbers, ascending, disjoint; a text is the number of its code. And whether null is among them."""

Box = dict[str, Values]
"""Values by column; a column that is not there may have any."""


def rules_faults(
    rules: Sequence[Conditional], codes: Codes, path: tuple[str | int, ...], numbers: Mapping[str, Column] = NUMBERS,
    had: Codes | None = None,
) -> Iterator[Fault]:  # fmt: skip
    """Every account must meet some rule, and every rule must be the first that some account meets.

    codes, numbers: text columns, with their values, and numbers that conditions may name; had: of text columns the values that
    accounts can have, where these are fewer.
    """
    if not rules:
        yield path, [], "at least one rule is needed, the last without `when`"
        return
    wrong = False
    for i, rule in enumerate(rules):
        if not rule.when and i < len(rules) - 1:
            wrong = True
            yield (*path, i, "when"), [], "only the last rule may be without `when`; those after it are never reached"
        for j, condition in enumerate(rule.when):
            for fault in condition_faults(condition, codes, (*path, i, "when", j), numbers, buffered=True):
                wrong = True
                yield fault
    domains = _domains(rules, codes, numbers, had or {}) if not wrong else {}
    last = rules[-1]
    if last.when:
        named = [c.column for c in last.when]
        hole = None if wrong else _hole(rules, domains)
        who = f"; now none is met by an account with {_told(hole, codes)}" if hole is not None else ""
        yield (
            (*path, len(rules) - 1, "when"),
            named,
            f"the last rule must have no `when`: it takes all that is left{who}",
        )
    if not wrong:
        yield from _unreached(rules, codes, domains, path)


def _gives(rule: Conditional) -> str | None:
    """What a rule gives: a tier or a grade."""
    return getattr(rule, "tier", None) or getattr(rule, "grade", None)


def _hole(rules: Sequence[Conditional], domains: Domains) -> Box | None:
    """A piece of what no rule takes."""
    left = _left({}, [_box(rule, domains, stay=False) for rule in rules], domains)
    return left[0] if left else None


def _unreached(
    rules: Sequence[Conditional], codes: Codes, domains: Domains, path: tuple[str | int, ...]
) -> Iterator[Fault]:
    boxes = [_box(rule, domains, stay=False) for rule in rules]
    for i, rule in enumerate(rules):
        others = [j for j in range(len(rules)) if j != i and _gives(rules[j]) == _gives(rule)]
        widest = _box(rule, domains, stay=bool(others))  # nobody stays in what no rule lets him into
        if any(not spans and not null for spans, null in widest.values()):
            columns = [c.column for c in rule.when]
            yield (
                (*path, i, "when"),
                columns,
                "no account meets all of these conditions; leave the rule out, or mend them",
            )
            continue
        left = _left(widest, boxes[:i], domains)
        if left is not None and not left:
            first = next(k for k in range(i) if _meet(widest, boxes[k], domains) is not None)
            both = _meet(widest, boxes[first], domains)
            assert both is not None
            yield (
                (*path, i, "when"),
                [c.column for c in rule.when],
                f"is never reached: rules before it take all that it would, as rule {first} an account with {_told(both, codes)}",
            )


@dataclass(frozen=True)
class _Domain:
    """All that a column can be. codes: of text, its values, by number."""

    values: Values
    codes: tuple[str, ...] = ()


Domains = Mapping[str, _Domain]


def _domains(rules: Sequence[Conditional], codes: Codes, numbers: Mapping[str, Column], had: Codes) -> Domains:
    """Of every column that the rules name."""
    found: dict[str, _Domain] = {}
    for name in (condition.column for rule in rules for condition in rule.when):
        if name in codes:
            some = [codes[name].index(code) for code in had.get(name, codes[name])]
            found[name] = _Domain((tuple((n, n) for n in some), name in NULLABLE), codes[name])
        else:
            low, high = numbers[name].minimum, numbers[name].maximum
            span = (LOW if low is None else low, HIGH if high is None else high)
            found[name] = _Domain(((span,), numbers[name].nullable))
    return found


def _box(rule: Conditional, domains: Domains, *, stay: bool) -> Box:
    """What a rule takes. stay: of those who have already what it gives."""
    box: Box = {}
    for condition in rule.when:
        domain = domains[condition.column]
        taken = _taken(condition.to_stay() if stay else condition, domain)
        name = condition.column
        box[name] = _both(box.get(name, domain.values), taken)
    return box


def _taken(condition: Condition, domain: _Domain) -> Values:
    """The values that a condition takes."""
    low, high, null = LOW, HIGH, domain.values[1]
    wanted: Sequence[Any] = condition.values
    if domain.codes:
        wanted = [domain.codes.index(str(value)) for value in wanted]
    match condition.op:
        case "at_least":
            held = [(wanted[0], high)]
        case "above":
            held = [(wanted[0] + 1, high)]
        case "at_most":
            held = [(low, wanted[0])]
        case "below":
            held = [(low, wanted[0] - 1)]
        case "not_one_of":
            held, start = [], low
            for value in sorted(wanted):
                held.append((start, value - 1))
                start = value + 1
            held.append((start, high))
        case _:
            held = [(value, value) for value in sorted(set(wanted))]
    return tuple((a, b) for a, b in held if a <= b), null and condition.or_null


def _both(one: Values, other: Values) -> Values:
    spans = [(max(a, c), min(b, d)) for a, b in one[0] for c, d in other[0]]
    return tuple((a, b) for a, b in spans if a <= b), one[1] and other[1]


def _without(one: Values, other: Values) -> Values:
    """Values of one that are not of the other."""
    spans = list(one[0])
    for c, d in other[0]:
        spans = [part for a, b in spans for part in ((a, min(b, c - 1)), (max(a, d + 1), b)) if part[0] <= part[1]]
    return tuple(spans), one[1] and not other[1]


def _some(values: Values) -> bool:
    return bool(values[0]) or values[1]


def _meet(one: Box, other: Box, domains: Domains) -> Box | None:
    """What both boxes take; None where that is nothing."""
    both = {
        name: _both(one.get(name, domains[name].values), other.get(name, domains[name].values))
        for name in {**one, **other}
    }
    return both if all(map(_some, both.values())) else None


def _left(box: Box, others: Sequence[Box], domains: Domains) -> list[Box] | None:
    """Pieces of a box that are in none of the others; None where there are too many to tell."""
    pieces = [box]
    for other in others:
        found: list[Box] = []
        for piece in pieces:
            found += _cut(piece, other, domains)
            if len(found) > PIECES:
                return None
        pieces = found
    return pieces


def _cut(piece: Box, other: Box, domains: Domains) -> Iterator[Box]:
    """A piece without another box: for each column of the other, what is outside it there and inside in the columns before."""
    if _meet(piece, other, domains) is None:
        yield piece
        return
    inner = dict(piece)
    for name, values in other.items():
        own = inner.get(name, domains[name].values)
        outside = _without(own, values)
        if _some(outside):
            yield {**inner, name: outside}
        inner[name] = _both(own, values)


def _told(box: Mapping[str, Values], codes: Codes) -> str:
    """An account of a box, in words."""
    said = []
    for name, (spans, null) in box.items():
        if not spans and null:
            said.append(f"no {name}")
            continue
        low, high = spans[0]
        value = low if low > LOW and (low >= 0 or high < 0) else max(low, min(high, 0))
        said.append(f"{name} {codes[name][value] if name in codes else value}")
    return ", ".join(said) or "anything"
