"""Options of the whole suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate-golden",
        action="store_true",
        help="write the golden domain XML files anew instead of comparing with them; read the diff then",
    )
    parser.addoption(
        "--matrix", action="store_true", help="run the whole matrix of failpoints on real guests too: an hour or more"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the matrix out unless it is asked for."""
    if config.getoption("--matrix"):
        return
    matrix = [item for item in items if item.get_closest_marker("matrix")]
    if matrix:
        config.hook.pytest_deselected(items=matrix)
        items[:] = [item for item in items if item not in matrix]
