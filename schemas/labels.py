"""Labels in English and Chinese for the codes that the marts hold."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

from schemas.document import read_yaml

Lang = Literal["en", "zh"]
LANGS: tuple[Lang, ...] = ("en", "zh")

KINDS = {
    "abc": "class",
    "abuse_reason": "abuse_reason",
    "action": "action",
    "category": "category",
    "cause": "cause",
    "class": "class",
    "credit_grade": "credit_grade",
    "dimension": "dimension",
    "event_type": "event_type",
    "from_abc": "class",
    "from_grade": "credit_grade",
    "from_step": "abuse_step",
    "from_tier": "tier",
    "kind": "cut_kind",
    "ranked": "ranked",
    "reason": "reason",
    "not_planned_reason": "not_planned_reason",
    "register": "register",
    "resource": "resource",
    "rule": "abc_rule",
    "severity": "severity",
    "side": "side",
    "status": "day_status",
    "step": "abuse_step",
    "tier": "tier",
    "to_abc": "class",
    "to_grade": "credit_grade",
    "to_tier": "tier",
    "vee_rule": "vee_rule",
}
"""Column of a mart that holds a closed set of codes -> kind of label."""


@cache
def labels() -> dict[str, dict[str, dict[str, str]]]:
    """All labels: kind -> code -> language -> label. Shared: do not change it."""
    content = read_yaml(resources.files("schemas").joinpath("labels.yaml").read_text("utf-8"), "labels.yaml")
    assert isinstance(content, dict)
    return content


def label(kind: str, code: str, lang: Lang = "en") -> str:
    """The label of a code; the code itself where it has none, as rules of a utility's own policy.

    >>> label("tier", "mid_steady", "zh"), label("tier_rule", "our_own_rule")
    ('中价值客户（稳定型）', 'our_own_rule')

    Raises: KeyError for a kind that does not exist.
    """
    return labels()[kind].get(code, {}).get(lang, code)
