"""Rows on their way to disk: what is a beginning of them, and what is another's."""

from pathlib import Path

import numpy as np
import pytest

from counterstain.infer.rows import PartialRows

HASH, OTHER = "a" * 64, "b" * 64
SHAPE, CHUNK = (10, 3), 4


@pytest.mark.parametrize("encoder", ["resnet50.a1_in1k", "resnet50.a1"])
def test_unfinished_rows_of_an_encoder_with_a_longer_name_stay(tmp_path: Path, encoder: str) -> None:
    with PartialRows(tmp_path / f"{encoder}.h5", HASH, SHAPE, CHUNK) as longer:
        longer.append(np.zeros((CHUNK, 3), np.float16))
    with PartialRows(tmp_path / "resnet50.h5", OTHER, SHAPE, CHUNK) as own:
        assert own.num_done == 0
        assert longer.num_done == CHUNK


def test_unfinished_rows_of_other_inputs_go(tmp_path: Path) -> None:
    with PartialRows(tmp_path / "a.b.h5", HASH, SHAPE, CHUNK) as first:
        first.append(np.zeros((CHUNK, 3), np.float16))
    with PartialRows(tmp_path / "a.b.h5", OTHER, SHAPE, CHUNK) as other:
        assert other.num_done == 0
    assert not first.path.exists()
    assert [path.name for path in tmp_path.iterdir()] == [other.path.name]
