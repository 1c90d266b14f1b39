"""What a command prints: one JSON object for programs, a table for people."""

import json
import sys
from collections.abc import Mapping, Sequence

import click

from syncd.errors import brief

LONGEST_CELL = 1000
"""Characters of a cell of a table: some come from a store, where anybody may write."""
VERSION = 1
"""Of the shape of all JSON output: raised when a key goes away or changes its meaning, not when one is added."""


def print_json(document: Mapping[str, object]) -> None:
    """One line: `document` with its version, keys sorted."""
    from syncd.model.canonical import builtins, encode

    whole = {"version": VERSION, **document}
    try:
        click.echo(encode(whole), nl=False)
    except UnicodeEncodeError:  # a path of this disk that is not UTF-8
        click.echo(json.dumps(builtins(whole), sort_keys=True, separators=(",", ":")))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: with colours and wrapped on a terminal; elsewhere plain, one line a row."""
    cells = [["" if cell is None else brief(str(cell), LONGEST_CELL) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, cells)
    else:
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in ([name.upper() for name in columns], *cells):
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show(
    as_json: bool, document: Mapping[str, object], columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """`print_json` of the document, or `print_table` of the rows."""
    if as_json:
        print_json(document)
    else:
        print_table(columns, rows)


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: brackets in a name are no markup
    Console().print(table)
