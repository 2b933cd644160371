"""Having a fetcher do one job: a process for each, so that strangers' bytes cost this one neither memory nor RPCs.

What a fetcher does, and what is made of it, does not belong here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import structlog

from sri_libvirt import process
from sri_libvirt.images.fetch import job as jobs
from sri_libvirt.images.fetch.job import Failure, Pull, Pulled, Resolve, Resolved
from sri_libvirt.process import Cancel, ProcessError

log = structlog.get_logger(__name__)

RESOLVE_SECONDS = 120.0
"""A manifest and a config, with all redirects, tokens and tries of connecting."""

PULL_SECONDS = 6 * 3600.0
"""A server may be slow; one that is silent is given up after 30 s (`fetch/web.py`)."""

Progress = Callable[[int, int | None], None]
"""Is told how many bytes of how many are there."""

Need = Callable[[int], None]
"""Is told how many bytes more are about to be written; what it raises ends the fetcher."""

_ARGV = (sys.executable, "-I", "-m", "sri_libvirt.images.fetch")


class Fetcher:
    """Fetchers of one process. `cancel` ends them. Thread-safe, blocking."""

    def __init__(self, cancel: Cancel | None = None) -> None:
        self._cancel = cancel

    def resolve(self, job: Resolve) -> Resolved:
        """Ask a registry. Raises Failure, Cancelled."""
        return jobs.resolved(self._do(job, RESOLVE_SECONDS, lambda _done, _of: None, lambda _more: None))

    def pull(self, job: Pull, progress: Progress, need: Need) -> Pulled:
        """Fetch a file. Raises Failure, Cancelled, and what `need` raises."""
        return jobs.pulled(self._do(job, PULL_SECONDS, progress, need))

    def _do(self, job: Resolve | Pull, deadline: float, progress: Progress, need: Need) -> dict[str, Any]:
        last: dict[str, Any] = {}

        def hear(line: bytes) -> None:
            said = json.loads(line)
            if "progress" in said:
                progress(*said["progress"])
            elif "need" in said:
                need(said["need"])
            else:
                last.update(said)

        try:
            process.run(
                _ARGV,
                deadline=deadline,
                stdin=jobs.encode(job),
                cancel=self._cancel,
                tethered=True,
                on_line=hear,
                called="image-fetcher",
            )
        except process.Cancelled:
            raise
        except ProcessError as error:
            if not error.late:
                log.error("a fetcher of images has failed", error=str(error), words=error.words[-2000:])
            code: jobs.Code = "unreachable" if error.late else "refused"
            problem = "the server is too slow" if error.late else "the fetcher has failed; the provider's log says how"
            raise Failure(code, problem) from error
        if "failure" in last:
            said = last["failure"]
            raise Failure(said["code"], said["problem"], after=said["after"], final=said["final"])
        result: dict[str, Any] = last["result"]
        return result
