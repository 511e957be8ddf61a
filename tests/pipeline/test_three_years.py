"""Three years of a simulated utility, in portions: the ledger's state stays as large as it was, while the accepted log grows."""

from __future__ import annotations

from datetime import date

import pytest

from pipelines.config import load_config
from pipelines.run import run
from pipelines.simulate import Settings, simulate
from pipelines.templates import write_templates
from pipelines.verify import verify
from pipelines.warehouse import Generation, Warehouse
from transforms.checkpoints import CARRIED_LEDGER

pytestmark = pytest.mark.slow

HORIZON, DAYS, HALF_A_YEAR = 420, 1100, 180
PORTIONS = (500, *range(560, DAYS, 60), DAYS)


def measured(generation: Generation) -> tuple[int, int, int]:
    """Ledger rows kept, bytes of what is kept and carried on from the last checkpoint, and rows of the accepted log."""
    last = max(entry.first for entry in generation.of("windows"))
    state = [
        e
        for e in generation.of("ledger", "closed_names", *CARRIED_LEDGER)
        if e.kind[:8] != "carried_" or e.first == last
    ]
    rows = [sum(entry.rows for entry in generation.of(kind)) for kind in ("ledger", "log:ledger_events")]
    return rows[0], sum({entry.path: entry.bytes for entry in state}.values()), rows[1]


def test_the_state_of_a_ledger_is_flat(tmp_path):
    write_templates(tmp_path)
    for name, old, new in (
        ("wattier.yaml", "shards: 4", "shards: 1"),
        ("policy.yaml", "horizon_days: 800", f"horizon_days: {HORIZON}"),
    ):
        text = (tmp_path / name).read_text()
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new))
    config, found, done = load_config(tmp_path / "wattier.yaml"), {}, 0
    for day in PORTIONS:
        simulate(Settings(40, day, 5, date(2022, 1, 1), tmp_path / "landing", skip_days=done))
        done = day
        run(config, audit=False)
        found[day] = measured(Warehouse(config.warehouse).load())
        print(day, *found[day])
    latest, before = (
        [found[day] for day in PORTIONS if 0 <= to - day < HALF_A_YEAR] for to in (DAYS, DAYS - HALF_A_YEAR)
    )
    for nth, what in enumerate(("rows", "bytes")):
        most, was = (max(one[nth] for one in some) for some in (latest, before))
        assert most <= 1.1 * was, f"{what}: {most}, and {was} half a year before: {found}"
    assert found[DAYS][2] >= 1.8 * found[560][2], "the log grows"
    assert found[DAYS][0] <= 0.6 * found[DAYS][2]
    report = verify(str(Warehouse(config.warehouse).marts), config.policy, all_days=True)
    assert report.ok, str(report)
