import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from counterstain.errors import InputError, UnknownNameError
from counterstain.report import CORRUPTIONS, corrupt
from counterstain.report.corruptions import (
    BLUR_SIGMAS_PX,
    JPEG_QUALITIES,
    STAIN_FACTORS,
    STRENGTHS,
    blur,
    jpeg,
    stain_shift,
)
from counterstain.stain import HED_TO_RGB

Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def tissue() -> Pixels:
    """Violet nuclei on pink, a third of it white glass."""
    rng = np.random.default_rng(0)
    image = np.full((48, 60, 3), 255, np.uint8)
    image[:, 20:] = (225, 130, 170)
    for row, column in rng.integers(0, 40, (12, 2)):
        image[row : row + 6, 20 + column // 2 : 26 + column // 2] = (90, 60, 150)
    return image


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_strength_0_changes_nothing_and_gives_memory_of_its_own(name: str, tissue: Pixels) -> None:
    found = corrupt(tissue, name, 0)
    assert np.array_equal(found, tissue)
    found[:] = 0
    assert tissue.any()


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("number", [0, 1])
def test_more_strength_changes_more(name: str, number: int, tissue: Pixels) -> None:
    before = tissue.copy()
    changed = [corrupt(tissue, name, strength, number) for strength in (0, *STRENGTHS)]
    distances = [float(np.abs(one.astype(int) - tissue).mean()) for one in changed]
    assert distances == sorted(set(distances)), "every strength changes more than the one before"
    assert all(one.shape == tissue.shape and one.dtype == np.uint8 for one in changed)
    assert np.array_equal(tissue, before), "the image given is left alone"
    assert np.array_equal(corrupt(tissue, name, 3, number), changed[3]), "the same again"


@pytest.mark.parametrize(("name", "rounding"), [("stain_shift", 0), ("blur", 0), ("jpeg", 1)])
def test_white_stays_white(name: str, rounding: int) -> None:
    white = np.full((24, 24, 3), 255, np.uint8)
    assert all(corrupt(white, name, strength, 1).min() >= 255 - rounding for strength in STRENGTHS)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_stain_shift_leaves_glass_and_nearly_glass(direction: int, tissue: Pixels) -> None:
    assert (stain_shift(tissue, 5, direction)[:, :20] == 255).all()
    gray = np.full((4, 4, 3), 245, np.uint8)
    assert np.abs(stain_shift(gray, 5, direction).astype(int) - 245).max() <= 6


def test_a_stain_shift_multiplies_pure_stains() -> None:
    """A pixel of one stain alone has that stain's density, times the factor, whatever the matrix's inverse does."""
    densities = 0.6 * np.array(HED_TO_RGB[:2])
    image = np.exp(-densities)[None] * 255
    factor = STAIN_FACTORS[2]
    for direction in (1, -1):
        found = stain_shift(image.round().astype(np.uint8), 3, direction)[0]
        factors = np.array([1 + direction * factor, 1 - direction * factor])
        assert np.abs(found - np.exp(-densities * factors[:, None]) * 255).max() < 3


def test_directions_alternate_from_image_to_image(tissue: Pixels) -> None:
    even, odd = (corrupt(tissue, "stain_shift", 4, number) for number in (0, 1))
    assert np.array_equal(even, corrupt(tissue, "stain_shift", 4, 2))
    nucleus = tissue[:, :, 0] == 90
    assert even[nucleus].mean() < tissue[nucleus].mean() < odd[nucleus].mean()


def test_a_blur_has_its_sigma_in_pixels() -> None:
    image = np.zeros((81, 81, 3), np.uint8)
    image[:, 40:] = 255  # an edge's profile is the Gaussian's integral: 16 and 84 % lie one sigma to either side
    for strength in STRENGTHS[2:]:
        profile = blur(image, strength)[40, :, 0] / 255
        places = np.interp([0.1587, 0.8413], profile, np.arange(81) + 0.5)
        assert np.diff(places)[0] / 2 == pytest.approx(BLUR_SIGMAS_PX[strength - 1], rel=0.05)


def test_jpeg_is_that_of_pillow_at_each_quality(tissue: Pixels) -> None:
    for strength, quality in zip(STRENGTHS, JPEG_QUALITIES, strict=True):
        file = io.BytesIO()
        Image.fromarray(tissue).save(file, "JPEG", quality=quality, subsampling=2)
        assert np.array_equal(jpeg(tissue, strength), np.asarray(Image.open(file)))


def test_unknown_corruptions_and_strengths_are_refused(tissue: Pixels) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'blur'"):
        corrupt(tissue, "bur", 1)
    for strength in (-1, 6):
        with pytest.raises(InputError, match=f"strength {strength} was given"):
            corrupt(tissue, "blur", strength)
