"""Where a pipeline runs: in this process, unless Beam's options say otherwise."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Sequence
from functools import cache
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

    class Options(PipelineOptions):
        """Beam asks for the same few views hundreds of times, and parses the arguments each time."""

        def view_as(self, cls: type[PipelineOptions]) -> PipelineOptions:
            views = self.__dict__.setdefault("views", {})
            if cls not in views:
                views[cls] = super().view_as(cls)
            return views[cls]

    options = Options(list(beam_options))
    setup = options.view_as(SetupOptions)
    setup.beam_plugins = [*(setup.beam_plugins or ()), "transforms.blocks"]
    if options.view_as(StandardOptions).runner not in (None, "FnApiRunner"):
        endpoint = options.view_as(PortableOptions).job_endpoint
        if _look_for(endpoint):
            _no_warnings_of_options_of(endpoint)
        return beam.Pipeline(options=options)
    if options.view_as(DirectOptions).direct_running_mode == "multi_processing":
        os.environ["PYTHONSAFEPATH"] = "1"  # the runner starts its workers with this process's environment
    told = {"beam_plugins": setup.beam_plugins, "default_sdk_harness_log_level": "WARNING"}
    provision = beam_provision_api_pb2.ProvisionInfo(
        retrieval_token="unused-retrieval-token",  # as Beam itself says
        pipeline_options=dict_to_struct({f"beam:option:{name}:v1": value for name, value in told.items()}),
    )
    return beam.Pipeline(runner=FnApiRunner(provision_info=ExtendedProvisionInfo(provision)), options=options)


def _look_for(endpoint: str | None) -> bool:
    """Whether there is a job server, which then takes connections. endpoint: host:port; None, or `embed`: the runner starts
    one itself. Raises ConfigError.
    """
    host, _, port = (endpoint or "").rpartition(":")
    if not port.isdigit():
        return False
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWERS_WITHIN).close()
    except OSError as error:
        raise ConfigError(
            f"--job_endpoint={endpoint}: no job server answers there ({error.strerror or error}). Start one (here: "
            "python infra/flink/cluster.py up, which prints the options), or name another"
        ) from None
    return True


@cache
def _no_warnings_of_options_of(endpoint: str) -> None:
    """Beam warns of every option that its Python part does not know, before it asks the job server for those it knows.

    Here the job server is asked first. Of an option that neither knows, say one misspelt, is still warned.
    """
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

    try:
        with grpc.insecure_channel(endpoint) as channel:
            asked = beam_job_api_pb2.DescribePipelineOptionsRequest()
            said = beam_job_api_pb2_grpc.JobServiceStub(channel).DescribePipelineOptions(asked, timeout=ANSWERS_WITHIN)
    except grpc.RpcError:  # it does not say: then Beam warns of all
        return
    known = {f"--{option.name}" for option in said.options}

    def unknown(record: logging.LogRecord) -> bool:
        named = re.match(r"Unparseable argument: (--\w+)", record.getMessage())
        return named is None or named[1] not in known

    logging.getLogger("apache_beam.options.pipeline_options").addFilter(unknown)
