"""The audit stops what must not be published, in plain words, and its Data Docs need no network."""

from __future__ import annotations

import html
import re
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import data_docs
from pipelines.audit import RELATIONS, AuditResult, Facts, audit, measure, plain_message
from schemas.errors import AuditFailed, ConfigError
from schemas.policy import Policy, default_policy_text, parse_policy
from schemas.suites import SUITES, expectations

DAY = date(2016, 3, 1)
POLICY = parse_policy(default_policy_text(), "policy.yaml")
FACTS = Facts(DAY, {"meter_readings": 100, "ledger_events": 0}, {"meter_readings": 2})

Row = dict[str, object]


def sound(relation: str, **given: object) -> Row:
    """A row of the relation that breaks nothing, with some values given."""
    row: Row = {}
    for column in RELATIONS[relation].columns:
        if pa.types.is_date(column.type):
            row[column.name] = DAY
        elif pa.types.is_timestamp(column.type):
            row[column.name] = None
        elif pa.types.is_integer(column.type):
            row[column.name] = column.minimum or 0
        else:
            row[column.name] = column.values[0] if column.values else "x"
    return row | given


def cut(cls: str, side: str, inside: int, **given: object) -> Row:
    given = {"class": cls, "side": side, "inside_customers": inside, "customers": 9, "amount": 5} | given
    return sound("cutoffs", metric="wh_365d", scope="all", **given)


def world() -> dict[str, list[Row]]:
    """A small publication in which every expectation holds."""
    return {
        "meter_readings": [sound("meter_readings", meter_id=f"M{n}", energy_wh=n) for n in range(3)],
        "ledger_events": [sound("ledger_events", amount_minor=1)],
        "features": [sound("features", account_id=f"A{n}", wh_365d=n) for n in (17, 18, 19)],
        "customer_tiers_current": [sound("customer_tiers_current", account_id=f"A{n}") for n in (17, 18, 19, 20)],
        "tier_migrations": [sound("tier_migrations", account_id="A17", to_tier="low_small")],
        "abuse_steps": [sound("abuse_steps", account_id="A17", step="warn", from_step=None, abuse_reason="tier_abuse")],
        "cutoffs": [
            cut(c, s, n) for c, s, n in (("A", "entry", 1), ("A", "cut", 2), ("A", "exit", 3), ("B", "cut", 2))
        ],
    }


def stage(folder: Path, relations: dict[str, list[Row]]) -> dict[str, list[str]]:
    """Writes the rows; every column may hold nulls, so that a fault can be seeded."""
    staging: dict[str, list[str]] = {}
    for name, rows in relations.items():
        schema = pa.schema([pa.field(c.name, c.type) for c in RELATIONS[name].columns])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.parquet")
        staging[name] = [str(folder / f"{name}.parquet")]
    return staging


def run(folder: Path, relations: dict[str, list[Row]], policy: Policy = POLICY, **more: object) -> AuditResult:
    facts = more.pop("facts", FACTS)
    assert isinstance(facts, Facts)
    overrides = more.pop("overrides", frozenset())
    assert isinstance(overrides, frozenset)
    return audit(stage(folder, relations), policy, 12, folder / "docs", facts, overrides)


def test_a_sound_publication_passes_all_three_gates(tmp_path: Path) -> None:
    result = run(tmp_path, world())
    assert (result.failed, result.blocked) == ([], False)
    assert result.message == f"Audit passed: {result.rows.num_rows} expectations hold."
    assert set(result.rows["suite"].to_pylist()) == set(SUITES)
    assert all(result.rows["success"].to_pylist())
    assert result.rows.schema.equals(RELATIONS["data_quality_results"].schema)
    result.enforce()


FAULTS: list[tuple[str, Callable[[dict[str, list[Row]]], object], str, str]] = [
    (
        "inbound",
        lambda w: w["meter_readings"][1].update(energy_wh=-5),
        "meter_readings.energy_wh.minimum",
        "meter_readings.energy_wh is never below 0 Wh: 1 of 3 rows breaks it (first: meter M1 on 2016-03-01: -5)",
    ),
    (
        "features",
        lambda w: [row.update(wh_365d=-5) for row in w["features"]],
        "features.wh_365d.minimum",
        "features.wh_365d is never below 0 Wh: 3 of 3 rows break it (first: account A17 on 2016-03-01: -5)",
    ),
    (
        "features",
        lambda w: w["features"][0].update(overdue_minor=None),
        "features.overdue_minor.not_null",
        "features.overdue_minor is never empty: 1 of 3 rows breaks it (first: account A17 on 2016-03-01: empty)",
    ),
    (
        "features",
        lambda w: w["features"].append(w["features"][2]),
        "features.unique",
        "features has one row per account_id, service_date: "
        "1 case breaks it (first: account A19 on 2016-03-01: 2 rows)",
    ),
    (
        "tiers",
        lambda w: w["customer_tiers_current"][0].update(tier="it's <gold>"),
        "customer_tiers_current.tier.values",
        "customer_tiers_current.tier is one of high, mid_steady, mid_large, low_risk, low_small, abuse, new, closed: "
        "1 of 4 rows breaks it (first: account A17: it's <gold>)",
    ),
    (
        "tiers",
        lambda w: w["customer_tiers_current"].append(sound("customer_tiers_current", account_id="A18", tier="abuse")),
        "customer_tiers_current.unique",
        "customer_tiers_current has one row per account_id: an account has exactly one tier: "
        "1 case breaks it (first: account A18: 2 rows)",
    ),
    (
        "tiers",
        lambda w: w["customer_tiers_current"].pop(1),
        "customer_tiers_current.present_in",
        "every account of features on the last service day is in customer_tiers_current: "
        "1 account breaks it (first: account A18: absent)",
    ),
    (
        "tiers",
        lambda w: w.pop("customer_tiers_current"),
        "customer_tiers_current.present_in",
        "every account of features on the last service day is in customer_tiers_current: "
        "3 accounts break it (first: account A17: absent)",
    ),
    (
        "tiers",
        lambda w: w["tier_migrations"][0].update(to_tier="high"),
        "tier_migrations.to_tier.differs",
        "tier_migrations.to_tier differs from from_tier: 1 of 1 row breaks it (first: account A17 on 2016-03-01: high)",
    ),
    (
        "tiers",
        lambda w: w["abuse_steps"][0].update(abuse_reason="warning_ended"),
        "abuse_steps.abuse_reason.leads_to",
        "abuse_steps.abuse_reason is one that leads to the step: "
        "1 of 1 row breaks it (first: account A17 on 2016-03-01: warning_ended)",
    ),
    (
        "tiers",
        lambda w: w["abuse_steps"][0].update(from_step="warn"),
        "abuse_steps.step.differs",
        "abuse_steps.step differs from from_step: 1 of 1 row breaks it (first: account A17 on 2016-03-01: warn)",
    ),
    (
        "tiers",
        lambda w: w["abuse_steps"].append(w["abuse_steps"][0]),
        "abuse_steps.unique",
        "abuse_steps has one row per account_id, service_date: an account takes one step a day at most: "
        "1 case breaks it (first: account A17 on 2016-03-01: 2 rows)",
    ),
    (
        "tiers",
        lambda w: w["abuse_steps"][0].update(from_step="fined"),
        "abuse_steps.from_step.values",
        "abuse_steps.from_step is one of warn, restrict, release: "
        "1 of 1 row breaks it (first: account A17 on 2016-03-01: fined)",
    ),
    (
        "tiers",
        lambda w: w["cutoffs"][0].update(inside_customers=4),
        "cutoffs.side.ordered",
        "cutoffs: the entry to a class takes in no more accounts than its cut, the cut no more than its exit: 1 case "
        "breaks it (first: on 2016-03-01 metric wh_365d scope all rule cumulative_share class A: "
        "entry 4, cut 2, exit 3)",
    ),
    (
        "tiers",
        lambda w: w["cutoffs"][3].update(inside_customers=1),
        "cutoffs.class.ordered",
        "cutoffs: class A lies inside class B where both are cut by share: 1 case breaks it "
        "(first: on 2016-03-01 metric wh_365d scope all rule cumulative_share side cut: A 2, B 1)",
    ),
    (
        "tiers",
        lambda w: w["cutoffs"][2].update(inside_customers=10),
        "cutoffs.inside_customers.at_most",
        "cutoffs.inside_customers is never above customers: 1 of 4 rows breaks it (first: on 2016-03-01 "
        "metric wh_365d scope all rule cumulative_share class A side exit ranked largest_first cut_num 0 cut_den 1: 10)",
    ),
]


@pytest.mark.parametrize(("suite", "seed", "name", "words"), FAULTS, ids=[fault[2] for fault in FAULTS])
def test_a_seeded_fault_is_counted_and_put_in_words(
    suite: str, seed: Callable[[dict[str, list[Row]]], object], name: str, words: str, tmp_path: Path
) -> None:
    seeded = world()
    seed(seeded)
    everything = {e.id: e for e in expectations(20_000)}
    seen = measure(stage(tmp_path, seeded), everything.values(), FACTS)
    assert [f"{everything[id_].words}: {count.text}" for id_, count in seen.items() if count.broken] == [words]
    assert seen[name].broken > 0
    assert everything[name].suite == suite


GATES = (FAULTS[0], FAULTS[1], FAULTS[4])
"""A fault at each gate, in the order of the suites."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    """The audit of a publication with a fault at each of the three gates."""
    seeded = world()
    for _, seed, _, _ in GATES:
        seed(seeded)
    return run(tmp_path_factory.mktemp("stopped"), seeded)


def test_faults_stop_the_publication(stopped: AuditResult) -> None:
    assert [finding.expectation.id for finding in stopped.failed] == [name for _, _, name, _ in GATES]
    assert stopped.docs.parent.name == "generation-00000012-01-failed"
    assert stopped.message == (
        f"Audit stopped the publication: {'; '.join(words for _, _, _, words in GATES)}. "
        "The last publication stands.\n"
        f"Data Docs: {stopped.docs}\n"
        f"Mend the input and run again, or override by name: {', '.join(name for _, _, name, _ in GATES)}"
    )
    with pytest.raises(AuditFailed, match="stopped the publication"):
        stopped.enforce()
    failed = [row for row in stopped.rows.to_pylist() if not row["success"]]
    assert [(r["suite"], r["severity"], r["overridden"]) for r in failed] == [(s, "block", False) for s in SUITES]


@pytest.mark.parametrize("gate", range(3), ids=SUITES)
def test_the_fault_of_each_gate_stops_by_itself_and_shows_in_data_docs(stopped: AuditResult, gate: int) -> None:
    suite, _, _, words = GATES[gate]
    alone = [stopped.failed[gate]]
    assert alone[0].blocks
    assert plain_message(alone).startswith(f"Audit stopped the publication: {words}. The last publication stands.")
    (page,) = (stopped.docs.parent / "validations" / suite).rglob("*.html")
    for text in (page.read_text(encoding="utf-8"), stopped.docs.read_text(encoding="utf-8")):
        assert words in " ".join(html.unescape(text).split())
    assert "generation-00000012-01-failed/index.html" in (stopped.docs.parents[1] / "index.html").read_text("utf-8")


def test_data_docs_fetch_nothing_and_their_links_lead_somewhere(stopped: AuditResult) -> None:
    pages = list(stopped.docs.parents[1].rglob("*.html"))
    assert len(pages) == 2 + len(SUITES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"""(?i)(?:https?:)?//[\w.-]+\.\w+""", text)
        assert not re.findall(r"(?i)<script|<link|<img|url\(|@import", text)
        for target in re.findall(r'href="([^"#]+)"', text):
            assert (page.parent / target).resolve().is_file(), f"{page} links to {target}"


def test_too_many_rejects_stop_the_publication(tmp_path: Path) -> None:
    more = Facts(DAY, {"meter_readings": 100}, {"meter_readings": 3})
    result = run(tmp_path, {}, facts=more)
    assert result.message.startswith(
        "Audit stopped the publication: at most 2 % of the rows of meter_readings are rejected: "
        "3 of 100 rows rejected (3 %). The last publication stands."
    )


def test_a_warning_does_not_stop_and_an_override_is_recorded(tmp_path: Path) -> None:
    seeded = {"features": world()["features"], "customer_tiers_current": world()["customer_tiers_current"]}
    seeded["features"][0].update(wh_7d=-1, wh_30d=-1)
    rules = POLICY.audit.model_copy(update={"severities": {"features.features.wh_7d": "warn"}})
    policy = POLICY.model_copy(update={"audit": rules})
    result = run(tmp_path, seeded, policy, overrides=frozenset({"features.wh_30d.minimum"}))
    assert not result.blocked
    result.enforce()
    found = [(r["column"], r["severity"], r["overridden"]) for r in result.rows.to_pylist() if not r["success"]]
    assert found == [("wh_7d", "warn", False), ("wh_30d", "block", True)]
    assert result.message.startswith("Audit passed, without blocking: features.wh_7d is never below 0 Wh: 1 of 3 rows")
    assert result.docs.parent.name == "generation-00000012-01-failed"


def test_an_override_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="override 'features' names no expectation"):
        run(tmp_path, {}, overrides=frozenset({"features"}))


def test_an_empty_publication_passes(tmp_path: Path) -> None:
    result = audit({"features": []}, POLICY, 1, tmp_path / "docs", Facts(DAY))
    assert result.message == "Audit passed: 0 expectations hold."
    assert result.rows.num_rows == 0


def test_a_long_list_is_cut_short(tmp_path: Path) -> None:
    seeded = {"features": world()["features"], "customer_tiers_current": world()["customer_tiers_current"]}
    seeded["features"][0].update({f"wh_{w}": -1 for w in ("7d", "30d", "90d", "365d", "mtd", "90d_year_ago")})
    result = run(tmp_path, seeded)
    assert "; and 1 more. The last publication stands." in result.message
    assert plain_message([]) == "Audit passed."


def test_only_the_last_data_docs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_docs, "KEEP", 2)
    check = data_docs.Check("features.unique", "features", "words", "0 cases break it", 0, "block")
    for generation in (9, 10, 10):
        data_docs.validate([check], generation, tmp_path)
    kept = ["generation-00000010-01-passed", "generation-00000010-02-passed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*kept, "index.html"]


def test_no_connection_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the audit must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert not run(tmp_path, {"tier_migrations": world()["tier_migrations"]}).blocked


def test_integers_never_become_floats() -> None:
    odd = 2**53 + 1
    frame = data_docs.frame(pa.table({"n": pa.array([odd, None], pa.int64())}))
    assert frame["n"].dtype.pyarrow_dtype == pa.int64()
    assert frame["n"][0] == odd
    assert frame["n"].max() == odd


def test_great_expectations_must_see_the_exact_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = data_docs.Check("features.unique", "features", "words", "many cases break it", 2**53 + 1, "warn")
    held, _ = data_docs.validate([check], 1, tmp_path)
    assert held == {"features.unique": False}
    monkeypatch.setattr(data_docs, "frame", lambda table: table.to_pandas().astype("float64"))
    with pytest.raises(RuntimeError, match=r"could not check features\.unique: counted 9007199254740993, it saw"):
        data_docs.validate([check], 1, tmp_path)


@pytest.mark.slow
def test_a_warm_process_can_judge(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(data_docs.warm)
        staging = stage(tmp_path, {"tier_migrations": world()["tier_migrations"]})
        result = audit(
            staging,
            POLICY,
            1,
            tmp_path / "docs",
            FACTS,
            judge=lambda *check: pool.submit(data_docs.validate, *check).result(),
        )
    assert not result.blocked
    assert result.docs.is_file()
