"""The conduct section of docs/explanation/definitions.md, read aloud in plain Python: one account, one day, no tricks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Finding:
    event_id: str
    event_type: str
    event_date: date
    revision: int = 1


def standing(findings, day):
    """Of each event dated up to the day the version that counts, but for those withdrawn."""
    best = {}
    for one in findings:
        if one.event_date <= day:
            rank = (-one.revision, one.event_type != "withdrawn", one.event_type, one.event_date.isoformat())
            if one.event_id not in best or rank < best[one.event_id][0]:
                best[one.event_id] = (rank, one)
    return [one for _, one in best.values() if one.event_type != "withdrawn"]


def features(findings, day):
    """The conduct columns of one account on one day."""
    ago = {}
    for one in standing(findings, day):
        ago.setdefault(one.event_type, []).append((day - one.event_date).days)

    def latest(kind):
        return min(ago[kind]) if kind in ago else None

    off, on = latest("disconnection"), latest("reconnection")
    return {
        "days_since_theft": latest("theft_confirmed"),
        "days_since_tampering": latest("tampering"),
        "days_since_violation": latest("usage_violation"),
        "days_since_inspection": latest("inspection_passed"),
        "thefts_730d": sum(days < 730 for days in ago.get("theft_confirmed", [])),
        "violations_365d": sum(days < 365 for days in ago.get("usage_violation", [])),
        "disconnected": int(off is not None and (on is None or off < on)),
    }
