"""Where a pipeline runs: a job server that is not there is named at once."""

from __future__ import annotations

import socket

import pytest

from pipelines.runner import new_pipeline
from schemas.errors import ConfigError


def test_a_job_server_that_is_not_there_is_named_with_what_to_do():
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        ConfigError, match=f"--job_endpoint=localhost:{port}: no job server answers there.*cluster.py up"
    ):
        new_pipeline(["--runner=PortableRunner", f"--job_endpoint=localhost:{port}"])


def test_one_that_answers_is_taken():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        assert new_pipeline(
            ["--runner=PortableRunner", f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK"]
        )


def test_a_runner_that_starts_its_own_needs_none():
    assert new_pipeline(["--runner=PrismRunner"])
