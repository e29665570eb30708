import dataclasses
import importlib.util
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import shapely
import zarr
from shapely import Polygon
from torch import Tensor

from counterstain.errors import DamagedSlideError, InputError, NoTissueError, StaleResultError, UnsupportedSlideError
from counterstain.files import read_json
from counterstain.geometry import Box, Frame, Mpp, Size
from counterstain.infer import PredictSettings, areas_mm2, predict_slide
from counterstain.infer.predict import tissue_under
from counterstain.results import UNCOVERED, Classes, SlideMap
from counterstain.slides.base import frame_of
from counterstain.testing.planted import (
    PLANTED_CLASSES,
    ArraySlide,
    PlantedInput,
    PlantedModel,
    PlantedSettings,
    agreement,
    plant,
)
from counterstain.testing.processes import exit_code
from counterstain.tissue import Tissue, TissueSettings

CPU = PredictSettings(device="cpu", num_workers=0, map_stride=1, chunk_px=64, clip_to_tissue=False)


def regions_in(box: Box) -> list[tuple[str, Polygon]]:
    """A tumour with a notch and a stroma triangle, disjoint, spread over a box; the stroma reaches its rim."""

    def placed(points: list[tuple[float, float]]) -> Polygon:
        return Polygon([(box.x + box.width * x, box.y + box.height * y) for x, y in points])

    tumour = [(0.1, 0.12), (0.55, 0.05), (0.5, 0.45), (0.3, 0.3), (0.2, 0.7), (0.08, 0.5)]
    return [("tumour", placed(tumour)), ("stroma", placed([(0.6, 0.55), (1.0, 0.4), (1.0, 1.0), (0.35, 0.95)]))]


def everywhere(slide: ArraySlide) -> Tissue:
    frame = frame_of(slide, 16.0)
    return Tissue(np.ones(frame.size.shape, bool), frame)


def centres(result: SlideMap) -> tuple[np.ndarray, np.ndarray]:
    """The level-0 x of the map's columns and y of its rows, at their centres."""
    frame = result.frame
    x = frame.origin.x + (np.arange(frame.size.width) + 0.5) * frame.downsample_x
    y = frame.origin.y + (np.arange(frame.size.height) + 0.5) * frame.downsample_y
    return x, y


def planted(path: Path, **changes: Any) -> tuple[ArraySlide, list[tuple[str, Polygon]]]:
    chosen = PlantedSettings(**{"size": Size(400, 300), "mpp": 1.0, **changes})
    regions = regions_in(chosen.bounds or Box.whole(chosen.size))
    return plant(path / "a.planted", chosen, regions), regions


@pytest.mark.parametrize("bounds", [None, Box(150, 70, 701, 533)], ids=["whole", "bounds"])
@pytest.mark.parametrize(
    ("mpp", "downsamples", "target_mpp", "map_stride"),
    [
        (1.0, (), 1.0, 1),
        (0.5, (4.0,), 1.0, 1),
        (0.5, (1.93, 3.71), 1.0, 1),
        (0.37, (2.6,), 1.0, 2),
        (0.25, (2.0, 4.0), 0.61, 1),
        (0.5, (), 0.5, 4),
    ],
)
def test_the_truth_comes_back_to_within_a_pixel(
    tmp_path: Path, mpp: float, downsamples: tuple[float, ...], target_mpp: float, map_stride: int, bounds: Box | None
) -> None:
    slide, regions = planted(tmp_path, size=Size(997, 811), mpp=mpp, bounds=bounds, downsamples=downsamples)
    model = PlantedModel(PlantedInput(tile_px=64, halo_px=8, mpp=target_mpp))
    settings = dataclasses.replace(CPU, map_stride=map_stride)
    result = predict_slide(slide, model, tmp_path / "out", settings, "planted", everywhere(slide))
    label = result.label[:]
    assert (label != UNCOVERED).all()
    for name, truth in regions:
        is_class = label == PLANTED_CLASSES.index(name)
        tolerance = target_mpp / mpp  # one pixel of the model's resolution, in level-0 pixels
        assert agreement(is_class, truth, *centres(result), tolerance) >= 0.99
        area_mm2 = truth.area * (mpp / 1000) ** 2
        assert areas_mm2(result)[name] == pytest.approx(area_mm2, rel=0.03)


def test_a_map_that_is_shifted_by_two_pixels_would_be_noticed(tmp_path: Path) -> None:
    slide, regions = planted(tmp_path)
    result = predict_slide(slide, PlantedModel(), tmp_path / "out", CPU, "planted", everywhere(slide))
    x, y = centres(result)
    name, truth = regions[0]
    is_class = result.label[:] == PLANTED_CLASSES.index(name)
    assert agreement(is_class, truth, x, y, 1.0) == 1.0
    assert agreement(is_class, truth, x + 2, y, 1.0) < 0.99


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_probabilities_are_those_of_the_model_and_labels_go_with_them(tmp_path: Path, overlap: float) -> None:
    slide, _ = planted(tmp_path)
    settings = dataclasses.replace(CPU, map_stride=4, chunk_px=32, overlap=overlap)
    result = predict_slide(slide, PlantedModel(), tmp_path / "out", settings, "planted", everywhere(slide))
    probability, label = result.probability[:], result.label[:]
    np.testing.assert_allclose(probability.astype(np.float32).sum(0), 1, atol=2e-3)
    chosen = np.take_along_axis(probability, label[None].astype(int), 0)[0]
    np.testing.assert_array_equal(chosen, probability.max(0))


@pytest.mark.parametrize("clip", [True, False])
def test_only_tissue_is_looked_at(tmp_path: Path, clip: bool) -> None:
    slide, _ = planted(tmp_path)
    frame = frame_of(slide, 8.0)
    mask = np.zeros(frame.size.shape, bool)
    mask[5:12, 4:9] = True
    tissue = Tissue(mask, frame)
    settings = dataclasses.replace(CPU, clip_to_tissue=clip)
    result = predict_slide(slide, PlantedModel(), tmp_path / "out", settings, "planted", tissue)
    is_covered = result.label[:] != UNCOVERED
    np.testing.assert_array_equal(np.isfinite(result.probability[0]), is_covered)
    under = np.zeros_like(is_covered)
    under[40:96, 32:72] = True
    if clip:
        np.testing.assert_array_equal(is_covered, under)
        assert sum(areas_mm2(result).values()) == pytest.approx(56 * 40 * 1e-6)
    else:
        assert is_covered[under].all()
        assert not is_covered[200:].any()
    assert (tmp_path / "out" / "tissue.geojson").is_file()


def test_tissue_is_found_where_none_is_given(tmp_path: Path) -> None:
    slide, regions = planted(tmp_path, size=Size(900, 700), mpp=2.0)
    model = PlantedModel(PlantedInput(mpp=2.0))
    result = predict_slide(slide, model, tmp_path / "out", PredictSettings(device="cpu", map_stride=1), "planted")
    label = result.label[:]
    assert (label == UNCOVERED).any()
    for name, truth in regions:
        # The tissue mask has pixels of 8 um, four of the slide's.
        assert agreement(label == PLANTED_CLASSES.index(name), truth, *centres(result), 4.0) >= 0.99
    assert read_json(tmp_path / "out" / "slide.json")["tissue_note"] is None


def test_a_result_tells_why_its_tissue_was_found_by_another_method(tmp_path: Path) -> None:
    slide, _ = planted(tmp_path, size=Size(300, 200), mpp=2.0)
    settings = PredictSettings(device="cpu", map_stride=4, tissue=TissueSettings(method="bytes"))
    predict_slide(slide, PlantedModel(PlantedInput(mpp=2.0)), tmp_path / "out", settings, "planted")
    note = read_json(tmp_path / "out" / "slide.json")["tissue_note"]
    assert note.startswith("found by the method 'otsu', since the reader")


def test_glass_in_the_tissue_stays_uncovered_when_asked(tmp_path: Path) -> None:
    slide, regions = planted(tmp_path)
    tissues = Classes(PLANTED_CLASSES.names[1:], PLANTED_CLASSES.colors[1:])
    settings = dataclasses.replace(CPU, white_background=True)
    result = predict_slide(slide, PlantedModel(classes=tissues), tmp_path / "out", settings, "x", everywhere(slide))
    is_tissue = np.zeros(result.frame.size.shape, bool)
    x, y = np.meshgrid(*centres(result))
    for _, truth in regions:
        is_tissue |= shapely.contains_xy(truth, x, y)
    np.testing.assert_array_equal(result.label[:] != UNCOVERED, is_tissue)


def test_what_was_done_is_remembered(tmp_path: Path) -> None:
    slide, _ = planted(tmp_path)
    result = predict_slide(slide, PlantedModel(), tmp_path / "out", CPU, "planted", everywhere(slide))
    assert result == SlideMap.open(tmp_path / "out" / "map.zarr")
    tree = read_json(tmp_path / "out" / "slide.json")
    assert tree["slide"]["reader"] == "array"
    assert tree["inputs_hash"] == result.inputs_hash
    assert tree["model_digest"] == "planted"
    assert tree["settings"]["chunk_px"] == 64
    assert (tree["device"], tree["precision"]) == ("cpu", "32")
    assert set(tree["versions"]) == {"counterstain", "python", "torch", "numpy"}


class Counting(PlantedModel):
    def __init__(self) -> None:
        super().__init__()
        self.num_tiles = 0

    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        self.num_tiles += len(images_BCHW)
        return super().predict_maps(images_BCHW)


def test_a_finished_map_is_returned_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slide, _ = planted(tmp_path)
    first = predict_slide(slide, PlantedModel(), tmp_path / "out", CPU, "planted", everywhere(slide))
    model = Counting()
    again = dataclasses.replace(CPU, batch_size=5, num_workers=1)
    assert predict_slide(slide, model, tmp_path / "out", again, "planted", everywhere(slide)) == first
    assert model.num_tiles == 0
    assert "already done" in capsys.readouterr().err


def test_other_inputs_make_a_map_stale(tmp_path: Path) -> None:
    slide, _ = planted(tmp_path)
    out, tissue = tmp_path / "out", everywhere(slide)
    predict_slide(slide, PlantedModel(), out, CPU, "planted", tissue)
    less = Tissue(tissue.mask & (np.arange(tissue.mask.shape[1]) > 3), tissue.frame)
    other_slide = ArraySlide(slide.path, mpp=0.5)
    for reason, arguments in (
        ("the model is another", (slide, CPU, "another model", tissue)),
        ("settings.overlap was 0.25 and is 0.5", (slide, dataclasses.replace(CPU, overlap=0.5), "planted", tissue)),
        ("the tissue's outline is another", (slide, CPU, "planted", less)),
        ("the tissue's outline is another", (slide, CPU, "planted", None)),
        (".*; slide.mpp.x was 1.0 and is 0.5; .*", (other_slide, CPU, "planted", everywhere(other_slide))),
    ):
        chosen, settings, digest, where = arguments
        with pytest.raises(StaleResultError, match=rf"other settings than given now \({reason}\)\. Give"):
            predict_slide(chosen, PlantedModel(), out, settings, digest, where)
    replaced = predict_slide(slide, PlantedModel(), out, dataclasses.replace(CPU, overwrite=True), "another", tissue)
    assert read_json(out / "slide.json")["model_digest"] == "another"
    assert replaced.inputs_hash == read_json(out / "slide.json")["inputs_hash"]


def test_a_moved_slide_is_the_same_slide(tmp_path: Path) -> None:
    slide, _ = planted(tmp_path)
    first = predict_slide(slide, PlantedModel(), tmp_path / "out", CPU, "planted", everywhere(slide))
    moved = slide.path.rename(tmp_path / "b.planted")
    assert (
        predict_slide(ArraySlide(moved), PlantedModel(), tmp_path / "out", CPU, "planted", everywhere(slide)) == first
    )


def test_a_model_of_unknown_resolution_is_refused(tmp_path: Path) -> None:
    slide, _ = planted(tmp_path)
    with pytest.raises(InputError, match="unknown resolution"):
        predict_slide(slide, PlantedModel(PlantedInput(mpp=None)), tmp_path / "out", CPU, "planted")
    assert not (tmp_path / "out").exists()


def test_a_slide_without_tissue_is_refused(tmp_path: Path) -> None:
    slide = plant(tmp_path / "a.planted", PlantedSettings(Size(900, 900)), [])
    with pytest.raises(NoTissueError):
        predict_slide(slide, PlantedModel(), tmp_path / "out", CPU, "planted")
    nowhere = Tissue(np.zeros((9, 9), bool), frame_of(slide, 50.0))
    with pytest.raises(NoTissueError, match="No tissue lies on slide"):
        predict_slide(slide, PlantedModel(), tmp_path / "out", CPU, "planted", nowhere)
    assert not (tmp_path / "out").exists()


class DamagedBelow(ArraySlide):
    """Can't be decoded below a row, as long as its class says so."""

    first_bad_row = 10**9

    def _decode(self, handle: Any, level: int, box: Box) -> Any:
        if box.bottom > self.first_bad_row:
            raise DamagedSlideError(f"Slide '{self.path}' is damaged. Scan it again.")
        return super()._decode(handle, level, box)


def test_what_was_stored_before_an_error_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tissue = planted(tmp_path)[0].path, everywhere(ArraySlide(tmp_path / "a.planted"))
    settings = dataclasses.replace(CPU, chunk_px=32, num_workers=1)
    whole = Counting()
    expected = predict_slide(ArraySlide(path), whole, tmp_path / "whole", settings, "planted", tissue)
    monkeypatch.setattr(DamagedBelow, "first_bad_row", 180)
    with pytest.raises(DamagedSlideError, match="Scan it again"):
        predict_slide(DamagedBelow(path), PlantedModel(), tmp_path / "out", settings, "planted", tissue)
    with pytest.raises(InputError, match="interrupted"):
        SlideMap.open(tmp_path / "out" / "map.zarr")
    monkeypatch.setattr(DamagedBelow, "first_bad_row", 10**9)
    rest = Counting()
    result = predict_slide(DamagedBelow(path), rest, tmp_path / "out", settings, "planted", tissue)
    assert 0 < rest.num_tiles < 0.7 * whole.num_tiles
    np.testing.assert_array_equal(result.label[:], expected.label[:])
    np.testing.assert_array_equal(result.probability[:], expected.probability[:])


def killed_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("killed", Path(__file__).with_name("killed.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_prediction_ends_like_one_that_was_not(tmp_path: Path) -> None:
    slide, _ = planted(tmp_path, size=Size(700, 200))
    killed = killed_module()
    whole, num_whole = killed.predict(slide.path, tmp_path / "whole")
    killed_at, out = num_whole * 2 // 3, tmp_path / "killed"
    assert exit_code(Path(__file__).with_name("killed.py"), slide.path, out, killed_at) == -signal.SIGKILL
    attributes = dict(zarr.open_group(out / "map.zarr", mode="r").attrs)
    assert attributes["bands_done"] > 0
    assert not attributes["complete"]
    resumed, num_resumed = killed.predict(slide.path, out)
    assert num_whole - killed_at <= num_resumed < num_whole
    assert num_resumed - (num_whole - killed_at) < num_whole / 4  # no more than a band was done twice
    assert files_of(resumed.path) == files_of(whole.path)


def test_tissue_is_looked_up_at_pixel_centres() -> None:
    mask = np.array([[True, False], [False, True]])
    tissue = Tissue(mask, Frame.covering(Box(100, 50, 80, 80), Mpp.square(1.0), 40.0))
    frame = Frame.covering(Box(60, 50, 120, 100), Mpp.square(1.0), 20.0)
    under = tissue_under(tissue, frame, Box(1, 0, 5, 5))
    expected = np.zeros((5, 5), bool)
    expected[0:2, 1:3] = expected[2:4, 3:5] = True
    np.testing.assert_array_equal(under, expected)


def test_a_slide_much_coarser_than_the_model_is_refused_at_once(tmp_path: Path) -> None:
    slide, _ = planted(tmp_path, mpp=29.0)
    with pytest.raises(UnsupportedSlideError, match="has 29 um/px; the model looks at 1"):
        predict_slide(slide, PlantedModel(), tmp_path / "out", CPU, "planted")
    assert not (tmp_path / "out").exists()
