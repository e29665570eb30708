import numpy as np
import pytest
import torch

from counterstain.data.records import PatchDataset
from counterstain.data.weak import WeakPatches, WeakSettings
from counterstain.errors import InputError
from counterstain.methods.fusion_kd.seen import HeldOut, batches
from counterstain.methods.fusion_kd.verifier import (
    Verifier,
    VerifierSettings,
    cell_features,
    fit_verifier,
    tissue_share,
)
from counterstain.models.backbones import build_backbone
from counterstain.stain import separate

SETTINGS = VerifierSettings(cell_px=8, strength=1.0)


@pytest.fixture(scope="module")
def train(planted: PatchDataset) -> WeakPatches:
    return WeakPatches(planted.train, WeakSettings(patch_px=64))


@pytest.fixture(scope="module")
def held(planted: PatchDataset) -> HeldOut:
    return HeldOut.of(planted.val, 1, 64)


@pytest.fixture(scope="module")
def verifier(train: WeakPatches) -> Verifier:
    return fit_verifier(train, 1, SETTINGS)


def test_it_finds_the_tumour_of_images_it_has_not_seen(verifier: Verifier, held: HeldOut) -> None:
    cells = verifier.judge(held)
    tumour = cells.tumour_Ngg[held.is_positive_N]
    assert tumour.shape == (4, 8, 8)
    assert tumour[:, 2:6, 2:6].min() > 0.7
    outside = np.ones((8, 8), bool)
    outside[2:6, 2:6], outside[:, 0] = False, False
    assert tumour[:, outside].max() < 0.6  # the tumour's edge is a gradient in the cells beside it
    assert tumour[:, outside].mean() < 0.2
    assert cells.tumour_Ngg[~held.is_positive_N][:, :, 1:].max() < 0.3


def test_choosing_cells_anew_sharpens_what_every_cell_of_positives_taught(train: WeakPatches, held: HeldOut) -> None:
    def gap(num_rounds: int) -> float:
        tumour = fit_verifier(train, 1, VerifierSettings(cell_px=8, num_rounds=num_rounds)).judge(held).tumour_Ngg
        positive = tumour[held.is_positive_N]
        return float(positive[:, 2:6, 2:6].mean() - positive[:, :2, 1:].mean())

    assert gap(4) > gap(0) + 0.02


def test_it_learns_the_same_twice(train: WeakPatches, verifier: Verifier) -> None:
    again = fit_verifier(train, 1, SETTINGS)
    np.testing.assert_array_equal(again.weight_F, verifier.weight_F)
    assert again.bias == verifier.bias


def test_glass_is_no_tissue(held: HeldOut, verifier: Verifier) -> None:
    is_tissue = verifier.judge(held).is_tissue_Ngg
    assert not is_tissue[:, :, 0].any()
    assert is_tissue[:, :, 1:].all()
    images = torch.full((1, 3, 8, 8), 0.9)
    images[:, :, :, :2] = torch.tensor([0.95, 0.8, 0.9]).view(1, 3, 1, 1)
    assert tissue_share(images, 8).item() == 0.25


def test_features_are_those_of_a_loop_over_cells(held: HeldOut) -> None:
    images = next(batches(held.patches))[:1, :, :16, :24]
    stains, gray = separate(images)[0].numpy(), images[0].mean(0).numpy()
    gradient = np.zeros((16, 24))
    gradient[:-1] += np.abs(np.diff(gray, axis=0))
    gradient[:, :-1] += np.abs(np.diff(gray, axis=1))
    features = cell_features(images, 8)
    assert features.shape == (1, 2, 3, 15)
    for row in range(2):
        for column in range(3):
            place = slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
            cell = stains[:, *place].reshape(3, -1)
            expected = [*cell.mean(1), *cell.std(1), gradient[place].mean()]
            np.testing.assert_allclose(features[0, row, column, :7], expected, atol=2e-4)
            blurred = stains[:2, *place].reshape(2, 2, 4, 2, 4).mean((2, 4)).reshape(2, 4)
            np.testing.assert_allclose(features[0, row, column, 7:9], blurred.std(1), atol=2e-4)
            shares = [(cell[0] >= amount).mean() for amount in (0.15, 0.3, 0.45, 0.6)]
            np.testing.assert_allclose(features[0, row, column, 11:], shares, atol=1e-6)


def test_cells_cover_an_image_that_they_do_not_divide() -> None:
    assert cell_features(torch.rand(1, 3, 50, 70), 32).shape[1:3] == (2, 2)
    assert cell_features(torch.rand(1, 3, 10, 10), 32).shape[1:3] == (1, 1)


def test_a_backbones_features_are_added_and_it_is_left_as_it_was(train: WeakPatches, held: HeldOut) -> None:
    backbone = build_backbone("tiny", width=4).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    verifier = fit_verifier(train, 1, SETTINGS, backbone)
    assert len(verifier.weight_F) == 15 + 12
    assert verifier.judge(held).tumour_Ngg.shape == (8, 8, 8)
    assert backbone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_no_more_images_are_looked_at_than_asked_for(train: WeakPatches) -> None:
    one = fit_verifier(train, 1, VerifierSettings(cell_px=8, max_images=1, seed=0))
    other = fit_verifier(train, 1, VerifierSettings(cell_px=8, max_images=1, seed=1))
    assert not np.array_equal(one.weight_F, other.weight_F)


def test_no_more_cells_are_learned_from_than_asked_for(train: WeakPatches, held: HeldOut) -> None:
    few = fit_verifier(train, 1, VerifierSettings(cell_px=8, max_cells=60, strength=1.0))
    all_of_them = fit_verifier(train, 1, VerifierSettings(cell_px=8, strength=1.0))
    assert not np.array_equal(few.weight_F, all_of_them.weight_F)
    tumour = few.judge(held).tumour_Ngg[held.is_positive_N]
    assert tumour[:, 2:6, 2:6].mean() > tumour[:, :2, 1:].mean() + 0.3


def test_one_kind_of_images_teaches_nothing(planted: PatchDataset) -> None:
    with pytest.raises(InputError, match="0 negative"):
        fit_verifier(WeakPatches(planted.train[::2]), 1, SETTINGS)
    with pytest.raises(InputError, match="0 positive"):
        fit_verifier(WeakPatches(planted.train[1::2]), 1, SETTINGS)


def test_cells_have_one_size_on_the_slide() -> None:
    sizes = [VerifierSettings.at(mpp).cell_px for mpp in (None, 0.1, 0.25, 0.5, 1.0, 4.0)]
    assert sizes == [32, 64, 64, 32, 16, 16]


@pytest.mark.parametrize("setting", [{"cell_px": 3}, {"top_share": 0}, {"strength": 0}, {"num_rounds": -1}])
def test_settings_outside_their_ranges_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected"):
        VerifierSettings(**setting)  # type: ignore[arg-type]
