from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from counterstain.errors import (
    InputError,
    MissingResolutionError,
    NoTissueError,
    UnknownNameError,
    UnsupportedSlideError,
)
from counterstain.geometry import Box, Mpp
from counterstain.tissue import RunsSettings, TissueSettings, find_tissue, find_tissue_in_image, view_frame
from counterstain.tissue.ink import within

DEFAULT = TissueSettings()
AS_DRAWN = TissueSettings(min_area_um2=0, max_hole_um2=0)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_drawn_tissue_is_found_where_it_was_drawn(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene()
    truth = drawing.disc(70, 80, 45) | drawing.box(140, 30, 200, 150)
    slide = draw(drawing.lay(truth, stains["pink"], 0.3).pixels)
    found = find_tissue(slide)
    assert agreement(found.mask, truth) > 0.93
    # Smoothing widens an edge by at most two pixels of the view.
    assert not (found.mask & ~within(truth, 2.5)).any()
    assert not (truth & ~found.mask).any()


def test_pale_stroma_beside_dense_tumour_is_kept(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene()
    tumour, stroma = drawing.disc(80, 100, 50), drawing.box(130, 30, 220, 170)
    found = find_tissue(draw(drawing.lay(tumour, stains["purple"], 0.4).lay(stroma, stains["pale"], 0.5).pixels))
    assert found.mask[stroma].mean() > 0.95


@pytest.mark.parametrize("stain", ["pink", "purple", "pale"])
def test_a_patch_that_is_tissue_all_over_is_tissue_all_over(
    stain: str, draw: Callable, scene: Callable, stains: dict
) -> None:
    drawing = scene(60, 60)
    slide = draw(drawing.lay(np.ones((60, 60), bool), stains[stain], 0.4).pixels, 0.5)
    if stain == "pale":  # nothing in the picture tells it from tinted glass
        with pytest.raises(NoTissueError):
            find_tissue(slide)
    else:
        assert find_tissue(slide).mask.all()


def test_a_small_biopsy_on_a_slide_that_is_nearly_all_glass_is_found(
    draw: Callable, scene: Callable, stains: dict
) -> None:
    drawing = scene(600, 600)
    truth = drawing.disc(300, 200, 8)
    found = find_tissue(draw(drawing.lay(truth, stains["pink"], 0.3).pixels))
    assert found.mask[truth].all()
    assert found.mask.sum() < 2.2 * truth.sum()


def test_a_slide_without_tissue_is_refused_with_its_name(draw: Callable, scene: Callable) -> None:
    slide = draw(scene().pixels)
    with pytest.raises(NoTissueError, match=r"slide0\.npz' shows no tissue by the method 'otsu'.*10000 um2"):
        find_tissue(slide)


def test_a_slide_of_pen_marks_alone_has_no_tissue(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene()
    drawing.lay(drawing.box(20, 20, 220, 50), stains["blue"]).lay(drawing.box(20, 100, 220, 140), stains["green"])
    with pytest.raises(NoTissueError):
        find_tissue(draw(drawing.pixels))


def test_a_slide_of_ink_from_edge_to_edge_has_no_tissue(draw: Callable, scene: Callable, stains: dict) -> None:
    with pytest.raises(NoTissueError):
        find_tissue(draw(scene().lay(np.ones((200, 240), bool), stains["blue"]).pixels))


def test_fluorescence_is_refused(draw: Callable) -> None:
    rng = np.random.default_rng(2)
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[..., 0] = np.minimum(rng.exponential(25, (80, 80)), 255)
    with pytest.raises(UnsupportedSlideError, match="dark background"):
        find_tissue(draw(pixels))
    with pytest.raises(UnsupportedSlideError, match="dark background"):
        find_tissue_in_image(pixels)


def test_a_slide_without_resolution_is_refused(draw: Callable, scene: Callable) -> None:
    with pytest.raises(MissingResolutionError, match="--mpp"):
        find_tissue(draw(scene().pixels, None))


def test_grey_dust_shadows_and_the_coverslips_edge_are_no_tissue(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene()
    tissue = drawing.disc(70, 80, 40)
    shadow = drawing.box(-1, 185, 240, 200)
    drawing.lay(tissue, stains["pink"], 0.3).lay(drawing.box(150, -1, 153, 200), (0.5, 0.5, 0.5))
    drawing.lay(drawing.disc(200, 60, 9), (0.3, 0.3, 0.3)).lay(shadow, (0.4, 0.4, 0.4))
    found = find_tissue(draw(drawing.pixels))
    assert not (found.mask & ~within(tissue, 3)).any()


def test_black_where_nothing_was_scanned_is_no_tissue(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene()
    tissue = drawing.disc(70, 80, 40)
    pixels = drawing.lay(tissue, stains["pink"], 0.3).pixels
    pixels[:, 150:] = 0
    found = find_tissue(draw(pixels))
    assert not found.mask[:, 146:].any()
    assert found.mask[tissue].all()


def test_ink_is_kept_apart_and_never_tissue(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene()
    tissue, stroke = drawing.disc(110, 100, 80), drawing.box(95, 40, 125, 160)
    drawing.lay(tissue, stains["pink"], 0.2).lay(stroke, stains["green"])
    slide = draw(drawing.pixels)
    found = find_tissue(slide, TissueSettings(margin_um=80))
    assert found.ink is not None
    assert found.ink[stroke].all()
    assert not (found.ink & found.mask).any()
    assert found.mask[tissue & ~within(stroke, 6)].all()
    kept = find_tissue(slide, TissueSettings(inks=()))
    assert kept.mask[stroke].all()


def test_holes_are_filled_below_their_size_alone(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene()
    small, large = drawing.disc(70, 100, 8), drawing.disc(150, 100, 25)
    slide = draw(drawing.lay(drawing.disc(110, 100, 85) & ~small & ~large, stains["pink"], 0.2).pixels)
    found = find_tissue(slide, replace(AS_DRAWN, max_hole_um2=200 * 64))
    assert found.mask[small].all()
    assert found.mask[large].mean() < 0.3
    assert not find_tissue(slide, AS_DRAWN).mask[100, 70]


def test_specks_are_dropped_below_their_size_alone(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene()
    small, large = drawing.disc(40, 100, 6), drawing.disc(150, 100, 20)
    slide = draw(drawing.lay(small | large, stains["pink"], 0.2).pixels)
    found = find_tissue(slide, replace(AS_DRAWN, min_area_um2=400 * 64))
    assert not found.mask[small].any()
    assert found.mask[large].all()
    assert find_tissue(slide, AS_DRAWN).mask[small].all()


def test_no_tissue_is_a_speck_in_a_view_of_a_single_patch(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene(224, 224)
    half = drawing.box(-1, -1, 112, 224)
    found = find_tissue(draw(drawing.lay(half, stains["purple"], 0.3).pixels, 0.25))
    assert found.mask.shape == (7, 7)
    assert found.mask[:, :3].all()
    assert not found.mask[:, 6].any()


def test_a_margin_widens_tissue_by_so_many_um(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene()
    slide = draw(drawing.lay(drawing.disc(100, 100, 30), stains["pink"], 0.2).pixels)
    plain = find_tissue(slide)
    wide = find_tissue(slide, TissueSettings(margin_um=40))
    assert np.array_equal(wide.mask, within(plain.mask, 5.0))


def test_the_view_covers_the_scanned_part_at_the_resolution_asked_for(draw: Callable) -> None:
    slide = draw(np.full((500, 900, 3), 255, np.uint8), Mpp(2.0, 1.0), Box(100, 40, 700, 420))
    frame = view_frame(slide)
    assert (frame.downsample_x, frame.downsample_y) == (4.0, 8.0)
    assert (frame.origin.x, frame.origin.y) == (100, 40)
    assert frame.size.shape == (53, 175)


def test_the_view_of_a_large_slide_is_coarser_and_that_of_a_coarse_slide_no_finer(draw: Callable) -> None:
    slide = draw(np.full((500, 900, 3), 255, np.uint8), 8.0)
    frame = view_frame(slide, TissueSettings(max_px=10_000))
    assert 9_000 < frame.size.area < 10_500
    coarse = draw(np.full((50, 90, 3), 255, np.uint8), 30.0)
    assert view_frame(coarse).size.shape == (50, 90)


def test_tissue_lies_where_bounds_and_unequal_resolution_put_it(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene(400, 480)
    truth = drawing.box(200, 100, 400, 300)
    slide = draw(drawing.lay(truth, stains["pink"], 0.2).pixels, Mpp(4.0, 5.0), Box(101, 53, 350, 301))
    found = find_tissue(slide)
    (polygon,) = found.polygons()
    assert polygon.bounds == pytest.approx((200, 100, 400, 300), abs=6)
    assert found.area_mm2(slide.mpp) == pytest.approx(200 * 4 * 200 * 5 / 1e6, rel=0.06)


def test_the_run_length_filter_keeps_cells_rich_in_detail(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene(256, 256)
    nuclei, smooth = drawing.box(-1, -1, 128, 128), drawing.box(128, 128, 256, 256)
    slide = draw(drawing.lay(nuclei, stains["purple"], 0.5).lay(smooth, stains["pink"]).pixels, 1.0)
    recipe = TissueSettings(method="runs", runs=RunsSettings(cell_um=32, cell_px=32))
    found = find_tissue(slide, recipe)
    expected = np.zeros((32, 32), bool)
    expected[:16, :16] = True
    assert np.array_equal(found.mask, expected)
    assert found.runs is not None
    assert found.runs.scores.shape == (8, 8)
    assert np.array_equal(found.runs.mask, expected[::4, ::4])
    assert find_tissue(slide).runs is None


def test_both_methods_together_keep_what_each_keeps(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene(256, 256)
    rough_grey = drawing.box(-1, 128, 128, 256)
    nuclei, smooth = drawing.box(-1, -1, 128, 128), drawing.box(128, 128, 256, 256)
    drawing.lay(nuclei, stains["purple"], 0.5).lay(smooth, stains["pink"]).lay(rough_grey, (0.5, 0.5, 0.5), 0.6)
    slide = draw(drawing.pixels, 1.0)
    recipe = TissueSettings(method="both", runs=RunsSettings(cell_um=32, cell_px=32), inks=())
    both = find_tissue(slide, recipe).mask
    each = [find_tissue(slide, replace(recipe, method=method)).mask for method in ("otsu", "runs")]
    assert each[0][:16, :16].all()
    assert each[0][18:, 18:].all()
    assert each[1][18:, :14].all()
    assert np.array_equal(both, each[0] & each[1])
    assert both[:15, :15].all()
    assert not both[18:, :13].any()
    assert not both[18:, 16:].any()


def test_an_image_is_searched_as_a_slide_of_its_resolution_is(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene(400, 480)
    truth = drawing.box(100, 80, 300, 320)
    pixels = drawing.lay(truth, stains["pink"], 0.3).pixels
    found = find_tissue_in_image(pixels, 2.0)
    assert found.shape == truth.shape
    assert agreement(found, truth) > 0.9
    on_slide = find_tissue(draw(pixels, 2.0)).mask
    assert np.array_equal(found, on_slide.repeat(4, axis=0).repeat(4, axis=1))


def test_a_thumbnail_of_unknown_resolution_is_searched_as_it_is(scene: Callable, stains: dict) -> None:
    drawing = scene()
    truth = drawing.disc(100, 100, 40)
    pixels = drawing.lay(truth, stains["pink"], 0.3).pixels
    assert np.array_equal(find_tissue_in_image(pixels), find_tissue_in_image(pixels, 8.0))
    assert not find_tissue_in_image(scene().pixels).any()


def test_an_image_is_no_slide_for_the_run_length_filter() -> None:
    with pytest.raises(InputError, match="'runs' was given for an image"):
        find_tissue_in_image(np.full((9, 9, 3), 200, np.uint8), 1.0, TissueSettings(method="runs"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"mpp": 0.0},
        {"mpp": float("nan")},
        {"max_px": 0},
        {"saturation": (0.5, 0.1)},
        {"min_area_um2": -1.0},
        {"margin_um": float("inf")},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="given"):
        TissueSettings(**wrong)


def test_unknown_methods_and_inks_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'otsu'"):
        TissueSettings(method="ostu")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="ink 'purple'"):
        TissueSettings(inks=("purple",))
    assert DEFAULT.method == "otsu"
