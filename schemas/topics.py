"""What a stream writes to topics: the fields of their messages."""

from __future__ import annotations

from schemas.fields import COUNT, DAY, ID, TEXT, WH, Column, Relation
from schemas.marts import CAUSES, CLASSES, TIERS

TIER_CHANGES = Relation(
    "tier_changes",
    "Changes of tier: within seconds of the event that causes them, and again when their service day is published.",
    (
        Column("account_id", ID, "Account", privacy="pseudonymous"),
        Column("status", TEXT, "`provisional`: what the tier would be since an event came; `final`: as published; "
               "`restated`: published otherwise before", values=("provisional", "final", "restated")),
        Column("service_date", DAY, "Day as of which the change holds; of a restated stretch its first day"),
        Column("valid_to", DAY, "Last day of a restated stretch", nullable=True),
        Column("from_tier", TEXT, "Tier told or published before; null: none", nullable=True, values=TIERS),
        Column("to_tier", TEXT, "Tier now; null: none", nullable=True, values=TIERS),
        Column("cause", TEXT, "Cause of a published change; `provisional_ended`: what was told provisionally did not come",
               nullable=True, values=(*CAUSES, "provisional_ended")),
        Column("rule", TEXT, "The tier rule that decided, or stay", nullable=True),
        Column("policy_version", TEXT, "Policy version in force", nullable=True),
        Column("credit_grade", TEXT, "Provisional: the credit grade", nullable=True, values=CLASSES),
        Column("event_id", ID, "Provisional: the event that caused it", nullable=True, privacy="pseudonymous"),
        Column("source_part", TEXT, "Provisional: partition or file the event came with", nullable=True),
        Column("source_offset", WH, "Provisional: its offset", nullable=True),
        Column("append_ms", WH, "Provisional: Kafka's time of the event", "ms since 1970", nullable=True),
        Column("base_date", DAY, "Provisional: the service day whose cut-offs, classes and use were taken", nullable=True),
        Column("generation", COUNT, "Final, restated: the publication", nullable=True),
    ),
)  # fmt: skip

TIER_CHANGE_SCHEMA = f"wattier.tier_change/{TIER_CHANGES.version.split('.')[0]}"
"""The field `schema` of a message; the number grows when a field goes or changes its meaning."""

DEAD_LETTERS = Relation(
    "dead_letters",
    "Messages that were rejected, in whole or in part. Every rejected row is in the mart `rejects`.",
    (
        Column("topic", TEXT, "Topic the message came from"),
        Column("partition", COUNT, "Its partition"),
        Column("offset", WH, "Its offset"),
        Column("reason", TEXT, "Reason code of the first fault; see reject-reasons.md"),
        Column("column", TEXT, "Column at fault; empty where the whole message is"),
        Column("value", TEXT, "The value as delivered, cut at 200 characters", nullable=True, privacy="personal"),
        Column("faults", COUNT, "How many faults there are", minimum=1),
    ),
)

TOPICS = (TIER_CHANGES, DEAD_LETTERS)
