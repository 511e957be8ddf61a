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
    priority: int | None = None

    def as_text(self):
        return (
            self.event_type,
            self.event_date.isoformat(),
            self.due_date.isoformat() if self.due_date else "",
            str(self.amount_minor),
            self.bill_id or "",
            self.ref_event_id or "",
            "" if self.priority is None else str(self.priority),
        )


@dataclass
class Bill:
    """A debit: a bill, or a refund."""

    number: str
    event_id: str
    issued: date
    due: date
    amount: int
    priority: int = 0
    refund: bool = False
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


def within_limit(counting):
    """Of an account whose amounts pass int64, the events up to which they do not; and the others."""
    upto, held, beyond = 0, [], []
    for event in sorted(counting, key=lambda e: (e.event_date, e.event_id)):
        upto += abs(event.amount_minor) if event.event_type != "reversal" else 0
        fits = event.event_type == "reversal" or upto < 1 << 63
        (held if fits else beyond).append(event)
    return held, beyond


def is_credit(event):
    """Whether an event pays, were it not reversed."""
    return event.event_type in ("payment", "prepayment", "write_off") or (
        event.event_type == "adjustment" and event.amount_minor < 0
    )


def allocated(events, day, allocation="fifo"):
    """The bills (refunds among them) and credits of one account on the day, with every portion applied."""
    counting = existing(events, day)
    reversed_ids = {e.ref_event_id for e in counting if e.event_type == "reversal" and e.ref_event_id}
    bills, paying = [], []
    for e in within_limit(counting)[0]:
        if e.event_type == "charge":
            number = e.bill_id or e.event_id
            bills.append(Bill(number, e.event_id, e.event_date, e.due_date, e.amount_minor, e.priority or 0))
        elif e.event_type == "refund" or (e.event_type == "adjustment" and e.amount_minor > 0):
            refund = e.event_type == "refund"
            due = e.event_date if refund else e.due_date or e.event_date
            bills.append(Bill(e.event_id, e.event_id, e.event_date, due, e.amount_minor, e.priority or 0, refund))
        elif is_credit(e) and e.event_id not in reversed_ids:
            to = "" if e.event_type == "prepayment" else e.bill_id or ""
            amount = abs(e.amount_minor)
            paying.append(Credit(e.event_date, e.event_id, to, amount, amount))
    bills.sort(key=lambda bill: (bill.due, bill.number, bill.event_id))
    paying.sort(key=lambda credit: (credit.day, credit.event_id))

    def apply(credit, bill):
        minor = min(credit.left, bill.open)
        if minor:
            bill.portions.append((credit.day, minor))
            credit.left -= minor

    for credit in paying:
        named = [b for b in bills if not b.refund and credit.bill_number and b.number == credit.bill_number]
        if named:
            apply(credit, min(named, key=lambda bill: (bill.due, bill.event_id)))
    if allocation == "priority":
        bills.sort(key=lambda bill: bill.priority)  # of one priority they stay as they were
    for credit in paying:
        for bill in bills:
            apply(credit, bill)
    return bills, paying


def features(events, day, allocation="fifo", weights=None):
    """The credit columns of the features mart for one account."""
    debits, paying = allocated(events, day, allocation)
    bills = [debit for debit in debits if not debit.refund]
    owed = dict.fromkeys(("current", "1_30", "31_60", "61_90", "91"), 0)
    for debit in debits:
        age = (day - debit.due).days
        if age <= 0:
            owed["current"] += debit.open
        elif age <= 30:
            owed["1_30"] += debit.open
        elif age <= 60:
            owed["31_60"] += debit.open
        elif age <= 90:
            owed["61_90"] += debit.open
        else:
            owed["91"] += debit.open
    overdue = [debit for debit in debits if debit.open and debit.due < day]
    due = [bill for bill in bills if 1 <= (day - bill.due).days <= 365]
    on_time = sum(1 for bill in due if bill.settled_on is not None and bill.settled_on <= bill.due)
    beyond = sum(max(0, ((bill.settled_on or day) - bill.due).days) for bill in due)
    late = [bill for bill in due if bill.settled_on is None or bill.settled_on > bill.due]
    due_90 = [bill for bill in due if (day - bill.due).days <= 90]
    weight = [((weights or WEIGHTS)[(day - bill.due).days // 30], bill not in late) for bill in due]
    billed = sum(bill.amount for bill in bills if 0 <= (day - bill.issued).days <= 364)
    unallocated, owing = sum(credit.left for credit in paying), sum(debit.open for debit in overdue)
    counting = existing(events, day)
    payments = {e.event_id: e for e in within_limit(counting)[0] if e.event_type in ("payment", "prepayment")}
    taken_back = {}
    for e in counting:
        if e.event_type == "reversal" and e.ref_event_id in payments:
            taken_back[e.ref_event_id] = min(e.event_date, taken_back.get(e.ref_event_id, e.event_date))
    standing = sorted(e.event_date for name, e in payments.items() if name not in taken_back)
    recent = [paid for paid in standing if (day - paid).days <= 364]
    paid_days = sorted(set(recent))
    return {
        "billed_365d_minor": billed,
        "balance_minor": sum(debit.amount for debit in debits) - sum(credit.amount for credit in paying),
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
        "oldest_overdue_days": max(((day - debit.due).days for debit in overdue), default=0),
        "late_bills_365d": len(late),
        "mean_late_365d_milli": beyond * 1000 // len(late) if late else None,
        "bills_due_1d": sum((day - bill.due).days == 1 for bill in bills),
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
        "months_in_arrears": months_in_arrears(debits, day),
    }


WEIGHTS = [
    1048576, 934175, 832255, 741455, 660561, 588493, 524288, 467088, 416128, 370728, 330281, 294247, 262144,
]  # fmt: skip


def ppm(part, whole):
    return part * 1_000_000 // whole if whole else None


def by_amount(due, late):
    return ppm(sum(bill.amount for bill in due if bill not in late), sum(bill.amount for bill in due))


def months_in_arrears(debits, day):
    """Month-ends back from the day itself, as long as some bill or refund was past due on each."""
    count, end = 0, day
    while count < 12 and any(
        d.issued <= end and d.due < end and (d.settled_on is None or d.settled_on > end) for d in debits
    ):
        count, end = count + 1, end.replace(day=1) - timedelta(days=1)
    return count


def exceptions(events, day, closed_on=None, allocation="fifo"):
    """The rows of `ledger_exceptions` of one account: (event id, reason, named, closed_on), ascending."""
    counting = existing(events, day)
    _, beyond = within_limit(counting)
    by_id = {e.event_id: e for e in counting}
    bills, paying = allocated(events, day, allocation)
    rows = [(e.event_id, "beyond_limit", None, None) for e in beyond]
    taken = set()
    for e in sorted(counting, key=lambda e: (e.event_date, e.event_id)):
        if e.event_type == "reversal" and e.ref_event_id:
            target = by_id.get(e.ref_event_id)
            if target is None:
                rows.append((e.event_id, "reversal_of_unknown", e.ref_event_id, None))
            elif not is_credit(target):
                rows.append((e.event_id, "reversal_of_no_credit", e.ref_event_id, None))
            elif target.event_id in taken:
                rows.append((e.event_id, "reversal_again", e.ref_event_id, None))
            else:
                taken.add(target.event_id)
                if e.amount_minor and abs(e.amount_minor) != abs(target.amount_minor):
                    rows.append((e.event_id, "reversal_amount_differs", e.ref_event_id, None))
        rivals = [o for o in events if (o.event_id, o.revision) == (e.event_id, e.revision) and o.event_date <= day]
        if any(o.as_text() != e.as_text() for o in rivals):
            rows.append((e.event_id, "conflicting_event", None, None))
    numbers = {}
    billed = sorted((b for b in bills if not b.refund), key=lambda b: (b.due, b.event_id))
    again = [bill for bill in billed if numbers.setdefault(bill.number, bill) is not bill]
    rows += [(bill.event_id, "bill_number_twice", bill.number, None) for bill in again]
    for credit in paying:
        if credit.bill_number and credit.bill_number not in numbers:
            rows.append((credit.event_id, "bill_unknown", credit.bill_number, None))
        pays = by_id[credit.event_id].event_type in ("payment", "prepayment")
        if pays and closed_on is not None and credit.day > closed_on and credit.left:
            rows.append((credit.event_id, "closed_account_pays", None, closed_on))
    if closed_on is not None and closed_on < day:
        rows += [(b.event_id, "closed_account_owes", None, closed_on) for b in bills if b.open and b.due < day]
    rows += [(b.event_id, "refund_beyond_credit", None, None) for b in bills if b.refund and b.open]
    return sorted(rows, key=lambda row: row[:2])
