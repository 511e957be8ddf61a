"""Flink's REST interface: which jobs of a name run, their end, and what is said where it does not answer."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from pipelines import flink_jobs
from pipelines.config import load_config
from pipelines.stream import StreamSettings, stream
from pipelines.templates import write_templates
from schemas.errors import ConfigError

JOBS = [
    {"jid": "a1", "name": "wattier-1", "state": "RUNNING"},
    {"jid": "a2", "name": "wattier-1", "state": "CANCELED"},
    {"jid": "b1", "name": "another", "state": "RUNNING"},
]


@contextmanager
def page(*said: bytes, status: int = 200, patched: int = 202) -> Iterator[tuple[str, list[str]]]:
    """A server that says one thing after the other, and then the last again; its URL, and what it is asked."""
    asked: list[str] = []
    answers = list(said)

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(status, answers.pop(0) if len(answers) > 1 else answers[0])

        def do_PATCH(self) -> None:
            self.answer(patched, b"{}")

        def answer(self, code: int, text: bytes) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("localhost", 0), Page) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_jobs_of_a_name_that_run_are_found_and_stopped():
    with page(json.dumps({"jobs": JOBS}).encode()) as (url, asked):
        assert flink_jobs.running(f"{url}/", "wattier-1") == ["a1"]
        flink_jobs.cancel(url, "wattier-1")
    assert asked == ["GET /jobs/overview", "GET /jobs/overview", "PATCH /jobs/a1?mode=cancel"]


def test_a_job_that_ends_by_itself_meanwhile_is_no_fault_and_one_that_does_not_is():
    runs, ended = (json.dumps({"jobs": jobs}).encode() for jobs in (JOBS, JOBS[1:]))
    with page(runs, ended, patched=409) as (url, _):
        flink_jobs.cancel(url, "wattier-1")
    with page(runs, patched=409) as (url, _), pytest.raises(ConfigError, match="409 Conflict"):
        flink_jobs.cancel(url, "wattier-1")


def assert_refused(url: str, why: str) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"--flink={url}: no job manager of Flink answers there ({why}")
    ) as told:
        flink_jobs.look_for(url)
    assert "\n" not in str(told.value)
    assert "cluster.py up" in str(told.value)


def test_a_dead_port_is_named_with_what_to_do():
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    assert_refused(f"http://localhost:{port}", "Connection refused")


def test_a_stream_asks_before_it_begins_anything(tmp_path):
    config = load_config(write_templates(tmp_path)[0])
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match="no job manager"):
        next(stream(config, [], StreamSettings(flink=f"http://localhost:{port}")))
    assert not (tmp_path / "warehouse").exists()


def test_a_port_of_something_else_is_named():
    assert_refused("localhost:8081", "unknown url type")
    with page(b"<html>") as (url, _):
        assert_refused(url, "what answers says b'<html>'")
    with page(b'["jobs"]') as (url, _):
        assert_refused(url, "what answers says")
    with page(b"", status=404) as (url, _):
        assert_refused(url, "404 Not Found")
    with socket.create_server(("localhost", 0)) as server:
        url = f"http://localhost:{server.getsockname()[1]}"

        def hang_up() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"no HTTP\r\n")

        thread = Thread(target=hang_up)
        thread.start()
        assert_refused(url, "no HTTP")
        thread.join()
