"""`python -m sri_libvirt.images.fetch`: reads one job, does it within bounds, and says how it went (`job.py`)."""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

from sri_libvirt.images.fetch import job as jobs
from sri_libvirt.images.fetch import pull
from sri_libvirt.images.fetch.job import Failure, Pull, Resolve

MEMORY_BYTES = 1 << 30
"""Address space: Python with TLS has some 100 MiB, and what unpacks a stranger's file at most 256 more."""


def main() -> int:
    """Do the job; 0 whatever came of it, for it is told."""
    job = jobs.decode(sys.stdin.buffer.read())
    _limit(job.most if isinstance(job, Pull) else 0)
    try:
        done = pull.resolve(job) if isinstance(job, Resolve) else pull.pull(job, _tell, _need)
        _say(jobs.result(done))
    except Failure as error:
        _say(jobs.failure(error))
    except MemoryError:
        _say(jobs.failure(Failure("damaged", "it takes more memory to unpack than a fetcher may have")))
    except OSError as error:
        _say(jobs.failure(Failure("no-room", f"it cannot be written: {error.strerror or error}")))
    return 0


def _limit(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    os.nice(5)  # guests and RPCs go first


def _tell(done: int, of: int | None) -> None:
    _say({"progress": [done, of]})


def _need(more: int) -> None:
    _say({"need": more})


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
