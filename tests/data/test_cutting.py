from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counterstain.data.annotations import TumourAreas, read_asap
from counterstain.data.cutting import (
    CutSettings,
    Survey,
    Surveyed,
    choose,
    histogram,
    patch_mask,
    read_patch,
    survey_slide,
)
from counterstain.errors import InputError, UnsupportedSlideError
from counterstain.slides import open_slide
from counterstain.testing.slide_cohorts import DRAWN, PATCH_PX, TISSUE, VIOLET, draw_slide, write_asap
from counterstain.testing.slide_files import TiffDialect, write_tiff

SETTINGS = CutSettings(patch_px=PATCH_PX)


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiff(tmp_path_factory.mktemp("s") / "s.tif", draw_slide(DRAWN, 0), 1.0, TiffDialect(factors=(4,)))


@pytest.fixture(scope="module")
def areas(tmp_path_factory: pytest.TempPathFactory) -> TumourAreas:
    return read_asap(write_asap(tmp_path_factory.mktemp("a") / "a.xml", DRAWN))


def test_a_survey_finds_the_places_on_tissue_and_counts_their_tumour(slide_file: Path, areas: TumourAreas) -> None:
    survey = survey_slide(open_slide(slide_file), areas, SETTINGS)
    places = {tuple(corner) for corner in survey.corners.tolist()}
    left, top, right, bottom = TISSUE
    inside = {(float(x), float(y)) for y in range(top, bottom, PATCH_PX) for x in range(left, right, PATCH_PX)}
    assert inside <= places
    assert all(left - PATCH_PX <= x < right + PATCH_PX for x, _ in places)
    assert survey.downsample == (1.0, 1.0)
    whole = areas.mask(replace(survey.frame(0, 640), origin=type(survey.frame(0, 1).origin)(0, 0)))
    for (x, y), count in zip(survey.corners.astype(int).tolist(), survey.tumour_px.tolist(), strict=True):
        assert count == whole[y : y + PATCH_PX, x : x + PATCH_PX].sum()


def test_patches_lie_over_their_masks(slide_file: Path, areas: TumourAreas) -> None:
    slide = open_slide(slide_file)
    survey = survey_slide(slide, areas, SETTINGS)
    place = int(np.argmin(np.abs(survey.tumour_px - PATCH_PX**2 // 2)))
    frame = survey.frame(place, PATCH_PX)
    is_violet = np.abs(read_patch(slide, frame).astype(int) - VIOLET).sum(2) < 60
    assert (is_violet == patch_mask(areas, frame)).mean() > 0.97
    assert not patch_mask(None, frame).any()


def test_patches_of_another_resolution_cover_as_much(slide_file: Path, areas: TumourAreas) -> None:
    slide = open_slide(slide_file)
    survey = survey_slide(slide, areas, replace(SETTINGS, patch_px=32, patch_mpp=2.0))
    fine = survey_slide(slide, areas, SETTINGS)
    assert np.array_equal(survey.corners, fine.corners)
    assert np.abs(survey.tumour_px / 32**2 - fine.tumour_px / PATCH_PX**2).max() < 0.03
    assert read_patch(slide, survey.frame(0, 32)).shape == (32, 32, 3)
    with pytest.raises(UnsupportedSlideError, match="coarser patches"):
        survey_slide(slide, areas, replace(SETTINGS, patch_mpp=0.5))


def test_another_slide_s_annotation_is_refused(slide_file: Path, tmp_path: Path) -> None:
    far = read_asap(write_asap(tmp_path / "a.xml", (("_0", ((5000, 5000), (6000, 5000), (6000, 6000))),)))
    with pytest.raises(InputError, match="lies beside"):
        survey_slide(open_slide(slide_file), far, SETTINGS)


def fake(counts: list[int], *, is_tumour: bool, split: str = "train") -> Surveyed:
    corners = np.array([(64.0 * place, 0.0) for place in range(len(counts))])
    places = np.array(counts)
    return Surveyed(Survey(corners, places, (1.0, 1.0), (0.25, 0.25), places > 0), is_tumour, split)


TEN = CutSettings(patch_px=10)


def test_only_clear_patches_are_chosen() -> None:
    """Of 100 pixels: 20 is enough, 19 is too little, above 90 it is thinned out."""
    slides = {
        "t": fake([0, 1, 19, 20, 55, 90, *[91] * 2000, *[100] * 2000], is_tumour=True),
        "n": fake([0] * 500, is_tumour=False),
        "v": fake([0] * 500, is_tumour=False, split="val"),
    }
    picks = choose(slides, TEN)
    assert picks["t"].tumour[:3] == (3, 4, 5)
    kept = len(picks["t"].tumour) - 3
    assert 20 <= kept <= 65  # 1 % of 4,000, give or take four standard deviations
    assert picks["t"].num_slight == 2
    assert picks["t"].num_thinned == 4000 - kept
    assert picks["t"].normal == ()
    assert len(picks["n"].normal) == len(picks["t"].tumour)
    assert picks["v"].normal == ()  # a split without tumour gets no normal patch either
    assert histogram(slides, picks, TEN)["train"] == [0, 0, 1, 0, 0, 1, 0, 0, 0, 1 + kept]


def test_normal_patches_have_no_tumour_pixel_wherever_they_come_from() -> None:
    slides = {"t": fake([0, 0, 0, 1, 50, 60], is_tumour=True), "n": fake([0], is_tumour=False)}
    settings = replace(TEN, normal_from_tumour_slides=True, neg_pos_ratio=2.0)
    picks = choose(slides, settings)
    assert picks["t"].tumour == (4, 5)
    assert picks["t"].normal == (0, 1, 2)
    assert picks["n"].normal == (0,)
    assert choose(slides, replace(settings, normal_from_tumour_slides=False))["t"].normal == ()


def test_a_hole_in_tumour_is_no_normal_place(slide_file: Path, tmp_path: Path) -> None:
    """Nor is one that tumour reaches into by less than a pixel's centre."""
    tumour, hole = ((96, 96), (448, 96), (448, 448), (96, 448)), ((128, 128), (320, 128), (320, 320), (128, 320))
    sliver = ((500, 128.1), (510, 128.1), (510, 128.3), (500, 128.3))
    areas = read_asap(write_asap(tmp_path / "a.xml", (("_0", tumour), ("_2", hole), ("_0", sliver))))
    survey = survey_slide(open_slide(slide_file), areas, SETTINGS)
    places = {(x, y): place for place, (x, y) in enumerate(survey.corners.tolist())}
    doubtful = [places[128.0, 128.0], places[192.0, 192.0], places[448.0, 128.0]]
    assert not survey.tumour_px[doubtful].any()
    settings = replace(SETTINGS, normal_from_tumour_slides=True, neg_pos_ratio=100.0)
    normal = choose({"t": Surveyed(survey, True, "train")}, settings)["t"].normal
    assert len(normal) > 5
    assert not set(normal) & set(doubtful)


def test_draws_follow_the_seed_and_not_what_other_slides_hold() -> None:
    tumour = {"t": fake([50] * 20, is_tumour=True)}
    one = {**tumour, "n": fake([0] * 200, is_tumour=False)}
    assert choose(one, TEN)["n"] == choose(dict(reversed(one.items())), TEN)["n"]
    assert choose(one, TEN)["n"] != choose(one, replace(TEN, seed=1))["n"]
    fewer = choose({**one, "m": fake([0] * 200, is_tumour=False)}, TEN)
    assert set(fewer["n"].normal) < set(choose(one, TEN)["n"].normal)
    assert len(fewer["n"].normal) + len(fewer["m"].normal) == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch_px": 0},
        {"patch_mpp": -1.0},
        {"min_tissue": 1.5},
        {"min_fraction": 0.0},
        {"min_fraction": 0.95},
        {"neg_pos_ratio": float("nan")},
        {"tumour_groups": ("_2",)},
    ],
)
def test_a_recipe_that_can_t_be_followed_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        CutSettings(**wrong)  # type: ignore[arg-type]
