"""Options of the whole suite."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

# How long an example takes says something of the machine alone, and machines are slow and busy.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _logging_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test has set up of logging ends with it: structlog keeps it in every logger that was used meanwhile."""
    configure = structlog.configure
    monkeypatch.setattr(structlog, "configure", lambda **how: configure(**{**how, "cache_logger_on_first_use": False}))
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate-golden",
        action="store_true",
        help="write the golden domain XML files anew instead of comparing with them; read the diff then",
    )
    parser.addoption(
        "--matrix", action="store_true", help="run the whole matrix of failpoints on real guests too: an hour or more"
    )
    parser.addoption(
        "--vm", metavar="RELEASE", default="", help="run tests/vm against the virtual machine of that release (make vm)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the matrix, and what needs a virtual machine, unless they are asked for."""
    options = {"matrix": config.getoption("--matrix"), "vm": config.getoption("--vm")}
    left_out = [mark for mark, wanted in options.items() if not wanted]
    deselected = [item for item in items if any(item.get_closest_marker(mark) for mark in left_out)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]
