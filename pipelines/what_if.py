"""`wattier what-if`: past service days under another policy, from what the warehouse holds; the marts stay as they are.

policy of the publication    up to the day before the first   |   from the first day on, the policy that is tried
tiers, abuse ladder          as published of that day         |   by the graph `try_out`, in a folder of their own
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import Config
from pipelines.plan import published_policy, staff_change
from pipelines.publish import published_generation
from pipelines.warehouse import Generation, Warehouse
from pipelines.what_if_report import Report, Tried, compare, keep
from schemas.capacity import Capacity
from schemas.errors import ConfigError, StateError
from schemas.marts import CUTOFFS
from schemas.policy import Policy
from schemas.rankings import PERCENTILE
from transforms.account_events import CONDUCT
from transforms.checkpoints import PLAN_STATE, TIER_INPUT, TIER_INPUT_PATCH
from transforms.fold_features import needed_columns
from transforms.kernels.scopes import by_of
from transforms.kernels.windows import date_of, day_of
from transforms.plan_actions import PLANNED, given_before, state_batch
from transforms.service_actions import planned_before
from transforms.shards import STATE_LIST, Place, State, state_block
from transforms.storage import WHOLE, Commit, Entry, Store, entries_to_batch
from transforms.stored_inputs import FIGURES, Trial, made_again, rankings_kept, without_clock

Progress = Callable[[str, int, int], None]

DAYS_AT_ONCE = 40
"""Days that one pipeline makes: of each, every shard may hold a block of its own."""

SHARED = (CONDUCT.kind, "account_slots", "population", "mart:customer_tiers_current", "mart:abuse_steps")
"""State of every day that a trial goes by."""

BY_DAYS = (TIER_INPUT, TIER_INPUT_PATCH, "mart:features", "gone:features", "patch:features")
"""Those of the days it looks at."""


def what_if(
    config: Config, tried: Policy, name: str, first: date, last: date, *, out: Path | None = None, accounts: bool = False,
    beam_options: Sequence[str] = (), progress: Progress,
) -> Report:  # fmt: skip
    """Classify the days `first .. last` by another policy, and compare. Raises ConfigError, StateError, before anything runs.

    name: of the policy's file; out: a new folder for the marts made; accounts: also a list of those that would move.
    """
    warehouse = Warehouse(config.warehouse)
    standing, end = published_generation(warehouse)
    days = day_of(first), day_of(last)
    _check_days(standing.header["first"], end, *days)
    published = published_policy(standing.header["policy"], config.policy)
    _check_policy(standing, published, tried, name, *days)
    _check_staff(standing, published, config.policy.capacity)
    both = in_force_from(published, tried.model_copy(update={"capacity": config.policy.capacity}), days[0])
    held = _Held(warehouse.store, standing)
    begin = max(days[0] - 1, standing.header["first"])
    clockless = held.check(both, begin, days[1])
    if accounts and out is None:
        raise ConfigError("--accounts needs --out FOLDER: the list names accounts, and is not printed")
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: is there already; name a new folder")
    with _scratch(out) as scratch:
        trial = Trial(*days, published, held.figures(days[1]), scores=out is not None)
        made = _Work(warehouse, standing, scratch, both, beam_options, progress).go(trial)
        versions = [both.on(date_of(day)) for day in range(days[0], days[1] + 1)]
        names = tuple(dict.fromkeys(version.version for version in versions))
        stay = max(version.min_stay_days for version in versions)
        result = Tried(scratch, made, first, last, trial.figures, name, names, tuple(sorted(clockless)), stay)
        report = compare(warehouse.marts, result, standing.header.get("currency"))
        if out is not None:
            keep(warehouse.marts, result, report, out, accounts=accounts)
        return report


def in_force_from(published: Policy, tried: Policy, first: int) -> Policy:
    """The policy of a publication up to a day, and from then on the versions of another that are in force on each day.

    first: day number. It is what a policy file would say to which the other's rules are added from that day on.
    """
    begin = date_of(first)
    before = [v for v in published.versions if v.effective_from < begin]
    if not before:
        before = [published.versions[0].model_copy(update={"effective_from": date_of(first - 1)})]
    now = tried.on(begin)
    later = [v for v in tried.versions if v.effective_from > begin and v is not now]
    return tried.model_copy(update={"versions": (*before, now.model_copy(update={"effective_from": begin}), *later)})


# --- what is refused -------------------------------------------------------------------------------------------------
def _check_days(begin: int, end: int, first: int, last: int) -> None:
    if last < first:
        raise ConfigError(f"--from {date_of(first)} --to {date_of(last)}: the first day is after the last")
    if first < begin or end < last:
        raise ConfigError(
            f"--from {date_of(first)} --to {date_of(last)}: service days {date_of(begin)} to {date_of(end)} are published"
        )


def _check_policy(standing: Generation, published: Policy, tried: Policy, name: str, first: int, last: int) -> None:
    """What figures depend on before tiers do must be as it was. Raises ConfigError."""
    real = "That changes figures, not only tiers: add it to the policy of a copy of the warehouse, and run."
    if tried.ledger.model_dump_json(include={"allocation"}) != standing.header["policy"][0][2]:
        raise ConfigError(
            f"{name}: ledger.allocation: {tried.ledger.allocation!r}: is another than was published under. {real}"
        )
    held = {version.version: version for version in published.versions}
    for number in dict.fromkeys(tried.versions.index(tried.on(date_of(day))) for day in range(first, last + 1)):
        now = tried.versions[number]
        other = held.get(now.version, now)
        if other != now.model_copy(update={"effective_from": other.effective_from}):
            raise ConfigError(
                f"{name}: versions[{number}].version: {now.version!r}: a published version of other rules has that name"
            )
    for day in range(first, last + 1):
        now, was = tried.on(date_of(day)), published.on(date_of(day))
        at = f"versions[{tried.versions.index(now)}]"
        for part in ("credit_decay", "vee"):
            if getattr(now, part) != getattr(was, part):
                raise ConfigError(f"{name}: {at}.{part}: is another than on {date_of(day)} was published under. {real}")


def _check_staff(standing: Generation, published: Policy, capacity: Capacity | None) -> None:
    """Who rests follows from the staff that was published under. Raises ConfigError."""
    if staff_change(standing.header["policy"], published.model_copy(update={"capacity": capacity})) is not None:
        raise ConfigError(
            "the capacity file is another than was published under: run `wattier run` first, then try the policy"
        )


class _Held:
    """Which columns the warehouse holds of which service days."""

    def __init__(self, store: Store, standing: Generation) -> None:
        self.store = store
        self.inputs: dict[int, list[Entry]] = {}
        for entry in standing.of(TIER_INPUT):
            self.inputs.setdefault(entry.first, []).append(entry)
        self.shards = standing.header["shards"]
        self.kept_from = standing.header["keep_from"]["features"]
        self.files = standing.of("mart:features", "patch:features")
        self._names: dict[str, frozenset[str]] = {}

    def check(self, policy: Policy, first: int, last: int) -> set[str]:
        """Raises ConfigError naming columns that a policy reads and days that lack them. Returns those of unknown clock."""
        gone = [day for day in range(first, last + 1) if len(self.inputs.get(day, ())) != self.shards]
        if gone:
            raise ConfigError(
                f"what tiers of {_span(gone)} were made of is not kept any more: retention.tier_inputs in wattier.yaml says how "
                f"long it is. The earliest --from is {date_of(min(self.inputs, default=last) + 1)}."
            )
        lacking: dict[str, list[int]] = {}
        clockless = set[str]()
        for day in range(first, last + 1):
            version = policy.on(date_of(day))
            scored = version.credit_score.columns() if version.credit_score else ()
            wanted = {*needed_columns(policy, date_of(day)), *scored} - {"category"}
            missing = wanted - self._of_inputs(day)
            missing -= made_again(missing)
            for column in missing - self._of_features(day):
                lacking.setdefault(column, []).append(day)
            clockless |= without_clock(missing)
        if lacking:
            said = "; ".join(f"{column} of {_span(days)}" for column, days in sorted(lacking.items()))
            raise ConfigError(
                f"the policy reads columns that the warehouse does not hold: {said}. No policy in force read them, and features "
                f"are kept from {date_of(self.kept_from)} on: begin later (the day before --from counts), or set "
                "retention.features in wattier.yaml to more days, for runs to come."
            )
        return clockless

    def figures(self, day: int) -> tuple[str, ...]:
        """Which of `FIGURES` are held of a day."""
        held = self._of_inputs(day) | self._of_features(day)
        return tuple(name for name in FIGURES if name in held)

    def _of_inputs(self, day: int) -> frozenset[str]:
        return frozenset.intersection(*(self._columns(entry) for entry in self.inputs[day]))

    def _of_features(self, day: int) -> frozenset[str]:
        files = [entry for entry in self.files if entry.first <= day <= entry.last]
        if day < self.kept_from or not files:
            return frozenset()
        return frozenset.intersection(*(self._columns(entry) for entry in files))

    def _columns(self, entry: Entry) -> frozenset[str]:
        if entry.path not in self._names:
            if entry.kind == TIER_INPUT:
                names = self.store.open_blocks(entry.path).schema.names
            else:
                names = pq.read_schema(self.store.full(entry.path), filesystem=self.store.fs).names
            self._names[entry.path] = frozenset(names)
        return self._names[entry.path]


def _span(days: Sequence[int]) -> str:
    first, last = date_of(min(days)), date_of(max(days))
    return f"{first}" if first == last else f"{first} to {last}"


# --- the work --------------------------------------------------------------------------------------------------------
@contextmanager
def _scratch(out: Path | None) -> Iterator[str]:
    """A folder for what is made on the way, removed in the end."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wattier-what-if-", dir=out) as folder:
        yield folder


class _Work:
    """The days under the policy, so many at a time."""

    def __init__(
        self, warehouse: Warehouse, standing: Generation, scratch: str, policy: Policy, beam_options: Sequence[str],
        progress: Progress,
    ) -> None:  # fmt: skip
        self.warehouse, self.standing, self.policy = warehouse, standing, policy
        self.beam_options, self.progress = beam_options, progress
        self.scratch, self.store = scratch, Store(scratch)
        self.shards = standing.header["shards"]
        self.made: list[Entry] = []

    def go(self, trial: Trial) -> list[Entry]:
        """Everything made, by entries of the scratch folder."""
        from pipelines.graph import try_out
        from pipelines.runner import new_pipeline

        starts = range(trial.first, trial.last + 1, DAYS_AT_ONCE)
        before, kept = self._published_cutoffs(trial)
        spans = [(first, min(first + DAYS_AT_ONCE - 1, trial.last)) for first in starts]
        for number, (first, last) in enumerate(spans, 1):
            self.progress(f"service days to {date_of(last)}", number - 1, len(spans))
            place = Place(self.scratch, f"{number:04d}", self.shards)
            step = replace(trial, first=first, last=last, figures=trial.figures if last == trial.last else ())
            with new_pipeline(self.beam_options) as p:
                states, given = self._states(place, step, [*before, *kept]), planned_before(self._given(place, step))
                try_out(p, place, self.policy, step, states, [given])
            self._take(place)
            self.progress(f"service days to {date_of(last)}", number, len(spans))
        return self.made + kept

    def _published_cutoffs(self, trial: Trial) -> tuple[list[Entry], list[Entry]]:
        """The published cut-offs of the day before, and of the days what the policy ranks and cuts as the published one did."""
        begin, rows = trial.first - 1, list[dict[str, Any]]()
        for entry in self.standing.of("mart:cutoffs"):
            if entry.first <= trial.last and begin <= entry.last:
                rows += self.warehouse.store.read_parquet(entry).cast(CUTOFFS.schema).to_pylist()
        days = range(trial.first, trial.last + 1)
        keys = {date_of(d): {r.key for r in rankings_kept(self.policy, trial.published, d)} for d in days}
        kept = [
            row | {"policy_version": self.policy.on(row["service_date"]).version}
            for row in rows
            if (row["metric"], by_of(row["scope"]), row["ranked"], row["rule"] == PERCENTILE)
            in keys.get(row["service_date"], ())
        ]
        earlier = [row for row in rows if row["service_date"] == date_of(begin)]
        return (
            self._write_cutoffs("cutoffs_before", earlier, (begin, begin)),
            self._write_cutoffs("mart:cutoffs", kept, (trial.first, trial.last)),
        )

    def _write_cutoffs(self, kind: str, rows: list[dict[str, Any]], days: tuple[int, int]) -> list[Entry]:
        if not rows:
            return []
        table = pa.Table.from_pylist(rows, schema=CUTOFFS.schema)
        return [self.store.write_parquet(f"published/{kind.replace(':', '-')}.parquet", kind, WHOLE, table, days)]

    def _states(self, place: Place, step: Trial, published: list[Entry]) -> list[tuple[int, object]]:
        """Each shard's part of what is held, in a file; what stands in the warehouse by its full path."""
        begin, found = step.first - 1, {shard: list[Entry]() for shard in range(self.shards)}
        for entry in self._wanted(begin, step.last):
            found[entry.shard].append(self._held(entry))
        for entry in self.made:
            if entry.kind in ("tiers", "abuse_ladder") and entry.first == begin:
                found[entry.shard].append(entry)
        cuts = [e for e in self.made if e.kind == "mart:cutoffs" and e.first <= begin <= e.last]
        before = [replace(entry, kind="cutoffs_before") for entry in [*published, *cuts]]
        blocks = [(shard, entries_to_batch(entries + before)) for shard, entries in found.items()]
        lists = self.store.write_blocks(f"{place.folder}/states/accounts.arrow", STATE_LIST, -1, blocks)
        return [(entry.first, state_block([entry])) for entry in lists]

    def _held(self, entry: Entry) -> Entry:
        """A file of the warehouse, as the scratch folder names it."""
        return replace(entry, path=str(Path(self.warehouse.store.full(entry.path)).absolute()))

    def _given(self, place: Place, step: Trial) -> list[Entry]:
        """What scarce places were given to whom by the day before, as published or as made."""
        begin = step.first - 1
        if self.made:
            return [entry for entry in self.made if entry.kind == PLAN_STATE and entry.first == begin]
        published = State(self.store, [self._held(entry) for entry in self.standing.of(PLANNED)])
        given = state_batch(given_before(published, step.first), begin)
        path = place.path(f"{PLAN_STATE}-before", 0, "arrow")
        return self.store.write_blocks(path, PLAN_STATE, WHOLE, [(begin, given)])

    def _wanted(self, begin: int, last: int) -> Iterable[Entry]:
        for entry in self.standing.entries:
            kind = entry.kind
            of_days = kind in BY_DAYS and begin <= entry.last and entry.first <= last
            history = kind == "mart:customer_tiers" and begin <= entry.last and not self.made
            if kind in SHARED or of_days or history:
                yield entry

    def _take(self, place: Place) -> None:
        commits = list(Commit.read_all(self.store, place.folder))
        for stage, wanted in (("figures", self.shards), ("cutoffs", 1), ("tiers", self.shards), ("actions", 1)):
            got = sum(commit.stage == stage for commit in commits)
            if got != wanted and not (stage == "cutoffs" and got == 0):  # where all are those published, none are made
                raise StateError(f"{place.root}: stage {stage} reported {got} of {wanted} parts; try again")
        replaced = {(kind, commit.shard) for commit in commits for kind in commit.replaces}
        self.made = [e for e in self.made if (e.kind, e.shard) not in replaced]
        self.made += [entry for commit in commits for entry in commit.entries]
