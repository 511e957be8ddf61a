"""The pool that starts Python workers for Flink: `python infra/flink/pool.py --port 50000 --state-cache-mb 0`.

Beam's own command, `worker_pool_main`, does the same with the state cache off, the `python` found on PATH, and the
workers' output into a pipe that nobody reads. This one starts workers with its own interpreter, which has the wattier
package, and lets them write to its log. A worker ends with its pool, however that ended.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import grpc  # type: ignore[import-untyped]
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer, kill_process_gracefully
from apache_beam.utils import thread_pool_executor

WORKER = """
import logging, os, threading, time
import transforms.blocks  # makes the coder of blocks known, as the Beam option beam_plugins does in Beam's own image
from apache_beam.runners.worker.sdk_worker import SdkHarness

def follow(pool):
    while os.getppid() == pool:
        time.sleep(1)
    os._exit(1)

logging.basicConfig(level=logging.INFO, force=True, format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s")
threading.Thread(target=follow, args=({pool},), daemon=True).start()
SdkHarness(
    {control!r},
    worker_id={worker_id!r},
    state_cache_size={state_cache_bytes},
    data_buffer_time_limit_ms={data_buffer_ms},
).run()
"""


class Pool(BeamFnExternalWorkerPoolServicer):
    """Starts one process a worker and stops it when told."""

    def StartWorker(self, request: Any, context: object) -> Any:  # noqa: N802
        """Start a worker that connects to the runner's control endpoint."""
        code = WORKER.format(
            pool=os.getpid(),
            control=request.control_endpoint.url,
            worker_id=request.worker_id,
            state_cache_bytes=self._state_cache_size,
            data_buffer_ms=self._data_buffer_time_limit_ms,
        )
        try:
            worker = subprocess.Popen([sys.executable, "-u", "-c", code])
        except OSError as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=f"worker {request.worker_id}: {error}")
        self._worker_processes[request.worker_id] = worker
        logging.info("worker %s: started, pid %d", request.worker_id, worker.pid)
        return beam_fn_api_pb2.StartWorkerResponse()

    def stop_all(self) -> None:
        """Stop every worker that this pool started."""
        for worker in list(self._worker_processes.values()):
            kill_process_gracefully(worker, timeout=5)


def serve(port: int, state_cache_mb: int, data_buffer_ms: int) -> tuple[grpc.Server, Pool]:
    """Listen on the loopback interface: who may start a worker may run any code."""
    options = [("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0), ("grpc.so_reuseport", 0)]
    server = grpc.server(thread_pool_executor.shared_unbounded_instance(), options=options)
    pool = Pool(use_process=True, state_cache_size=state_cache_mb << 20, data_buffer_time_limit_ms=data_buffer_ms)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(f"localhost:{port}")
    server.start()
    return server, pool


def main() -> None:
    """Serve until told to end; then end the workers, too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state-cache-mb", type=int, default=0, help="kept by each worker; 0 is off")
    parser.add_argument("--data-buffer-ms", type=int, default=-1, help="longest wait before output is sent; -1 is none")
    chosen = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, force=True, format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"
    )
    ended = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ended.set())
    server, pool = serve(chosen.port, chosen.state_cache_mb, chosen.data_buffer_ms)
    logging.info("listening at localhost:%d", chosen.port)
    ended.wait()
    server.stop(0)
    pool.stop_all()


if __name__ == "__main__":
    main()
