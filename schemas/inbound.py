"""The inbound sources, in the form they have after their mapping: one row per event or reference row."""

from __future__ import annotations

from schemas.fields import COUNT, DAY, FLAG, ID, INSTANT, MINOR, PPM, TEXT, WH, Column, Relation

ENERGY_LIMIT_WH = 1 << 38
"""Largest accepted energy of one meter and day: 275 GWh, five times the largest smelter."""

DEMAND_LIMIT_W = 1 << 37
"""Largest accepted maximum demand of one meter: 137 GW, fifty times the largest smelter."""

PRICE_LIMIT_NANO = 10**12 - 1
"""Largest accepted price of one kWh: a thousand major units."""

MONEY_LIMIT_MINOR = 1 << 48
"""Largest accepted amount: 2.8 trillion yuan in fen."""

PRIORITY_LIMIT = 1_000_000
"""Priorities of charges lie within this on both sides of 0."""

QUALITIES = ("actual", "estimated", "edited")
ROLES = ("main", "check")
EVENT_TYPES = ("charge", "payment", "reversal", "write_off", "adjustment", "refund", "prepayment")
CONDUCT_TYPES = (
    "theft_confirmed", "tampering", "usage_violation", "disconnection", "reconnection", "inspection_passed", "withdrawn",
)  # fmt: skip
CATEGORIES = ("residential", "commercial", "industrial", "agricultural")

REVISION = Column(
    "revision", WH, "Which of several versions of the row counts: the highest. From a column, the date in the "
    "file's name, or the order of delivery, as the mapping says", minimum=0,
)  # fmt: skip

READ_AT = Column(
    "read_at", INSTANT, "Moment it was read, UTC, where the service day is taken from a column with a time of day; nothing "
    "follows from it", nullable=True,
)  # fmt: skip

REGISTERS = ("total", "sharp", "peak", "flat", "valley", "reverse")
"""What a meter counts apart: everything used, the time-of-use periods of it, and what was fed in."""

PERIODS = ("sharp", "peak", "flat", "valley")
"""The time-of-use periods."""

PRICED = ("total", *PERIODS)
"""What a tariff has prices of."""

APART = REGISTERS[1:]
"""The registers beside the total."""

DEMAND = "max_demand"
"""The highest mean power of a day."""

MEASURES = (*REGISTERS, DEMAND)
"""What is told of a meter and day. Registers are cumulative; a maximum demand begins anew every day."""

BESIDE = {**{name: f"{name}_wh" for name in APART}, DEMAND: "max_demand_w"}
"""Measures of a day beside its total -> the columns that hold them."""

INDEX_COLUMNS = {**{name: f"index_{name}" for name in REGISTERS}, DEMAND: DEMAND}
"""Measures -> the columns of a register reading that hold what the meter shows."""

MULTIPLIER = "multiplier"

KEPT_COLUMNS = {**INDEX_COLUMNS, MULTIPLIER: MULTIPLIER}
"""What is kept of the register readings of a meter and day: the measures, and the multiplier that the extract tells."""

KEPT = tuple(KEPT_COLUMNS)

METER_READINGS = Relation(
    "meter_readings",
    "Interval energy of one meter on one service day.",
    (
        Column("meter_id", ID, "Meter", key=True, privacy="pseudonymous"),
        Column("service_date", DAY, "Local calendar day the energy was used", key=True),
        READ_AT,
        Column("energy_wh", WH, "Energy used on the day; the sum of its periods where a source has no total", "Wh", minimum=0, maximum=ENERGY_LIMIT_WH),
        Column("quality", TEXT, "How the value came about", values=QUALITIES),
        *(
            Column(f"{name}_wh", WH, f"Energy {'fed in' if name == 'reverse' else f'used in the period {name}'} on the day", "Wh",
                   nullable=True, minimum=0, maximum=ENERGY_LIMIT_WH)
            for name in APART
        ),
        Column(BESIDE[DEMAND], WH, "Maximum demand: the highest mean power of the day, as the extract has it", "W", nullable=True,
               minimum=0, maximum=DEMAND_LIMIT_W),
        REVISION,
    ),
)  # fmt: skip

INDEX_LIMIT = 1 << 50
"""Indexes and moduli are below this: a billion kWh in thousandths of a Wh."""

MULTIPLIER_LIMIT = 1 << 26
"""Multipliers are below this: the ratios of transformers at 1,000 kV and 4,000 A come to 40 million."""


def index_columns(prefix: str, meaning: str) -> tuple[Column, ...]:
    """A nullable index for every register."""
    return tuple(
        Column(f"{prefix}{name}", WH, f"{meaning}, register {name}", "thousandths of a Wh", nullable=True, minimum=0,
               maximum=INDEX_LIMIT - 1)
        for name in REGISTERS
    )  # fmt: skip


REGISTER_READINGS = Relation(
    "register_readings",
    "Cumulative registers of one meter at the midnight that closes a service day. A row may hold some of the registers.",
    (
        Column("meter_id", ID, "Meter", key=True, privacy="pseudonymous"),
        Column(
            "service_date", DAY, "Local calendar day that the reading closes: taken at 00:00 of the next day", key=True
        ),
        READ_AT,
        *index_columns("index_", "Index as read, before the multiplier"),
        Column(
            INDEX_COLUMNS[DEMAND],
            WH,
            "Maximum demand of the day as shown, before the multiplier",
            "thousandths of a W",
            nullable=True,
            minimum=0,
            maximum=INDEX_LIMIT - 1,
        ),
        Column(
            MULTIPLIER,
            WH,
            "Multiplier that the extract tells; held against that of `meters`, which is the one that counts",
            "times",
            nullable=True,
            minimum=1,
            maximum=MULTIPLIER_LIMIT - 1,
        ),
        Column("quality", TEXT, "How the value came about", values=QUALITIES),
        REVISION,
    ),
)

LEDGER_EVENTS = Relation(
    "ledger_events",
    "Charges, payments, prepayments, refunds, reversals, write-offs and adjustments; what an account owes is derived from these.",
    (
        Column("account_id", ID, "Account", key=True, privacy="pseudonymous"),
        Column("event_id", ID, "Event, unique within the account", key=True, privacy="pseudonymous"),
        Column("event_type", TEXT, "Kind of event", values=EVENT_TYPES),
        Column("event_date", DAY, "Day it takes effect: issue of a bill, receipt of a payment"),
        Column("due_date", DAY, "Day a charge, or an adjustment that adds to what is owed, is due; required for charges", nullable=True),
        Column("amount_minor", MINOR, "Amount; positive, except that an adjustment may be negative. A reversal's is ignored",
               "minor units", minimum=-MONEY_LIMIT_MINOR, maximum=MONEY_LIMIT_MINOR),
        Column("bill_id", ID, "Of a charge: its number; of a credit: the bill it is directed to", nullable=True,
               privacy="pseudonymous"),
        Column("ref_event_id", ID, "Of a reversal: the payment it takes back", nullable=True, privacy="pseudonymous"),
        Column("priority", WH, "Of a charge: where credits serve by priority, smaller is served first; empty: 0", nullable=True,
               minimum=-PRIORITY_LIMIT, maximum=PRIORITY_LIMIT),
        Column("late_fee_ppm", PPM, "Of a charge: late fee a day, of the amount still open", "ppm a day", nullable=True, minimum=0,
               maximum=1_000_000),
        Column("period_from", DAY, "Of a charge: first day that it bills", nullable=True),
        Column("period_to", DAY, "Of a charge: last day that it bills", nullable=True),
        Column("channel", TEXT, "Of a payment: where it was made", nullable=True),
        Column("tender", TEXT, "Of a payment: what it was made with", nullable=True),
        REVISION,
    ),
)  # fmt: skip

CONDUCT_EVENTS = Relation(
    "conduct_events",
    "Thefts, tampering, usage violations, disconnections and inspections: what an account is known to have done, and what followed.",
    (
        Column("account_id", ID, "Account", key=True, privacy="pseudonymous"),
        Column("event_id", ID, "Event, unique within the account", key=True, privacy="pseudonymous"),
        Column("event_type", TEXT, "Kind of event; withdrawn: a later revision that takes the event back", values=CONDUCT_TYPES),
        Column("event_date", DAY, "Day it was found, or done; of a withdrawal: the first day on which the event counts no more"),
        REVISION,
    ),
)  # fmt: skip

ACCOUNTS = Relation(
    "accounts",
    "Reference data of accounts, effective-dated.",
    (
        Column("account_id", ID, "Account", key=True, privacy="pseudonymous"),
        Column("valid_from", DAY, "First day the row holds", key=True),
        Column("category", TEXT, "Customer category", values=CATEGORIES),
        Column("region", TEXT, "Region or district", nullable=True),
        Column("voltage", TEXT, "Voltage level", nullable=True),
        Column("tariff", TEXT, "Tariff code", nullable=True),
        Column("preferential", FLAG, "On a preferential tariff", nullable=True),
        Column("capacity_va", WH, "Contracted capacity", "VA", nullable=True, minimum=0),
        Column("prepaid", FLAG, "Prepayment meter installed", nullable=True),
        Column("opened_on", DAY, "Day the account was opened"),
        Column("closed_on", DAY, "Last day of the account; empty while it is open", nullable=True),
        REVISION,
    ),
)

METERS = Relation(
    "meters",
    "Which account a meter belongs to, from when to when, and how its registers are read.",
    (
        Column("meter_id", ID, "Meter", key=True, privacy="pseudonymous"),
        Column("installed_on", DAY, "First service day of the assignment", key=True),
        Column("account_id", ID, "Account it belongs to", privacy="pseudonymous"),
        Column("removed_on", DAY, "First day it no longer belongs there; empty while it does", nullable=True),
        Column("role", TEXT, "main, or check: read but not counted; empty: main", nullable=True, values=ROLES),
        Column(
            "multiplier",
            WH,
            "CT ratio times PT ratio, for registers; empty: 1",
            "times",
            nullable=True,
            minimum=1,
            maximum=MULTIPLIER_LIMIT - 1,
        ),
        Column(
            "modulus",
            WH,
            "Where the registers turn over to 0; empty: not known",
            "thousandths of a Wh",
            nullable=True,
            minimum=1,
            maximum=INDEX_LIMIT - 1,
        ),
        *index_columns("installed_", "Index at the start of the first service day"),
        *index_columns("removed_", "Index at the end of the last service day"),
        REVISION,
    ),
)

TARIFFS = Relation(
    "tariffs",
    "Energy prices, effective-dated.",
    (
        Column("tariff", TEXT, "Tariff code", key=True),
        Column("valid_from", DAY, "First day the price holds", key=True),
        Column(
            "period",
            TEXT,
            "Time-of-use period; total: where a day's energy is not told by period",
            key=True,
            values=PRICED,
        ),
        Column("price_nano", WH, "Price of one kWh", "billionths of a major unit", minimum=0, maximum=PRICE_LIMIT_NANO),
        Column("cost_nano", WH, "What the energy of one kWh costs the utility; empty: not known", "billionths of a major unit",
               nullable=True, minimum=0, maximum=PRICE_LIMIT_NANO),
        REVISION,
    ),
)  # fmt: skip

SOURCES = {
    relation.name: relation
    for relation in (METER_READINGS, REGISTER_READINGS, LEDGER_EVENTS, CONDUCT_EVENTS, ACCOUNTS, METERS, TARIFFS)
}
"""Every inbound source by name."""

STAMP = (
    Column("delivery", COUNT, "Sequence number of the delivery (landed file) the row came with"),
    Column("row", WH, "Row in the delivered file, the first data row being 1"),
)
"""Columns every accepted row carries beside its source's own."""
