"""Exact cut-offs of a population spread over shards, in two passes, where no place sees all accounts.

    shard 0   ladder --.                             .-- extract --.
    shard 1   ladder ---+-- merge_ladders, brackets --+-- extract ---+-- locate, cutoff_rows
    shard 2   ladder --'                             '-- extract --'

Accounts rank by (value descending, account_id ascending in binary order). For ABC only positive values rank. For percentiles
a mask says who ranks, with whatever value; then nothing is summed up, and all cuts are counts.
Every cut is the first account at which a running count or a running sum reaches a target, so all cuts are found alike:

1. A shard's *ladder* has one row per value group (the groups of the Gini coefficient), with exact count and sum.
   All shards share these groups, so after the merge the group that holds a boundary is known exactly. A single huge
   customer, a long tail and the share cuts need nothing more: values in a group lie within 1/64 of each other.
   A crowded group (ties) gets *rungs* besides: some of its accounts, at even distances in the shard's own ranking.
2. The rungs bound the running count and sum inside the group from below and above. So each cut has an *interval* of
   the ranking that surely holds its boundary. Shards hand over the accounts inside it, and what ranks before it.

With `R` rungs in each of `S` shards and `N` accounts in crowded groups, the merged ladder names `R * S` accounts and
an interval about `N / R`, at most twice that. `RUNG_PERCENT` balances the two. The intervals can be resolved in
different places (`by_interval`), so that the number of cuts does not matter. `accounts_handled` counts for a metric.

What travels are RecordBatches; their schemas are `LADDER`, `BRACKETS`, `EXTRACT` and `BOUNDARIES`; `RESOLVED` comes
out. No function changes its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.marts import CUTOFFS
from schemas.rankings import PERCENTILE

if TYPE_CHECKING:
    from schemas.rankings import Cut, Order

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

RUNG_PERCENT = 3
"""Rungs of a shard, at most, in percent of its ranked accounts."""
RUNG_LIMIT = 512
"""Rungs of a shard, at most."""
GROUPS = 3712
"""Number of value groups that an int64 of 0 or above can fall into; as many mirror them below 0."""

LADDER = pa.schema(
    [
        pa.field("group", pa.int32(), nullable=False),
        pa.field("account_id", pa.string()),
        pa.field("amount", pa.int64(), nullable=False),
        pa.field("customers", pa.int64(), nullable=False),
        pa.field("total", pa.int64(), nullable=False),
        pa.field("next_customers", pa.int64(), nullable=False),
        pa.field("next_total", pa.int64(), nullable=False),
    ]
)
"""First the group rows (`account_id` null), groups descending: `customers` accounts with the sum `total`; the other
columns are 0. Then the rungs, in no particular order, each an account of the group and its `amount`. `customers` and
`total` cover its shard's accounts in the group after the previous rung up to and including this one; `next_customers`
and `next_total` those from this one, included, up to the next rung, not included, or to the end of the group."""

BRACKETS = pa.schema(
    [
        pa.field("from_amount", pa.int64(), nullable=False),
        pa.field("from_account_id", pa.string()),
        pa.field("to_amount", pa.int64(), nullable=False),
        pa.field("to_account_id", pa.string()),
    ]
)
"""One row per interval of the ranking, in ranking order, disjoint: the accounts after the `from` account up to and
including the `to` account. A null id stands for the whole amount: all of `from_amount` and `to_amount` is inside."""

EXTRACT = pa.schema(
    [
        pa.field("interval", pa.int32(), nullable=False),
        pa.field("account_id", pa.string()),
        pa.field("customers", pa.int64(), nullable=False),
        pa.field("amount", pa.int64(), nullable=False),
    ]
)
"""`interval` counts the rows of the brackets from 0. First the rows with `account_id` null: number and sum of all the
shard's ranked accounts (interval -1), then of those that rank before each interval. Then the accounts inside the
intervals, each with its amount and `customers` 1, in no particular order."""

BOUNDARIES = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("target", pa.int64(), nullable=False),
        pa.field("account_id", pa.string(), nullable=False),
        pa.field("amount", pa.int64(), nullable=False),
        pa.field("customers", pa.int64(), nullable=False),
        pa.field("total", pa.int64(), nullable=False),
    ]
)
"""For a running count (kind `count`) or sum (`share`) to reach: the first account that reaches the target, its amount,
and number and sum of the accounts up to and including it."""

RESOLVED = pa.schema(
    [
        CUTOFFS[name].field()
        for name in (
            "rule", "class", "side", "kind", "cut_num", "cut_den", "amount", "boundary_account_id",
            "inside_customers", "inside_total", "customers", "total", "top20_share_ppm", "gini_ppm",
        )
    ]
)  # fmt: skip
"""The columns of the `cutoffs` mart that come from the population; one row per cut, in the order given."""

PPM = 1_000_000
_TOP20 = ("count", 1, 5)
_WHOLE = -1
_MEASURES = {"count": "customers", "share": "amount"}
_Key = tuple[int, int, str]


def accounts_handled(batch: pa.RecordBatch) -> int:
    """Number of single accounts that a ladder or an extract names, other than those it only counts."""
    return int(batch.num_rows - batch.column("account_id").null_count)


def value_group(values: Int64) -> Int64:
    """The group of each value, 0 <= group < GROUPS, ascending with the value.

    values: (n,) not negative. The group `(b, x >> max(0, b - 7))` of the definitions, with `b` the bit length of `x`, as
    one number: below 128 every value is a group of its own, from there on each doubling has 64 groups.
    """
    bits = np.frexp(values.astype(np.float64))[1].astype(np.int64)
    bits -= values >> np.maximum(bits - 1, 0) == 0  # the float was rounded up to the next power of two
    shift = np.maximum(bits - 7, 0)
    group: Int64 = shift * 64 + (values >> shift)
    return group


def signed_group(values: Int64) -> Int64:
    """The group of each value, -GROUPS <= group < GROUPS, ascending with the value: that of `~x`, mirrored, below 0."""
    below = values < 0
    group = value_group(np.where(below, ~values, values))
    return np.where(below, ~group, group)


def group_edges(group: int) -> tuple[int, int]:
    """The smallest and the largest value of a group."""
    if group < 0:
        lowest, highest = group_edges(~group)
        return ~highest, ~lowest
    shift = max(group // 64 - 1, 0)
    head = group - shift * 64
    return head << shift, ((head + 1) << shift) - 1


def inside(values: Int64, ids: pa.StringArray, amount: int | None, boundary_id: str | None) -> Bool:
    """Whether each account is inside a cut: above its amount, or at it with an id not after the boundary's.

    values: (n,) with ids (n,), in any order. amount, boundary_id: from a `cutoffs` row; None: nobody is inside.
    Ids are compared only where the value equals the amount.
    """
    if amount is None or boundary_id is None:
        return np.zeros(len(values), dtype=np.bool_)
    within: Bool = values > amount
    tied = np.flatnonzero(values == amount)
    if len(tied):
        tied_ids = ids.take(pa.array(tied))
        within[tied] = pc.less_equal(tied_ids, pa.scalar(boundary_id, tied_ids.type)).to_numpy(zero_copy_only=False)
    return within


def ranked_by(values: Int64, order: Order) -> Int64:
    """What ranks accounts largest first where they rank by `values` in an order; the inverse of itself.

    The smallest first: `~x`, which is `-x - 1`, falls as `x` rises, and no int64 is without one.
    """
    return values if order == "largest_first" else ~values


def ladder(values: Int64, ids: pa.StringArray, id_rank: Int64, ranks: Bool | None = None) -> pa.RecordBatch:
    """Pass 1: what a shard tells about its accounts, as a `LADDER`.

    values: (n,) in any order, ids: (n,) unique over all shards, id_rank: (n,) rank of each id in binary order within
    the shard. ranks: (n,) who ranks, for percentiles, where no sum is told; without it, the positive values rank, and
    OverflowError is raised when their sum passes int64.
    """
    ranked = np.flatnonzero(values > 0 if ranks is None else ranks)
    amounts = values[ranked]
    summed = amounts if ranks is None else np.zeros_like(amounts)
    _guard(int((summed >> 32).sum()) * 2**32 + int((summed & 0xFFFF_FFFF).sum()), "of one shard")
    group = signed_group(amounts) + GROUPS
    customers, total = np.bincount(group, minlength=2 * GROUPS), np.zeros(2 * GROUPS, dtype=np.int64)
    np.add.at(total, group, summed)

    rungs = _rungs(customers)
    if not rungs.any():
        return _group_rows(customers, total)
    crowded = np.flatnonzero(rungs[group])
    crowded = crowded[_ranking(amounts[crowded], id_rank[ranked[crowded]])]
    named = ids.take(pa.array(ranked[crowded]))
    return _concat(
        [_group_rows(customers, total), _rung_rows(amounts[crowded], summed[crowded], named, customers, rungs)]
    )


def merge_ladders(ladders: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The ladder of all the shards together. Merging is associative, and the order of ladders changes no cut-off.

    Groups are added up one ladder at a time, rungs are put one after the other.
    Raises OverflowError when the sum of all values passes int64.
    """
    customers, total = np.zeros(2 * GROUPS, dtype=np.int64), np.zeros(2 * GROUPS, dtype=np.int64)
    population = 0
    for part in ladders:
        group, group_customers, group_total = _groups(part)
        population += int(group_total.sum())
        _guard(population, "over all shards")
        customers[group + GROUPS] += group_customers
        total[group + GROUPS] += group_total
    return _concat([_group_rows(customers, total), *(part.slice(len(_groups(part)[0])) for part in ladders)])


def without_rungs(merged: pa.RecordBatch) -> pa.RecordBatch:
    """The group rows of a ladder alone: all that `resolve` reads."""
    return merged.slice(0, len(_groups(merged)[0]))


def brackets(merged: pa.RecordBatch, cuts: Sequence[Cut]) -> pa.RecordBatch:
    """The intervals of the ranking that surely hold the boundary of every cut, and for ABC of the top fifth, as `BRACKETS`.

    merged: the ladder of all shards. Where intervals overlap the later one begins at the end of the other.
    """
    group, customers, total = _groups(merged)
    running = {"count": np.cumsum(customers), "share": np.cumsum(total)}
    rungs = merged.slice(len(group))
    found: list[tuple[_Key, _Key]] = []
    for kind, target in sorted(set(_targets(merged, cuts).values())):
        if target > 0:
            at = int(np.searchsorted(running[kind], target))
            size = int(customers[at] if kind == "count" else total[at])
            ahead = int(running[kind][at]) - size
            found.append(_narrow(rungs, int(group[at]), size, kind, target - ahead))
    intervals = _disjoint(found)
    columns = [
        [-start[0] for start, _ in intervals],
        [start[2] if start[1] == 1 else None for start, _ in intervals],
        [-end[0] for _, end in intervals],
        [end[2] if end[1] == 1 else None for _, end in intervals],
    ]
    return pa.record_batch(columns, schema=BRACKETS)


def extract(values: Int64, ids: pa.StringArray, intervals: pa.RecordBatch, ranks: Bool | None = None) -> pa.RecordBatch:
    """Pass 2: the shard's accounts inside the intervals and what ranks before each, as an `EXTRACT`.

    values, ids, ranks: those given to `ladder`. intervals: `BRACKETS`. Nothing is sorted.
    """
    if ranks is not None and not ranks.all():
        some = np.flatnonzero(ranks)
        values, ids, ranks = values[some], ids.take(pa.array(some)), ranks[some]
    ahead = {_WHOLE: values > 0 if ranks is None else ranks}
    rows = []
    for number, each in enumerate(intervals.to_pylist()):
        amount, account = each["from_amount"], each["from_account_id"]
        ahead[number] = values > amount if account is None else inside(values, ids, amount, account)
        amount, account = each["to_amount"], each["to_account_id"]
        up_to = values >= amount if account is None else inside(values, ids, amount, account)
        rows.append(np.flatnonzero(up_to & ~ahead[number]))
    inner = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
    head = [
        list(ahead),
        [None] * len(ahead),
        [int(np.count_nonzero(mask)) for mask in ahead.values()],
        [int((values * mask).sum()) if ranks is None else 0 for mask in ahead.values()],
    ]
    body = [
        pa.array(np.repeat(np.arange(len(rows), dtype=np.int32), [len(part) for part in rows])),
        ids.take(pa.array(inner)),
        pa.array(np.ones_like(inner)),
        pa.array(values[inner]),
    ]
    return _concat([pa.record_batch(head, schema=EXTRACT), pa.record_batch(body, schema=EXTRACT)])


def by_interval(part: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """An extract as one extract for each interval, so that intervals can be resolved in different places."""
    interval = _numbers(part, "interval")
    for each in range(int(interval.max()) + 1):
        yield each, part.filter(pa.array((interval == each) | (interval == _WHOLE)))


def locate(merged: pa.RecordBatch, extracts: Sequence[pa.RecordBatch], cuts: Sequence[Cut]) -> pa.RecordBatch:
    """The exact boundaries that lie in the intervals of the extracts, as `BOUNDARIES`.

    merged: the ladder of all shards (`without_rungs` will do). extracts: one for every shard, in any order, all with
    the same intervals: all of them, or those `by_interval` gives. Some may have been put together into one batch.
    Raises ValueError when the extracts do not add up to the ladder: a shard is missing, or there twice, or has changed.
    """
    table = pa.Table.from_batches([part.replace_schema_metadata() for part in extracts], schema=EXTRACT)
    named = pc.is_valid(table.column("account_id"))
    heads = table.filter(pc.invert(named))
    head = _numbers(heads, "interval")
    before = {kind: np.zeros(int(head.max(initial=_WHOLE)) + 2, dtype=np.int64) for kind in _MEASURES}
    for kind, column in _MEASURES.items():
        np.add.at(before[kind], head, _numbers(heads, column))  # _WHOLE, -1, is the last place
    seen, expected = (int(before["count"][_WHOLE]), int(before["share"][_WHOLE])), _population(merged)
    if seen != expected:
        raise ValueError(
            f"the extracts cover {seen[0]} accounts with a sum of {seen[1]}, the ladder {expected[0]} with "
            f"{expected[1]}: give exactly one extract for every shard that gave a ladder, from the same values"
        )

    rows = table.filter(named).sort_by([("amount", "descending"), ("account_id", "ascending")])
    interval = _numbers(rows, "interval")
    own = {kind: _numbers(rows, column) for kind, column in _MEASURES.items()}
    running = {kind: _running(before[kind][:_WHOLE], interval, own[kind]) for kind in _MEASURES}
    found = []
    for kind, target in sorted(set(_targets(merged, cuts).values())):
        at = int(np.searchsorted(running[kind], target))
        if target > 0 and at < rows.num_rows and running[kind][at] - own[kind][at] < target:
            account, amount = rows.column("account_id")[at].as_py(), int(own["share"][at])
            found.append((kind, target, account, amount, int(running["count"][at]), int(running["share"][at])))
    return pa.record_batch([list(column) for column in zip(*found, strict=True)] or [[]] * 6, schema=BOUNDARIES)


def cutoff_rows(merged: pa.RecordBatch, boundaries: Sequence[pa.RecordBatch], cuts: Sequence[Cut]) -> pa.RecordBatch:
    """The exact cut-offs, as `RESOLVED`, one row per cut, from all the boundaries that `locate` found.

    Raises ValueError when the boundary of a cut was in none of the intervals.
    """
    found = {(row["kind"], row["target"]): row for part in boundaries for row in part.to_pylist()}
    nobody = {"amount": None, "account_id": None, "customers": 0, "total": 0}
    targets = _targets(merged, cuts)
    for kind, target in targets.values():
        if target == 0:
            found[kind, target] = nobody
        elif (kind, target) not in found:
            raise ValueError(f"no interval holds the boundary of {kind} {target}: give the brackets of these cuts")
    customers, total = _population(merged)
    nothing = dict.fromkeys(("total", "top20_share_ppm", "gini_ppm"))
    population = {"customers": customers, **nothing}
    if not _percentiles(cuts):
        top20 = found[targets[_TOP20]]["total"] * PPM // total if customers else None
        population |= {"total": total, "top20_share_ppm": top20, "gini_ppm": gini_ppm(merged)}
    resolved = []
    for cut in cuts:
        last = found[targets[cut.kind, cut.num, cut.den]]
        named = {"rule": cut.rule, "class": cut.cls, "side": cut.side}
        fraction = {"kind": cut.kind, "cut_num": cut.num, "cut_den": cut.den}
        boundary = {"amount": last["amount"], "boundary_account_id": last["account_id"]}
        within = {"inside_customers": last["customers"], "inside_total": last["total"]}
        within |= {"inside_total": None} if cut.rule == PERCENTILE else {}
        resolved.append(named | fraction | boundary | within | population)
    return pa.RecordBatch.from_pylist(resolved, schema=RESOLVED)


def resolve(merged: pa.RecordBatch, extracts: Sequence[pa.RecordBatch], cuts: Sequence[Cut]) -> pa.RecordBatch:
    """The exact cut-offs, as `RESOLVED`, from whole extracts in one place: `cutoff_rows` of what `locate` finds.

    With many shards, small, and many cuts in one crowd of ties, the intervals together may name more accounts than one
    place should see; then `locate` each interval by itself.
    """
    return cutoff_rows(merged, [locate(merged, extracts, cuts)], cuts)


def gini_ppm(merged: pa.RecordBatch) -> int | None:
    """The Gini coefficient over the value groups of a ladder, in ppm; None where nobody ranks."""
    _, customers, total = _groups(merged)
    everyone, everything = _population(merged)
    if not everyone:
        return None
    below, area = 0, 0
    for group_customers, group_total in zip(customers[::-1].tolist(), total[::-1].tolist(), strict=True):
        area += group_customers * (2 * below + group_total)
        below += group_total
    return PPM - area * PPM // (everyone * everything)


def _guard(total: int, where: str) -> None:
    if total >= 2**63:
        raise OverflowError(f"the sum {where} is {total}, above the largest int64 ({2**63 - 1}): check the units")


def _concat(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of several of one schema. What their schema metadata say, such as tags, is left behind."""
    return pa.concat_batches([part.replace_schema_metadata() for part in parts])


def _numbers(rows: pa.RecordBatch | pa.Table, name: str) -> Int64:
    """A column without nulls as (n,) int64."""
    numbers: Int64 = rows.column(name).to_numpy().astype(np.int64, copy=False)
    return numbers


def _groups(part: pa.RecordBatch) -> tuple[Int64, Int64, Int64]:
    """Group, customers and total of the group rows of a ladder, groups descending."""
    rows = part.slice(0, part.column("account_id").null_count)
    return _numbers(rows, "group"), _numbers(rows, "customers"), _numbers(rows, "total")


def _population(merged: pa.RecordBatch) -> tuple[int, int]:
    """Number and sum of all the accounts of a ladder."""
    _, customers, total = _groups(merged)
    return int(customers.sum()), int(total.sum())


def _group_rows(customers: Int64, total: Int64) -> pa.RecordBatch:
    """The group rows of a ladder. customers, total: (2 * GROUPS,), the lowest group first."""
    group = np.flatnonzero(customers)[::-1]
    none = pa.array(np.zeros(len(group), dtype=np.int64))
    columns = [
        pa.array((group - GROUPS).astype(np.int32)),
        pa.nulls(len(group), pa.string()),
        none,
        pa.array(customers[group]),
        pa.array(total[group]),
        none,
        none,
    ]
    return pa.record_batch(columns, schema=LADDER)


def _ranking(amounts: Int64, id_rank: Int64) -> npt.NDArray[np.intp]:
    """Order by (amount descending, id ascending). Both (n,). Ids are compared only among equal amounts."""
    order = np.argsort(~amounts)
    same = np.diff(amounts[order]) == 0
    tied = np.flatnonzero(np.r_[False, same] | np.r_[same, False]) if len(amounts) else order
    rows = order[tied]
    order[tied] = rows[np.lexsort((id_rank[rows], ~amounts[rows]))]
    return order


def _rungs(customers: Int64) -> Int64:
    """How many rungs each group gets: one for every so many accounts, as densely as the shard's limit allows.

    customers: (2 * GROUPS,) of one shard.
    """
    limit = min(RUNG_LIMIT, int(customers.sum()) * RUNG_PERCENT // 100)
    if limit == 0:
        return np.zeros_like(customers)
    low, high = 1, int(customers.max()) + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if (customers // middle).sum() <= limit else (middle + 1, high)
    return customers // low


def _rung_rows(amounts: Int64, summed: Int64, ids: pa.StringArray, customers: Int64, rungs: Int64) -> pa.RecordBatch:
    """The rungs of a shard's ladder, at even distances in each group that has any.

    amounts, summed, ids: of all accounts of these groups, in ranking order; summed: what their sums are made of.
    customers, rungs: (2 * GROUPS,).
    """
    groups = np.flatnonzero(rungs)[::-1]
    group = np.repeat(groups, rungs[groups])
    size, parts = customers[group], rungs[group] + 1
    start = np.repeat(np.cumsum(customers[groups]) - customers[groups], rungs[groups])
    nth = 1 + np.arange(len(group)) - np.repeat(np.cumsum(rungs[groups]) - rungs[groups], rungs[groups])
    at = start + nth * size // parts - 1
    previous = start + (nth - 1) * size // parts - 1
    following = np.where(nth + 1 == parts, start + size, start + (nth + 1) * size // parts - 1)
    sum_of_first = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(summed)])
    columns = [
        pa.array((group - GROUPS).astype(np.int32)),
        ids.take(pa.array(at)),
        pa.array(amounts[at]),
        pa.array(at - previous),
        pa.array(sum_of_first[at + 1] - sum_of_first[previous + 1]),
        pa.array(following - at),
        pa.array(sum_of_first[following] - sum_of_first[at]),
    ]
    return pa.record_batch(columns, schema=LADDER)


def _percentiles(cuts: Sequence[Cut]) -> bool:
    """Whether the cuts are percentiles; a ranking has no others beside them."""
    return bool(cuts) and cuts[0].rule == PERCENTILE


def _targets(merged: pa.RecordBatch, cuts: Sequence[Cut]) -> dict[tuple[str, int, int], tuple[str, int]]:
    """For each (kind, num, den), and for ABC the top fifth: the running count or sum that the last account inside reaches.

    `before * q < total * p` holds up to the first account whose sum, itself included, reaches total * p / q.
    """
    customers, total = _population(merged)
    whole = {"count": customers, "share": total}
    wanted = {*(() if _percentiles(cuts) else (_TOP20,)), *((cut.kind, cut.num, cut.den) for cut in cuts)}
    return {(kind, p, q): (kind, min(whole[kind], -(-whole[kind] * p // q))) for kind, p, q in wanted}


def _narrow(rungs: pa.RecordBatch, group: int, size: int, kind: str, target: int) -> tuple[_Key, _Key]:
    """The interval of a group that surely holds the first account at which the running number reaches the target.

    size: the group's count or sum; 0 < target <= size. Keys sort like the ranking: (-amount, 1, id); with a null id
    (-amount, 0, "") stands before the whole amount, and (-amount, 2, "") after it.
    """
    lowest, highest = group_edges(group)
    start, end = (-highest, 0, ""), (-lowest, 2, "")
    near = rungs.filter(pc.equal(rungs.column("group"), group))
    near = near.sort_by([("amount", "descending"), ("account_id", "ascending")])
    amount, account = _numbers(near, "amount"), near.column("account_id")
    own = np.ones_like(amount) if kind == "count" else amount
    measure = "customers" if kind == "count" else "total"
    at_least, following = np.cumsum(_numbers(near, measure)), _numbers(near, f"next_{measure}")
    # At a rung its own shard is known exactly. Every other shard has at most all accounts before its next rung, which
    # before its first rung is what the group has more than the stretches from all the rungs on.
    at_most = size - int(following.sum()) + np.cumsum(following) - following + own
    after = int(np.searchsorted(at_most, target)) - 1
    up_to = int(np.searchsorted(at_least, target))
    if after >= 0:
        start = (-int(amount[after]), 1, account[after].as_py())
    if up_to < len(amount):
        end = (-int(amount[up_to]), 1, account[up_to].as_py())
    return start, end


def _disjoint(intervals: Sequence[tuple[_Key, _Key]]) -> list[tuple[_Key, _Key]]:
    """Disjoint intervals in ranking order that cover the same accounts, none longer than it was.

    intervals: each within one group, as `_narrow` gives them. Text sorts like its UTF-8 bytes, so the keys sort like
    the ranking.
    """
    disjoint: list[tuple[_Key, _Key]] = []
    for start, end in sorted(intervals):
        begin = max(start, disjoint[-1][1]) if disjoint else start
        if begin < end:
            disjoint.append((begin, end))
    return disjoint


def _running(before: Int64, interval: Int64, own: Int64) -> Int64:
    """The running number over the whole ranking at each account, itself included.

    before: (intervals,) what ranks before each. interval, own: (n,) in ranking order.
    """
    first = np.searchsorted(interval, np.arange(len(before)))
    sum_of_first = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(own)])
    running: Int64 = (before - sum_of_first[first])[interval] + sum_of_first[1:]
    return running
