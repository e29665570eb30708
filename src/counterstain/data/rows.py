"""Rows of text from a CSV file, as text.

Spreadsheets write commas, semicolons or tabs, and a byte-order mark; identifiers such as 007 lose their zeros when a reader
takes them for numbers, so nothing is converted here.

Does not know: what a column means.
"""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from counterstain.errors import InputError, listed
from counterstain.files import existing

_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Args:
        line: Its line in the file, the header being 1.
        cells: Text by column, without the blanks around it.
    """

    line: int
    cells: dict[str, str]


@dataclass(frozen=True, slots=True)
class Rows:
    """A table.

    Args:
        path: The file.
        header: The columns' names as written, without the blanks around them.
        rows: In the file's order; empty lines are left out.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[Row, ...]

    def column(self, name: str) -> str | None:
        """The header's own spelling of a column, whose case does not matter; None when there is none."""
        return next((column for column in self.header if column.lower() == name.lower()), None)


def read_rows(path: Path | str) -> Rows:
    """Reads a table of comma, semicolon or tab separated UTF-8 text, judged by its header.

    Raises:
        MissingFileError: When it is not there.
        InputError: When it is no such text, has no rows, repeats a column, or rows differ from the header in length.
    """
    path = existing(path, "a table (CSV)")
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"Table '{path}' is no CSV file. Export it as CSV, UTF-8.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"Table '{path}' is not UTF-8 text. Export it as CSV, UTF-8.") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    lines = [(line, cells) for line, cells in lines if any(cells)]
    if len(lines) < 2:
        raise InputError(f"Table '{path}' has no rows; a header and at least one row were expected.")
    header = tuple(lines[0][1])
    repeated = [name for name, count in Counter(name.lower() for name in header).items() if count > 1]
    if repeated or "" in header:
        raise InputError(f"Table '{path}' has columns without a name or of one name: {repeated}. Name each on its own.")
    ragged = [f"line {line}: {len(cells)} cells" for line, cells in lines[1:] if len(cells) != len(header)]
    if ragged:
        raise InputError(listed(f"Rows of '{path}' do not have the header's {len(header)} cells:", ragged))
    rows = tuple(Row(line, dict(zip(header, cells, strict=True))) for line, cells in lines[1:])
    return Rows(path, header, rows)
