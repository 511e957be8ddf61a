"""What a local Flink cluster consists of: its settings, its configuration file, its processes and their commands."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra import fetch
from infra.processes import Part

HERE = Path(__file__).resolve().parent
PACKAGE = "org.apache.flink.runtime"
RESOURCES = "BASH_JAVA_UTILS_EXEC_RESULT:"

# Java modules that Flink opens to itself: the default of its env.java.opts.all.
EXPORTS = [
    "java.base/sun.net.util",
    "java.rmi/sun.rmi.registry",
    *(f"jdk.compiler/com.sun.tools.javac.{part}" for part in ("api", "file", "parser", "tree", "util")),
    "java.security.jgss/sun.security.krb5",
]
OPENS = [
    *(f"java.base/java.{part}" for part in ("lang", "net", "io", "nio", "lang.reflect", "text", "time", "util")),
    "java.base/sun.nio.ch",
    *(f"java.base/java.util.concurrent{part}" for part in ("", ".atomic", ".locks")),
]
MODULES = [f"--add-exports={m}=ALL-UNNAMED" for m in EXPORTS] + [f"--add-opens={m}=ALL-UNNAMED" for m in OPENS]

LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = File
appender.file.name = File
appender.file.type = RollingFile
appender.file.fileName = ${sys:log.file}
appender.file.filePattern = ${sys:log.file}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSSX}{UTC} %-5p %-60c %x - %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 64MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
"""


def settings() -> dict[str, Any]:
    """The content of settings.toml."""
    return tomllib.loads((HERE.parent / "settings.toml").read_text())


@dataclass(frozen=True)
class Cluster:
    """A local cluster: where it keeps its files, how large it is, which ports it takes."""

    folder: Path
    task_managers: int
    slots: int
    job_manager_memory: str
    task_manager_memory: str
    job_server_heap: str
    state_cache_mb: int
    ports: Mapping[str, int]
    checkpoints: str
    job_server_jar: str | None = None
    config: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("task_managers", "slots"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, at least 1 is needed")

    @property
    def parallelism(self) -> int:
        """What a job can use of this machine."""
        return min(self.task_managers * self.slots, os.cpu_count() or 1)

    def all_ports(self) -> list[int]:
        """Every port that the cluster binds by number."""
        return [*self.ports.values(), *(self.ports["metrics"] + 1 + n for n in range(self.task_managers))]


def ports_from(base: int) -> dict[str, int]:
    """Ports in a row from `base` on, so that several clusters may run; the task managers' metrics come last."""
    order = ["page", "rpc", "blob", "job", "artifact", "expansion", "pool", "metrics"]
    return {name: base + n for n, name in enumerate(order)}


def flink_config(cluster: Cluster) -> dict[str, str]:
    """Flink's configuration, every key flat. What the user gave wins."""
    common: Mapping[str, str] = settings()["flink"]["config"]
    return {
        **common,
        "jobmanager.rpc.address": "localhost",
        "jobmanager.bind-host": "localhost",
        "jobmanager.rpc.port": str(cluster.ports["rpc"]),
        "jobmanager.memory.process.size": cluster.job_manager_memory,
        "blob.server.port": str(cluster.ports["blob"]),
        "rest.address": "localhost",
        "rest.bind-address": "localhost",
        "rest.port": str(cluster.ports["page"]),
        "taskmanager.host": "localhost",
        "taskmanager.bind-host": "localhost",
        "taskmanager.numberOfTaskSlots": str(cluster.slots),
        "taskmanager.memory.process.size": cluster.task_manager_memory,
        "state.checkpoints.dir": cluster.checkpoints,
        "state.savepoints.dir": cluster.checkpoints,
        **cluster.config,
    }


def write_config(cluster: Cluster) -> Path:
    """conf/ with config.yaml and log4j.properties."""
    conf = cluster.folder / "conf"
    conf.mkdir(parents=True, exist_ok=True)
    lines = [f"{key}: {value}\n" for key, value in flink_config(cluster).items()]
    (conf / "config.yaml").write_text("".join(lines))
    (conf / "log4j.properties").write_text(LOGGING)
    return conf


def resources(java: str, home: Path, conf: Path, which: str) -> tuple[list[str], list[str]]:
    """Flags of the JVM and -D options that Flink works out from the process size; `which` is JM or TM."""
    utils = f"{PACKAGE}.util.bash.BashJavaUtils"
    classes = f"{home}/bin/bash-java-utils.jar{os.pathsep}{home}/lib/*"
    command = [java, "-cp", classes, utils, f"GET_{which}_RESOURCE_PARAMS", "--configDir", str(conf)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line.removeprefix(RESOURCES) for line in done.stdout.splitlines() if line.startswith(RESOURCES)]
    if len(found) != 2:
        told = [line for line in (done.stdout + done.stderr).splitlines() if "Exception" in line]
        raise fetch.Missing(f"Flink rejects its configuration: {told[0] if told else done.stderr.strip()[:300]}")
    return shlex.split(found[0]), shlex.split(found[1])


def class_path_jar(conf: Path, home: Path, job_server: Path) -> Path:
    """A jar that holds nothing but the class path of Flink and Beam, for the job server and for Flink's processes.

    A job then brings no jars along, where the job server otherwise sends Flink its whole class path, 150 MB, with each
    job, and every task manager loads it again after each restart. The job server finds what to send by scanning its
    class path; the title keeps the scanner out of this jar, as out of Java's own.
    """
    jars = sorted((home / "lib").glob("*.jar"))
    jars += [jar for jar in sorted(job_server.glob("*.jar")) if not jar.name.startswith("flink-")]
    manifest = [
        "Manifest-Version: 1.0",
        "Implementation-Title: Java Runtime Environment",
        "Class-Path: " + " ".join(jar.as_uri() for jar in jars),
    ]
    path = conf / "class-path.jar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "".join(map(manifest_line, manifest)))
    return path


def manifest_line(line: str) -> str:
    """A line of at most 72 bytes, the rest on lines that begin with a space."""
    return "\r\n ".join([line[:70], *(line[n : n + 69] for n in range(70, len(line), 69))]) + "\r\n"


def flink_parts(cluster: Cluster, java: str, home: Path, conf: Path, class_path: str) -> list[Part]:
    """The job manager and the task managers."""
    environment = {"FLINK_PLUGINS_DIR": str(home / "plugins"), "FLINK_CONF_DIR": str(conf)}
    main = {
        "JM": f"{PACKAGE}.entrypoint.StandaloneSessionClusterEntrypoint",
        "TM": f"{PACKAGE}.taskexecutor.TaskManagerRunner",
    }

    def part(name: str, which: str, metrics_port: int, *more: str) -> Part:
        flags, options = resources(java, home, conf, which)
        scratch = cluster.folder / "scratch" / name
        scratch.mkdir(parents=True, exist_ok=True)
        jvm = [java, *flags, *MODULES, *_logging(cluster, conf, name), f"-Djava.io.tmpdir={scratch}"]
        own = [f"io.tmp.dirs={scratch}", f"metrics.reporter.prom.port={metrics_port}", *more]
        arguments = ["--configDir", str(conf), *options, *(word for option in own for word in ("-D", option))]
        return Part(name, [*jvm, "-cp", class_path, main[which], *arguments], environment)

    metrics = cluster.ports["metrics"]
    return [
        part("job-manager", "JM", metrics),
        *(
            part(f"task-manager-{n}", "TM", metrics + n, f"taskmanager.resource-id=task-manager-{n}")
            for n in range(1, cluster.task_managers + 1)
        ),
    ]


def job_server_part(cluster: Cluster, java: str, class_path: str, conf: Path) -> Part:
    """Beam's job server, which turns a Beam pipeline into a Flink job."""
    scratch = cluster.folder / "scratch" / "job-server"
    scratch.mkdir(parents=True, exist_ok=True)
    jvm = [java, f"-Xmx{cluster.job_server_heap}", *MODULES, *_logging(cluster, conf, "job-server")]
    options = {
        "flink-master": f"localhost:{cluster.ports['page']}",
        "flink-conf-dir": conf,
        "job-host": "localhost",
        "job-port": cluster.ports["job"],
        "artifact-port": cluster.ports["artifact"],
        "expansion-port": cluster.ports["expansion"],
        "artifacts-dir": scratch / "artifacts",
    }
    driver = "org.apache.beam.runners.flink.FlinkJobServerDriver"
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return Part("job-server", [*jvm, f"-Djava.io.tmpdir={scratch}", "-cp", class_path, driver, *arguments])


def pool_part(cluster: Cluster) -> Part:
    """The pool of Python workers, of the environment whose interpreter runs this script."""
    command = [sys.executable, "-u", str(HERE / "pool.py"), "--port", str(cluster.ports["pool"])]
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Part("worker-pool", [*command, "--state-cache-mb", str(cluster.state_cache_mb)], environment)


def beam_options(cluster: Cluster) -> list[str]:
    """What to pass to a Beam pipeline that runs here."""
    ports = cluster.ports
    return [
        "--runner=PortableRunner",
        f"--job_endpoint=localhost:{ports['job']}",
        f"--artifact_endpoint=localhost:{ports['artifact']}",
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{ports['pool']}",
        f"--parallelism={cluster.parallelism}",
        f"--sdk_worker_parallelism={-(-cluster.parallelism // cluster.task_managers)}",
    ]


def _logging(cluster: Cluster, conf: Path, name: str) -> list[str]:
    log = cluster.folder / "logs" / f"{name}.log"
    return [f"-Dlog.file={log}", f"-Dlog4j.configurationFile={conf / 'log4j.properties'}"]
