"""The credit columns of the features mart."""

from __future__ import annotations

from schemas.fields import COUNT, MINOR, PPM, PPM_LIMIT, WH, Column

RATIO_LIMIT = 10**12
"""Days and months that an amount is worth are given as at most this, for it would pass int64 in the end."""

MONTHS_IN_ARREARS = 12


def _ppm(name: str, label: str) -> Column:
    return Column(
        name, PPM, f"{label}; null where no bill fell due", "ppm", nullable=True, minimum=0, maximum=PPM_LIMIT
    )


def _count(name: str, label: str, unit: str) -> Column:
    return Column(name, COUNT, label, unit, minimum=0)


CREDIT = (
    Column("billed_365d_minor", MINOR, "Bills issued in the 365 days", "minor units", minimum=0),
    Column("balance_minor", MINOR, "Bills and refunds minus credits; negative: the account is in credit", "minor units"),
    Column("current_minor", MINOR, "Open and not past due", "minor units", minimum=0),
    Column("overdue_1_30_minor", MINOR, "Open, 1 to 30 days past due", "minor units", minimum=0),
    Column("overdue_31_60_minor", MINOR, "Open, 31 to 60 days past due", "minor units", minimum=0),
    Column("overdue_61_90_minor", MINOR, "Open, 61 to 90 days past due", "minor units", minimum=0),
    Column("overdue_91_minor", MINOR, "Open, 91 days past due or more", "minor units", minimum=0),
    Column("overdue_minor", MINOR, "All open amounts past due", "minor units", minimum=0),
    Column("unallocated_minor", MINOR, "Credits left when all bills and refunds are paid", "minor units", minimum=0),
    _count("bills_due_365d", "Bills that fell due in the 365 days before the service day", "bills"),
    _count("bills_on_time_365d", "Those settled on or before their due date", "bills"),
    _ppm("on_time_365d_ppm", "On-time ratio"),
    Column("beyond_terms_365d_days", WH, "Days beyond terms, summed over those bills", "days", minimum=0),
    Column("mean_beyond_terms_365d_milli", PPM, "Mean days beyond terms; null where no bill fell due",
           "thousandths of a day", nullable=True, minimum=0),
    _count("oldest_overdue_days", "Days that the oldest open bill or refund is past due; 0 where none is", "days"),
    _count("late_bills_365d", "Bills that fell due in the 365 days before the service day, not settled by then", "bills"),
    Column("mean_late_365d_milli", PPM, "Average days delinquent: days beyond terms over late bills; null where none was late",
           "thousandths of a day", nullable=True, minimum=0),
    _count("bills_due_1d", "Bills that were due on the day before the service day", "bills"),
    _count("bills_due_90d", "Bills that fell due in the 90 days before the service day", "bills"),
    _count("bills_on_time_90d", "Those settled on or before their due date", "bills"),
    _ppm("on_time_90d_ppm", "On-time ratio of the 90 days"),
    _ppm("on_time_amount_90d_ppm", "On-time ratio of the 90 days by amount"),
    _ppm("on_time_amount_365d_ppm", "On-time ratio of the 365 days by amount"),
    _ppm("on_time_decayed_ppm", "On-time ratio of the 365 days, of which the latest bills weigh the most"),
    _count("bounced_90d", "Payments and prepayments taken back in the 90 days up to the service day", "payments"),
    _count("bounced_365d", "Payments and prepayments taken back in the 365 days up to the service day", "payments"),
    _count("payments_365d", "Payments and prepayments of the 365 days up to the service day that stand", "payments"),
    Column("days_since_payment", COUNT, "Days since the last payment or prepayment that stands; null where there is none", "days",
           nullable=True, minimum=0),
    Column("payment_interval_365d_milli", PPM, "Mean days from one day with a payment or prepayment to the next, in the 365 days; "
           "null below two such days", "thousandths of a day", nullable=True, minimum=0),
    Column("prepayment_cover_days", WH, "Days that the unallocated credits last, at the mean daily billing of the 365 days; null "
           "where nothing was billed", "days", nullable=True, minimum=0, maximum=RATIO_LIMIT),
    Column("arrears_months_milli", PPM, "Overdue amounts in mean monthly bills of the 365 days; null where nothing was billed",
           "thousandths of a month", nullable=True, minimum=0, maximum=RATIO_LIMIT),
    Column("months_in_arrears", COUNT, "Calendar months on end, up to the present one, that ended with a bill or refund past "
           "due; at most 12", "months", minimum=0, maximum=MONTHS_IN_ARREARS),
)  # fmt: skip
"""In the order of the mart; `transforms/kernels/credit.py` computes them."""

TENURE = Column("tenure_days", COUNT, "Days since the account was opened", "days", minimum=0)
