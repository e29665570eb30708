import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterstain.data import parse_label, parse_labels
from counterstain.errors import LabelError
from counterstain.layouts import LAYOUTS


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("1031280-2300-27920-[1 0 0 1]", (1, 0, 0, 1)),
        ("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101]", (1, 1, 0, 1)),
        ("1003370-11223-11698-[1, 1, 0, 0]", (1, 1, 0, 0)),
        ("a[0 1]-b-[ 0,0 ,1 0]", (0, 0, 1, 0)),
        ("patch-[0000]", (0, 0, 0, 0)),
        ("downloaded twice-[1000] (1)", (1, 0, 0, 0)),
    ],
)
def test_published_ways_to_write_a_label_are_read(stem: str, expected: tuple[int, ...]) -> None:
    assert parse_label(stem, 4) == expected


@pytest.mark.parametrize("stem", ["patch", "p-[]", "p-[1 0 0]", "p-[1 0 0 2]", "p-[1 0 0 1", "p-[a 1 0 0 1]"])
def test_anything_else_is_refused(stem: str) -> None:
    with pytest.raises(LabelError, match=r"no label of 4 digits such as \[1, 0, 0, 0\]"):
        parse_label(stem, 4)


def test_all_bad_names_are_listed_and_no_good_one() -> None:
    with pytest.raises(LabelError, match="2 of 3 file names") as caught:
        parse_labels(["good-[10]", "bad-[1]", "worse"], 2)
    assert caught.value.offenders == ("bad-[1]", "worse")


@given(st.sampled_from(sorted(LAYOUTS)), st.data())
def test_what_a_layout_writes_is_read_back(name: str, data: st.DataObject) -> None:
    layout = LAYOUTS[name]
    digits = st.integers(0, 1)
    label = data.draw(st.tuples(*[digits for _ in range(len(layout.classes))]))
    prefix = data.draw(st.text(alphabet="abc-+._ 019[]", max_size=12))
    assert parse_label(prefix + layout.label_suffix(label), len(layout.classes)) == label
