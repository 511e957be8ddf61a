"""A local Flink cluster that runs Beam pipelines: `python infra/flink/cluster.py up|status|down`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from infra import commands, fetch, supervisor
from infra.flink import parts
from infra.flink.parts import Cluster
from infra.processes import Failed, Part, Run, accepts, free, get_json, wait_for

# Without the last, what a bundle gave just before a checkpoint waits for the next bundle, which may never come.
STREAMING = [
    "--streaming", "--checkpointing_interval=5000", "--max_bundle_time_mills=200", "--finish_bundle_before_checkpointing",
]  # fmt: skip


def up(cluster: Cluster, timeout_s: float = 120.0) -> dict[str, Any]:
    """Start what does not run, wait until all is healthy; where things are. Raises Missing or Failed."""
    run = Run(cluster.folder)
    with run.lock():
        began = time.monotonic()
        saved, about = run.saved()
        alive, running = bool(saved and run.members()), run.pid(supervisor.NAME) is not None
        if alive and about != _about(cluster):
            raise Failed(f"{run.folder} is up with other settings; `down` first, or name another --run-dir")
        if not alive:
            run.stop(grace_s=5.0)
            about = _about(cluster)
            run.save(_prepare(cluster), about)
        if not running:
            script = str(Path(supervisor.__file__).resolve())
            run.start(Part(supervisor.NAME, [sys.executable, "-u", "-P", script, str(run.folder)]))
        try:
            _wait(run, cluster, timeout_s)
        except Failed as failure:
            if not alive:
                run.stop(grace_s=5.0)
                run.forget()
            raise Failed(f"{failure}; logs: {run.folder / 'logs'}") from None
        return about | {"already_up": running, "seconds": round(time.monotonic() - began, 1)}


def down(folder: Path) -> bool:
    """Stop everything of this run, whoever its parent is; logs and checkpoints stay. Whether there was anything."""
    run = Run(folder)
    with run.lock():
        pid = run.pid(supervisor.NAME)
        found = bool(run.members())
        if pid:
            run.stop(20.0, session=pid)
        run.stop(10.0)
        run.forget()
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        return found


def status(folder: Path) -> dict[str, Any]:
    """Each part's pid, and what Flink says of itself."""
    run = Run(folder)
    saved, about = run.saved()
    pids = {name: run.pid(name) for name in (supervisor.NAME, *(part.name for part in saved))} if saved else {}
    flink = get_json(f"{about['page']}/overview") if about else None
    running = bool(saved) and all(pids.values()) and flink is not None
    restarts = {name: count for name, (count, _) in run.counted().items()}
    return {"up": running, "pids": pids, "restarts": restarts, "flink": flink} | about


def _prepare(cluster: Cluster) -> list[Part]:
    """Fetch and write all that the parts need; their commands."""
    java, cache = fetch.java(), fetch.cache_dir()
    jars = None if cluster.job_server_jar else fetch.job_server_jars(cache)
    home = fetch.flink_libraries(cache)
    if taken := [port for port in cluster.all_ports() if not free(port)]:
        raise Failed(f"ports {taken} are in use; --port-base takes others")
    conf = parts.write_config(cluster)
    class_path = str(parts.class_path_jar(conf, home, jars)) if jars else f"{home}/lib/*"
    return [
        *parts.flink_parts(cluster, java, home, conf, class_path),
        parts.job_server_part(cluster, java, cluster.job_server_jar or class_path, conf),
        parts.pool_part(cluster),
    ]


def _wait(run: Run, cluster: Cluster, timeout_s: float) -> None:
    """Until Flink has its slots, and the job server and the pool accept connections."""
    page = f"http://localhost:{cluster.ports['page']}/overview"

    def slots() -> bool:
        said = get_json(page) or {}
        return said.get("slots-total") == cluster.task_managers * cluster.slots

    def answers(port: int) -> Callable[[], bool]:
        return lambda: accepts(port)

    waits = [(f"{cluster.task_managers} task managers of {cluster.slots} slots at {page}", slots)]
    waits += [
        (f"the {name} server at port {(port := cluster.ports[name])}", answers(port)) for name in ("job", "artifact")
    ]
    waits += [(f"the worker pool at port {(port := cluster.ports['pool'])}", answers(port))]
    for what, ready in waits:
        wait_for(_or_fail(run, ready), timeout_s, what)


def _or_fail(run: Run, ready: Callable[[], bool]) -> Callable[[], bool]:
    def asked() -> bool:
        if not ready():
            _raise_if_one_keeps_ending(run)
            return False
        return True

    return asked


def _raise_if_one_keeps_ending(run: Run) -> None:
    """Raises Failed, with the last line of its output, when a part ends as soon as it starts."""
    for name, (_, in_a_row) in run.counted().items():
        if in_a_row >= 3:
            lines = run.log(name).read_text(errors="replace").split("\n")
            told = [line for line in lines if line.strip() and not line.lstrip().startswith("at ")]
            raise Failed(f"{name} ends as soon as it starts: {told[-1].strip() if told else 'it says nothing'}")


def _about(cluster: Cluster) -> dict[str, Any]:
    """Where things are, for people and for scripts."""
    ports = cluster.ports
    first = ports["metrics"]
    return {
        "page": f"http://localhost:{ports['page']}",
        "job_endpoint": f"localhost:{ports['job']}",
        "worker_pool": f"localhost:{ports['pool']}",
        "metrics": [f"http://localhost:{first + n}/metrics" for n in range(cluster.task_managers + 1)],
        "logs": str(cluster.folder / "logs"),
        "checkpoints": cluster.checkpoints,
        "options": parts.beam_options(cluster),
        "streaming_options": STREAMING,
        "settings": json.loads(json.dumps(asdict(replace(cluster, ports=dict(ports))), default=str)),
    }


def _text(about: dict[str, Any]) -> str:
    """What `up` prints."""
    first = "already up" if about["already_up"] else f"up after {about['seconds']:.0f} s"
    lines = [f"Flink is {first}."]
    lines += [f"  {name:<12} {about[name]}" for name in ("page", "job_endpoint", "worker_pool", "logs", "checkpoints")]
    lines += [f"  {'metrics':<12} {' '.join(about['metrics'])}"]
    lines += ["", "Beam options:", f"  {' '.join(about['options'])}"]
    lines += ["and for a stream:", f"  {' '.join(about['streaming_options'])}"]
    return "\n".join(lines)


# ---- command line -----------------------------------------------------------------------------------------------------


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    given = parts.settings()["flink"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("--run-dir", type=Path, default=Path(".infra/flink"), help="conf, logs, pids, checkpoints")
    parser.add_argument("--json", action="store_true", help="say it as JSON")
    parser.add_argument("--task-managers", type=int, default=given["task_managers"])
    parser.add_argument("--slots", type=int, default=given["slots"], help="of each task manager")
    parser.add_argument("--job-manager-memory", default=given["job_manager_memory"], help="of the whole process")
    parser.add_argument("--task-manager-memory", default=given["task_manager_memory"], help="of the whole process")
    parser.add_argument("--job-server-heap", default=given["job_server_heap"])
    parser.add_argument("--state-cache-mb", type=int, default=given["state_cache_mb"], help="of each Python worker")
    parser.add_argument("--port-base", type=int, help="take ports in a row from here on instead of the usual ones")
    parser.add_argument("--checkpoints", metavar="URI", help="where checkpoints go (default: in the run folder)")
    parser.add_argument("--job-server-jar", type=Path, metavar="FILE", help="Beam's one-file job server")
    parser.add_argument("--config", action="append", default=[], metavar="KEY=VALUE", help="a Flink setting")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS")
    return parser.parse_args(arguments)


def cluster_of(chosen: argparse.Namespace) -> Cluster:
    """The cluster that the command line asks for. Raises Missing for a jar that is not there."""
    folder = chosen.run_dir.resolve()
    jar = chosen.job_server_jar
    if jar and not jar.is_file():
        raise fetch.Missing(f"--job-server-jar {jar}: no such file")
    return Cluster(
        folder=folder,
        task_managers=chosen.task_managers,
        slots=chosen.slots,
        job_manager_memory=chosen.job_manager_memory,
        task_manager_memory=chosen.task_manager_memory,
        job_server_heap=chosen.job_server_heap,
        state_cache_mb=chosen.state_cache_mb,
        ports=parts.ports_from(chosen.port_base) if chosen.port_base else parts.settings()["flink"]["ports"],
        checkpoints=chosen.checkpoints or (folder / "checkpoints").as_uri(),
        job_server_jar=str(jar.resolve()) if jar else None,
        config=dict(pair.split("=", 1) for pair in chosen.config),
    )


def main() -> int:
    """Do what the command line says; the exit code."""
    chosen = parse()
    folder = chosen.run_dir.resolve()
    return commands.answer(
        "cluster.py",
        chosen,
        lambda: up(cluster_of(chosen), chosen.timeout),
        lambda: down(folder),
        lambda: status(folder),
        _text,
    )


if __name__ == "__main__":
    sys.exit(main())
