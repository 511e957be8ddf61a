"""docs/explanation/definitions.md from readings to migrations, in plain Python: slow, for tiny worlds, no tricks.

Rows are dictionaries with the columns of schemas/inbound.py. Shares nothing with `transforms` or `pipelines`.
"""

from __future__ import annotations

import operator
from datetime import timedelta
from fractions import Fraction
from math import ceil, floor, isqrt

from schemas.inbound import CATEGORIES
from tests.oracles import conduct, ledger

ONE = timedelta(days=1)
COMPARE = {
    "at_least": operator.ge, "at_most": operator.le, "above": operator.gt, "below": operator.lt,
    "equals": operator.eq,
}  # fmt: skip


def text(value):
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def winners(rows, keys):
    """Of each key the highest revision, then the content that comes first as text, column by column."""
    best = {}
    for row in rows:
        content = [text(v) for k, v in row.items() if k not in ("revision", "delivery", "row")]
        rank = (-row["revision"], content)
        key = tuple(row[k] for k in keys)
        if key not in best or rank < best[key][0]:
            best[key] = (rank, row)
    return {key: row for key, (_, row) in best.items()}


class World:
    """What is known, and the figures of it."""

    def __init__(self, accounts, meters, readings, ledger_events, policy, first, last, conduct_events=()):
        self.policy, self.first, self.last = policy, first, last
        self.account_rows = sorted(
            winners(accounts, ("account_id", "valid_from")).values(), key=lambda r: r["valid_from"]
        )
        self.known = sorted({row["account_id"] for row in self.account_rows})
        self.meter_rows = winners(meters, ("meter_id", "installed_on")).values()
        self.meter_ids = sorted({row["meter_id"] for row in self.meter_rows})
        self.events = {a: [] for a in self.known}
        for e in ledger_events:
            if e["account_id"] in self.events:
                names = ("event_id", "event_type", "event_date", "amount_minor", "due_date", "bill_id", "ref_event_id")
                self.events[e["account_id"]].append(ledger.Event(*(e[n] for n in names), e["revision"], e["priority"]))
        self.found = {a: [] for a in self.known}
        for e in conduct_events:
            if e["account_id"] in self.found:
                names = ("event_id", "event_type", "event_date", "revision")
                self.found[e["account_id"]].append(conduct.Finding(*(e[n] for n in names)))
        self.days = {}
        for meter, day in {(r["meter_id"], r["service_date"]) for r in readings}:
            several = [r for r in readings if (r["meter_id"], r["service_date"]) == (meter, day)]
            highest = max(r["revision"] for r in several)
            best = sorted((r["energy_wh"], r["quality"]) for r in several if r["revision"] == highest)
            account = self.assigned(meter, day)
            if account in self.known:
                self.days.setdefault((account, day), []).append((*best[0], best[0][0] != best[-1][0]))

    def assigned(self, meter, day):
        """The account by the row installed last on or before the day, unless the meter is removed by then."""
        rows = [r for r in self.meter_rows if r["meter_id"] == meter and r["installed_on"] <= day]
        last = max(rows, key=lambda r: r["installed_on"], default=None)
        return last["account_id"] if last and (not last["removed_on"] or day < last["removed_on"]) else None

    def expected(self, account, day):
        return sum(self.assigned(meter, day) == account for meter in self.meter_ids)

    def account(self, account, day):
        """The account's row on the day; None where it is not in the population."""
        rows = [r for r in self.account_rows if r["account_id"] == account]
        row = ([r for r in rows if r["valid_from"] <= day] or rows[:1])[-1]
        return row if row["opened_on"] <= day and (not row["closed_on"] or day <= row["closed_on"]) else None

    def service_days(self):
        return [self.first + ONE * n for n in range((self.last - self.first).days + 1)]

    def provisional(self, account, day):
        """The energy of the latest complete like day, where meters are expected and none was received; else None."""
        if not self.first <= day or (account, day) in self.days or not self.expected(account, day):
            return None
        if not self.account(account, day):
            return None
        for back in (7, 14, 21, 28):
            meters = self.days.get((account, day - ONE * back), [])
            if len(meters) >= self.expected(account, day - ONE * back) > 0:
                return sum(wh for wh, _, _ in meters)
        return None

    def daily_consumption(self):
        keys = {(account, day) for account in self.known for day in self.service_days()}
        instead = {key: wh for key in keys if (wh := self.provisional(*key)) is not None}
        return {key: {"meters_received": 0, "energy_wh": 0, "provisional_wh": wh} for key, wh in instead.items()} | {
            (account, day): {
                "provisional_wh": None,
                "energy_wh": sum(wh for wh, _, _ in meters),
                "meters_received": len(meters),
                "meters_expected": self.expected(account, day),
                "meters_estimated": sum(quality != "actual" for _, quality, _ in meters),
                "meters_conflict": sum(conflict for _, _, conflict in meters),
            }
            for (account, day), meters in self.days.items()
            if self.first <= day <= self.last
        }

    def window(self, account, start, end):
        days = [start + ONE * n for n in range((end - start).days + 1)]
        meters = [reading for day in days for reading in self.days.get((account, day), [])]
        return sum(wh for wh, _, _ in meters), len(meters), sum(self.expected(account, day) for day in days)

    def features(self, account, day):
        row = {"category": self.account(account, day)["category"]}
        starts = {f"{w}d": day - ONE * (w - 1) for w in (7, 30, 90, 365)} | {"mtd": day.replace(day=1)}
        for name, start in starts.items():
            wh, received, expected = self.window(account, start, day)
            row |= {f"wh_{name}": wh, f"received_{name}": received, f"expected_{name}": expected}
            row[f"coverage_{name}_ppm"] = received * 1_000_000 // expected if expected else None
        days = [self.days[account, d] for n in range(90) if (account, d := day - ONE * n) in self.days]
        x = [sum(wh for wh, _, _ in meters) for meters in days]
        square = sum(x) ** 2
        row["days_90d"] = len(x)
        row["cv_90d_ppm"] = isqrt((len(x) * sum(v * v for v in x) - square) * 10**12 // square) if square else None
        wh, received, expected = self.window(account, day - ONE * 454, day - ONE * 365)
        row |= {"wh_90d_year_ago": wh, "received_90d_year_ago": received, "expected_90d_year_ago": expected}
        row["growth_90d_ppm"] = min((row["wh_90d"] - wh) * 1_000_000 // wh, 10**12) if wh else None
        for w in (30, 365):
            row[f"provisional_wh_{w}d"] = sum(self.provisional(account, day - ONE * n) or 0 for n in range(w))
        row["tenure_days"] = (day - self.account(account, day)["opened_on"]).days
        row |= ledger.features(self.events[account], day)
        return row | conduct.features(self.found[account], day)

    def cutoffs(self, day, features):
        """features: account -> row. Gives (metric, scope, rule, class, side) -> row."""
        version, rows = self.policy.on(day), {}
        scopes = ["all"] if version.abc.scope == "all" else [f"category={c}" for c in CATEGORIES]
        for scope in scopes:
            ranked = sorted(
                (-row[version.abc.metric], account)
                for account, row in features.items()
                if row[version.abc.metric] > 0 and scope in ("all", f"category={row['category']}")
            )
            amounts = [-negative for negative, _ in ranked]
            n, total = len(ranked), sum(amounts)
            figures = {"customers": n, "total": total, "top20_share_ppm": None, "gini_ppm": None}
            if n:
                figures["top20_share_ppm"] = sum(amounts[: ceil(Fraction(n, 5))]) * 1_000_000 // total
                figures["gini_ppm"] = gini_ppm(amounts)
            for cut in version.cuts():
                at = Fraction(cut.num, cut.den)
                by_share = sum(sum(amounts[:i]) < total * at for i in range(n))
                inside = ceil(n * at) if cut.kind == "count" else by_share
                rows[version.abc.metric, scope, cut.rule, cut.cls, cut.side, "largest_first", cut.num, cut.den] = (
                    figures
                    | {
                        "kind": cut.kind,
                        "amount": amounts[inside - 1] if inside else None,
                        "boundary_account_id": ranked[inside - 1][1] if inside else None,
                        "inside_customers": inside,
                        "inside_total": sum(amounts[:inside]),
                        "policy_version": version.version,
                    }
                )
        return rows | self.percentiles(day, features)

    def percentiles(self, day, features):
        """The same of the percentiles that the dimensions ask for; a scope in which nobody ranks has none."""
        version, rows = self.policy.on(day), {}
        for part in (part for dimension in version.dimensions or () for part in dimension.parts if part.top):
            sign = 1 if part.order == "smallest_first" else -1
            scopes = {}
            for account, row in features.items():
                if row[part.column] is not None:
                    scopes.setdefault(self.scope(part, day, account, row), []).append(
                        (sign * row[part.column], account)
                    )
            for scope, ranked in scopes.items():
                ranked.sort()
                for share in (b.share for b in part.top if b.share):
                    inside = ceil(len(ranked) * share)
                    value, account = ranked[inside - 1]
                    key = (share.numerator, share.denominator)
                    rows[part.column, scope, "percentile", "P", "cut", part.order or "largest_first", *key] = {
                        "kind": "count", "amount": sign * value, "boundary_account_id": account, "inside_customers": inside,
                        "inside_total": None, "customers": len(ranked), "total": None, "top20_share_ppm": None,
                        "gini_ppm": None, "policy_version": version.version,
                    }  # fmt: skip
        return rows

    def scope(self, part, day, account, row):
        if part.scope == "region":
            return f"region={self.account(account, day)['region'] or ''}"
        return f"category={row['category']}" if part.scope == "category" else "all"

    def scores(self, day, features):
        """features: of all accounts on the day. Gives account -> dimension -> score, by sorting each scope for each account."""
        return {
            account: {
                d.dimension: sum(p.weight * self.points(p, day, features, account) for p in d.parts) // 100
                for d in self.policy.on(day).dimensions or ()
            }
            for account in features
        }

    def points(self, part, day, features, account):
        value = features[account][part.column]
        if value is None:
            return part.if_null
        if part.points == "value":
            return min(max(value, 0), 100)
        if part.bins:
            low = (b for b in part.bins if b.at_least is None or value >= b.at_least)
            return next(b for b in low if b.at_most is None or value <= b.at_most).points
        mine, sign = self.scope(part, day, account, features[account]), 1 if part.order == "smallest_first" else -1
        together = sorted(
            (sign * row[part.column], name)
            for name, row in features.items()
            if row[part.column] is not None and self.scope(part, day, name, row) == mine
        )
        place = together.index((sign * value, account))
        return next(b.points for b in part.top if b.share is None or place < ceil(len(together) * b.share))

    def tiers(self):
        """Steps through the days: ((account, day) -> tier row, migrations, (day -> cut-offs), features)."""
        days, migrations, cutoffs, features = {}, {}, {}, {}
        for day in self.service_days():
            version = self.policy.on(day)
            population = [account for account in self.known if self.account(account, day)]
            today = {account: self.features(account, day) for account in population}
            features |= {(account, day): row for account, row in today.items()}
            cutoffs[day] = self.cutoffs(day, today)
            for account, row in today.items():
                before = days.get((account, day - ONE))
                abc = abc_class(version, cutoffs[day], before and before["abc"], account, row)
                row["credit_score"] = score_of(version.credit_score, row)
                graded = row | {"credit_grade_before": before and before["credit_grade"]}
                grade = next(g.grade for g in version.credit_grades if holds(g.when, graded))
                rule = choose(version, row, abc, grade)
                tier, name, since = rule.tier, rule.rule, day
                if before:
                    if not rule.immediate and (day - before["tier_since"]).days < version.min_stay_days:
                        tier = before["tier"]
                        name = rule.rule if rule.tier == tier else "stay"
                    since = before["tier_since"] if tier == before["tier"] else day
                days[account, day] = {
                    "tier": tier, "abc": abc, "credit_grade": grade, "candidate": rule.tier, "rule": name,
                    "tier_since": since, "policy_version": version.version,
                }  # fmt: skip
                if before and before["tier"] != tier:
                    cause = "own_use"
                    by_grade = choose(version, row, abc, before["credit_grade"]).tier
                    if version.version != before["policy_version"]:
                        cause = "policy_changed"
                    elif rule.tier == before["candidate"]:
                        cause = "stay_ended"
                    elif "abuse" in (tier, before["tier"]) or self._by_conduct(day, account, row, abc, before):
                        cause = "conduct"
                    elif by_grade == before["candidate"]:
                        cause = "payment"
                    elif (
                        abc_class(version, cutoffs[day - ONE], before["abc"], account, row) == before["abc"]
                        and choose(version, row, before["abc"], grade).tier == before["candidate"]
                    ):
                        cause = "cutoff_moved"
                    migrations[account, day] = {
                        "from_tier": before["tier"], "to_tier": tier, "from_abc": before["abc"], "to_abc": abc,
                        "cause": cause, "rule": name, "policy_version": version.version,
                    }  # fmt: skip
        return days, migrations, cutoffs, features

    def _by_conduct(self, day, account, row, abc, before):
        """Whether the candidate would be yesterday's if nothing of conduct had changed."""
        version, row = self.policy.on(day), row | conduct.features(self.found[account], day - ONE)
        graded = row | {"credit_grade_before": before["credit_grade"]}
        grade = next(g.grade for g in version.credit_grades if holds(g.when, graded))
        return choose(version, row, abc, grade).tier == before["candidate"]


def gini_ppm(amounts):
    groups = {}
    for amount in amounts:
        bits = amount.bit_length()
        groups.setdefault((bits, amount >> max(0, bits - 7)), []).append(amount)
    area = below = 0
    for _, group in sorted(groups.items()):
        area += len(group) * (2 * below + sum(group))
        below += sum(group)
    return 1_000_000 - area * 1_000_000 // (len(amounts) * sum(amounts))


def abc_class(version, cutoffs, before, account, row):
    abc = version.abc
    scope = "all" if abc.scope == "all" else f"category={row['category']}"

    def inside(cls, side):
        cut = next(row for key, row in cutoffs.items() if key[:5] == (abc.metric, scope, abc.rule, cls, side))
        # not after the boundary: a larger amount, or the same amount and an id not after the boundary's
        return cut["amount"] is not None and (
            (-row[abc.metric], account) <= (-cut["amount"], cut["boundary_account_id"])
        )

    if before is None:
        return "A" if inside("A", "cut") else "B" if inside("B", "cut") else "C"
    if inside("A", "entry") or (before == "A" and inside("A", "exit")):
        return "A"
    return "B" if inside("B", "entry") or (before in "AB" and inside("B", "exit")) else "C"


def holds(conditions, row):
    return all(condition_holds(condition, row[condition.column]) for condition in conditions)


def condition_holds(condition, value):
    if value is None:
        return condition.or_null
    if condition.op == "one_of":
        return value in condition.values
    if condition.op == "not_one_of":
        return value not in condition.values
    return COMPARE[condition.op](value, condition.values[0])


def score_of(card, row):
    if card is None:
        return None
    total = Fraction(0)
    for part in card.parts:
        value = row[part.column]
        if value is None:
            points = part.if_null
        else:
            points = next(
                b.points
                for b in part.bins
                if (b.at_least is None or value >= b.at_least) and (b.at_most is None or value <= b.at_most)
            )
        total += Fraction(part.weight * points, 100)
    score = floor(total)
    for demerit in card.demerits:
        if holds(demerit.when, row):
            score -= min(demerit.points * (row[demerit.per] or 0 if demerit.per else 1), demerit.at_most)
    return max(score, 0)


def choose(version, row, abc, grade):
    return next(rule for rule in version.tiers if holds(rule.when, row | {"abc": abc, "credit_grade": grade}))
