"""The documentation is executed: links resolve, pages are fresh, and every command that a reader is told to run, runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import confluent_kafka
import pytest
import yaml

from pipelines.cli import EXIT_CODES
from pipelines.config import load_config
from pipelines.generations import TOLD
from pipelines.run import ACCOUNT_STATE, METER_STATE
from pipelines.simulate import Settings, simulate
from pipelines.templates import write_templates
from schemas import reference
from schemas.capacity import default_capacity_text
from schemas.inbound import SOURCES
from schemas.labels import labels
from schemas.mapping import parse_sources
from schemas.marts import MARTS
from schemas.policy import default_policy_text
from transforms.checkpoints import CHECKPOINT, TIER_INPUT, TIER_INPUT_PATCH
from transforms.kernels.messages import decode_messages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
RUNNABLE = [page for page in PAGES if "```bash run\n" in page.read_text(encoding="utf-8")]

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```bash run\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMANDS = ("init", "simulate", "run", "status", "verify", "report", "query", "actions", "explain", "what-if", "gc")

WAREHOUSE = """
wattier init mine
wattier simulate --accounts 60 --days 10 --out mine/landing
wattier run --config mine/wattier.yaml
"""
"""How-to pages begin where a reader has a warehouse already."""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(text_of(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        where = (page.parent / path).resolve() if path else page
        assert where.exists(), f"{name_of(page)} links to {target}, which is not there"
        assert not anchor or anchor in anchors(where), f"{name_of(page)} links to {target}: no such heading"


def test_every_page_is_in_the_index() -> None:
    listed = {(DOCS / target).resolve() for target in LINK.findall(text_of(DOCS / "index.md"))}
    kinds = ("tutorial", "how-to", "reference", "explanation")
    missing = [name_of(page) for kind in kinds for page in (DOCS / kind).glob("*.md") if page not in listed]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_a_machine(page: Path) -> None:
    assert not re.search(r"(?<!\w)/(work|tmp|home|root)/", text_of(page))


def test_decisions_are_numbered_and_short() -> None:
    decisions = sorted((DOCS / "decisions").glob("*.md"))
    assert [page.name[:5] for page in decisions] == [f"{number:04d}-" for number in range(1, len(decisions) + 1)]
    for page in decisions:
        lines = text_of(page).splitlines()
        assert lines[0].startswith(f"# {page.name[:4]} "), name_of(page)
        assert len(lines) <= 14, f"{name_of(page)} has {len(lines)} lines"
        parts = [re.match(r"\*\*(\w+)\.\*\*", line)[1] for line in lines if line.startswith("**")]  # type: ignore[index]
        assert parts == ["Context", "Decision", "Consequence"], name_of(page)


# ----------------------------------------------------------------------------------------------------------- freshness


def test_generated_pages_are_fresh() -> None:
    assert reference.stale(DOCS / "reference") == []


def test_the_policy_page_holds_the_policy_that_ships() -> None:
    assert default_policy_text() in text_of(DOCS / "reference" / "policy.md"), (
        "docs/reference/policy.md is stale: put schemas/policy_default.yaml into its last block"
    )


def test_the_configuration_page_holds_what_init_writes(tmp_path: Path) -> None:
    config, policy, _ = write_templates(tmp_path)
    load_config(config)
    assert text_of(policy) == default_policy_text()
    assert text_of(config) in text_of(DOCS / "reference" / "configuration.md"), (
        "docs/reference/configuration.md is stale: put pipelines/templates/wattier.yaml into its last block"
    )


def test_the_capacity_page_holds_what_init_writes() -> None:
    assert default_capacity_text() in text_of(DOCS / "reference" / "capacity.md"), (
        "docs/reference/capacity.md is stale: put schemas/capacity_default.yaml into its last block"
    )


def test_a_run_is_told_of_in_the_words_of_the_tutorial() -> None:
    command, tutorial = text_of(ROOT / "pipelines" / "cli.py"), text_of(DOCS / "tutorial" / "demo.md")
    for words in ("Made anew from ", ": no tier changed.", "Published generation ", " service days made, through "):
        assert words.removesuffix(".").removeprefix(": ") in command
        assert words in tutorial


def test_the_picture_is_that_of_the_graph() -> None:
    graph = text_of(ROOT / "pipelines" / "graph.py")
    picture = re.findall(r"^ *((?:take_in|tick) .*->.*)$", graph, re.MULTILINE)
    assert len(picture) == 2
    steps = re.findall(r"\b(?:Read|Fold|Cut)[A-Z]\w*", "\n".join(picture))
    assert all(f'"{step}" >> {step}(' in graph for step in steps), "the picture's words are the step labels"
    for page in (ROOT / "README.md", DOCS / "explanation" / "architecture.md"):
        assert "\n".join(picture) in text_of(page), name_of(page)


@pytest.mark.parametrize("page", ["README.md", "docs/reference/command-line.md"])
def test_exit_codes_are_those_of_the_command(page: str) -> None:
    codes = re.findall(r"(\d) ([^;.]+)", EXIT_CODES.partition(": ")[2])
    assert len(codes) == 9
    flat = " ".join(text_of(ROOT / page).split())
    for code, meaning in codes:
        says = " ".join(meaning.split())
        assert f"{code} {says}" in flat or f"| {code} | {says} |" in flat, f"{page}: exit code {code}"


def test_every_command_is_documented() -> None:
    page = text_of(DOCS / "reference" / "command-line.md")
    assert [command for command in COMMANDS if f"`wattier {command}" not in page] == []


def test_every_kind_of_state_is_documented() -> None:
    page = text_of(DOCS / "reference" / "warehouse.md")
    kinds = {kind for kind in (*ACCOUNT_STATE, *METER_STATE, *CHECKPOINT) if ":" not in kind}
    assert sorted(kind for kind in kinds if f"`{kind}`" not in page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relations_asked_for_exist(page: Path) -> None:
    extra = {
        "wattier_generation",
        "accepted_readings",
        "accepted_ledger_events",
        "accepted_accounts",
        "accepted_meters",
        "accepted_tariffs",
    }
    for sql in re.findall(r'wattier query [^"\n]*"([^\n]*)"', text_of(page)):
        for name in re.findall(r"\b(?:FROM|JOIN) (\w+)", sql):
            assert name in MARTS.keys() | extra, f"{name_of(page)}: {name} is no mart"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_marts_and_tiers_named_exist(page: Path) -> None:
    """What has a mart's kind of name, and stands as code, is a mart, a source, a label or a column."""
    columns = {column.name for relation in (*MARTS.values(), *SOURCES.values()) for column in relation.columns}
    codes = {code for kind in labels().values() for code in kind}
    for name in re.findall(r"`((?:customer|tier|daily|pipeline|service|data_quality)_\w+)`", text_of(page)):
        assert name in MARTS.keys() | columns | codes | {"service_actions", TIER_INPUT, TIER_INPUT_PATCH}, (
            f"{name_of(page)}: {name}"
        )


# ------------------------------------------------------------------------------------------------------------- running


def environment() -> dict[str, str]:
    """This one, with the `wattier` of the tests' own interpreter first."""
    bin_folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]])}


def shell(script: str, folder: Path) -> str:
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit {done.returncode} of:\n{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `WAREHOUSE` has been run. It stays as it is: the marts of its copies name its files."""
    folder = tmp_path_factory.mktemp("ready")
    shell(WAREHOUSE, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_commands_run(page: Path, tmp_path: Path, ready: Path) -> None:
    (tmp_path / "docs").symlink_to(DOCS)  # as in a checkout
    if page.parent.name == "how-to":
        shutil.copytree(ready / "mine", tmp_path / "mine")
    for block in BLOCK.findall(text_of(page)):
        shell(block, tmp_path)


@pytest.mark.slow
def test_the_demo_runs_and_says_where_the_marts_are(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo = f"WATTIER=wattier {DOCS}/examples/demo/run.sh {folder} 150 20"
    said = shell(demo, tmp_path)
    assert f"{folder}/warehouse/marts.duckdb" in said
    assert re.search(r"│ low_small +│ +[1-9]", said)
    assert re.search(r"cutoffs +21 +[1-9][0-9]* +0\n", said), "all cut-offs of 21 days, none differs"
    again = shell(demo.replace(" 150 20", " 150 3"), tmp_path)
    assert "Published generation 1, 3 service days made" in again, "an earlier demo is removed first"


@pytest.mark.slow
def test_a_failing_step_fails_the_demo_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    script = [str(DOCS / "examples" / "demo" / "run.sh")]
    broken = {**environment(), "WATTIER": "false"}
    folder = tmp_path / "demo"
    assert subprocess.run([*script, str(folder)], env=broken, capture_output=True, check=False).returncode == 1
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine", encoding="utf-8")
    refused = subprocess.run([*script, str(folder)], env=broken, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "move it away" in refused.stderr
    assert (folder / "thesis.txt").exists()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_sources_are_told_of_in_the_order_of_the_command(page: Path) -> None:
    for told in re.findall(r"(?:^\w+: [\d,]+ rows read.*\n)+", text_of(page), re.MULTILINE):
        sources = re.findall(r"^\w+", told, re.MULTILINE)
        assert sources == [source for source in TOLD if source in sources], name_of(page)


PRODUCER = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
AT = int(datetime(2025, 2, 1, tzinfo=UTC).timestamp() * 1000)
EXAMPLE = re.compile(r"^```yaml\n(sources:\n.*?)^```$", re.DOTALL | re.MULTILINE)


def test_mappings_that_a_page_shows_whole_are_accepted() -> None:
    """Every block that begins with `sources:` is a mapping; what it leaves out by `...` is not looked at."""
    shown = [(page, block) for page in PAGES for block in EXAMPLE.findall(text_of(page)) if "..." not in block]
    assert len(shown) >= 2
    for page, block in shown:
        assert parse_sources(yaml.safe_load(block)["sources"], name_of(page))


def test_the_producer_that_the_stream_page_shows_sends_what_its_mapping_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = text_of(DOCS / "how-to" / "stream.md")
    (mapping,), (producer,) = EXAMPLE.findall(page), PRODUCER.findall(page)
    sources = parse_sources(yaml.safe_load(mapping)["sources"], "stream.md")
    landing = tmp_path / "mine" / "landing"
    simulate(Settings(20, 4, 1, date(2025, 1, 1), landing, "csv", plain=True), lambda day: None)
    found = "account_id,event_id,event_type,event_date,revision\nA000000100,T1,theft_confirmed,2025-01-02,1\n"
    (landing / "conduct" / "conduct-20250103.csv").write_text(found)
    sent: dict[str, list[bytes]] = {mapping.topics[0]: [] for mapping in sources.values()}

    class Broker:
        def __init__(self, options: dict[str, str]) -> None:
            assert options == {"bootstrap.servers": yaml.safe_load(mapping)["kafka"]["bootstrap_servers"]}

        def produce(self, topic: str, value: str, key: str) -> None:
            assert key
            sent[topic].append(value.encode())

        def flush(self) -> None:
            pass

    monkeypatch.setattr(confluent_kafka, "Producer", Broker)
    monkeypatch.chdir(tmp_path)
    exec(compile(producer, "stream.md", "exec"), {})
    for folder, source in {
        "readings": "meter_readings",
        "ledger": "ledger_events",
        "conduct": "conduct_events",
    }.items():
        landed = sum(len(file.read_text().splitlines()) - 1 for file in (landing / folder).glob("*.csv"))
        messages, of = sent[sources[source].topics[0]], sources[source]
        decoded = decode_messages(messages, range(len(messages)), [AT] * len(messages), of, "t", 0, 10_000)
        assert decoded.rejects.num_rows == 0
        assert decoded.rows.num_rows == len(messages) == landed > 0
