"""The deployment files are fresh, and valid by the schemas of those who read them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema.validators import validator_for

from infra import fetch
from infra.deploy import generate
from infra.flink import parts
from tests.clusters import ROOT

SCHEMAS = Path(__file__).parent / "schemas"
DEPLOY = ROOT / "infra" / "deploy"


def errors(schema: dict, document: object) -> list[str]:
    kind = validator_for(schema)
    kind.check_schema(schema)
    return [f"{error.json_path}: {error.message}" for error in kind(schema).iter_errors(document)]


def schema(name: str) -> dict:
    return json.loads((SCHEMAS / name).read_text())


@pytest.fixture
def compose():
    return yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())


@pytest.fixture
def manifests():
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    return {document["kind"]: document for document in documents}


def test_the_files_are_fresh():
    stale = [path.name for path, text in generate.files().items() if path.read_text() != text]
    assert not stale, "run `python infra/deploy/generate.py`"


def test_check_says_what_is_stale(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "HERE", tmp_path)
    assert generate.main(["--check"]) == 1
    assert "docker-compose.yaml is stale: run python infra/deploy/generate.py" in capsys.readouterr().out
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


def test_compose_is_valid(compose):
    assert errors(schema("compose-spec.json"), compose) == []


def test_the_compose_schema_finds_faults(compose):
    compose["services"]["kafka"]["port"] = 1
    assert errors(schema("compose-spec.json"), compose)


def test_the_flink_deployment_is_valid(manifests):
    assert errors(schema("flinkdeployment.json"), manifests["FlinkDeployment"]) == []


def test_the_flink_schema_finds_faults(manifests):
    manifests["FlinkDeployment"]["spec"]["taskManager"]["podTemplate"]["spec"]["containers"][0]["volumeMount"] = []
    assert errors(schema("flinkdeployment.json"), manifests["FlinkDeployment"])


def test_the_job_servers_pod_is_valid(manifests):
    whole = schema("flinkdeployment.json")
    pod = {"$schema": whole["$schema"], "definitions": whole["definitions"], "$ref": "#/definitions/podTemplate"}
    assert errors(pod, manifests["Deployment"]["spec"]["template"]) == []


def test_flink_is_set_the_same_way_everywhere(compose, manifests):
    common = parts.settings()["flink"]["config"]
    kubernetes = manifests["FlinkDeployment"]["spec"]["flinkConfiguration"]
    properties = dict(
        line.split(": ", 1)
        for line in compose["services"]["job-manager"]["environment"]["FLINK_PROPERTIES"].splitlines()
    )
    for key, value in common.items():
        assert kubernetes[key] == properties[key] == value


def test_volumes_and_dependencies_exist(compose):
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert {mount.split(":")[0] for mount in service.get("volumes", [])} <= set(compose["volumes"])


def test_only_loopback_is_published(compose):
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_image_is_built_from_the_lock_and_the_checkout():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    sources = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    assert all((ROOT / name).exists() for name in sources)
    kept = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert set(sources) <= set(kept)
    assert any(line.endswith(f"_sdk:{fetch.versions()['beam']['version']} AS sdk") for line in lines)
