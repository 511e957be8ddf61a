"""Forks `wattier` commands off a process that has imported the heavy libraries already, and used none of them.

Started by `commands.py` with `python -P`. Reads one JSON request a line, answers one JSON line:
`{"start": {"arguments", "folder", "environment", "output", "fault"}}` -> `{"pid"}`; `{"wait": pid}` -> `{"code", "cpu_seconds"}`.
`fault` is Python that the forked process runs before the command: a test's way to break something inside.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path


def start(arguments: list[str], folder: str, environment: dict[str, str], output: str, fault: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    for number, name in ((0, "/dev/null"), (1, f"{output}.out"), (2, f"{output}.err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["wattier", *arguments]
    code = 70
    try:
        exec(fault, {})
        from pipelines.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> dict[str, float]:
    _, status, usage = os.wait4(pid, 0)
    return {"code": os.waitstatus_to_exitcode(status), "cpu_seconds": usage.ru_utime + usage.ru_stime}


if __name__ == "__main__":
    assert Path.cwd().is_dir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pipelines.audit
        import pipelines.data_docs
        import pipelines.graph
        import pipelines.run

        pipelines.data_docs.warm()
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"pid": start(**request["start"])} if "start" in request else wait(request["wait"])
        print(json.dumps(answer), flush=True)
