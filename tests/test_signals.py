"""Ctrl-C and SIGTERM: an end at once until a job is submitted, a wish from then on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.templates import write_templates
from pipelines.warehouse import Warehouse
from tests.feeding import streaming_config

WAITS_IN_A_LIBRARY = """
from confluent_kafka import Consumer
from pipelines.signals import Signals
signals = Signals()
consumer = Consumer({"bootstrap.servers": "localhost:%d", "group.id": "x", "log_level": "0"})
print("waits", flush=True)
consumer.list_topics(timeout=600)
"""

SUBMITS = """
from pipelines.signals import Signals
signals = Signals()
signals.submit()
print("waits", flush=True)
assert signals.asked.wait(60) and not signals.stopped.is_set()
print("asked", flush=True)
assert signals.stopped.wait(60)
print("stopped", flush=True)
"""


def python(code: str) -> subprocess.Popen[str]:
    """A process of some code that has come to where it waits."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_a_job_is_submitted_a_signal_ends_the_process_also_while_a_library_waits(number: int) -> None:
    with (
        socket.create_server(("localhost", 0)) as silent,
        python(WAITS_IN_A_LIBRARY % silent.getsockname()[1]) as process,
    ):
        process.send_signal(signal.SIGUSR1)  # a wish for later
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert process.communicate() == ("", "")


def test_from_then_on_it_only_asks_for_a_stop() -> None:
    with python(SUBMITS) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == ("stopped\n", "")
        assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stream_that_waits_for_its_broker_ends_at_once_and_leaves_the_warehouse_free(
    number: int, tmp_path: Path
) -> None:
    config, *_ = write_templates(tmp_path)
    with socket.create_server(("localhost", 0)) as silent:
        config.write_text(streaming_config(config.read_text(), f"localhost:{silent.getsockname()[1]}"))
        command = [sys.executable, "-P", "-m", "pipelines", "stream", "--config", str(config)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            silent.settimeout(60)
            silent.accept()[0].close()  # it asks for the topics
            process.send_signal(number)
            assert process.wait(60) == 128 + number
            assert process.communicate() == ("", "")
    with Warehouse(str(tmp_path / "warehouse")).lock():
        assert not (tmp_path / "warehouse" / "stream.json").exists()
