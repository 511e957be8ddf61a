"""What docker compose and Kubernetes have in common: images, Flink's keys, the job server's arguments."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

Mapping = dict[str, Any]


def images(versions: Mapping, settings: Mapping) -> dict[str, str]:
    """The image of each part."""
    beam, flink = versions["beam"], versions["flink"]
    return {
        "flink": f"flink:{flink['version']}-scala_2.12-java{versions['java']}",
        "job-server": f"apache/beam_flink{flink['series']}_job_server:{beam['job_server']}",
        "sdk": f"apache/beam_python{versions['python']}_sdk:{beam['version']}",
        "python": f"python:{versions['python']}-slim",
        "kafka": f"apache/kafka:{versions['kafka']['version']}",
        "worker": f"{settings['deploy']['image']}:{_release()}",
    }


def _release() -> str:
    """The version of the wattier package in this checkout."""
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def flink_config(settings: Mapping) -> dict[str, str]:
    """Flink's keys for a cluster of containers."""
    flink, shared = settings["flink"], settings["deploy"]["shared"]
    return {
        **flink["config"],
        "metrics.reporter.prom.port": str(flink["ports"]["metrics"]),
        "taskmanager.numberOfTaskSlots": str(flink["slots"]),
        "state.checkpoints.dir": f"file://{shared}/checkpoints",
        "state.savepoints.dir": f"file://{shared}/savepoints",
    }


def job_server(settings: Mapping, master: str) -> list[str]:
    """Arguments of Beam's job server; task managers read staged artifacts from the same folder."""
    ports = settings["flink"]["ports"]
    return [
        f"--flink-master={master}",
        "--job-host=0.0.0.0",
        f"--job-port={ports['job']}",
        f"--artifact-port={ports['artifact']}",
        f"--expansion-port={ports['expansion']}",
        f"--artifacts-dir={settings['deploy']['shared']}/artifacts",
    ]
