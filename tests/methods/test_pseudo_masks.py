from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from counterstain.data import PatchDataset
from counterstain.data.images import read_mask
from counterstain.data.weak import WeakPatches, WeakSettings
from counterstain.methods.pseudo_masks import (
    PseudoMasks,
    PseudoMaskSettings,
    begin_from,
    is_white,
    pseudo_masks,
    source_of,
    strongest_labelled,
    write_pseudo_masks,
)
from counterstain.models import CamClassifier, build_backbone
from counterstain.results import UNCOVERED

SETTINGS = PseudoMaskSettings((1, 2, 3), leaves_white_out=False)
COLORS = ((205, 51, 51), (0, 255, 0))


def classifier(num_classes: int = 2, seed: int = 0) -> CamClassifier:
    torch.manual_seed(seed)
    return CamClassifier(build_backbone("tiny", width=8), num_classes).eval()


def random_patches(num: int, num_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images_BCHW = torch.randint(0, 256, (num, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels_BK = torch.randint(0, 2, (num, num_classes), generator=generator).float()
    labels_BK[torch.arange(num), torch.arange(num) % num_classes] = 1
    return images_BCHW, labels_BK


def bilinear(plane_hw: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """A pixel's value from the four cells around its centre, cell by cell."""
    out = np.zeros((side, side))
    rows, columns = plane_hw.shape
    for y in range(side):
        for x in range(side):
            fy = min(max((y + 0.5) * rows / side - 0.5, 0), rows - 1)
            fx = min(max((x + 0.5) * columns / side - 0.5, 0), columns - 1)
            top, left = int(fy), int(fx)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            wy, wx = fy - top, fx - left
            upper = plane_hw[top, left] * (1 - wx) + plane_hw[top, right] * wx
            lower = plane_hw[bottom, left] * (1 - wx) + plane_hw[bottom, right] * wx
            out[y, x] = upper * (1 - wy) + lower * wy
    return out


def slow_mask(network: CamClassifier, image_CHW: torch.Tensor, label: list[int], tap: int) -> tuple[npt.NDArray, ...]:  # type: ignore[type-arg]
    """As published: one image and one class at a time, joint min-max, white above everything; and how sure it is."""
    cams = []
    for index in range(len(label)):
        features = network.backbone.trunk(network.backbone.normalise(image_CHW[None].float() / 255))
        logit = network.deep_head(features[3]).mean((2, 3))[0, index]
        gradient = torch.autograd.grad(logit, features[tap])[0][0]
        cam = (gradient.mean((1, 2))[:, None, None] * features[tap][0]).sum(0)
        cams.append(bilinear(cam.detach().double().numpy(), 32))
    stretched = np.stack(cams)
    stretched = (stretched - stretched.min()) / (stretched.max() - stretched.min())
    kept = [index for index, digit in enumerate(label) if digit]
    white = np.asarray(Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).convert("L")) > 200
    pieces, num = ndimage.label(white)
    for piece in range(1, num + 1):
        if (pieces == piece).sum() < 50:
            white[pieces == piece] = False
    scores = np.concatenate([stretched[kept], np.where(white, 1.000001, -1.0)[None]])
    names = np.array([*kept, UNCOVERED])
    ordered = np.sort(scores, axis=0)
    return names[scores.argmax(0)], ordered[-1] - ordered[-2]


@pytest.mark.parametrize("tap", [0, 1, 2, 3])
def test_masks_are_the_published_ones_worked_slowly(tap: int) -> None:
    network = classifier(3)
    images_BCHW, labels_BK = random_patches(4, 3)
    images_BCHW[0, :, 4:20, 4:20] = 240
    images_BCHW[1, :, 4:8, 4:8] = 240
    settings = PseudoMaskSettings((tap,), leaves_white_out=True)
    masks_BLHW = pseudo_masks(network, images_BCHW, labels_BK, settings)
    assert masks_BLHW.shape == (4, 1, 32, 32)
    assert masks_BLHW.dtype == torch.uint8
    for image_CHW, label_K, (mask_HW,) in zip(images_BCHW, labels_BK, masks_BLHW.numpy(), strict=True):
        expected, margin = slow_mask(network, image_CHW, label_K.int().tolist(), tap)
        is_sure = margin > 1e-5
        assert is_sure.mean() > 0.99
        assert (mask_HW == expected)[is_sure].all()
    assert (masks_BLHW[0] == UNCOVERED).sum() >= 256
    assert len(np.unique(masks_BLHW.numpy())) == 4, "every class and white occur"


def test_the_deepest_tap_alone_gives_the_plain_activation_map_s_argmax() -> None:
    network = classifier(3)
    images_BCHW, _ = random_patches(3, 3)
    everything = torch.ones(3, 3)
    (masks_BHW,) = pseudo_masks(network, images_BCHW, everything, PseudoMaskSettings((3,), False)).unbind(1)
    with torch.no_grad():
        plain_BHW = strongest_labelled(network.cams(images_BCHW.float() / 255), everything, (32, 32))
    assert (masks_BHW == plain_BHW).float().mean() > 0.999


@given(seed=st.integers(0, 1000), label=st.lists(st.booleans(), min_size=3, max_size=3))
def test_classes_absent_from_the_label_never_appear(seed: int, label: list[bool]) -> None:
    cams_BKhw = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) - 5  # all below 0: 0 would win
    mask_BHW = strongest_labelled(cams_BKhw, torch.tensor([label]).float(), (9, 9))
    found = set(np.unique(mask_BHW.numpy()).tolist())
    named = {index for index, digit in enumerate(label) if digit}
    assert found <= named if named else found == {UNCOVERED}


def test_white_is_bright_pieces_of_fifty_pixels_joined_along_their_sides() -> None:
    image = np.full((40, 40, 3), 120, np.uint8)
    image[2:7, 2:12] = 201  # 50 px
    image[20:27, 2:9] = 255  # 49 px
    image[27:34, 9:16] = 255  # 49 px more, touching at a corner alone
    image[2:7, 20:30] = 200  # not bright enough
    image[20:30, 25:35] = (255, 255, 60)  # a pale yellow: gray 233
    expected = np.zeros((40, 40), bool)
    expected[2:7, 2:12] = expected[20:30, 25:35] = True
    assert (is_white(image) == expected).all()


def test_white_is_left_unscored_only_when_asked_for() -> None:
    network = classifier()
    images_BCHW, labels_BK = torch.full((1, 3, 32, 32), 250, dtype=torch.uint8), torch.ones(1, 2)
    kept = pseudo_masks(network, images_BCHW, labels_BK, PseudoMaskSettings((3,), leaves_white_out=False))
    left_out = pseudo_masks(network, images_BCHW, labels_BK, PseudoMaskSettings((3,), leaves_white_out=True))
    assert not (kept == UNCOVERED).any()
    assert (left_out == UNCOVERED).all()


def written(data: PatchDataset, folder: Path, seed: int = 0) -> PseudoMasks:
    network, patches = classifier(seed=seed), WeakPatches(data.train, WeakSettings(patch_px=32))
    masks = PseudoMasks(folder, [record.image for record in data.train], SETTINGS.taps)
    begin_from(folder, source_of(network, data.digest(), 32, SETTINGS))
    write_pseudo_masks(masks, network, patches, SETTINGS, COLORS)
    return masks


def content(masks: PseudoMasks) -> list[bytes]:
    return [path.read_bytes() for index in range(len(masks)) for path in masks.paths(index)]


def test_masks_are_indexed_files_in_the_classes_colours(textures: PatchDataset, tmp_path: Path) -> None:
    masks = written(textures, tmp_path / "masks")
    assert len(masks) == len(textures.train) == 24
    found = set()
    for index, record in enumerate(textures.train):
        for path, tap in zip(masks.paths(index), SETTINGS.taps, strict=True):
            assert path == tmp_path / "masks" / f"tap{tap}" / f"{record.image.stem}.png"
            with Image.open(path) as image:
                assert image.mode == "P"
                assert (image.getpalette() or [])[:6] == [205, 51, 51, 0, 255, 0]
            values = set(np.unique(read_mask(path)).tolist())
            assert record.label is not None
            assert values <= {value for value, digit in enumerate(record.label) if digit}
            found |= values
    assert found == {0, 1}
    assert masks.minutes > 0


def test_a_killed_writing_goes_on_with_the_first_batch_that_is_not_whole(
    textures: PatchDataset, tmp_path: Path
) -> None:
    masks = written(textures, tmp_path / "masks")
    whole = content(masks)
    masks.add_minutes(60)
    before = masks.paths(0)[0].stat().st_mtime_ns
    for index in range(18, 24):
        masks.paths(index)[1].unlink()
    assert masks.pending() == list(range(16, 24))
    again = written(textures, tmp_path / "masks")
    assert content(again) == whole
    assert again.paths(0)[0].stat().st_mtime_ns == before, "whole batches are left as they are"
    assert 60 < again.minutes < 61, "time adds up"
    assert not again.pending()


def test_masks_of_another_classifier_are_never_taken_over(textures: PatchDataset, tmp_path: Path) -> None:
    stale = content(written(textures, tmp_path / "masks"))
    fresh = written(textures, tmp_path / "masks", seed=1)
    assert content(fresh) != stale
    assert content(fresh) == content(written(textures, tmp_path / "alone", seed=1))


def test_images_of_one_name_in_two_folders_keep_their_own_masks(tmp_path: Path) -> None:
    masks = PseudoMasks(tmp_path, [Path("a/1.png"), Path("b/1.png"), Path("b/A.png"), Path("c/a.png")], (3,))
    assert len({masks.paths(index)[0].name.casefold() for index in range(4)}) == 4
