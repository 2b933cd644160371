"""Printing, and the only place of the command line that does it: lines and tables for people, documents for scripts.

Text comes from tenants, so it is never read as markup, and what a terminal may not be given does not reach it
(`printable.py`). What is printed does not belong here.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import click

from sri_libvirt import config, printable

F = TypeVar("F", bound=Callable[..., Any])

_BETWEEN = "  "
_LEAST = 12
"""Columns of a terminal that the shortened column keeps, however narrow it is."""


def form(*forms: str) -> Callable[[F], F]:
    """The option -o; the first form is the default."""
    text = "Form of the output."
    return click.option("-o", "--output", "output", type=click.Choice(forms), default=forms[0], help=text)


def say(text: str = "", colour: str = "") -> None:
    """Print one line; in colour on a terminal that has any."""
    line = printable.line(text)
    painted = colour and sys.stdout.isatty() and config.has_colours()
    click.echo(click.style(line, fg=colour) if painted else line)


def warn(text: str) -> None:
    """Print one line to standard error, with our name before it."""
    click.echo(f"sri-libvirt: {printable.line(text)}", err=True)


def document(text: str) -> None:
    """Print a whole document, which its maker has made fit: in UTF-8, whatever the terminal has (RFC 8259, 8.1)."""
    click.echo(text.removesuffix("\n").encode())


def data(value: Any, output: str) -> None:
    """Print plain data as `json` or `yaml`."""
    document(printable.json_text(value, indent=2) if output == "json" else printable.yaml_text(value))


def row(cells: Sequence[str]) -> None:
    """Print one line of cells, of which nobody knows how wide those of the next will be."""
    sys.stdout.write(_BETWEEN.join(printable.line(cell) for cell in cells).rstrip() + "\n")


def flush() -> None:
    """Let whoever reads have what was printed."""
    sys.stdout.flush()


def aligned(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in which nothing is cut, for who draws them himself."""
    lines, widths = _measured(headings, rows)
    return [
        _BETWEEN.join(_fitted(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    shorten: str = "",
    titled: bool = True,
    colours: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Print a table, one row to a line, in which nothing is cut: but on a terminal the column `shorten`, until a line
    fits. `colours` are, on a terminal, those of the words of a column."""
    lines, widths = _measured(headings, rows)
    is_terminal = sys.stdout.isatty()
    if shorten and is_terminal:
        column = headings.index(shorten)
        others = sum(widths) - widths[column] + len(_BETWEEN) * (len(widths) - 1)
        widths[column] = min(widths[column], max(shutil.get_terminal_size().columns - others, _LEAST))
    painted = is_terminal and config.has_colours()
    for number, line in enumerate(lines[0 if titled else 1 :], 0 if titled else 1):
        cells = [_fitted(cell, width) for cell, width in zip(line, widths, strict=True)]
        if painted and number:
            cells = [_painted(cell, colours.get(name, {})) for cell, name in zip(cells, headings, strict=True)]
        elif painted:
            cells = [click.style(cell, bold=True) for cell in cells]
        # Not by click, which takes a terminal that has ASCII alone for one that has all letters.
        sys.stdout.write(_BETWEEN.join(cells).rstrip() + "\n")


def _measured(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> tuple[list[tuple[str, ...]], list[int]]:
    """The lines of a table in cells that are fit to print, and how wide each column has to be."""
    from rich.cells import cell_len

    lines = [tuple(headings), *(tuple(printable.line(cell) for cell in row) for row in rows)]
    return lines, [max(map(cell_len, column)) for column in zip(*lines, strict=True)]


def _fitted(text: str, width: int) -> str:
    """The text in so many columns of a terminal."""
    from rich.cells import cell_len, set_cell_size

    return text + " " * (width - cell_len(text)) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _painted(cell: str, colours: Mapping[str, str]) -> str:
    colour = colours.get(cell.strip())
    return click.style(cell, fg=colour) if colour else cell
