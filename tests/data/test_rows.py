from pathlib import Path

import pytest

from counterstain.data.rows import read_rows
from counterstain.errors import InputError, MissingFileError


@pytest.mark.parametrize(("delimiter", "suffix"), [(",", "csv"), (";", "csv"), ("\t", "tsv")])
def test_delimiters_of_spreadsheets_are_told_by_the_header(tmp_path: Path, delimiter: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text(delimiter.join(("Image", " label ")) + "\n" + delimiter.join(("007", '"a,b;c"')) + "\n\n")
    table = read_rows(path)
    assert table.header == ("Image", "label")
    assert [row.cells for row in table.rows] == [{"Image": "007", "label": "a,b;c"}]
    assert table.rows[0].line == 2
    assert table.column("image") == "Image"
    assert table.column("mask") is None


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffimage,label\r\nä.png,x\r\n".encode())
    assert read_rows(tmp_path / "a.csv").rows[0].cells == {"image": "ä.png", "label": "x"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"PK", "no CSV file. Export it as CSV"),
        ("a.csv", b"image\n\xe4.png\n", "not UTF-8"),
        ("a.csv", b"image,label\n\n", "has no rows"),
        ("a.csv", b"", "has no rows"),
        ("a.csv", b"image,Label,label\na,b,c\n", r"of one name: \['label'\]"),
        ("a.csv", b"image,\na,b\n", "without a name"),
        ("a.csv", b"image,label\na\nb,c,d\n", r"the header's 2 cells:\n  line 2: 1 cells\n  line 3: 3 cells"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / name)


def test_a_missing_table_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="a table"):
        read_rows(tmp_path / "a.csv")
