"""Parts that the picture's tables are made of; what is unknown is a dash. What they show does not belong here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sri_libvirt import printable

DASH = "-"


def table_of(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Plain columns; cells are shown as they are, never as markup."""
    grid = Table(box=None, pad_edge=False, show_edge=False, header_style="dim")
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(printable.line(cell)) for cell in row))
    return grid


def with_rest(table: Table, rows: int, hidden: int, what: str) -> RenderableType | None:
    """The table, if it has rows, and a line about what it leaves out, if there is anything."""
    if not rows and not hidden:
        return None
    rest = [Text(f"and {hidden} more {what} (-o json has all)", style="dim")] if hidden else []
    return Group(*([table] if rows else []), *rest)


def word_or_dash(text: str | None) -> str:
    """A word of the host's, fit for a terminal."""
    return printable.line(text) if text else DASH


def number_or_dash(value: int | None) -> str:
    """A number as it is."""
    return DASH if value is None else str(value)
