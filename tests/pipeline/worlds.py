"""Small generated utilities: everything that can happen to readings, bills and reference data, in a few weeks.

A world is a list of events: (source, row). Each row carries its revision, so that what counts does not depend on when
or with what it is delivered.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

from hypothesis import strategies as st

from schemas.inbound import CONDUCT_TYPES
from tests.pipeline.bureau import POLICY, WITH_ACTIONS, Row

Event = tuple[str, Row]

TARIFFS = ("", "T1", "T2", "none-known")
CATEGORIES = ("residential", "commercial", "industrial", "agricultural")
INGREDIENTS = (
    "gaps", "corrections", "conflicts", "duplicates", "ties", "estimates", "silent", "unknown_accounts", "unknown_meters",
    "moves", "corrected_meters", "meter_conflicts", "closed_accounts", "category_changes", "corrected_accounts", "ledger",
    "corrected_ledger", "bad_rows", "registers", "exchanges", "rollovers", "multipliers", "check_meters",
    "periods", "tariffs", "corrected_tariffs", "demands", "units", "told_multipliers", "conduct",
)  # fmt: skip
"""What may happen in a world; each can be left out, so that a failing example says what it takes."""


@dataclass(frozen=True)
class World:
    """events in the order of the days they are about; days: first and last service day; policy: its YAML."""

    events: tuple[Event, ...]
    days: tuple[date, date]
    policy: str
    ingredients: frozenset[str]

    def __repr__(self) -> str:
        return f"World({len(self.events)} events, {self.days[0]} to {self.days[1]}, {sorted(self.ingredients)})"


def kwh(wh: int) -> str:
    """Wh as delivered."""
    return f"{wh // 1000}.{wh % 1000:03d}"


def milli(thousandths: int) -> str:
    """Thousandths of a Wh as delivered, in kWh."""
    return f"{thousandths // 1_000_000}.{thousandths % 1_000_000:06d}"


def yuan(fen: int) -> str:
    """Minor units as delivered."""
    return f"{'-' * (fen < 0)}{abs(fen) // 100}.{abs(fen) % 100:02d}"


def reading(
    meter: str, day: date, wh: int, revision: int = 1, quality: str = "A", peak: str = "", valley: str = "",
    reverse: str = "", demand: str = "",
) -> Event:  # fmt: skip
    """Interval energy of a day; by period, and fed in: kWh as delivered. Maximum demand: kW."""
    return "meter_readings", (meter, f"{day}", kwh(wh), quality, str(revision), peak, valley, reverse, demand)


def meter(
    meter_id: str, account: str, installed: date, removed: date | None = None, revision: int = 1, role: str = "",
    multiplier: int | str = "", modulus: str = "", opening: str = "", closing: str = "",
) -> Event:  # fmt: skip
    """modulus, opening, closing: kWh as delivered."""
    read = (role, str(multiplier), modulus, opening, closing)
    return "meters", (meter_id, f"{installed}", account, f"{removed or ''}", *read, str(revision))


def index(
    meter_id: str, day: date, total: str, revision: int = 1, quality: str = "A", peak: str = "", valley: str = "",
    reverse: str = "", demand: str = "", multiplier: int | str = "",
) -> Event:  # fmt: skip
    """A reading of registers at the end of a day: kWh as delivered, the maximum demand kW; the multiplier told."""
    row = (total, peak, valley, reverse, quality, str(revision), demand, str(multiplier))
    return "register_readings", (meter_id, f"{day}", *row)


def account(
    account_id: str, valid_from: date, category: str = "industrial", opened: date | None = None,
    closed: date | None = None, revision: int = 1, region: str = "", capacity: str = "", tariff: str = "",
) -> Event:  # fmt: skip
    """capacity: kVA as delivered."""
    return "accounts", (
        account_id, f"{valid_from}", category, region, "", tariff, "", capacity, "", f"{opened or valid_from}", f"{closed or ''}",
        str(revision),
    )  # fmt: skip


def price(tariff: str, valid_from: date, period: str, yuan_per_kwh: str, revision: int = 1, cost: str = "") -> Event:
    return "tariffs", (tariff, f"{valid_from}", period, yuan_per_kwh, cost, str(revision))


def ledger(
    account_id: str, event_id: str, kind: str, day: date, fen: int, due: date | None = None, bill: str = "", ref: str = "",
    revision: int = 1, priority: int | str = "",
) -> Event:  # fmt: skip
    about = ("counter", f"{day - timedelta(days=30)}") if kind == "charge" else ("", "")
    named = (f"{due or ''}", yuan(fen), bill, ref, str(revision), str(priority), *about)
    return "ledger_events", (account_id, event_id, kind, f"{day}", *named)


def conduct(account_id: str, event_id: str, kind: str, day: date, revision: int = 1) -> Event:
    return "conduct_events", (account_id, event_id, kind, f"{day}", str(revision))


class _Maker:
    """Makes one world from a seeded generator."""

    def __init__(self, rng: random.Random, accounts: int, days: int, first: date, has: frozenset[str]) -> None:
        self.rng, self.has = rng, has
        self.dates = [first + timedelta(days=n) for n in range(days)]
        self.before = first - timedelta(days=rng.choice((1, 40, 400)))
        self.accounts = [f"{n}" if rng.random() < 0.5 else f"A-{n:03d}" for n in range(accounts)]
        self.unknown = {self.accounts[-1]} if "unknown_accounts" in has else set()
        self.events: list[tuple[date, Event]] = []

    def chance(self, ingredient: str, p: float) -> bool:
        """True in a share of cases, never where the ingredient is left out."""
        return ingredient in self.has and self.rng.random() < p

    def add(self, day: date, event: Event) -> None:
        self.events.append((day, event))
        if self.chance("duplicates", 0.05):
            self.events.append((day, event))

    def somewhen(self) -> date:
        return self.rng.choice(self.dates)

    def make(self) -> list[Event]:
        meters = [(f"m{n}", self.rng.choice(self.accounts)) for n in range(len(self.accounts) // 2)]
        meters += [(f"M-{a}", a) for a in self.accounts]
        if "tariffs" in self.has:
            self._tariffs()
        for account_id in self.accounts:
            self._account(account_id)
            if "ledger" in self.has:
                self._ledger(account_id)
            if "conduct" in self.has:
                self._conduct(account_id)
        for meter_id, account_id in meters:
            if self.chance("registers", 0.5):
                self._register_meter(meter_id, account_id)
                continue
            self._meter(meter_id, account_id)
            self._readings(meter_id)
        if "bad_rows" in self.has:
            day = self.somewhen()
            self.add(day, ("meter_readings", ("M-bad", f"{day}", "1e3", "A", "1", "", "", "", "")))
            self.add(day, ("meter_readings", ("M-bad", f"{day}", "1.0001", "A", "1", "", "", "", "")))
            self.add(
                day,
                ("ledger_events", (self.accounts[0], "bad", "payment", f"{day}", "", "-1.00", "", "", "1", "", "", "")),
            )
        self.events.sort(key=lambda dated: dated[0])
        return [event for _, event in self.events]

    def _tariffs(self) -> None:
        """Prices for all or some periods, from before the first day or later, in seasons, corrected late."""
        rng = self.rng
        for tariff in TARIFFS[1:-1]:
            for period in ("total", "peak", "valley"):
                for start in [self.before, *(self.somewhen() for _ in range(rng.choice((0, 0, 1))))]:
                    if rng.random() < 0.3:
                        continue
                    yuan_per_kwh = rng.choice(("0.5", "0.123456789", "999.999999999", "0", f"{rng.randrange(10)}.25"))
                    cost = random.Random(f"{tariff} {period} {yuan_per_kwh}").choice(("", "0.25", "0.4", "0"))
                    told = price(tariff, start, period, yuan_per_kwh, cost=cost)
                    self.add(rng.choice((self.before, start, self.somewhen())), told)
                    if self.chance("corrected_tariffs", 0.3):
                        revision = rng.choice((1, 2))
                        self.add(self.somewhen(), price(tariff, start, period, "0.7", revision))

    def _account(self, account_id: str) -> None:
        if account_id in self.unknown:
            return
        rng, category = self.rng, self.rng.choice(CATEGORIES)
        opened = self.somewhen() if rng.random() < 0.15 else self.before
        closed = self.somewhen() if self.chance("closed_accounts", 0.3) else None
        capacity = {"capacity": rng.choice(("", "1", "0.05", "900")), "tariff": rng.choice(TARIFFS)}
        self.add(self.before, account(account_id, self.before, category, opened, closed, **capacity))
        if self.chance("category_changes", 0.4):
            day = self.somewhen()
            self.add(day, account(account_id, day, rng.choice(CATEGORIES), opened, tariff=rng.choice(TARIFFS)))
        if self.chance("corrected_accounts", 0.3):
            self.add(
                self.somewhen(),
                account(account_id, self.before, rng.choice(CATEGORIES), self.before, None, 2, **capacity),
            )
        if self.chance("corrected_accounts", 0.2):  # one revision, two contents
            self.add(
                self.somewhen(), account(account_id, self.before, rng.choice(CATEGORIES), opened, closed, 2, "North")
            )

    def _meter(self, meter_id: str, account_id: str) -> None:
        rng = self.rng
        if self.chance("unknown_meters", 0.1):
            return
        installed = self.somewhen() if rng.random() < 0.15 else self.before
        self.add(self.before, meter(meter_id, account_id, installed))
        if self.chance("moves", 0.3):
            day = self.somewhen()
            if day > installed:
                self.add(day, meter(meter_id, account_id, installed, day, 2))
                gap = rng.choice((0, 0, 2))
                self.add(day, meter(meter_id, rng.choice(self.accounts), day + timedelta(days=gap)))
        if self.chance("corrected_meters", 0.2):
            self.add(self.somewhen(), meter(meter_id, rng.choice(self.accounts), installed, None, 3))
        if self.chance("meter_conflicts", 0.1):
            self.add(self.somewhen(), meter(meter_id, rng.choice(self.accounts), installed, None, 3))
        self._roles(meter_id, lambda role, revision: meter(meter_id, account_id, installed, None, revision, role))

    def _roles(self, meter_id: str, row: Callable[[str, int], Event]) -> None:
        """A meter found to be a check meter, and then, mostly, not to be one."""
        role = random.Random(f"{meter_id} role")  # draws of its own: the rest of a world stays as it is
        if "check_meters" in self.has and role.random() < 0.15:
            for revision, name in ((8, "check"), (9, "main"), (10, "check"))[: role.choice((1, 2, 2, 3))]:
                self.add(role.choice(self.dates), row(name, revision))

    def _readings(self, meter_id: str) -> None:
        rng = self.rng
        level = 7_000 if self.chance("ties", 0.3) else rng.randrange(1, 10 ** rng.choice((3, 5, 7, 9, 10))) * 5
        silent_from = self.somewhen() if self.chance("silent", 0.25) else None
        step_on, factor = self.somewhen(), rng.choice((0, 1, 1, 3))
        told = [name for name in ("peak", "valley", "reverse") if self.chance("periods", 0.3)]

        demand = random.Random(f"{meter_id} demand")  # draws of its own: the rest of a world stays as it is
        has_demand = "demands" in self.has and demand.random() < 0.5

        unit = random.Random(f"{meter_id} unit")

        def parts(wh: int) -> dict[str, str]:
            """Energy by period, and fed in, mostly told, and not always what adds up; and the maximum demand."""
            out = {name: kwh(wh * rng.randrange(1, 5) // 4) for name in told if rng.random() < 0.85}
            if has_demand and demand.random() < 0.85:
                out["demand"] = kwh(wh * demand.randrange(0, 5) // 24)
            return out

        for day in self.dates:
            if (silent_from and day >= silent_from) or self.chance("gaps", 0.12):
                continue
            wh = level if rng.random() < 0.3 else level * rng.randrange(500, 1500) // 1000
            wh = min(wh * factor if day >= step_on else wh, 50_000_000_000)
            if "units" in self.has and unit.random() < 0.06:  # another unit than its mapping says
                wh = wh * 1_000 if wh < 200_000_000 else wh // 1_000
            quality = rng.choice("ED") if self.chance("estimates", 0.1) else "A"
            self.add(day, reading(meter_id, day, wh, 1, quality, **parts(wh)))
            if self.chance("conflicts", 0.04):
                other = rng.randrange(0, level + 1)
                self.add(day, reading(meter_id, day, other, 1, **parts(other)))
            if self.chance("corrections", 0.07):
                later = day + timedelta(days=rng.randrange(1, 25))
                revision = rng.choice((2, 2, 7))
                for _ in range(2 if self.chance("conflicts", 0.3) else 1):
                    right = rng.randrange(0, 4 * level + 1)
                    self.add(later, reading(meter_id, day, right, revision, **parts(right)))

    def _register_meter(self, meter_id: str, account_id: str) -> None:
        """A meter with registers: what stands in the reference changes with what it shows, not always correctly."""
        rng = self.rng
        if self.chance("unknown_meters", 0.1):
            return
        modulus = rng.choice((1_000, 100_000)) if self.chance("rollovers", 0.5) else None
        dial = random.Random(meter_id)  # draws of its own: the rest of a world stays as it is
        times = rng.choice((1, 20, 20_000))
        has_demand = "demands" in self.has and dial.random() < 0.5

        def demands(level: int) -> dict[str, str]:
            """Maximum demand of a day, mostly told; seldom one that no meter can have."""
            some = (0, level * dial.randrange(500, 2000) // 24_000, level, 900_000_000_000_000)
            return {"demand": milli(dial.choice(some))} if has_demand and dial.random() < 0.8 else {}

        told = random.Random(f"{meter_id} told")
        tells = "told_multipliers" in self.has and told.random() < 0.6

        def multiplier() -> dict[str, int]:
            """What the extract believes: mostly what the reference says first, or will say when it is corrected."""
            return {"multiplier": told.choice((times, times, times + 7, 1))} if tells and told.random() < 0.8 else {}

        role = "check" if self.chance("check_meters", 0.1) else ""
        opening = rng.random() < 0.4
        installed = self.somewhen() if rng.random() < 0.3 else self.before
        if opening:  # energy is known from then on: a few service days before the first, or many
            earliest = self.dates[0] - timedelta(days=rng.choice((1, 2, 2, 3, 30)))
            long_ago = self.dates[0] - timedelta(days=2_000)  # nothing follows from an index so far back
            installed = long_ago if dial.random() < 0.1 else max(installed, earliest)
        at = {"total": rng.randrange(900_000) * 1000, "peak": rng.randrange(1000), "valley": 0}
        turn = (modulus or 10**9) * 1_000_000
        at["total"] %= turn

        def run(
            first: date, removed: date | None, revision: int, *, opening: bool, closing: int | None, account: str
        ) -> None:
            given = {
                "opening": milli(at["total"]) if opening else "",
                "closing": "" if closing is None else milli(closing),
            }
            read = {"role": role, "multiplier": times, "modulus": str(modulus or "")}
            self.add(first, meter(meter_id, account, first, removed, revision, **read, **given))

        start = installed
        run(start, None, 1, opening=opening, closing=None, account=account_id)
        level = rng.randrange(1, 10 ** rng.choice((4, 6, 8)))
        for day in [self.dates[0] - timedelta(days=1), *self.dates]:
            if day >= installed:
                use = level * rng.randrange(500, 1500) // 1000
                at = {r: (at[r] + use * part // 10) % turn for r, part in (("total", 10), ("peak", 6), ("valley", 4))}
            if self.chance("gaps", 0.25):
                continue
            shown = {name: milli(value) if rng.random() < 0.9 else "" for name, value in at.items()}
            quality = rng.choice("ED") if self.chance("estimates", 0.1) else "A"
            late = day + timedelta(days=rng.choice((0, 0, 0, 3, 12)))
            shown |= demands(level) | multiplier()
            self.add(late, index(meter_id, day, shown.pop("total"), 1, quality, **shown))
            if self.chance("corrections", 0.07):
                wrong = max(0, at["total"] + rng.choice((-5_000_000, 1, 700, 3_000_000)))
                if modulus and dial.random() < 0.25:
                    wrong = at["total"] + turn  # more than it can show
                again = index(meter_id, day, milli(wrong), 2, **demands(level), **multiplier())
                self.add(late + timedelta(days=rng.randrange(1, 9)), again)
            if self.chance("conflicts", 0.04):
                self.add(late, index(meter_id, day, milli(at["total"] + 9), 1, **multiplier()))
            if self.chance("exchanges", 0.05) and day > start:
                closing = at["total"] if rng.random() < 0.7 else None
                moved = rng.choice(self.accounts) if self.chance("moves", 0.3) else account_id
                begin = day + timedelta(days=rng.choice((1, 1, 1, 3)))
                gone = day + timedelta(days=1) if rng.random() < 0.8 else None
                run(start, gone, 2, opening=opening, closing=closing, account=account_id)
                if rng.random() < 0.7:
                    at["total"] = rng.randrange(turn)
                start, opening, account_id = begin, rng.random() < 0.6, moved
                run(start, None, 1, opening=opening, closing=None, account=account_id)
        if self.chance("multipliers", 0.3):
            times += 7
            if modulus and dial.random() < 0.4:  # what was read before may be more than the meter can show
                modulus, opening = modulus // 2, False
            run(start, None, 5, opening=opening and rng.random() < 0.9, closing=None, account=account_id)
        self._roles(
            meter_id,
            lambda role, revision: meter(
                meter_id, account_id, start, None, revision, role, multiplier=times, modulus=str(modulus or "")
            ),
        )

    def _conduct(self, account_id: str) -> None:
        """Findings, some long ago, late, told otherwise later, or withdrawn; what follows from them."""
        rng = random.Random(f"{account_id} {self.before} {len(self.events)}")  # draws of its own
        if rng.random() < 0.4:
            return
        for number in range(rng.randrange(1, 6)):
            kind, event_id = rng.choice(CONDUCT_TYPES[:-1]), f"C{number}"
            edge = rng.choice((365, 730)) - rng.randrange(3)  # leaves a window, or a lock-out, on one of the days
            day = rng.choice((rng.choice(self.dates), rng.choice(self.dates) - timedelta(days=edge)))
            self.add(max(day, rng.choice(self.dates)), conduct(account_id, event_id, kind, day))
            for revision in (2, 3):
                if rng.random() < 0.3:
                    again = rng.choice((day, rng.choice(self.dates)))
                    kind = rng.choice(("withdrawn", "withdrawn", rng.choice(CONDUCT_TYPES)))
                    told = conduct(account_id, event_id, kind, again, rng.choice((1, revision)))
                    self.add(rng.choice(self.dates), told)

    def _ledger(self, account_id: str) -> None:
        rng = self.rng
        number = 0

        def put(kind: str, day: date, fen: int, **more: object) -> str:
            nonlocal number
            number += 1
            event_id = f"E{number}"
            self.add(day, ledger(account_id, event_id, kind, day, fen, **more))
            if self.chance("corrected_ledger", 0.15):
                again, revision = self.somewhen(), rng.choice((1, 2, 2))
                self.add(
                    again,
                    ledger(
                        account_id,
                        event_id,
                        kind,
                        again,
                        fen + rng.choice((0, 1, 5_000)),
                        **{**more, **({"due": again + timedelta(days=3)} if "due" in more else {})},
                        revision=revision,
                    ),
                )
            return event_id

        for day in rng.sample(self.dates, k=min(len(self.dates), rng.randrange(1, 5))):
            bill = rng.choice(("", f"B{day:%m%d}", "B-same"))
            fen = rng.randrange(1, 10 ** rng.choice((3, 6, 10)))
            due, first = day + timedelta(days=rng.choice((0, 2, 5))), rng.choice(("", "", -1, 5))
            charge = put("charge", day, fen, due=due, bill=bill, priority=first)
            for _ in range(rng.choice((0, 1, 1, 2))):
                paid_on = max(self.dates[0], min(self.dates[-1], day + timedelta(days=rng.randrange(-3, 20))))
                amount = rng.choice((fen, max(1, fen // 2), fen + 100))
                to = rng.choice(("", bill or charge, "B-none"))
                payment = put(rng.choice(("payment", "payment", "write_off", "prepayment")), paid_on, amount, bill=to)
                if rng.random() < 0.25:
                    put("reversal", min(self.dates[-1], paid_on + timedelta(days=rng.randrange(0, 6))), 1, ref=payment)
        if rng.random() < 0.4:
            put("adjustment", self.somewhen(), rng.choice((-500, 777, 100_000)))
        if rng.random() < 0.4:
            put("refund", self.somewhen(), rng.choice((1, 100, 100_000)))
        if rng.random() < 0.2:
            put("reversal", self.somewhen(), 1, ref="E-none")


def a_world(
    rng: random.Random, accounts: int, days: int, has: frozenset[str], first: date = date(2023, 3, 13),
    policy: str = WITH_ACTIONS,
) -> World:  # fmt: skip
    """A world of a given size from a seeded generator."""
    events = _Maker(rng, accounts, days, first, has).make()
    return World(tuple(events), (first, first + timedelta(days=days - 1)), policy, has)


POLICY_CHANGES = (
    ("metric: wh_7d", "metric: wh_30d"),
    ("metric: wh_7d", "metric: billed_365d_minor"),
    ("metric: wh_7d", "metric: valued_30d_minor"),
    ("scope: all", "scope: category"),
    ("rule: cumulative_share", "rule: top_fraction"),
    ("rule: cumulative_share", "rule: turnover_fraction"),
    ("min_stay_days: 2", "min_stay_days: 0"),
    ("warn_days: 2", "warn_days: 1"),
    ("restrict_days: 1, release: inspection_passed", "release: tier_left"),
    ("    abuse_ladder:", "    # abuse_ladder:"),
    ("coverage_floor_ppm: 500000", "coverage_floor_ppm: 900000"),
    ("coverage_floor_ppm: 500000", "coverage_floor_ppm: 0"),
)


EDITS = (
    ("unit_mismatch: {tolerance_ppm", "unit_mismatch: {severity: estimate, tolerance_ppm"),
    ("spike: {factor_ppm", "spike: {severity: estimate, factor_ppm"),
    ("low: {factor_ppm", "low: {severity: reject, factor_ppm"),
    ("capacity: {factor_ppm", "capacity: {severity: estimate, factor_ppm"),
    ("inactive_use: {}", "inactive_use: {severity: reject}"),
    ("sum_check: {tolerance_ppm", "sum_check: {severity: reject, tolerance_ppm"),
)
"""Changes of the policy by which VEE edits."""


def second_version(effective_from: date, *changes: tuple[str, str], policy: str = POLICY) -> str:
    """A policy with a second version, the first one with texts replaced."""
    text = policy[policy.index('  - version: "1"') :]
    for old, new in (('version: "1"', 'version: "2"'), ("2000-01-01", f"{effective_from}"), *changes):
        assert old in text
        text = text.replace(old, new)
    return policy + text.lstrip("\n")


@st.composite
def worlds(draw: st.DrawFn, max_accounts: int = 10, max_days: int = 40) -> World:
    """A small utility: 6 accounts or more over 10 days or more, around the end of a month, a year or a leap February."""
    rng = random.Random(draw(st.integers(0, 2**32 - 1)))
    left_out = draw(st.sets(st.sampled_from(INGREDIENTS), max_size=4))
    has = frozenset(INGREDIENTS) - left_out
    days = draw(st.integers(10, max_days))
    first = draw(st.sampled_from((date(2023, 3, 3), date(2019, 12, 20), date(2020, 2, 18))))
    policy = WITH_ACTIONS
    changes = draw(st.lists(st.sampled_from(POLICY_CHANGES), max_size=3, unique_by=lambda change: change[0]))
    changes += draw(st.lists(st.sampled_from(EDITS), unique=True))
    if draw(st.booleans()):
        in_version = [c for c in changes if "floor" not in c[0]]
        policy = second_version(first + timedelta(days=draw(st.integers(1, days - 1))), *in_version, policy=policy)
        changes = [c for c in changes if "floor" in c[0]]
    for old, new in changes:
        policy = policy.replace(old, new)
    return a_world(rng, draw(st.integers(6, max_accounts)), days, has, first, policy)
