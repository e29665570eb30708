"""The exam of a dense method: inherit it, give a config that learns quickly, and pytest runs it.

    class TestSSHR(DenseMethodContract):
        name, config = "sshr", SSHRConfig(backbone="tiny")

A fixture `textures` must give a small `PatchDataset` with a training and a validation split.

Does not know: what the method learns by.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from counterstain.data import PatchDataset
from counterstain.methods import DenseMethod, load_dense_method, model_digest
from counterstain.training import TrainSettings
from counterstain.training.fit import read_losses


def random_images(rows: int, columns: int, num_images: int = 2, seed: int = 0) -> Tensor:
    """Random RGB images in [0, 1]."""
    return torch.rand(num_images, 3, rows, columns, generator=torch.Generator().manual_seed(seed))


class DenseMethodContract:
    """What holds for every method that gives maps."""

    name: ClassVar[str]
    """Its name in METHODS."""

    config: ClassVar[Any]
    """Settings that make it quick to train."""

    tile_px: ClassVar[int] = 32
    training: ClassVar[TrainSettings] = TrainSettings(epochs=2, batch_size=8, seed=1)

    def create(self, data: PatchDataset, seed: int = 1) -> DenseMethod:
        """A fresh one, from a seed."""
        from counterstain.methods import find_method

        return find_method(self.name).create(self.config, data, tile_px=self.tile_px, seed=seed)

    def dense(self, data: PatchDataset) -> DenseMethod:
        """A fresh one that must be dense."""
        method = self.create(data)
        assert isinstance(method, DenseMethod)
        return method

    def test_maps_are_probabilities_of_the_image_s_size(self, textures: PatchDataset) -> None:
        for rows, columns in ((32, 32), (33, 47)):
            maps_BCHW = self.dense(textures).predict_maps(random_images(rows, columns))
            assert maps_BCHW.shape == (2, len(textures.classes), rows, columns)
            assert maps_BCHW.dtype == torch.float32
            assert torch.allclose(maps_BCHW.sum(1), torch.ones(2, rows, columns), atol=1e-5)
            assert maps_BCHW.min() >= 0

    def test_classes_said_to_be_absent_are_not_shown(self, textures: PatchDataset) -> None:
        num = len(textures.classes)
        for index in range(num):
            only_1C = torch.arange(num)[None] == index
            maps_BCHW = self.dense(textures).predict_maps(random_images(32, 32), only_1C)
            assert torch.equal(maps_BCHW.argmax(1), torch.full((2, 32, 32), index))
            assert (maps_BCHW[:, ~only_1C[0]] == 0).all()

    def test_an_image_has_the_same_map_in_any_batch(self, textures: PatchDataset) -> None:
        method, images = self.dense(textures), random_images(32, 32, 3)
        together = method.predict_maps(images)
        alone = torch.cat([method.predict_maps(images[index : index + 1]) for index in range(3)])
        assert torch.allclose(together, alone, atol=1e-4)

    def test_a_finished_run_gives_the_same_maps_from_disk(self, textures: PatchDataset, tmp_path: Path) -> None:
        method = self.dense(textures)
        method.fit(textures, tmp_path, self.training)
        loaded = load_dense_method(tmp_path)
        images = random_images(32, 32)
        assert torch.equal(loaded.predict_maps(images), method.predict_maps(images))
        assert loaded.classes == textures.classes
        assert loaded.input == method.input

    def test_two_runs_of_one_seed_are_the_same(self, textures: PatchDataset, tmp_path: Path) -> None:
        for name in ("one", "other"):
            self.create(textures).fit(textures, tmp_path / name, self.training)
        assert read_losses(tmp_path / "one" / "losses.csv") == read_losses(tmp_path / "other" / "losses.csv")
        assert model_digest(tmp_path / "one") == model_digest(tmp_path / "other")

    def test_no_mask_of_training_and_nothing_of_the_test_split_is_read(
        self, textures: PatchDataset, tmp_path: Path
    ) -> None:
        trap = tmp_path / "trap.png"
        trap.write_bytes(b"no image: whoever reads it fails")
        train = tuple(replace(record, mask=trap) for record in textures.train)
        test = tuple(replace(record, image=trap, mask=trap) for record in textures.val)
        self.create(textures).fit(replace(textures, train=train, test=test), tmp_path / "run", self.training)
        assert (tmp_path / "run" / "model.json").exists()
