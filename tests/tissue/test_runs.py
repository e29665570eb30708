from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from counterstain.errors import InputError, UnsupportedSlideError
from counterstain.geometry import Box, Mpp
from counterstain.tissue import RunsSettings, score_runs
from counterstain.tissue.runs import cell_scores, runs_threshold

SMALL = RunsSettings(cell_um=8.0, cell_px=8, box_px=2)


def twin(cell: np.ndarray, step: int, box: int) -> float:
    """The recipe one pixel at a time: grey mean, box average, quantise, raster scan, count runs."""
    side = cell.shape[0] // box
    levels = []
    for row in range(side):
        for column in range(side):
            block = cell[row * box : (row + 1) * box, column * box : (column + 1) * box].astype(int)
            levels.append(int(block.sum()) // (3 * box * box * step))
    runs = 1 + sum(before != after for before, after in pairwise(levels))
    return runs / len(levels)


@pytest.mark.parametrize(("step", "box"), [(16, 2), (1, 1), (7, 4), (255, 1)])
def test_scores_are_those_of_the_recipe_pixel_by_pixel(step: int, box: int) -> None:
    view = np.random.default_rng(3).integers(0, 256, (16, 24, 3)).astype(np.uint8)
    settings = RunsSettings(cell_px=8, box_px=box, step=step)
    scores = cell_scores(view, settings)
    assert scores.shape == (2, 3)
    for row in range(2):
        for column in range(3):
            cell = view[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            assert scores[row, column] == pytest.approx(twin(cell, step, box))


def test_a_flat_cell_is_one_run_and_stripes_are_all_runs() -> None:
    flat = np.full((8, 8, 3), 240, np.uint8)
    striped = np.tile(np.array([0, 255], np.uint8), (8, 4))[..., None].repeat(3, axis=2)
    settings = RunsSettings(cell_px=8, box_px=1)
    assert cell_scores(flat, settings).item() == 1 / 64
    assert cell_scores(striped, settings).item() == 1.0


def test_sensor_noise_on_glass_scores_low_where_values_are_quantised() -> None:
    rng = np.random.default_rng(0)
    glass = np.clip(rng.normal(238, 2, (64, 64, 3)), 0, 255).astype(np.uint8)
    nuclei = np.clip(rng.normal(150, 50, (64, 64, 1)), 0, 255).astype(np.uint8).repeat(3, axis=2)
    default = RunsSettings()
    assert cell_scores(glass, default).item() < 0.05
    assert cell_scores(nuclei, default).item() > 0.5
    assert cell_scores(glass, replace(default, step=1, box_px=1)).item() > 0.5


def test_the_threshold_parts_smooth_cells_from_rich_ones() -> None:
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(0.06, 0.01, 500), rng.normal(0.5, 0.03, 100)]).astype(np.float32)
    wide = RunsSettings(clamp=(0.0, 1.0))
    for method in ("otsu", "gap"):
        assert 0.1 < runs_threshold(scores, replace(wide, threshold=method)) < 0.42
    assert runs_threshold(scores, replace(wide, threshold="fixed", fixed=0.2)) == 0.2


@pytest.mark.parametrize("threshold", ["otsu", "gap"])
def test_the_threshold_stays_in_its_clamp(threshold: str) -> None:
    settings = RunsSettings(threshold=threshold, clamp=(0.15, 0.4))  # type: ignore[arg-type]
    assert runs_threshold(np.linspace(0.01, 0.02, 50, dtype=np.float32), settings) == 0.15
    assert runs_threshold(np.linspace(0.8, 0.9, 50, dtype=np.float32), settings) == pytest.approx(0.4)
    assert runs_threshold(np.full((1, 1), 0.3, np.float32), settings) == pytest.approx(0.3)


def test_a_slide_is_scored_alike_in_one_strip_and_in_many(draw: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (75, 52, 3)).astype(np.uint8)
    slide = draw(pixels, 1.0)
    whole = score_runs(slide, SMALL)
    monkeypatch.setattr("counterstain.tissue.runs._STRIP_PX", 1)
    assert np.array_equal(score_runs(slide, SMALL).scores, whole.scores)
    assert whole.scores.shape == (10, 7)
    assert whole.mask.dtype == bool
    assert np.array_equal(whole.scores[:9, :6], cell_scores(pixels[:72, :48], SMALL))


def test_cells_are_um_of_the_scanned_part(draw: Callable) -> None:
    slide = draw(np.full((60, 80, 3), 200, np.uint8), Mpp(0.5, 1.0), Box(20, 10, 40, 48))
    frame = score_runs(slide, SMALL).frame
    assert (frame.downsample_x, frame.downsample_y) == (16, 8)
    assert frame.size.shape == (6, 3)
    assert frame.box.x == 20


def test_a_slide_too_coarse_to_show_nuclei_is_refused(draw: Callable) -> None:
    slide = draw(np.full((60, 80, 3), 200, np.uint8), 3.0)
    with pytest.raises(UnsupportedSlideError, match=r"has 3 um/px.*at most 2"):
        score_runs(slide, SMALL)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cell_um": 0},
        {"cell_px": 9},
        {"box_px": 0},
        {"step": 0},
        {"threshold": "mean"},
        {"clamp": (0.5, 0.1)},
    ],
)
def test_a_recipe_out_of_range_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="give"):
        RunsSettings(**wrong)
