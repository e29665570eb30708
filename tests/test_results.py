from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from counterstain.errors import InputError, MissingFileError, UnknownNameError
from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.layouts import LAYOUTS, find_layout
from counterstain.results import UNCOVERED, Classes, Maps, ScoredSlide, SlideMap, SlideRecord

CLASSES = Classes(("tumour", "stroma"), ((255, 0, 0), (0, 255, 0)))
RECORD = SlideRecord("a.svs", "tiff", Size(100, 80), Mpp(0.25, 0.5), "reader", Box(0, 0, 100, 80), "abc")


def test_classes_survive_json() -> None:
    classes = Classes(("a", "b"), ((1, 2, 3), (4, 5, 6)), background="b")
    assert Classes.from_json(classes.to_json()) == classes
    assert Classes.from_json(CLASSES.to_json()) == CLASSES


def test_classes_have_names_and_colours_of_their_own() -> None:
    with pytest.raises(InputError, match="one name of its own"):
        Classes(("a", "a"), ((0, 0, 0), (1, 1, 1)))
    with pytest.raises(InputError, match="one colour"):
        Classes(("a", "b"), ((0, 0, 0),))
    with pytest.raises(UnknownNameError, match="Did you mean 'tumour'"):
        CLASSES.index("tumor")
    with pytest.raises(InputError, match="fit a mask"):
        Classes(tuple(map(str, range(255))), ((0, 0, 0),) * 255)


def test_uncovered_pixels_are_no_class() -> None:
    probability_CHW = np.array([[[0.2, np.nan]], [[0.8, np.nan]]], np.float32)
    assert Maps(probability_CHW, CLASSES).labels().tolist() == [[1, UNCOVERED]]


def test_a_map_on_disk_comes_back(tmp_path: Path) -> None:
    frame = Frame(Point(8, 4), 2.5, 2.0, Size(4, 3))
    made = SlideMap(tmp_path / "map.zarr", frame, CLASSES, RECORD, "hash")
    group = zarr.open_group(made.path, mode="w", attributes={**made.attributes(), "complete": True})
    group.create_array("label", shape=(3, 4), dtype="uint8", fill_value=UNCOVERED)
    group.create_array("probability", shape=(2, 3, 4), dtype="float16", fill_value=np.nan)
    opened = SlideMap.open(made.path)
    assert opened == made
    assert opened.label.shape == (3, 4)
    assert np.isnan(opened.probability[:]).all()
    assert opened.pixel_area_mm2 == pytest.approx(2.5 * 0.25 * 2.0 * 0.5 / 1e6)


def test_an_unfinished_or_foreign_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        SlideMap.open(tmp_path / "none.zarr")
    (tmp_path / "file.zarr").mkdir()
    with pytest.raises(InputError, match="no Zarr group"):
        SlideMap.open(tmp_path / "file.zarr")
    zarr.open_group(tmp_path / "foreign.zarr", mode="w")
    with pytest.raises(InputError, match="no slide map of version 1"):
        SlideMap.open(tmp_path / "foreign.zarr")
    half = SlideMap(tmp_path / "half.zarr", Frame(Point(0, 0), 1, 1, Size(1, 1)), CLASSES, RECORD, "hash")
    zarr.open_group(half.path, mode="w", attributes=half.attributes())
    with pytest.raises(InputError, match="interrupted"):
        SlideMap.open(half.path)


def test_layouts_know_patients_labels_and_their_ignored_value() -> None:
    luad, bcss, wsss = (find_layout(name) for name in ("luad_histoseg", "bcss_wsss", "wsss4luad"))
    assert luad.label_suffix((1, 0, 0, 1)) == "-[1 0 0 1]"
    assert bcss.label_suffix((1, 1, 0, 1)) == "[1101]"
    assert wsss.label_suffix((1, 1, 0)) == "-[1, 1, 0]"
    assert luad.patient("1031280-2300-27920-[1 0 0 1]") == "1031280"
    assert bcss.patient("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101]") == "TCGA-A1-A0SK"
    assert wsss.patient("00") is None
    assert luad.classes.index("necrosis") == 1
    assert bcss.classes.index("necrosis") == 3
    assert all(layout.mask_ignore == len(layout.classes) for layout in LAYOUTS.values())
    with pytest.raises(UnknownNameError, match="Did you mean 'bcss_wsss'"):
        find_layout("bcss")


@pytest.mark.parametrize(
    "wrong",
    [{"label": 2}, {"probability": 1.2}, {"probability": float("nan")}, {"logit": float("nan")}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_scored_slide_without_a_label_or_a_score_is_refused(wrong: dict[str, float]) -> None:
    fields: dict[str, Any] = {"label": 1, "probability": 0.7, "logit": 0.4, **wrong}
    with pytest.raises(InputError, match="'s1' has"):
        ScoredSlide("s1", "p1", fold="0", **fields)
