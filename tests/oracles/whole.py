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

    def window(self, account, start, end, unread=None):
        days = [start + ONE * n for n in range((end - start).days + 1)]
        meters = [reading for day in days if day != unread for reading in self.days.get((account, day), [])]
        return sum(wh for wh, _, _ in meters), len(meters), sum(self.expected(account, day) for day in days)

    def features(self, account, day, clock=False):
        """As of the end of a day, or as of its clock."""
        unread, of_day = (day, 1) if clock else (None, 0)
        row = {"category": self.account(account, day)["category"]}
        starts = {f"{w}d": day - ONE * (w - 1) for w in (7, 30, 90, 365)} | {"mtd": day.replace(day=1)}
        for name, start in starts.items():
            wh, received, expected = self.window(account, start, day, unread)
            row |= {f"wh_{name}": wh, f"received_{name}": received, f"expected_{name}": expected}
            row[f"coverage_{name}_ppm"] = received * 1_000_000 // expected if expected else None
        days = [self.days[account, d] for n in range(of_day, 90) if (account, d := day - ONE * n) in self.days]
        x = [sum(wh for wh, _, _ in meters) for meters in days]
        square = sum(x) ** 2
        row["days_90d"] = len(x)
        known = self.account(account, day)
        used = [sum(wh for wh, _, _ in self.days.get((account, day - ONE * n), [])) > 0 for n in range(of_day, 365)]
        row |= {"used_days_365d": sum(used), "capacity_va": known["capacity_va"]}
        span = min((day - known["opened_on"]).days + 1, 365)
        row["continuity_365d_ppm"] = min(sum(used) * 1_000_000 // span, 1_000_000)
        row["cv_90d_ppm"] = isqrt((len(x) * sum(v * v for v in x) - square) * 10**12 // square) if square else None
        wh, received, expected = self.window(account, day - ONE * 454, day - ONE * 365)
        row |= {"wh_90d_year_ago": wh, "received_90d_year_ago": received, "expected_90d_year_ago": expected}
        row["growth_90d_ppm"] = min((row["wh_90d"] - wh) * 1_000_000 // wh, 10**12) if wh else None
        for w in (30, 365):
            row[f"provisional_wh_{w}d"] = sum(self.provisional(account, day - ONE * n) or 0 for n in range(of_day, w))
        row["tenure_days"] = (day - self.account(account, day)["opened_on"]).days
        events, found = (
            [event for event in some[account] if not clock or event.event_date < day]
            for some in (self.events, self.found)
        )
        return row | ledger.features(events, day) | conduct.features(found, day)

    def on_the_clock(self, account, day):
        """The features had nothing happened on the day itself."""
        own, events, found = self.days.pop((account, day), None), self.events[account], self.found[account]
        self.events[account] = [event for event in events if event.event_date < day]
        self.found[account] = [finding for finding in found if finding.event_date < day]
        row, instead = self.features(account, day), self.provisional(account, day) or 0
        self.events[account], self.found[account] = events, found
        if own is not None:
            self.days[account, day] = own
        return row | {f"provisional_wh_{w}d": row[f"provisional_wh_{w}d"] - instead for w in (30, 365)}

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
                row["credit_score"] = score_of(version.credit_score, row)
                before = days.get((account, day - ONE))
                again = before is None or before["tier"] == "closed"
                held = {
                    "tier": before and before["tier"], "abc": None if again else before["abc"],
                    "grade": None if again else before["credit_grade"], "dwell": (day - before["tier_since"]).days if before else 0,
                }  # fmt: skip
                found = decided(version, row, cutoffs[day], account, held)
                same = before is not None and before["tier"] == found["tier"]
                days[account, day] = {
                    "tier": found["tier"], "abc": found["abc"], "credit_grade": found["grade"],
                    "credit_grade_before": held["grade"], "rule": found["rule"],
                    "tier_since": before["tier_since"] if same else day, "policy_version": version.version,
                }  # fmt: skip
                if before and not same:
                    cause = "opened" if again else self._cause(day, account, before, held, cutoffs, features)
                    migrations[account, day] = self._migration(day, account, days, features, cause)
            for account in {account for account, d in days if d == day - ONE} - today.keys():
                before = days[account, day - ONE]
                since = before["tier_since"] if before["tier"] == "closed" else day
                days[account, day] = before | {
                    "tier": "closed", "rule": "closed", "tier_since": since, "credit_grade_before": None,
                    "policy_version": version.version,
                }  # fmt: skip
                if before["tier"] != "closed":
                    migrations[account, day] = self._migration(day, account, days, features, "closed")
        return days, migrations, cutoffs, features

    def _migration(self, day, account, days, features, cause):
        before, now = days[account, day - ONE], days[account, day]
        version, earlier = self.policy.on(day), self.policy.on(day - ONE)
        row = {
            "from_tier": before["tier"], "to_tier": now["tier"], "from_abc": before["abc"], "to_abc": now["abc"],
            "cause": cause, "rule": now["rule"], "policy_version": version.version,
            "from_grade": before["credit_grade"], "to_grade": now["credit_grade"], "from_policy_version": earlier.version,
        }  # fmt: skip
        for when, of in (("before", day - ONE), ("after", day)):
            facts = features.get((account, of), {})
            row |= {f"metric_{when}": facts.get(version.abc.metric), f"score_{when}": facts.get("credit_score")}
        return row

    def _cause(self, day, account, before, held, cutoffs, features):
        """What is put back to the day before when the tier is what it was."""
        version, earlier = self.policy.on(day), self.policy.on(day - ONE)
        rules, cut_day, row = version, day, dict(features[account, day])
        clock, was = self.on_the_clock(account, day), features[account, day - ONE]
        conduct_columns = conduct.features([], day).keys()
        credit_columns = ledger.features([], day).keys() - {"billed_365d_minor"}
        made = {"category", "capacity_va", "tenure_days", "credit_score", *conduct_columns, *credit_columns}
        due = max(clock["overdue_minor"], was["overdue_minor"]) > 0 or clock["bills_due_1d"] > 0
        use = row.keys() - made
        back = {
            "reference": [(was, {"category", "capacity_va"} & row.keys())], "conduct": [(clock, conduct_columns)],
            "lockout_ended": [(was, conduct_columns)], "new_ended": [(was, {"tenure_days"})], "payment": [(clock, credit_columns)],
            "due_date": [(was, credit_columns if due else ())], "own_use": [(clock, use)],
            "window_decay": [(was, use), (was, () if due else credit_columns)],
        }  # fmt: skip
        for cause in version.cause_order:
            for to, names in back.get(cause, []):
                row |= {name: to[name] for name in names}
            if cause == "policy_changed":
                rules = earlier
                cut_day = cut_day if version.abc == earlier.abc else day - ONE
            elif cause == "cutoff_moved" and (version.abc == earlier.abc or rules is earlier):
                cut_day = day - ONE
            elif cause == "stay_ended":
                held = held | {"grade": before["credit_grade_before"], "dwell": held["dwell"] - 1}
            row["credit_score"] = score_of(rules.credit_score, row)
            if decided(rules, row, cutoffs[cut_day], account, held)["tier"] == before["tier"]:
                return cause
        raise AssertionError(f"{account} {day}: all is put back, but the tier is not")


def decided(version, row, cutoffs, account, held):
    """Class, grade, tier and rule of an account. held: what it was: tier, abc, grade, dwell."""
    abc = abc_class(version, cutoffs, held["abc"], account, row)
    row = row | {"credit_grade_before": held["grade"], "abc": abc}
    grade = next(g.grade for g in version.credit_grades if holds(g.when, row, stays=g.grade == held["grade"]))
    row["credit_grade"] = grade
    rule = next(r for r in version.tiers if holds(r.when, row, stays=r.tier == held["tier"]))
    aim, steps = rule.tier, version.one_notch
    if not rule.immediate and {aim, held["tier"]} <= set(steps) and steps.index(aim) > steps.index(held["tier"]):
        aim = steps[steps.index(held["tier"]) + 1]
    free = held["tier"] in (None, "closed") or rule.immediate or held["dwell"] >= max(version.min_stay_days, 1)
    tier = aim if free else held["tier"]
    name = rule.rule if tier == rule.tier else "stay" if tier == held["tier"] else "one_notch"
    return {"abc": abc, "grade": grade, "tier": tier, "rule": name}


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


def holds(conditions, row, *, stays=False):
    return all(condition_holds(c.to_stay() if stays else c, row[c.column]) for c in conditions)


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
