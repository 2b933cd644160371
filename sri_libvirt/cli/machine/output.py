"""Printing, and the only place of the command line that does it: lines and tables for people, documents for scripts.

Text comes from tenants, so it is never read as markup, and what a terminal may not be given does not reach it
(`printable.py`). What is printed does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from sri_libvirt import printable

F = TypeVar("F", bound=Callable[..., Any])

_WIDE = 400


def form(*forms: str) -> Callable[[F], F]:
    """The option -o; the first form is the default."""
    text = "Form of the output."
    return click.option("-o", "--output", "output", type=click.Choice(forms), default=forms[0], help=text)


def say(text: str = "") -> None:
    """Print one line."""
    click.echo(printable.line(text))


def warn(text: str) -> None:
    """Print one line to standard error, with our name before it."""
    click.echo(f"sri-libvirt: {printable.line(text)}", err=True)


def document(text: str) -> None:
    """Print a whole document, which its maker has made fit: in UTF-8, whatever the terminal has (RFC 8259, 8.1)."""
    click.echo(text.removesuffix("\n").encode())


def data(value: Any, output: str) -> None:
    """Print plain data as `json` or `yaml`."""
    document(printable.json_text(value, indent=2) if output == "json" else printable.yaml_text(value))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; into a pipe its lines are as long as they need to be, one row to a line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _WIDE
    grid = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for heading in headings:
        grid.add_column(heading, overflow="fold", no_wrap=not console.is_terminal)
    for row in rows:
        grid.add_row(*(Text(printable.line(cell)) for cell in row))
    console.print(grid)
