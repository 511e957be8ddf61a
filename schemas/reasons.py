"""Reasons a delivered row is rejected for: the codes in `rejects.reason`, what each means and what to do."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "column_count": "The row has more or fewer fields than the header. Look for an unquoted delimiter or a cut line.",
    "missing_value": "A required value is empty. Deliver the row again with the value, or name what stands for it "
    "in the mapping (`map`, `constant`).",
    "bad_decimal": "Not a plain decimal number: NaN, an exponent, a thousands separator or another decimal mark. "
    "Check `decimal` in the mapping, else deliver the row again.",
    "too_many_digits": "More decimals than the unit holds (1 Wh, one minor unit). Nothing is rounded unless the mapping "
    "says `round: half_up`: check `unit` there, or deliver the value with fewer decimals.",
    "out_of_range": "A number outside the column's bounds, such as negative energy. Check `unit` in the mapping, else "
    "deliver the right value.",
    "bad_date": "Not a day of the calendar in the mapping's `format`, or a time of day other than midnight. Check "
    "`format` and `time_of_day` in the mapping, else deliver the row again.",
    "off_midnight": "A time of day further from midnight than `time_of_day: {within_minutes: ...}` of the mapping allows: "
    "the reading closes no day. Nothing is done about it, unless the time is wrong: then deliver the row again.",
    "date_out_of_range": "A day before the first or after the last that the mapping's `dates` allow. Check `format` "
    "and `dates` in the mapping, else deliver the right day.",
    "unknown_code": "A code that the mapping's `map` does not name. Add it there and deliver the rows again, in a file of "
    "their own: one of the same content is left aside.",
    "not_positive": "A charge, payment, prepayment, refund or write-off of zero or less, or an adjustment of zero. Deliver "
    "credits as payments or as negative adjustments.",
    "wrong_currency": "An amount in another currency than `currency` of the mapping names: a ledger is kept in one. Deliver the "
    "amount in it, or name in `map` what stands for it.",
    "due_before_issue": "A charge that is due before its event date. Deliver the right days.",
    "removed_before_installed": "A meter that is removed before the day it is installed. Deliver the right days; a row that is to "
    "be taken back is told with a higher revision and both on one day.",
    "index_beyond_modulus": "A meter's index at installation or removal that is not below its modulus. Check `unit` of both in "
    "the mapping, else deliver the row again with the right index or modulus.",
    "stream_not_mapped": "A day of an NMI in a NEM12 file, and the mapping names none of the NMI's data streams. Name there what "
    "it is to be read from, and deliver its records again, in a file of their own.",
    "malformed_message": "A Kafka message that is not what `payload` of the mapping says: JSON objects in UTF-8, or an "
    "Arrow stream with exact types. Send it again, mended.",
    "empty_message": "A Kafka message without a value (a tombstone). Nothing is deleted by it: send a correction with a "
    "higher revision.",
    "message_too_large": "A Kafka message of more bytes than `kafka.max_message_bytes`, or of more than 524,287 rows. "
    "Send it in parts.",
    "schema_version": "A Kafka message of another layout than `version` of the mapping names. Map the new layout, and "
    "send it again.",
}
"""Reason code -> what it means and what to do."""

FAULTS: dict[str, int] = {reason: number for number, reason in enumerate(REASONS, start=1)}
"""Reason code -> the small number that stands for it inside a block; 0 is no fault. Never stored."""
