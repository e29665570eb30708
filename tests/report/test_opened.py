from pathlib import Path

import pytest

from counterstain.errors import ExistingOutputError
from counterstain.report import open_test_split


def test_a_second_opening_must_be_asked_for_and_is_counted(tmp_path: Path) -> None:
    assert len(open_test_split(tmp_path, "data")) == 1
    with pytest.raises(ExistingOutputError, match=r"Use --split val, or pass --again"):
        open_test_split(tmp_path, "data")
    with pytest.raises(ExistingOutputError, match=r"test\. Wait, or pass --again"):
        open_test_split(tmp_path, "data", instead="Wait")
    assert len(open_test_split(tmp_path, "data", again=True)) == 2


def test_another_dataset_s_test_split_is_another(tmp_path: Path) -> None:
    open_test_split(tmp_path, "data")
    assert len(open_test_split(tmp_path, "other")) == 1
