"""What the daemon loads: nothing of what fetches images or draws on terminals."""

from __future__ import annotations

import json
import subprocess
import sys

IN_A_FETCHER = {"urllib3", "lzma", "backports.zstd", "zlib", "sri_libvirt.images.fetch.web"}
"""What is large, or handles strangers' bytes."""


def loaded(module: str) -> set[str]:
    code = f"import {module}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_daemon_loads_nothing_of_what_a_fetcher_needs() -> None:
    assert loaded("sri_libvirt.app") & (IN_A_FETCHER - {"zlib", "lzma"}) == set()


def test_the_daemon_loads_nothing_of_consoles_before_one_is_asked_for() -> None:
    found = {"h11", "wsproto", "sri_libvirt.console.server", "sri_libvirt.console.spdy"}
    assert loaded("sri_libvirt.app") & found == set()


def test_the_daemon_loads_nothing_that_draws_tables() -> None:
    """structlog would: 3 MiB, for tracebacks that are not drawn here."""
    assert loaded("sri_libvirt.cli.main, sri_libvirt.cli.serve, sri_libvirt.app") & {"rich", "pygments"} == set()


def test_a_fetcher_loads_nothing_of_what_the_daemon_needs() -> None:
    heavy = {"grpc", "libvirt", "google.protobuf", "lxml", "jinja2", "sqlite3", "click", "structlog"}
    assert loaded("sri_libvirt.images.fetch.__main__") & heavy == set()
