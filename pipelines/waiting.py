"""What a stream waits for before its first publication, in words: a sign of life for who looks on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.calendar import Calendar
from pipelines.stalls import Stall
from schemas.policy import Policy
from transforms.kernels.windows import date_of

EVENTS = ("meter_readings", "register_readings", "ledger_events")
"""Sources that make service days."""


def waits_for(
    counts: Mapping[str, Mapping[str, int]], calendar: Calendar | None, policy: Policy, through: int | None,
    stalls: Sequence[Stall],
) -> str:  # fmt: skip
    """Why no service day is published, though rows came.

    counts: source -> outcome -> rows, of what the stream took in. calendar: of all that counts, None: nothing does yet.
    through: last service day that may close by how far the partitions are, None: not known. stalls: partitions that are
    behind others.
    """
    rows = sum(of.get("read", 0) for of in counts.values())
    why = _why_nothing_counts(counts) if calendar is None else _why_no_day(calendar, policy, through)
    return " ".join([f"{rows:,} rows taken in; {why}.", *map(str, stalls)])


def _why_nothing_counts(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Why there is no calendar."""
    events = [counts[source] for source in EVENTS if source in counts]
    read, pending, rejected = (sum(of.get(name, 0) for of in events) for name in ("read", "pending", "rejected"))
    if not read:
        return "no reading or ledger event is among them yet"
    return (
        f"of {read:,} readings and ledger events {pending:,} name an account or meter that is not known yet, and {rejected:,} "
        "were rejected"
    )


def _why_no_day(calendar: Calendar, policy: Policy, through: int | None) -> str:
    if through is None:
        return (
            "a service day may close once each partition of readings has brought one, or was silent for "
            "kafka.idle_timeout_seconds"
        )
    if (end := calendar.end(policy, None)) is None:
        return calendar.held(policy, None) or "no service day is complete"
    if calendar.end(policy, through) is None:
        return f"readings are there to {date_of(end)}, but the partitions are only so far that days to {date_of(through)} may close"
    return f"days to {date_of(min(end, through))} are being made"
