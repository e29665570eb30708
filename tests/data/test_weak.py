import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from counterstain.data import PatchRecord, WeakPatches, WeakSettings, open_patches, read_image
from counterstain.errors import InputError, LabelError

Write = Callable[..., Path]

OPENED: list[str] = []
WATCHING = [False]


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHING[0] and event == "open":
        OPENED.append(str(arguments[0]))


sys.addaudithook(_watch)  # a hook can't be taken away again: it does nothing unless WATCHING


@pytest.fixture
def patches(table: Write) -> tuple[PatchRecord, ...]:
    folder = table("image,split,mask,a,b", "x.png,train,x_mask.png,1,0", "y.png,train,y_mask.png,0,1")
    for name in "xy":
        Image.fromarray(np.zeros((6, 8), np.uint8)).save(folder / f"{name}_mask.png")
    return open_patches(folder).train


def test_an_item_is_the_image_and_its_label(patches: tuple[PatchRecord, ...]) -> None:
    image_CHW, label_C = WeakPatches(patches)[1]
    assert image_CHW.dtype == torch.uint8
    assert np.array_equal(image_CHW.permute(1, 2, 0).numpy(), read_image(patches[1].image))
    assert torch.equal(label_C, torch.tensor([0.0, 1.0]))
    assert WeakPatches(patches).labels.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_no_mask_is_opened(patches: tuple[PatchRecord, ...]) -> None:
    assert all(record.mask is not None for record in patches)
    OPENED.clear()
    WATCHING[0] = True
    try:
        list(DataLoader(WeakPatches(patches), batch_size=2))
    finally:
        WATCHING[0] = False
    assert {Path(name).name for name in OPENED} >= {"x.png", "y.png"}  # the hook saw the images
    assert not [name for name in OPENED if "mask" in Path(name).name]


def test_masks_may_be_gone_or_rubbish(patches: tuple[PatchRecord, ...]) -> None:
    assert patches[0].mask is not None
    assert patches[1].mask is not None
    patches[0].mask.unlink()
    patches[1].mask.write_bytes(b"rubbish")
    data = WeakPatches(patches)
    assert len([data[index] for index in range(len(data))]) == 2


def test_images_are_resized_when_asked(patches: tuple[PatchRecord, ...]) -> None:
    resized, _ = WeakPatches(patches, WeakSettings(patch_px=4))[0]
    assert resized.shape == (3, 4, 4)
    assert resized.is_contiguous()


def test_images_of_several_sizes_need_one_to_be_resized_to(patches: tuple[PatchRecord, ...]) -> None:
    Image.fromarray(np.zeros((5, 9, 3), np.uint8)).save(patches[1].image)
    data = WeakPatches(patches)
    assert data[0][0].shape == (3, 6, 8)
    with pytest.raises(InputError, match=r"y.png' has 9 x 5 px, others 8 x 6(.|\n)*patch_px"):
        data[1]
    resized = WeakPatches(patches, WeakSettings(patch_px=6))
    assert resized[0][0].shape == resized[1][0].shape == (3, 6, 6)


def test_kept_images_are_not_read_again(patches: tuple[PatchRecord, ...]) -> None:
    data = WeakPatches(patches, WeakSettings(keep=True))
    first, _ = data[0]
    patches[0].image.unlink()
    assert torch.equal(data[0][0], first)


def test_patches_without_a_label_are_refused(patches: tuple[PatchRecord, ...]) -> None:
    unlabelled = PatchRecord(Path("u.png"), None, "P")
    with pytest.raises(LabelError, match=r"Without one:\n  u.png"):
        WeakPatches((*patches, unlabelled))
    with pytest.raises(InputError, match="No patches"):
        WeakPatches(())
