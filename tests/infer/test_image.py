import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from counterstain.errors import InputError
from counterstain.infer import PredictSettings, predict_image
from counterstain.infer.image import starts
from counterstain.results import UNCOVERED, Classes
from counterstain.testing.planted import PLANTED_CLASSES, PlantedInput, PlantedModel

COLORS = np.array(PLANTED_CLASSES.colors, np.uint8)
CPU = PredictSettings(device="cpu")


@given(st.integers(1, 300), st.integers(1, 80), st.integers(0, 30), st.floats(0, 0.9))
def test_cores_cover_an_axis_and_stay_inside(length: int, tile: int, halo: int, overlap: float) -> None:
    core = tile - 2 * halo
    if core <= 0:
        return
    stride = max(1, int(core * (1 - overlap)))
    places = starts(length, tile, stride)
    assert places[0] == 0
    assert places[-1] == max(0, length - tile)
    covered = np.zeros(length, bool)
    for place in places:
        lead = halo if place > 0 else 0
        trail = halo if place + tile < length else 0
        covered[place + lead : place + tile - trail] = True
    assert covered.all()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 12), st.floats(0, 0.9), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_an_image_comes_back_whatever_its_size(height: int, width: int, halo: int, overlap: float, batch: int) -> None:
    truth = np.random.default_rng(height * width).integers(0, 3, (height, width))
    model = PlantedModel(PlantedInput(tile_px=32, halo_px=halo))
    chosen = PredictSettings(overlap=overlap, batch_size=batch, device="cpu")
    maps = predict_image(COLORS[truth], model, chosen)
    np.testing.assert_array_equal(maps.labels(), truth)
    np.testing.assert_array_equal(maps.probability_CHW, np.eye(3, dtype=np.float32)[truth].transpose(2, 0, 1))


class SeesTheTile(PlantedModel):
    """Its maps tell where in the tile a pixel lies: 1 in the halo, 0 in the core."""

    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        maps = torch.zeros(len(images_BCHW), 3, *images_BCHW.shape[2:])
        halo = self.input.halo_px
        maps[:, 0] = 1
        maps[:, 0, halo:-halo, halo:-halo] = 0
        maps[:, 1] = 1 - maps[:, 0]
        return maps


def test_halos_are_used_at_the_rim_of_the_image_alone() -> None:
    maps = predict_image(np.zeros((100, 130, 3), np.uint8), SeesTheTile(PlantedInput(32, 8)), CPU)
    is_halo = maps.probability_CHW[0]
    assert (is_halo[8:-8, 8:-8] == 0).all()
    for rim in (is_halo[:8], is_halo[-8:], is_halo[:, :8], is_halo[:, -8:]):
        assert (rim[:, :][8:-8] if rim.shape[0] > 8 else rim[:, 8:-8]).all()


def test_without_settings_the_defaults_hold() -> None:
    truth = np.tile([[1, 2]], (40, 20))
    np.testing.assert_array_equal(predict_image(COLORS[truth], PlantedModel()).labels(), truth)


def test_glass_in_an_image_stays_uncovered() -> None:
    truth = np.ones((50, 50), np.int64)
    truth[10:20, 10:20] = 0
    tissues = Classes(PLANTED_CLASSES.names[1:], PLANTED_CLASSES.colors[1:])
    chosen = PredictSettings(white_background=True, device="cpu")
    labels = predict_image(COLORS[truth], PlantedModel(classes=tissues), chosen).labels()
    np.testing.assert_array_equal(labels, np.where(truth == 0, UNCOVERED, 0))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"expected \(height, width, 3\) uint8"):
        predict_image(image, PlantedModel(), CPU)
