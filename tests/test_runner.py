"""Where a pipeline runs: a job server that is not there is named at once, and one that is knows its own options."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from pipelines import runner
from pipelines.runner import new_pipeline
from schemas.errors import ConfigError

BEAM = logging.getLogger("apache_beam.options.pipeline_options")


class JobServer(beam_job_api_pb2_grpc.JobServiceServicer):
    """Of a job server, what it says of its options."""

    def DescribePipelineOptions(self, request, context):
        named = [beam_job_api_pb2.PipelineOptionDescriptor(name=name) for name in ("checkpointing_interval", "fast")]
        return beam_job_api_pb2.DescribePipelineOptionsResponse(options=named)


@contextmanager
def job_server(servicer: beam_job_api_pb2_grpc.JobServiceServicer) -> Iterator[list[str]]:
    """A job server; the options that name it."""
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("localhost:0")
        server.start()
        try:
            yield ["--runner=PortableRunner", f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK"]
        finally:
            server.stop(None).wait()


@pytest.fixture
def warned(monkeypatch, caplog):
    """What Beam warns of, of options as a pipeline is run with them."""
    monkeypatch.setattr(BEAM, "filters", [])

    def of(options: list[str]) -> list[str]:
        caplog.clear()
        new_pipeline(options).options.get_all_options(retain_unknown_options=True, display_warnings=True)
        return [record.getMessage() for record in caplog.records if record.name == BEAM.name]

    return of


def test_a_job_server_that_is_not_there_is_named_with_what_to_do():
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        ConfigError, match=f"--job_endpoint=localhost:{port}: no job server answers there.*cluster.py up"
    ):
        new_pipeline(["--runner=PortableRunner", f"--job_endpoint=localhost:{port}"])


def test_of_options_that_the_job_server_knows_beam_does_not_warn_and_of_others_it_does(warned):
    with job_server(JobServer()) as options:
        told = warned([*options, "--checkpointing_interval=5000", "--fast", "--faster", "--checkpoint=1"])
    assert [line.split(". Did")[0] for line in told] == [
        "Unparseable argument: --faster", "Unparseable argument: --checkpoint=1",
    ]  # fmt: skip


def test_where_a_job_server_does_not_say_what_it_knows_beam_warns_as_ever(warned):
    with job_server(beam_job_api_pb2_grpc.JobServiceServicer()) as options:
        assert warned([*options, "--swift"]) == ["Unparseable argument: --swift"]


def test_one_that_answers_nothing_is_taken(monkeypatch):
    monkeypatch.setattr(runner, "ANSWERS_WITHIN", 0.05)
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        assert new_pipeline(
            ["--runner=PortableRunner", f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK"]
        )


def test_a_runner_that_starts_its_own_needs_none():
    assert new_pipeline(["--runner=PrismRunner"])
