import pytest
import torch
from torch import Tensor, nn

from counterstain.infer.tta import VIEWS, AveragedViews, apply_view, undo_view
from counterstain.testing.planted import PlantedInput, PlantedModel


class Lopsided(PlantedModel):
    """Its maps depend on what lies to the right and below, in dyadic numbers so that every sum is exact."""

    def __init__(self) -> None:
        super().__init__(PlantedInput())
        self.network = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randint(-8, 9, (3, 3, 3, 3), generator=generator) / 16
        self.network.load_state_dict({"weight": weight})

    @torch.inference_mode()
    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        maps: Tensor = self.network(images_BCHW)
        return maps


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 12, 16), generator=torch.Generator().manual_seed(1)) / 256


@pytest.mark.parametrize("tta", VIEWS)
def test_each_view_is_undone(tta: str, images: Tensor) -> None:
    views = [apply_view(images, view) for view in VIEWS[tta]]
    assert all(torch.equal(undo_view(shown, view), images) for shown, view in zip(views, VIEWS[tta], strict=True))
    assert len({tuple(shown.flatten().tolist()) for shown in views}) == len(views)


def test_hv3_is_the_image_and_its_two_flips(images: Tensor) -> None:
    shown = [apply_view(images, view) for view in VIEWS["hv3"]]
    for one, other in zip(shown, [images, images.flip(3), images.flip(2)], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("view", VIEWS["d4"])
def test_a_turned_image_gives_the_turned_map(view: tuple[bool, int], images: Tensor) -> None:
    model = AveragedViews(Lopsided(), "d4")
    assert torch.equal(model.predict_maps(apply_view(images, view)), apply_view(model.predict_maps(images), view))


def test_without_averaging_the_lopsided_model_gives_another(images: Tensor) -> None:
    model = AveragedViews(Lopsided(), "none")
    assert torch.equal(model.predict_maps(images), Lopsided().predict_maps(images))
    assert not torch.equal(model.predict_maps(images.flip(3)), model.predict_maps(images).flip(3))


def test_views_are_averaged(images: Tensor) -> None:
    model = Lopsided()
    flips = [
        model.predict_maps(images),
        model.predict_maps(images.flip(3)).flip(3),
        model.predict_maps(images.flip(2)).flip(2),
    ]
    assert torch.equal(AveragedViews(model, "hv3").predict_maps(images), sum(flips) / 3)


def test_the_model_shows_through() -> None:
    model = Lopsided()
    averaged = AveragedViews(model, "d4")
    assert averaged.classes is model.classes
    assert averaged.input is model.input
    assert averaged.network is model.network
