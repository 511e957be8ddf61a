"""Where a pipeline runs: in this process, unless Beam's options say otherwise."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from schemas.errors import ConfigError

ANSWERS_WITHIN = 10.0
"""Seconds within which a job server takes a connection."""


def new_pipeline(beam_options: Sequence[str]) -> Any:
    """An empty pipeline. Without `--runner` it runs in process: nothing is downloaded.

    Worker processes (`--direct_running_mode=multi_processing`) import our coder at their start. The in-process runner
    does not pass Beam's options on to them, so it is told as provision. They do not look for modules in the working
    directory: a `transforms/` that lies there would shadow ours. Raises ConfigError where the job server that the options
    name does not answer: Beam would wait a minute, and say less.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import (
        DirectOptions,
        PipelineOptions,
        PortableOptions,
        SetupOptions,
        StandardOptions,
    )  # fmt: skip
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.job.utils import dict_to_struct
    from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner

    options = PipelineOptions(list(beam_options))
    setup = options.view_as(SetupOptions)
    setup.beam_plugins = [*(setup.beam_plugins or ()), "transforms.blocks"]
    if options.view_as(StandardOptions).runner not in (None, "FnApiRunner"):
        _look_for(options.view_as(PortableOptions).job_endpoint)
        return beam.Pipeline(options=options)
    if options.view_as(DirectOptions).direct_running_mode == "multi_processing":
        os.environ["PYTHONSAFEPATH"] = "1"  # the runner starts its workers with this process's environment
    told = {"beam_plugins": setup.beam_plugins, "default_sdk_harness_log_level": "WARNING"}
    provision = beam_provision_api_pb2.ProvisionInfo(
        retrieval_token="unused-retrieval-token",  # as Beam itself says
        pipeline_options=dict_to_struct({f"beam:option:{name}:v1": value for name, value in told.items()}),
    )
    return beam.Pipeline(runner=FnApiRunner(provision_info=ExtendedProvisionInfo(provision)), options=options)


def _look_for(endpoint: str | None) -> None:
    """Whether the job server takes connections. endpoint: host:port; None, or `embed`: the runner starts one itself."""
    host, _, port = (endpoint or "").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWERS_WITHIN).close()
    except OSError as error:
        raise ConfigError(
            f"--job_endpoint={endpoint}: no job server answers there ({error.strerror or error}). Start one (here: "
            "python infra/flink/cluster.py up, which prints the options), or name another"
        ) from None
