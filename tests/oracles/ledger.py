"""The ledger section of docs/explanation/definitions.md, read aloud in plain Python: one account, one day, no tricks.

Shares nothing with `transforms`. Portions of credits are applied one by one, as a clerk would.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, timedelta


@dataclass(frozen=True)
class Event:
    event_id: str
    event_type: str
    event_date: date
    amount_minor: int
    due_date: date | None = None
    bill_id: str | None = None
    ref_event_id: str | None = None
    revision: int = 0

    def as_text(self):
        return (
            self.event_type,
            self.event_date.isoformat(),
            self.due_date.isoformat() if self.due_date else "",
            str(self.amount_minor),
            self.bill_id or "",
            self.ref_event_id or "",
        )


@dataclass
class Bill:
    number: str
    event_id: str
    issued: date
    due: date
    amount: int
    portions: list[tuple[date, int]] = field(default_factory=list)

    @property
    def open(self):
        return self.amount - sum(minor for _, minor in self.portions)

    @property
    def settled_on(self):
        return None if self.open else max(day for day, _ in self.portions)


@dataclass
class Credit:
    day: date
    event_id: str
    bill_number: str
    amount: int
    left: int


def existing(events, day):
    """The version of each event that counts on the day."""
    versions = defaultdict(list)
    for event in events:
        if event.event_date <= day:
            versions[event.event_id].append(event)
    counting = []
    for several in versions.values():
        highest = max(event.revision for event in several)
        counting.append(min((e for e in several if e.revision == highest), key=Event.as_text))
    return counting


def allocated(events, day):
    """The bills and credits of one account on the day, with every portion applied."""
    counting = existing(events, day)
    reversed_ids = {e.ref_event_id for e in counting if e.event_type == "reversal" and e.ref_event_id}
    bills, paying = [], []
    for e in counting:
        if e.event_type == "charge":
            bills.append(Bill(e.bill_id or e.event_id, e.event_id, e.event_date, e.due_date, e.amount_minor))
        elif e.event_type == "adjustment" and e.amount_minor > 0:
            bills.append(Bill(e.event_id, e.event_id, e.event_date, e.event_date, e.amount_minor))
        elif (
            e.event_type in ("payment", "write_off", "adjustment") and e.amount_minor and e.event_id not in reversed_ids
        ):
            amount = abs(e.amount_minor)
            paying.append(Credit(e.event_date, e.event_id, e.bill_id or "", amount, amount))
    bills.sort(key=lambda bill: (bill.due, bill.number, bill.event_id))
    paying.sort(key=lambda credit: (credit.day, credit.event_id))

    def apply(credit, bill):
        minor = min(credit.left, bill.open)
        if minor:
            bill.portions.append((credit.day, minor))
            credit.left -= minor

    for credit in paying:
        named = [bill for bill in bills if credit.bill_number and bill.number == credit.bill_number]
        if named:
            apply(credit, min(named, key=lambda bill: (bill.due, bill.event_id)))
    for credit in paying:
        for bill in bills:
            apply(credit, bill)
    return bills, paying


def features(events, day):
    """The credit columns of the features mart for one account."""
    bills, paying = allocated(events, day)
    owed = dict.fromkeys(("current", "1_30", "31_60", "61_90", "91"), 0)
    for bill in bills:
        age = (day - bill.due).days
        if age <= 0:
            owed["current"] += bill.open
        elif age <= 30:
            owed["1_30"] += bill.open
        elif age <= 60:
            owed["31_60"] += bill.open
        elif age <= 90:
            owed["61_90"] += bill.open
        else:
            owed["91"] += bill.open
    overdue = [bill for bill in bills if bill.open and bill.due < day]
    due = [bill for bill in bills if 1 <= (day - bill.due).days <= 365]
    on_time = sum(1 for bill in due if bill.settled_on is not None and bill.settled_on <= bill.due)
    beyond = sum(max(0, ((bill.settled_on or day) - bill.due).days) for bill in due)
    late = [bill for bill in due if bill.settled_on is None or bill.settled_on > bill.due]
    due_90 = [bill for bill in due if (day - bill.due).days <= 90]
    weight = [(WEIGHTS[(day - bill.due).days // 30], bill not in late) for bill in due]
    billed = sum(bill.amount for bill in bills if 0 <= (day - bill.issued).days <= 364)
    unallocated, owing = sum(credit.left for credit in paying), sum(bill.open for bill in overdue)
    counting = existing(events, day)
    payments = {e.event_id: e for e in counting if e.event_type == "payment"}
    taken_back = {}
    for e in counting:
        if e.event_type == "reversal" and e.ref_event_id in payments:
            taken_back[e.ref_event_id] = min(e.event_date, taken_back.get(e.ref_event_id, e.event_date))
    standing = sorted(e.event_date for name, e in payments.items() if name not in taken_back)
    recent = [paid for paid in standing if (day - paid).days <= 364]
    paid_days = sorted(set(recent))
    return {
        "billed_365d_minor": billed,
        "balance_minor": sum(bill.amount for bill in bills) - sum(credit.amount for credit in paying),
        "current_minor": owed["current"],
        "overdue_1_30_minor": owed["1_30"],
        "overdue_31_60_minor": owed["31_60"],
        "overdue_61_90_minor": owed["61_90"],
        "overdue_91_minor": owed["91"],
        "overdue_minor": sum(minor for name, minor in owed.items() if name != "current"),
        "unallocated_minor": unallocated,
        "bills_due_365d": len(due),
        "bills_on_time_365d": on_time,
        "on_time_365d_ppm": on_time * 1_000_000 // len(due) if due else None,
        "beyond_terms_365d_days": beyond,
        "mean_beyond_terms_365d_milli": beyond * 1000 // len(due) if due else None,
        "oldest_overdue_days": max(((day - bill.due).days for bill in overdue), default=0),
        "late_bills_365d": len(late),
        "mean_late_365d_milli": beyond * 1000 // len(late) if late else None,
        "bills_due_90d": len(due_90),
        "bills_on_time_90d": sum(bill not in late for bill in due_90),
        "on_time_90d_ppm": ppm(sum(bill not in late for bill in due_90), len(due_90)),
        "on_time_amount_90d_ppm": by_amount(due_90, late),
        "on_time_amount_365d_ppm": by_amount(due, late),
        "on_time_decayed_ppm": ppm(sum(w for w, on_time in weight if on_time), sum(w for w, _ in weight)),
        "bounced_90d": sum((day - when).days <= 89 for when in taken_back.values()),
        "bounced_365d": sum((day - when).days <= 364 for when in taken_back.values()),
        "payments_365d": len(recent),
        "days_since_payment": (day - standing[-1]).days if standing else None,
        "payment_interval_365d_milli": (
            (paid_days[-1] - paid_days[0]).days * 1000 // (len(paid_days) - 1) if len(paid_days) > 1 else None
        ),
        "prepayment_cover_days": min(unallocated * 365 // billed, 10**12) if billed else None,
        "arrears_months_milli": min(owing * 12 * 1000 // billed, 10**12) if billed else None,
        "months_in_arrears": months_in_arrears(bills, day),
    }


WEIGHTS = [
    1048576, 934175, 832255, 741455, 660561, 588493, 524288, 467088, 416128, 370728, 330281, 294247, 262144,
]  # fmt: skip


def ppm(part, whole):
    return part * 1_000_000 // whole if whole else None


def by_amount(due, late):
    return ppm(sum(bill.amount for bill in due if bill not in late), sum(bill.amount for bill in due))


def months_in_arrears(bills, day):
    """Month-ends back from the day itself, as long as some bill was past due on each."""
    count, end = 0, day
    while count < 12 and any(
        bill.issued <= end and bill.due < end and (bill.settled_on is None or bill.settled_on > end) for bill in bills
    ):
        count, end = count + 1, end.replace(day=1) - timedelta(days=1)
    return count
