from pathlib import Path

import pytest

from counterstain.data.camelyon16 import (
    EXCLUDED,
    EXCLUSIONS,
    PARTLY_DRAWN,
    SlideName,
    exclusions,
    parse_name,
    read_reference,
)
from counterstain.errors import InputError


def test_names_say_label_and_split() -> None:
    assert parse_name("tumor_001") == SlideName("tumor_001", True, None)
    assert parse_name("Normal_160") == SlideName("normal_160", False, None)
    assert parse_name("normal_86") == SlideName("normal_086", False, None)  # as the release's read-me file writes it
    assert parse_name("test_010") == SlideName("test_010", None, "test")
    assert [parse_name(stem) for stem in ("tumor_001_mask", "tumor_1", "slide", "patient_001_node_1")] == [None] * 4


def test_every_excluded_slide_is_one_of_the_cohort_and_has_a_reason() -> None:
    assert {"test_049", "test_114"} <= set(EXCLUSIONS)
    for (name, _), reason in EXCLUDED.items():
        assert parse_name(name) is not None
        assert "(" in reason


def test_a_slide_of_certain_label_whose_lesions_are_drawn_in_part_is_left_out_of_lesions_alone() -> None:
    assert set(exclusions("slide")) == {"test_049", "normal_086", "normal_144"}
    assert set(exclusions("lesion")) == set(exclusions("patch")) == {*exclusions("slide"), "test_114"}


def test_the_reference_labels_test_slides_with_or_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "reference.csv").write_text("image,type\ntest_001.tif,Tumor,IDC,Macro\ntest_003,Normal,None,None\n")
    assert read_reference(tmp_path / "reference.csv") == {"test_001": True, "test_003": False}
    (tmp_path / "reference.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="labels no slide"):
        read_reference(tmp_path / "reference.csv")


def test_a_reference_that_can_t_be_read_is_refused_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "reference.csv"
    path.write_text("test_001,Normal\ntest_002,Tumour?,IDC\ntest_003\n")
    with pytest.raises(InputError, match=r"neither Tumor nor Normal(.|\n)*test_002,Tumour\?(.|\n)*test_003"):
        read_reference(path)
    path.write_bytes("test_001,Normal,Größe\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"reference.csv' is no text in UTF-8"):
        read_reference(path)


def test_every_slide_drawn_in_part_is_a_tumour_slide_of_the_training_set() -> None:
    names = [parse_name(name) for name in PARTLY_DRAWN]
    assert all(name is not None and name.is_tumour and name.split is None for name in names)
    assert len(set(PARTLY_DRAWN)) == 13
