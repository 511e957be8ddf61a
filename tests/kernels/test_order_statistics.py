"""Cut-offs: any split over shards gives the brute-force answer, and no step names more than 5 % of the accounts."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.marts import CUTOFFS
from schemas.rankings import Cut
from transforms.kernels import order_statistics as stats

POLICY = (
    Cut("cumulative_share", "A", "cut", "share", 80, 100),
    Cut("cumulative_share", "A", "entry", "share", 78, 100),
    Cut("cumulative_share", "A", "exit", "share", 82, 100),
    Cut("cumulative_share", "B", "cut", "share", 95, 100),
    Cut("cumulative_share", "B", "entry", "share", 94, 100),
    Cut("cumulative_share", "B", "exit", "share", 96, 100),
    Cut("top_fraction", "A", "cut", "count", 1, 3),
    Cut("top_fraction", "B", "cut", "share", 95, 100),
    Cut("turnover_fraction", "A", "cut", "share", 1, 3),
    Cut("turnover_fraction", "B", "cut", "share", 95, 100),
)


# ------------------------------------------------------------------------------------------- the definitions, by force


def oracle(population, cuts):
    """The cut-off rows of a {account_id: value}, from a sort of all accounts and fractions."""
    ranked = sorted(((-value, name.encode()) for name, value in population.items() if value > 0))
    values = [-value for value, _ in ranked]
    n, total = len(ranked), sum(values)

    def inside(kind, num, den):
        if kind == "count":
            return ranked[: -((-n * Fraction(num, den)) // 1)]
        before, count = 0, 0
        for value in values:
            if before >= total * Fraction(num, den):
                break
            before, count = before + value, count + 1
        return ranked[:count]

    groups: dict[tuple[int, int], list[int]] = {}
    for value in values:
        bits = value.bit_length()
        groups.setdefault((bits, value >> max(0, bits - 7)), []).append(value)
    below, area = 0, 0
    for _, members in sorted(groups.items()):
        area += len(members) * (2 * below + sum(members))
        below += sum(members)

    rows = []
    for cut in cuts:
        chosen = inside(cut.kind, cut.num, cut.den)
        rows.append(
            {
                "rule": cut.rule,
                "class": cut.cls,
                "side": cut.side,
                "kind": cut.kind,
                "cut_num": cut.num,
                "cut_den": cut.den,
                "amount": -chosen[-1][0] if chosen else None,
                "boundary_account_id": chosen[-1][1].decode() if chosen else None,
                "inside_customers": len(chosen),
                "inside_total": -sum(value for value, _ in chosen),
                "customers": n,
                "total": total,
                "top20_share_ppm": -sum(v for v, _ in inside("count", 1, 5)) * 1_000_000 // total if n else None,
                "gini_ppm": 1_000_000 - area * 1_000_000 // (n * total) if n else None,
            }
        )
    return rows


# ----------------------------------------------------------------------------------------------------------- two passes


def block(population):
    """values, ids, id_rank of a {account_id: value}, in the order of the mapping."""
    names = list(population)
    ranks = {name: rank for rank, name in enumerate(sorted(names, key=str.encode))}
    values = np.array([population[name] for name in names], dtype=np.int64)
    return values, pa.array(names, pa.string()), np.array([ranks[name] for name in names], dtype=np.int64)


def split(population, shards, seed=0):
    """The population spread over shards at random."""
    home = np.random.default_rng(seed).integers(shards, size=len(population))
    return [
        block({name: value for (name, value), at in zip(population.items(), home, strict=True) if at == shard})
        for shard in range(shards)
    ]


def two_passes(blocks, cuts):
    merged = stats.merge_ladders([stats.ladder(*part) for part in blocks])
    intervals = stats.brackets(merged, cuts)
    extracts = [stats.extract(values, ids, intervals) for values, ids, _ in blocks]
    return stats.resolve(stats.without_rungs(merged), extracts, cuts)


cut_fractions = st.integers(1, 20).flatmap(lambda den: st.tuples(st.integers(0, den), st.just(den)))
any_cuts = st.lists(
    st.builds(
        lambda kind, pq: Cut("cumulative_share", "A", "cut", kind, *pq),
        st.sampled_from(["share", "count"]),
        cut_fractions,
    ),
    max_size=4,
).map(lambda drawn: [*POLICY, *drawn])
amounts = st.one_of(
    st.sampled_from([-5, 0, 1, 700, 700, 700, 10**9]), st.integers(-10, 300), st.integers(1, 2**45), st.just(2**45)
)
names = st.text(st.sampled_from("aAzé~\U0001f50c0\uffff"), min_size=1, max_size=6)
populations = st.dictionaries(names, amounts, max_size=80)


@settings(max_examples=100, deadline=None)
@given(populations, any_cuts, st.integers(1, 64), st.integers(0, 9))
def test_any_split_gives_the_brute_force_answer(population, cuts, shards, seed):
    assert two_passes(split(population, shards, seed), cuts).to_pylist() == oracle(population, cuts)


@st.composite
def crowds(draw):
    """Some hundreds of accounts, most of them at a few values close to each other: shards build many rungs."""
    seed, size = draw(st.integers(0, 10**6)), draw(st.integers(100, 1500))
    rng = np.random.default_rng(seed)
    centre = draw(st.sampled_from([1, 130, 10**6, 2**45 - 100]))
    values = np.where(
        rng.random(size) < draw(st.sampled_from([0.2, 0.9])),
        centre + rng.integers(0, draw(st.sampled_from([1, 3, 90])), size),
        rng.integers(0, 2 * centre, size),
    )
    if draw(st.booleans()):
        values[0] = 2**45
    return {f"C{at}": int(value) for at, value in zip(rng.permutation(size), values, strict=True)}


@settings(max_examples=60, deadline=None)
@given(crowds(), any_cuts, st.sampled_from([1, 2, 5, 16]))
def test_crowded_groups_give_the_brute_force_answer(population, cuts, shards):
    assert two_passes(split(population, shards), cuts).to_pylist() == oracle(population, cuts)


def test_a_worked_example():
    # 100, 60, 40, 40 make 240; before them 0, 100, 160, 200. 80 % of 240 is 192: b (160) is inside, c (200) is not.
    population = {"d": 100, "a": 60, "c": 40, "b": 40, "zero": 0, "credit": -7}
    row = two_passes(split(population, 3), POLICY[:1]).to_pylist()[0]
    assert (row["amount"], row["boundary_account_id"]) == (40, "b")
    assert (row["inside_customers"], row["inside_total"], row["customers"], row["total"]) == (3, 200, 4, 240)
    assert row["top20_share_ppm"] == 416_666  # one of four: 100 / 240
    # groups 40, 60, 100: 1 - (2*80 + 1*(160+60) + 1*(280+100)) / (4*240) = 1 - 760/960
    assert row["gini_ppm"] == 208_334


@pytest.mark.parametrize("population", [{}, {"a": 0, "b": -1}])
def test_nobody_ranks(population):
    rows = two_passes(split(population, 4), POLICY).to_pylist()
    assert rows == oracle(population, POLICY)
    assert {(row["amount"], row["gini_ppm"], row["customers"]) for row in rows} == {(None, None, 0)}


def test_one_customer_is_inside_every_cut():
    rows = two_passes(split({"only": 3}, 64), POLICY).to_pylist()
    assert {(row["boundary_account_id"], row["inside_total"], row["gini_ppm"]) for row in rows} == {("only", 3, 0)}


def test_the_columns_are_those_of_the_mart():
    assert [name for name in CUTOFFS.schema.names if name in stats.RESOLVED.names] == stats.RESOLVED.names
    assert set(CUTOFFS.schema.names) - set(stats.RESOLVED.names) == {
        "service_date", "metric", "scope", "ranked", "policy_version",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- the laws


def apart(extracts):
    """The extracts of every shard, interval by interval."""
    split_up = [dict(stats.by_interval(part)) for part in extracts]
    return [[part[number] for part in split_up] for number in split_up[0]]


def skewed(size, tied, seed=1, giant=False):
    """size accounts, log-normal in Wh, a share of them tied at the median."""
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(np.log(250_000), 1.5, size)).astype(np.int64)
    values[rng.random(size) < tied] = 250_000
    return with_giant(values) if giant else values


def pareto(size, seed=2):
    return (20_000 * (1 + np.random.default_rng(seed).pareto(1.16, size))).astype(np.int64)


def with_giant(values):
    values[len(values) // 2] = values.sum() // 3
    return values


def numbered(size):
    """Ids of one length, so that they sort like numbers; in no order."""
    return np.char.zfill((np.arange(size) * 7919 % 1_000_003).astype("U7"), 7)


def accounts(values):
    return dict(zip(numbered(len(values)).tolist(), values.tolist(), strict=True))


def spread(values, shards, seed=0):
    """`split(accounts(values), shards)`, faster."""
    home = np.random.default_rng(seed).integers(shards, size=len(values))
    names = numbered(len(values))
    rank = names.astype(np.int64)  # gaps do no harm
    members = [np.flatnonzero(home == shard) for shard in range(shards)]
    return [(values[at], pa.array(names[at], pa.string()), rank[at]) for at in members]


def same(left, right):
    """Equal up to the order of the rungs."""
    order = [("group", "ascending"), ("amount", "ascending"), ("account_id", "ascending")]
    return left.sort_by(order).equals(right.sort_by(order))


def test_ladders_merge_in_any_grouping_and_order():
    ladders = [stats.ladder(*part) for part in split(accounts(skewed(4_000, 0.4)), 8)]
    a, b, c = ladders[0], stats.merge_ladders(ladders[1:3]), stats.merge_ladders(ladders[3:])
    whole = stats.merge_ladders(ladders)
    assert stats.merge_ladders([stats.merge_ladders([a, b]), c]).equals(whole)
    assert stats.merge_ladders([a, stats.merge_ladders([b, c])]).equals(whole)
    assert stats.merge_ladders([stats.merge_ladders([]), whole, stats.ladder(*block({}))]).equals(whole)
    assert stats.merge_ladders([whole]).equals(whole)
    assert same(stats.merge_ladders(ladders[::-1]), whole)
    assert stats.brackets(stats.merge_ladders(ladders[::-1]), POLICY).equals(stats.brackets(whole, POLICY))


def test_extracts_may_come_in_any_order_and_put_together():
    blocks = split(accounts(skewed(3_000, 0.4)), 6)
    merged = stats.merge_ladders([stats.ladder(*part) for part in blocks])
    intervals = stats.brackets(merged, POLICY)
    parts = [stats.extract(values, ids, intervals) for values, ids, _ in blocks]
    expected = stats.resolve(merged, parts, POLICY)
    assert stats.resolve(merged, parts[::-1], POLICY).equals(expected)
    assert stats.resolve(merged, [pa.concat_batches(parts)], POLICY).equals(expected)
    with pytest.raises(ValueError, match="exactly one extract for every shard"):
        stats.resolve(merged, parts[1:], POLICY)
    with pytest.raises(ValueError, match="exactly one extract for every shard"):
        stats.resolve(merged, [*parts, parts[0]], POLICY)
    other = Cut("top_fraction", "A", "cut", "count", 999, 1000)
    with pytest.raises(ValueError, match="give the brackets of these cuts"):
        stats.resolve(merged, parts, [other])


def test_intervals_resolved_in_different_places_give_the_same():
    blocks = split(accounts(skewed(3_000, 0.4)), 6)
    merged = stats.merge_ladders([stats.ladder(*part) for part in blocks])
    intervals = stats.brackets(merged, POLICY)
    parts = [stats.extract(values, ids, intervals) for values, ids, _ in blocks]
    located = [stats.locate(merged, each, POLICY) for each in apart(parts)]
    assert stats.cutoff_rows(merged, located[::-1], POLICY).equals(stats.resolve(merged, parts, POLICY))
    with pytest.raises(ValueError, match="give the brackets of these cuts"):
        stats.cutoff_rows(merged, located[1:], POLICY)


def test_an_account_is_handed_over_once_although_intervals_overlap():
    values, ids, ranks = block(accounts(skewed(5_000, 0.4)))
    cuts = [Cut("cumulative_share", "A", "cut", "share", num, 1000) for num in range(0, 1001, 5)]
    intervals = stats.brackets(stats.ladder(values, ids, ranks), cuts)
    part = stats.extract(values, ids, intervals)
    named = part.column("account_id").drop_null().to_pylist()
    assert len(named) == len(set(named)) == stats.accounts_handled(part)
    assert stats.resolve(stats.ladder(values, ids, ranks), [part], cuts).num_rows == len(cuts)


def test_tags_in_schema_metadata_do_no_harm():
    blocks = split({"a": 3, "b": 2, "c": 2, "d": 0}, 3)

    def tag(part):
        return part.replace_schema_metadata({"shard": str(id(part))})

    merged = tag(stats.merge_ladders([tag(stats.ladder(*part)) for part in blocks]))
    intervals = tag(stats.brackets(merged, POLICY))
    extracts = [tag(stats.extract(values, ids, intervals)) for values, ids, _ in blocks]
    assert stats.resolve(merged, extracts, POLICY).equals(two_passes(blocks, POLICY))


@given(st.lists(st.integers(1, 2**63 - 1), min_size=1))
def test_value_groups_are_those_of_the_definitions(values):
    groups = stats.value_group(np.array(values, dtype=np.int64))
    assert groups.min() > 0
    assert groups.max() < stats.GROUPS
    for value, group in zip(values, groups.tolist(), strict=True):
        low, high = stats.group_edges(group)
        assert low <= value <= high
        shift = max(0, value.bit_length() - 7)
        assert (low >> shift, high >> shift) == (value >> shift,) * 2
        assert low.bit_length() == high.bit_length() == value.bit_length()


@pytest.mark.parametrize("exponent", [7, 8, 53, 54, 62, 63])
def test_value_groups_at_powers_of_two(exponent):
    below, at = stats.value_group(np.array([2**exponent - 1, 2 ** min(exponent, 62)], dtype=np.int64)).tolist()
    assert below == (at - 1 if exponent < 63 else stats.GROUPS - 1)


def test_sums_beyond_int64_are_refused():
    big = 2**62
    one, two = block({"a": big, "b": big - 1}), block({"c": 1})
    whole = stats.merge_ladders([stats.ladder(*one)])
    assert two_passes([one], POLICY).to_pylist() == oracle({"a": big, "b": big - 1}, POLICY)
    with pytest.raises(OverflowError, match="over all shards"):
        stats.merge_ladders([whole, stats.ladder(*two)])
    with pytest.raises(OverflowError, match="of one shard is 9223372036854775808"):
        stats.ladder(*block({"a": big, "b": big, "c": -5}))


@settings(deadline=None)
@given(populations, amounts, names)
def test_inside_splits_ties_by_id(population, amount, boundary):
    values, ids, _ = block(population)
    expected = [v > amount or (v == amount and name.encode() <= boundary.encode()) for name, v in population.items()]
    assert stats.inside(values, ids, amount, boundary).tolist() == expected
    assert not stats.inside(values, ids, None, None).any()


def test_inside_agrees_with_the_cut_off():
    blocks = split(accounts(skewed(3_000, 0.4)), 4)
    for row in two_passes(blocks, POLICY).to_pylist():
        within = [stats.inside(values, ids, row["amount"], row["boundary_account_id"]) for values, ids, _ in blocks]
        assert sum(int(mask.sum()) for mask in within) == row["inside_customers"]
        sums = [int(values[mask].sum()) for (values, _, _), mask in zip(blocks, within, strict=True)]
        assert sum(sums) == row["inside_total"]


# -------------------------------------------------------------------------------------------------- what a step handles

SIZE = 100_000
CROWDS = {
    "tied at the median": lambda: skewed(SIZE, 0.4),
    "tied at the median, one giant": lambda: skewed(SIZE, 0.4, giant=True),
    "log-normal": lambda: skewed(SIZE, 0),
    "log-normal, one giant": lambda: skewed(SIZE, 0, giant=True),
    "Pareto": lambda: pareto(SIZE),
    "Pareto, one giant": lambda: with_giant(pareto(SIZE)),
    "Zipf": lambda: 10**12 // np.arange(1, SIZE + 1),
    "tied below most": lambda: np.where(np.arange(SIZE) % 5 < 2, 1_000, 1_000_000 + np.arange(SIZE)),
    "tied above most": lambda: np.where(np.arange(SIZE) % 5 < 2, 1_000_000, 1 + skewed(SIZE, 0) % 100_000),
    "all within one group": lambda: 2**40 + np.arange(SIZE) * 7 % 1_000_000,
    "all tied": lambda: np.full(SIZE, 5),
}


def handled(values, shards, cuts):
    """Rows and accounts that each step takes in, other than a shard's own block; and the answer."""
    blocks = spread(values, shards)
    ladders = [stats.ladder(*part) for part in blocks]
    merged = stats.merge_ladders(ladders)
    intervals = stats.brackets(merged, cuts)
    extracts = [stats.extract(values, ids, intervals) for values, ids, _ in blocks]
    resolved = stats.resolve(merged, extracts, cuts)
    each = [sum(map(stats.accounts_handled, parts)) for parts in apart(extracts)]
    return {
        "rungs": stats.accounts_handled(merged),
        "merge": merged.num_rows + max(part.num_rows for part in ladders),
        "locate": max(each),
        "resolve": sum(each),
    }, resolved


def by_force(values, cuts):
    """(amount, account, inside customers, inside total) of every cut, from one sort of everybody."""
    names = numbered(len(values))
    order = np.lexsort((names, -values))
    ranked = values[order]
    running, n = np.cumsum(ranked), len(ranked)
    rows = []
    for cut in cuts:
        before = running - ranked if cut.kind == "share" else np.arange(n)
        limit = int(running[-1]) if cut.kind == "share" else n
        last = int(np.searchsorted(before, -(-limit * cut.num // cut.den))) - 1
        rows.append((int(ranked[last]), str(names[order[last]]), last + 1, int(running[last])))
    return rows


@pytest.mark.parametrize("shards", [1, 16, 64])
@pytest.mark.parametrize("crowd", CROWDS)
def test_no_step_handles_more_than_a_twentieth(crowd, shards):
    values = CROWDS[crowd]()
    rows, resolved = handled(values, shards, POLICY)
    answer = ("amount", "boundary_account_id", "inside_customers", "inside_total")
    assert [tuple(row[name] for name in answer) for row in resolved.to_pylist()] == by_force(values, POLICY)
    limit = SIZE // 20
    assert rows["rungs"] <= limit
    assert rows["merge"] <= limit  # group rows included, one ladder added to the merged ones
    assert rows["locate"] <= limit
    if crowd.startswith(("tied at", "log-normal", "Pareto", "Zipf")):
        assert rows["resolve"] <= limit  # all intervals in one place


# ------------------------------------------------------------------------------------------------- any value, any sign

LOWEST, HIGHEST = -(2**63), 2**63 - 1
SHARES = [(1, 100), (1, 5), (1, 3), (1, 2), (99, 100)]
PERCENTILES = tuple(Cut("percentile", "P", "cut", "count", *share) for share in SHARES)


def percentiles_of(blocks, cuts=PERCENTILES):
    """blocks: (values, ids, ranks of ids, who ranks) of the shards."""
    merged = stats.merge_ladders([stats.ladder(*part) for part in blocks])
    intervals = stats.brackets(merged, cuts)
    extracts = [stats.extract(values, ids, intervals, ranks) for values, ids, _, ranks in blocks]
    return stats.resolve(stats.without_rungs(merged), extracts, cuts)


def answers(resolved):
    rows = resolved.to_pylist()
    return [(row["amount"], row["boundary_account_id"], row["inside_customers"], row["customers"]) for row in rows]


def by_sorting(values, names, ranks, cuts=PERCENTILES):
    """The same from one sort of everybody."""
    some = sorted((-int(v), str(name)) for v, name, known in zip(values, names, ranks, strict=True) if known)
    n = len(some)
    inside = [-(-n * cut.num // cut.den) for cut in cuts]
    return [(-some[k - 1][0], some[k - 1][1], k, n) if k else (None, None, 0, 0) for k in inside]


def drawn(rng, size):
    """Values of all kinds: ties, zeros, negatives, the ends of int64; positive ones alone; all equal."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.integers(-3, 4, size)
    if kind == 1:
        return rng.choice(np.array([LOWEST, LOWEST + 1, -(2**40), -128, -1, 0, 1, 127, 2**40, HIGHEST]), size)
    return rng.integers(1, 2**45, size) if kind == 2 else np.full(size, rng.integers(-9, 9))


BATCH = 250
"""Populations of one example; forty examples make ten thousand."""


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ten_thousand_populations_are_cut_as_a_sort_of_all_cuts_them(seed):
    """The three rules of ABC, and percentiles of who ranks, largest and smallest first, by turns.

    Every fiftieth population lies on up to 64 shards, the others on one or two.
    """
    rng = np.random.default_rng(seed)
    for number in range(BATCH):
        size, shards = int(rng.choice([0, 1, 2, 5, 12, 40])), int(rng.integers(1, 3 if number % 50 else 65))
        values = drawn(rng, size).astype(np.int64)
        names = np.array([f"{each:03d}" for each in rng.permutation(size)], "U3")
        home, ids = rng.integers(0, shards, size), names.astype(np.int64)
        members = [np.flatnonzero(home == shard) for shard in range(shards)]
        if number % 3 == 0:
            values = np.where(np.abs(values.astype(float)) > 2**50, 5, values)  # so that sums fit
            blocks = [(values[at], pa.array(names[at], pa.string()), ids[at]) for at in members]
            population = dict(zip(names.tolist(), values.tolist(), strict=True))
            assert two_passes(blocks, POLICY).to_pylist() == oracle(population, POLICY)
            continue
        order = "largest_first" if number % 3 == 1 else "smallest_first"
        known, keys = rng.random(size) < rng.choice([0.5, 1]), stats.ranked_by(values, order)
        blocks = [(keys[at], pa.array(names[at], pa.string()), ids[at], known[at]) for at in members]
        assert answers(percentiles_of(blocks)) == by_sorting(keys, names, known)


@given(st.lists(st.integers(LOWEST, HIGHEST), min_size=1))
def test_signed_groups_ascend_with_the_value_and_hold_it(values):
    ascending = np.array(sorted(values), np.int64)
    groups = stats.signed_group(ascending)
    assert (np.diff(groups) >= 0).all()
    for value, group in zip(ascending.tolist(), groups.tolist(), strict=True):
        low, high = stats.group_edges(group)
        assert low <= value <= high
    assert stats.ranked_by(stats.ranked_by(ascending, "smallest_first"), "smallest_first").tolist() == sorted(values)


def test_percentiles_of_a_worked_example():
    values = np.array([5, 0, -7, 5, 3], np.int64)
    names = np.array(["d", "e", "a", "b", "c"])
    block = (values, pa.array(names), np.array([3, 4, 0, 1, 2]), np.array([True, True, True, True, False]))
    cuts = PERCENTILES[1:4:2]  # a fifth and a half of four accounts that rank: the first one, and the first two
    assert answers(percentiles_of([block], cuts)) == [(5, "b", 1, 4), (5, "d", 2, 4)]
    row = percentiles_of([block], cuts).to_pylist()[0]
    assert {row[name] for name in ("inside_total", "total", "top20_share_ppm", "gini_ppm")} == {None}


SIGNED = {
    "growth, both ways": lambda rng: rng.integers(-900_000, 900_000, SIZE),
    "mostly nought": lambda rng: np.where(rng.random(SIZE) < 0.7, 0, rng.integers(-50, 50, SIZE)),
    "all tied below nought": lambda rng: np.full(SIZE, -12_345_678),
    "the whole range": lambda rng: rng.integers(LOWEST, HIGHEST, SIZE),
}


@pytest.mark.parametrize("order", ["largest_first", "smallest_first"])
@pytest.mark.parametrize("shards", [1, 64])
@pytest.mark.parametrize("crowd", SIGNED)
def test_no_step_of_percentiles_handles_more_than_a_twentieth(crowd, shards, order):
    values = stats.ranked_by(SIGNED[crowd](np.random.default_rng(5)).astype(np.int64), order)
    blocks = [(*part, np.ones(len(part[0]), np.bool_)) for part in spread(values, shards)]
    ladders = [stats.ladder(*part) for part in blocks]
    merged = stats.merge_ladders(ladders)
    intervals = stats.brackets(merged, PERCENTILES)
    extracts = [stats.extract(v, ids, intervals, known) for v, ids, _, known in blocks]
    names = numbered(SIZE)
    ranking = np.lexsort((names, ~values))
    last = [ranking[-(-SIZE * cut.num // cut.den) - 1] for cut in PERCENTILES]
    assert [found[:2] for found in answers(stats.resolve(merged, extracts, PERCENTILES))] == [
        (int(values[at]), str(names[at])) for at in last
    ]
    limit = SIZE // 20
    assert merged.num_rows - max(part.num_rows for part in ladders) <= limit
    assert stats.accounts_handled(merged) <= limit
    assert max(sum(map(stats.accounts_handled, parts)) for parts in apart(extracts)) <= limit
