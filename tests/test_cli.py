"""The command line: light to start, plain when it refuses, and nothing but JSON where JSON is asked for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import EXIT_CODES, app
from pipelines.config import load_config
from pipelines.status import status
from pipelines.templates import write_templates
from schemas import errors
from schemas.errors import WattierError
from tests.feeding import streaming_config
from tests.recovery.commands import wattier

HEAVY = ("apache_beam", "great_expectations", "duckdb", "pyarrow", "pandas", "numpy")
COMMANDS = ("init", "simulate", "run", "status", "verify", "report", "query", "actions", "explain", "what-if", "gc")


def classes() -> list[type[WattierError]]:
    return [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, WattierError)]


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = f"""
import sys
sys.argv = ["wattier", *{arguments!r}]
from pipelines.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("HEAVY", sorted({{name.split(".")[0] for name in sys.modules}} & set({HEAVY!r})))
"""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("HEAVY []\n")
    assert "Usage: " in done.stdout


def test_help_names_every_command_and_the_exit_codes_of_the_errors(tmp_path: Path) -> None:
    text = wattier(tmp_path, "--help").out
    assert all(re.search(rf"^ +{command} ", text, re.MULTILINE) for command in COMMANDS)
    documented = {int(code): words for code, words in re.findall(r"\b(\d) ([^;.]+)[;.]", EXIT_CODES)}
    assert " ".join(EXIT_CODES.split()) in " ".join(text.split())
    assert sorted(documented) == list(range(9))
    by_code = {c.exit_code: c for c in classes()}
    assert len(by_code) == len(classes())
    assert by_code.keys() | {0} == documented.keys()
    for name, words in {
        "ConfigError": "configuration, mapping or policy", "FileFault": "cannot be read", "AuditFailed": "audit stopped",
        "Locked": "another run", "Mismatch": "mismatches", "Unbalanced": "not accounted for", "StateError": "is damaged",
    }.items():  # fmt: skip
        assert words in " ".join(documented[getattr(errors, name).exit_code].split())


@pytest.fixture
def utility(tmp_path: Path) -> Path:
    """A folder as `init` makes it."""
    write_templates(tmp_path / "utility")
    return tmp_path / "utility"


def test_init_writes_what_run_needs_and_says_what_is_next(tmp_path: Path) -> None:
    ended = wattier(tmp_path, "init", "utility")
    assert (ended.code, ended.err) == (0, "")
    assert {file.name for file in (tmp_path / "utility").iterdir()} == {
        "wattier.yaml", "policy.yaml", "capacity.yaml", "landing",
    }  # fmt: skip
    assert "Next: " in ended.out


@pytest.mark.parametrize("taken", ["wattier.yaml", "policy.yaml"])
def test_init_overwrites_nothing(taken: str, tmp_path: Path) -> None:
    (tmp_path / "utility").mkdir()
    (tmp_path / "utility" / taken).write_text("mine")
    ended = wattier(tmp_path, "init", "utility")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"wattier: utility/{taken} is there already; choose another folder, or remove it first.\n"
    assert [(file.name, file.read_text()) for file in (tmp_path / "utility").iterdir()] == [(taken, "mine")]


@pytest.mark.parametrize("command", [["run"], ["status"], ["verify", "--all"], ["query", "SELECT 1"], ["gc"]])
def test_without_a_configuration_the_message_says_how_to_make_one(command: list[str], tmp_path: Path) -> None:
    ended = wattier(tmp_path, *command)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("wattier: wattier.yaml: cannot be read")
    assert "wattier init" in ended.err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("shards: 4", "shards: 0", "shards"),
        ("landing: landing ", "landing: elsewhere ", "the landing folder is not there"),
        ("unit: kWh", "unit: kwh", "sources.meter_readings.columns.energy_wh.unit"),
        ("policy: policy.yaml", "policy: none.yaml", "none.yaml: cannot be read"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(old: str, new: str, words: str, utility: Path) -> None:
    config = utility / "wattier.yaml"
    assert config.read_text().count(old) == 1
    config.write_text(config.read_text().replace(old, new))
    ended = wattier(utility, "status")
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert "Traceback" not in ended.err


def test_wrong_usage_is_refused(tmp_path: Path) -> None:
    for arguments in (["turn"], ["simulate", "--accounts", "x"], ["run", "--through", "tomorrow"], []):
        assert wattier(tmp_path, *arguments).code == 2


@pytest.mark.parametrize("command", ["run", "stream"])
def test_an_option_of_beam_without_dashes_before_it_is_refused_with_a_hint(command: str, tmp_path: Path) -> None:
    ended = wattier(tmp_path, command, "--runner=PrismRunner")
    assert (ended.code, ended.out) == (2, "")
    hint = f"No such option: --runner. Is it Beam's? Those go after --: wattier {command} -- --runner\n"
    assert ended.err.endswith(hint)
    assert "Beam" not in wattier(tmp_path, "status", "--runner=PrismRunner").err


def test_before_the_first_run(utility: Path) -> None:
    facts = wattier(utility, "status", "--json")
    assert json.loads(facts.out) == {
        "generation": 0,
        "published": "nothing yet",
        "files_waiting": 0,
        "files_of_no_source": 0,
    }
    ended = wattier(utility, "query", "SELECT 1")
    assert ended.code == 8
    assert "nothing has been published. Start with `wattier run`." in ended.err


def test_files_of_a_source_that_comes_from_topics_are_no_fault(tmp_path: Path) -> None:
    config, *_ = write_templates(tmp_path)
    config.write_text(
        streaming_config(config.read_text(), "broker:9092").replace("topics: meters", 'files: "meters-*"')
    )
    (tmp_path / "landing" / "readings").mkdir()
    (tmp_path / "landing" / "readings" / "readings-20250102.csv").write_text("meter_id\n")
    topics = "meter_readings, ledger_events, conduct_events, accounts"
    assert CliRunner().invoke(app, ["run", "--config", str(config)]).output.splitlines() == [
        "1 files in the landing folder are of no source, and were left aside. From topics, by wattier stream, come "
        f"{topics}.",
        "Nothing new has landed; generation 0 stands.",
    ]  # fmt: skip
    facts = status(load_config(config))
    assert (facts["files_waiting"], facts["files_of_no_source"], facts["sources_of_topics"]) == (0, 1, topics)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published utility, each step by the command line; all of it asked for as JSON."""
    root = tmp_path_factory.mktemp("cli")
    assert wattier(root, "init", "utility").code == 0
    folder = root / "utility"
    for command in (["simulate", "--accounts", "12", "--days", "6", "--out", "landing", "--plain"], ["run"]):
        ended = wattier(folder, *command, "--json")
        assert (ended.code, ended.err) == (0, "")
        (folder / f"{command[0]}.json").write_text(ended.out)
    return folder


@pytest.mark.slow
def test_simulate_and_run_print_json_and_nothing_else(published: Path) -> None:
    simulated, run = (json.loads((published / f"{name}.json").read_text()) for name in ("simulate", "run"))
    assert simulated["accounts"] >= 12
    assert (run["generation"], run["published"], run["days"]) == (1, True, 6)
    assert run["counts"]["meter_readings"]["read"] == simulated["rows"]["readings"]


@pytest.mark.slow
def test_other_commands_print_json_and_nothing_else(published: Path) -> None:
    def asked(*arguments: str) -> object:
        ended = wattier(published, *arguments, "--json")
        assert (ended.code, ended.err) == (0, "")
        return json.loads(ended.out)

    assert asked("status")["service_days"] == 6
    assert asked("query", "SELECT min(service_date) AS day, count(DISTINCT service_date) AS n FROM features") == [
        {"day": "2025-01-01", "n": 6}
    ]
    assert asked("query", "SELECT 1.50::DECIMAL(4, 2) AS price") == [{"price": "1.50"}]
    assert asked("verify", "--all")["ok"] is True
    assert set(asked("gc")) == {"files", "bytes"}
    (account,) = asked("query", "SELECT account_id, tier FROM customer_tiers_current LIMIT 1")
    told = asked("explain", account["account_id"])
    assert (told["tier"], told["service_date"]) == (account["tier"], "2025-01-06")
    assert asked("run")["published"] is False


@pytest.mark.slow
def test_explain_and_what_if_speak_english_or_chinese_or_refuse(published: Path) -> None:
    days = ["policy.yaml", "--from", "2025-01-03", "--to", "2025-01-06"]
    for arguments, words in {("explain", "A000000000"): "级别：", ("what-if", *days): "试算策略"}.items():
        assert words in wattier(published, *arguments, "--lang", "zh").out
        ended = wattier(published, *arguments, "--lang", "xx")
        assert (ended.code, ended.out, ended.err) == (2, "", "wattier: --lang 'xx': must be en or zh\n")
    ended = wattier(published, "explain", "\x1b[2J")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "wattier: account '\ufffd[2J' is not known: no tier of it is published\n"


@pytest.mark.slow
def test_queries_are_answered_or_refused_in_words(published: Path) -> None:
    ended = wattier(published, "query", "SELECT 42 AS answer")
    assert (ended.code, ended.err) == (0, "")
    assert "42" in ended.out
    for sql, words in {
        "SELECT nothing FROM features": 'column "nothing" not found',
        "SELEKT 1": "syntax error",
        "SELECT * FROM marts": "Table with name marts does not exist",
        "DELETE FROM service_days": "read-only",
        "SELECT account_id::INTEGER FROM features": "Could not convert string",
    }.items():
        ended = wattier(published, "query", sql)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith("wattier: the query was refused: ")
        assert words in ended.err
        assert "Traceback" not in ended.err


@pytest.mark.slow
def test_a_second_run_is_refused_while_one_is_at_work(published: Path) -> None:
    from pipelines.warehouse import Warehouse

    with Warehouse(str(published / "warehouse")).lock():
        ended = wattier(published, "run")
    assert (ended.code, ended.out) == (5, "")
    assert "another run is at work (process " in ended.err


def test_a_report_in_a_language_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_templates(tmp_path)
    done = wattier(tmp_path, "report", "--lang", "fr")
    assert (done.code, "--lang 'fr': must be en or zh" in done.err) == (2, True)
    done = wattier(tmp_path, "report")
    assert (done.code, "nothing has been published" in done.err) == (8, True)
