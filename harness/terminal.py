"""What commands print: the matrix of cases by back end, other tables, plain text."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

_STYLE: Final = {"passed": "green", "failed": "bold red", "error": "bold red", "skipped": "yellow", "differs": "yellow"}


WIDE: Final = 240  # columns where nobody looks: a file keeps whole names


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)


def print_plain(text: str, style: str = "") -> None:
    """Text as it is: no markup, no wrapping; coloured on a terminal."""
    _console().print(Text(text, style=style))


def print_matrix(records: Sequence[Mapping[str, Any]], backends: Sequence[str], *, by_case: bool) -> None:
    """A row per file (how many passed of how many), or per case."""
    rows: dict[str, dict[str, list[str]]] = {}
    for record in records:
        key = f"{record['file']}::{record['case']}" if by_case else record["file"]
        rows.setdefault(key, {}).setdefault(record["backend"], []).append(record["status"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("case" if by_case else "file", no_wrap=True)
    for backend in backends:
        table.add_column(backend, justify="right", no_wrap=True)
    for key, row in rows.items():
        table.add_row(key, *(_cell(row.get(backend, []), by_case=by_case) for backend in backends))
    if rows:
        _console().print(table)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows of text under their columns' names."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _console().print(table)


def _cell(statuses: list[str], *, by_case: bool) -> Text:
    worst = next((s for s in ("error", "failed", "skipped", "differs") if s in statuses), "passed")
    if by_case:
        return Text(statuses[0] if statuses else "", _STYLE[worst])
    return Text(f"{statuses.count('passed')}/{len(statuses)}" if statuses else "", _STYLE[worst])
