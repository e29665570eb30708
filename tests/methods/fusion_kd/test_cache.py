"""Teachers' maps on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from counterstain.data import PatchDataset, WeakPatches, WeakSettings
from counterstain.errors import InputError
from counterstain.losses import legacy_cross_entropy
from counterstain.methods.fusion_kd.cache import TaughtPatches, TeacherMaps, averaged, enlarged

IS_POSITIVE = np.array([True, False, True, True])


def maps_in(folder: Path, most_mb: float = 10.0, num_maps: int = 1) -> TeacherMaps:
    return TeacherMaps.of(folder, IS_POSITIVE, num_maps, 32, most_mb)


@pytest.fixture
def patches(textures: PatchDataset) -> WeakPatches:
    return WeakPatches(textures.train[:4], WeakSettings(patch_px=32))


def ramp(images_BCHW: Tensor, indices: Sequence[int]) -> Tensor:
    """Maps that tell images apart: their number, and a gradient."""
    rows = torch.linspace(0, 1, images_BCHW.shape[2])[:, None].expand(-1, images_BCHW.shape[3])
    return torch.stack([torch.stack([torch.full_like(rows, index / 10), rows]) for index in indices])


def test_positives_have_the_last_maps_and_negatives_zeros(patches: WeakPatches, tmp_path: Path) -> None:
    maps = maps_in(tmp_path / "maps")
    maps.write(patches, ramp)
    taught = TaughtPatches(patches, maps)
    expected = (ramp(torch.zeros(1, 3, 32, 32), [0])[0, -1:] * 255).round()
    for index, is_positive in enumerate(IS_POSITIVE):
        image_CHW, label_C, kept_Shw = taught[index]
        assert torch.equal(image_CHW, patches[index][0])
        assert torch.equal(label_C, patches[index][1])
        assert kept_Shw.dtype == torch.uint8
        assert torch.equal(kept_Shw.float(), expected if is_positive else torch.zeros(1, 32, 32))


def test_maps_are_coarser_where_disk_is_short_and_refused_where_nothing_fits(tmp_path: Path) -> None:
    full = 3 * 32 * 32 / 1e6
    assert maps_in(tmp_path, full).stride == 1
    assert maps_in(tmp_path, full * 0.99).stride == 2
    assert maps_in(tmp_path, full / 64).stride == 8
    assert maps_in(tmp_path, full / 64).megabytes <= full / 64
    with pytest.raises(InputError, match="cache-mb"):
        maps_in(tmp_path, full / 65)


def test_coarse_maps_are_means(patches: WeakPatches, tmp_path: Path) -> None:
    maps = maps_in(tmp_path / "maps", 3 * 16 * 16 / 1e6)
    maps.write(patches, ramp)
    rows = torch.linspace(0, 1, 32).reshape(16, 2).mean(1)
    assert torch.allclose(maps.read(0)[0, :, 0].float() / 255, rows, atol=1 / 255)


def test_a_killed_execution_goes_on_and_ends_with_the_same_maps(textures: PatchDataset, tmp_path: Path) -> None:
    patches, is_positive = WeakPatches(textures.train, WeakSettings(patch_px=32)), np.ones(len(textures.train), bool)
    asked: list[int] = []

    def dies(images_BCHW: Tensor, indices: Sequence[int]) -> Tensor:
        asked.extend(indices)
        if len(asked) > len(indices):
            raise KeyboardInterrupt
        return ramp(images_BCHW, indices)

    maps = TeacherMaps.of(tmp_path / "maps", is_positive, 2, 32, 10.0)
    with pytest.raises(KeyboardInterrupt):
        maps.write(patches, dies)
    first = 16  # of a batch
    asked.clear()

    def counts(images_BCHW: Tensor, indices: Sequence[int]) -> Tensor:
        asked.extend(indices)
        return ramp(images_BCHW, indices)

    maps.write(patches, counts)
    assert asked == list(range(first, len(patches)))
    whole = TeacherMaps.of(tmp_path / "whole", is_positive, 2, 32, 10.0)
    whole.write(patches, ramp)
    assert (tmp_path / "maps" / "maps.npy").read_bytes() == (tmp_path / "whole" / "maps.npy").read_bytes()
    size = sum(path.stat().st_size for path in maps.folder.iterdir())
    assert size <= maps.megabytes * 1e6 + 1024
    maps.free()
    assert not maps.folder.exists()


def test_written_maps_are_not_made_again(patches: WeakPatches, tmp_path: Path) -> None:
    maps = maps_in(tmp_path / "maps")
    maps.write(patches, ramp)

    asked: list[int] = []

    def counts(images_BCHW: Tensor, indices: Sequence[int]) -> Tensor:
        asked.extend(indices)
        return ramp(images_BCHW, indices)

    maps.write(patches, counts)
    assert asked == []


def test_views_are_turned_back_before_they_are_averaged() -> None:
    class Echo(torch.nn.Module):
        """Gives back one channel: equivariant, so that every view says the same."""

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return images_BCHW[:, :1]

    images_BCHW = torch.rand(1, 3, 8, 8)
    assert torch.allclose(averaged(Echo(), images_BCHW, "d4"), images_BCHW[:, :1], atol=1e-6)


def test_what_is_nearly_sure_is_not_kept_as_sure(patches: WeakPatches, tmp_path: Path) -> None:
    """A loss that cuts to integers calls tumour what is exactly 1 alone."""
    values = torch.tensor([0.9985, 1.0, 0.25, 0.0]).repeat(32, 8)
    maps = maps_in(tmp_path / "maps")
    maps.write(patches, lambda images_BCHW, indices: values.expand(len(images_BCHW), 1, 32, 32))
    assert maps.read(0)[0, 0, :4].tolist() == [254, 255, 64, 0]
    found_BSHW = enlarged(maps.read(0)[None].float() / 255, (32, 32))
    assert found_BSHW[0, 0, 0, :4].long().tolist() == [0, 1, 0, 0]
    student_BHW = torch.full((1, 32, 32), 0.5)
    sure = torch.where(values < 1, 0.0, values)[None]
    assert torch.equal(legacy_cross_entropy(student_BHW, found_BSHW[:, 0]), legacy_cross_entropy(student_BHW, sure))


def test_squares_of_coarse_maps_may_hang_over_the_edge(patches: WeakPatches, tmp_path: Path) -> None:
    maps = TeacherMaps.of(tmp_path / "maps", IS_POSITIVE, 1, 30, 3 * 8 * 8 / 1e6)
    assert (maps.stride, maps.shape) == (4, (3, 1, 8, 8))
    columns = torch.arange(30.0) / 30
    maps.write(patches, lambda images_BCHW, indices: columns.expand(len(images_BCHW), 1, 30, 30))
    expected = torch.tensor([(4 * column + 1.5) / 30 for column in range(7)] + [28.5 / 30])
    assert torch.allclose(maps.read(0)[0, 0].float() / 255, expected, atol=1 / 255)
    found_BSHW = enlarged(maps.read(0)[None].float() / 255, (30, 30))
    assert found_BSHW.shape == (1, 1, 30, 30)
    assert torch.allclose(found_BSHW[0, 0, 0, 2:26], columns[2:26], atol=2 / 255)
