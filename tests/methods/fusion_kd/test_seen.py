from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from counterstain.data.records import PatchDataset
from counterstain.errors import InputError
from counterstain.methods.fusion_kd.seen import HeldOut, Seen, batches, look


class Dark(nn.Module):
    """Calls tumour what is dark; `tilt` makes it depend on where in the image it is."""

    def __init__(self, tilt: float = 0.0) -> None:
        super().__init__()
        self.gain, self.tilt = nn.Parameter(torch.tensor(20.0)), tilt

    def forward(self, images_BCHW: Tensor) -> Tensor:
        assert not self.training
        ramp_W = torch.linspace(-self.tilt, self.tilt, images_BCHW.shape[3])
        fused_BHW = (self.gain * (0.6 - images_BCHW.mean(1)) + ramp_W).sigmoid()
        return torch.stack([torch.zeros_like(fused_BHW), fused_BHW], 1)


@pytest.fixture(scope="module")
def held(planted: PatchDataset) -> HeldOut:
    return HeldOut.of(planted.val, 1, 64)


def test_held_out_images_have_no_masks(held: HeldOut, planted: PatchDataset) -> None:
    assert {field.name for field in fields(held)} == {"patches", "is_positive_N", "patients"}
    assert "mask" not in str(vars(held.patches))
    np.testing.assert_array_equal(held.is_positive_N, [True, False] * 4)
    assert held.patients == tuple(record.patient for record in planted.val)
    bare = tuple(replace(record, mask=None) for record in planted.val)
    assert len(HeldOut.of(bare, 1, 64)) == 8


def test_maps_are_the_fused_ones_averaged_over_squares(held: HeldOut) -> None:
    network = Dark()
    seen = look(network, held, with_views=False)
    with torch.no_grad():
        whole = network.eval()(next(batches(held.patches)))[:, -1].numpy()
    expected = whole.reshape(8, 16, 4, 16, 4).mean((2, 4))
    assert seen.maps_Nhw.dtype == np.float16
    np.testing.assert_allclose(seen.maps_Nhw, expected, atol=1e-3)
    assert np.isnan(seen.consistency_N).all()


def test_a_network_is_left_in_the_mode_it_was_in(held: HeldOut) -> None:
    network = Dark().train()
    look(network, held, with_views=False)
    assert network.training
    assert next(network.parameters()).grad is None


def test_a_network_that_minds_where_things_are_is_less_consistent(held: HeldOut) -> None:
    fair, tilted = look(Dark(), held, with_views=True), look(Dark(tilt=8.0), held, with_views=True)
    assert fair.consistency_N.mean() > 0.95
    assert tilted.consistency_N.mean() < fair.consistency_N.mean() - 0.1
    assert ((tilted.consistency_N >= 0) & (tilted.consistency_N <= 1)).all()


def test_consistency_is_one_less_the_mean_difference_of_three_views(held: HeldOut) -> None:
    network, images_BCHW = Dark(tilt=3.0).eval(), next(batches(held.patches))

    def squares(maps_BHW: np.ndarray) -> np.ndarray:
        return maps_BHW.reshape(len(maps_BHW), 16, 4, 16, 4).mean((2, 4))

    def shown(array_BCHW: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = network(torch.from_numpy(array_BCHW.copy()))[:, -1].numpy()
        return found

    array_BCHW = images_BCHW.numpy()
    plain = squares(shown(array_BCHW))
    mirrored = squares(shown(array_BCHW[..., ::-1])[..., ::-1])
    turned = squares(np.rot90(shown(np.rot90(array_BCHW, 1, (2, 3))), -1, (1, 2)))
    smaller_BCHW = functional.interpolate(images_BCHW, (45, 45), mode="bilinear", antialias=True)
    smaller_B1HW = torch.from_numpy(shown(smaller_BCHW.numpy()))[:, None]
    smaller = squares(functional.interpolate(smaller_B1HW, (64, 64), mode="bilinear")[:, 0].numpy())
    apart = np.mean([np.abs(plain - view).mean((1, 2)) for view in (mirrored, turned, smaller)], axis=0)
    np.testing.assert_allclose(look(network, held, with_views=True).consistency_N, 1 - apart, atol=1e-5)
    assert apart.min() > 0.01


def test_a_small_map_is_called_no_less_consistent_than_a_large_one(held: HeldOut) -> None:
    """A slip of as many pixels costs as much, however much of the image is called tumour."""

    class Slipping(nn.Module):
        """Calls the columns left of one tumour, in every view alike: mirroring and turning bring out what is not."""

        def __init__(self, column: int) -> None:
            super().__init__()
            self.column = nn.Parameter(torch.tensor(float(column)), requires_grad=False)

        def forward(self, images_BCHW: Tensor) -> Tensor:
            columns_W = torch.arange(images_BCHW.shape[3]) * 64 / images_BCHW.shape[3]
            return (columns_W < self.column).float().expand(len(images_BCHW), 1, images_BCHW.shape[2], -1)

    narrow, wide = (look(Slipping(column), held, with_views=True).consistency_N for column in (8, 56))
    np.testing.assert_allclose(narrow, wide, atol=0.02)


def test_oblong_images_are_turned_and_turned_back(tmp_path: Path) -> None:
    from PIL import Image

    from counterstain.data.records import PatchRecord
    from counterstain.data.weak import WeakPatches

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    patches = WeakPatches([PatchRecord(tmp_path / "a.png", (0, 1), "a")])
    seen = look(Dark(), HeldOut(patches, np.array([True]), ("a",)), with_views=True)
    assert seen.maps_Nhw.shape == (1, 5, 8)
    assert seen.consistency_N[0] > 0.7


def test_what_was_seen_can_be_kept(tmp_path: Path, held: HeldOut) -> None:
    seen = look(Dark(), held, with_views=False)
    seen.save(tmp_path / "seen.npz")
    again = Seen.load(tmp_path / "seen.npz")
    np.testing.assert_array_equal(again.maps_Nhw, seen.maps_Nhw)
    np.testing.assert_array_equal(again.consistency_N, seen.consistency_N)
    assert [path.name for path in tmp_path.iterdir()] == ["seen.npz"]


def test_one_kind_of_images_or_one_patient_is_not_enough(planted: PatchDataset) -> None:
    with pytest.raises(InputError, match="positives of two patients"):
        HeldOut.of(planted.val[:2], 1, 64)
    with pytest.raises(InputError, match="0 negative"):
        HeldOut.of(planted.val[::2], 1, 64)
