"""A ledger that lets go of what was settled long ago: late events find it in the accepted log, and every figure is as before."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipelines.restate
from pipelines.warehouse import Warehouse
from tests.pipeline.bureau import POLICY, Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.streams import Epochs
from tests.pipeline.test_stories import LONG_AGO, day
from tests.pipeline.worlds import account, ledger, meter, reading
from transforms import closed_ledger
from transforms.kernels.closed import opening_rows
from transforms.provisional import FOLDER

pytestmark = pytest.mark.slow

LAST = 480
HORIZON = "ledger: {horizon_days: 400}\nversions:"
OWING = "{rule: owing, tier: low_risk, immediate: true, when: [{column: overdue_minor, above: 0}]}"
LONG = POLICY.replace("    tiers:\n", f"    tiers:\n      - {OWING}\n")
SHORT = LONG.replace("versions:", HORIZON)

STORIES = {
    "a payment is taken back": [ledger("{}", "r", "reversal", day(LAST), 0, ref="p0")],
    "the latest payment is taken back": [ledger("{}", "r", "reversal", day(LAST), 0, ref="p60")],
    "an event comes again": [ledger("{}", "p0", "payment", day(15), 500, bill="B0")],
    "an event comes again with another amount": [ledger("{}", "p0", "payment", day(15), 490, bill="B0")],
    "an event is dated anew": [ledger("{}", "p0", "payment", day(LAST), 500, revision=2)],
    "a bill that was paid is named": [ledger("{}", "q", "payment", day(LAST), 70, bill="B0")],
    "a bill of a number that was": [ledger("{}", "x", "charge", day(LAST), 70, day(LAST + 9), "B0")],
    "a payment of long ago": [ledger("{}", "q", "payment", day(20), 300)],
    "a bill of long ago": [ledger("{}", "x", "charge", day(1), 300, day(3), "X")],
    "a bill of long ago is corrected": [ledger("{}", "c0", "charge", day(0), 600, day(20), "B0", revision=2)],
    "an account ended long ago": [account("{}", LONG_AGO, closed=day(14), revision=2)],
    "nothing": [],
}
"""What comes late, each to two accounts: one pays by naming bills, the other pays in advance, some more than it is billed."""

NAMES = {f"{way}-{number}": events for way in ("named", "pooled") for number, events in enumerate(STORIES.values())}
LATE = [(source, (name, *row[1:])) for name, events in NAMES.items() for source, row in events]


def month_of(name, n):
    """A bill of day n, and what pays it."""
    yield ledger(name, f"c{n}", "charge", day(n), 500 + n, day(n + 20), f"B{n}")
    pooled = name.startswith("pooled")
    yield ledger(name, f"p{n}", "payment", day(n + 15), 510 + n if pooled else 500 + n, bill="" if pooled else f"B{n}")


def used(first, last):
    return [reading(f"m-{name}", day(n), 900 + at) for n in range(first, last + 1) for at, name in enumerate(NAMES)]


def opened(folder, policy):
    """A bureau of 480 days: rows of the first 80 may go."""
    keep = ("features: 4000", "features: 60"), ("consumption: 4000", "consumption: 60\n  tier_inputs: 4000")
    bureau = Bureau(folder, *keep, policy=policy, shards=1)
    reference = [row for name in NAMES for row in (account(name, LONG_AGO), meter(f"m-{name}", name, LONG_AGO))]
    bills = [row for name in NAMES for n in range(0, LAST - 30, 30) for row in month_of(name, n)]
    bureau.land_all([*reference, *used(0, LAST), *bills])
    bureau.run()
    return bureau


@pytest.fixture(autouse=True, scope="module")
def always():
    """Ledgers are closed by every run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_ledger, "MOST_PART", 1 << 40)
        yield


@pytest.fixture(scope="module")
def short(always, tmp_path_factory):
    """A bureau to be copied, which has let go of what it may."""
    return opened(tmp_path_factory.mktemp("short") / "bureau", SHORT)


def held(bureau):
    """Rows kept, accounts of which something was let go, and rows of the accepted log."""
    warehouse = Warehouse(bureau.config.warehouse)
    generation = warehouse.load()
    kept = [warehouse.store.read_table(entry) for entry in generation.of("ledger")]
    openings = sum(int(opening_rows(table).sum()) for table in kept)
    return (
        sum(table.num_rows for table in kept) - openings,
        openings,
        sum(e.rows for e in generation.of("log:ledger_events")),
    )


@pytest.mark.parametrize("alone", [False, True], ids=["for all", "by account"])
def test_what_was_let_go_is_found_again(short, tmp_path, monkeypatch, alone):
    monkeypatch.setattr(pipelines.restate, "MOST_PPM", 10**9 if alone else 0)
    bureau = short.copy(tmp_path / "bureau")
    kept, openings, logged = held(bureau)
    assert (openings, kept <= logged - 2 * len(NAMES)) == (len(NAMES), True)
    bureau.land_all([*LATE, *used(LAST + 1, LAST + 1)])
    assert bureau.run().days_by_account == (LAST + 1 if alone else 0)
    assert_balanced(bureau)
    bureau.check()
    bureau.land_all([*used(LAST + 2, LAST + 40), *(row for name in NAMES for row in month_of(name, LAST + 2))])
    bureau.run()
    kept, _, logged = held(bureau)
    assert kept <= logged - 2 * len(NAMES), "they went again"
    bureau.check()


def test_a_stream_goes_on_from_what_was_let_go(short, tmp_path):
    """Events are answered when they come, and taken in, as by a bureau that holds all of them at hand."""
    told = []
    for bureau in (short.copy(tmp_path / "short"), opened(tmp_path / "long", LONG)):
        assert (held(bureau)[1] > 0) == (not told)
        epochs = Epochs(bureau)
        bureau.land_all(LATE)
        epochs.cut(None)
        bureau.land_all([*used(LAST + 1, LAST + 3), *(row for who in NAMES for row in month_of(who, LAST + 2))])
        epochs.cut()
        epochs.run()
        files = (Path(bureau.config.warehouse) / epochs.session.place.folder / FOLDER).rglob("*.parquet")
        told.append((bureau, pa.concat_tables([pq.read_table(file) for file in sorted(files)]).to_pylist()))
        epochs.publish(each=True)
        bureau.check()
    (one, first), (other, second) = told
    assert {row["account_id"] for row in first} > {"named-0", "named-3"}
    assert first == second
    assert_equal_marts(one.marts, other.marts, same_deliveries=True)
