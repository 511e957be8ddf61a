"""Jobs of a Flink cluster, by its REST interface: Beam's job server forgets a job, but does not stop it."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from schemas.errors import ConfigError

ANSWERS_WITHIN = 30.0
"""Seconds; a job manager that is busy may take some."""

ENDED = ("CANCELED", "FAILED", "FINISHED")


def running(flink: str, name: str) -> list[str]:
    """Ids of the jobs of a name that have not ended. flink: URL of the cluster's page. Raises ConfigError."""
    return [job["jid"] for job in _jobs(flink) if job["name"] == name and job["state"] not in ENDED]


def cancel(flink: str, name: str) -> None:
    """Stop the jobs of a name. Raises ConfigError."""
    for job in running(flink, name):
        try:
            _ask(flink, f"/jobs/{job}?mode=cancel", "PATCH")
        except ConfigError:
            if job in running(flink, name):  # else it has just ended by itself
                raise


def look_for(flink: str) -> None:
    """Whether a job manager answers, before anything rests on it. Raises ConfigError."""
    _jobs(flink)


def _jobs(flink: str) -> list[dict[str, Any]]:
    said = _ask(flink, "/jobs/overview")
    try:
        found: list[dict[str, Any]] = json.loads(said)["jobs"]
    except (ValueError, KeyError, TypeError):
        raise _nobody(flink, f"what answers says {said[:40]!r}") from None
    return found


def _ask(flink: str, path: str, method: str = "GET") -> bytes:
    try:
        request = urllib.request.Request(flink.rstrip("/") + path, method=method)
        with urllib.request.urlopen(request, timeout=ANSWERS_WITHIN) as answer:
            said: bytes = answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise _nobody(flink, f"{error.code} {error.reason}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _nobody(flink, getattr(reason, "strerror", None) or str(reason) or type(reason).__name__) from None
    return said


def _nobody(flink: str, why: str) -> ConfigError:
    return ConfigError(
        f"--flink={flink}: no job manager of Flink answers there ({' '.join(why.split())}). Start the cluster (here: python "
        "infra/flink/cluster.py up, which prints the URL of its page), or name another; without --flink the job is not stopped on "
        "Flink in the end"
    )
