from pathlib import Path

import pytest

from counterstain.data.camelyon16 import EXCLUSIONS, SlideName, parse_name, read_reference
from counterstain.errors import InputError


def test_names_say_label_and_split() -> None:
    assert parse_name("tumor_001") == SlideName("tumor_001", True, None)
    assert parse_name("Normal_160") == SlideName("normal_160", False, None)
    assert parse_name("test_010") == SlideName("test_010", None, "test")
    assert [parse_name(stem) for stem in ("tumor_001_mask", "tumor_1", "slide", "patient_001_node_1")] == [None] * 4


def test_every_excluded_slide_is_one_of_the_cohort_and_has_a_reason() -> None:
    assert {"test_049", "test_114"} <= set(EXCLUSIONS)
    for name, reason in EXCLUSIONS.items():
        assert parse_name(name) is not None
        assert "(" in reason


def test_the_reference_labels_test_slides_with_or_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "reference.csv").write_text("image,type\ntest_001.tif,Tumor,IDC,Macro\ntest_003,Normal,None,None\n")
    assert read_reference(tmp_path / "reference.csv") == {"test_001": True, "test_003": False}
    (tmp_path / "reference.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="labels no slide"):
        read_reference(tmp_path / "reference.csv")
