"""What `ledger_exceptions` names: ledger events that have no effect, or an odd one."""

from __future__ import annotations

LEDGER_FAULTS: dict[str, str] = {
    "reversal_of_unknown": "A reversal of an event that is not there. It takes effect when the event comes.",
    "reversal_of_no_credit": "A reversal of an event that is no credit, such as a charge. It has no effect.",
    "reversal_again": "A reversal of a credit that an earlier one took back already. It has no effect.",
    "reversal_amount_differs": "A reversal of another amount than the credit that it takes back. The whole credit is taken back.",
    "conflicting_event": "An event delivered with other content under the same revision. The content that is first as text counts.",
    "bill_unknown": "A credit directed to a bill that is not there. It serves what is open until the bill comes.",
    "bill_number_twice": "A bill of the number of another one of the account. Credits that name it go to the other one.",
    "closed_account_pays": "A payment or prepayment after the account's last day, more than was owed. It counts.",
    "closed_account_owes": "A bill or refund past due of an account that is closed and has no features any more. It stays owed.",
    "refund_beyond_credit": "A refund that credits do not cover. What they do not stays owed.",
    "beyond_limit": "An event after the account's amounts add up to 2^63 minor units. It does not count.",
}
"""Reason code -> what it means, and what comes of it."""
