"""Printing: tables for people, JSON and YAML for scripts.

Text comes from tenants, so it is never read as markup, and control characters do not reach the terminal. What is
printed does not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_UNSEEN = dict.fromkeys((*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F)), "\ufffd")
_WIDE = 400


def form(*forms: str) -> Callable[[F], F]:
    """The option -o; the first form is the default."""
    text = "Form of the output."
    return click.option("-o", "--output", "output", type=click.Choice(forms), default=forms[0], help=text)


def clean(text: str) -> str:
    """One line of text without control characters, so that no name can draw on a terminal."""
    return text.translate(_UNSEEN)


def data(value: Any, output: str) -> None:
    """Print plain data as `json` or `yaml`."""
    if output == "json":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
        return
    import yaml  # slow to import, and seldom wanted

    click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


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
        grid.add_row(*(Text(clean(cell)) for cell in row))
    console.print(grid)
