"""The exam of a backbone: inherit it, give a name and options that keep it small, and pytest runs it.

    class TestTiny(BackboneContract):
        name, options = "tiny", {"width": 8}

Does not know: pytest; any runner that calls methods named `test_...` will do.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from counterstain.errors import InputError
from counterstain.models.backbones import Backbone, build_backbone
from counterstain.models.backbones.base import norms_of
from counterstain.models.weights import load_state

SIZES = ((64, 64), (65, 97), (50, 33), (71, 40))  # rows, columns: even, odd, and neither a multiple of a stride


def images(rows: int = 64, columns: int = 64, num_images: int = 2, seed: int = 0) -> Tensor:
    """Random RGB images in [0, 1]."""
    return torch.rand(num_images, 3, rows, columns, generator=torch.Generator().manual_seed(seed))


class BackboneContract:
    """What holds for every backbone, at the options given."""

    name: ClassVar[str]
    """Its name in BACKBONES."""

    options: ClassVar[Mapping[str, Any]] = {}
    """Arguments that make it quick to test."""

    def build(self, seed: int = 0) -> Backbone:
        """A fresh one, from a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_backbone(self.name, **self.options)

    def tap_of(self, backbone: Backbone, index: int, found_BCHW: Tensor) -> Tensor:
        """The tap that is a copy of a map of the trunk: by default, its rectified form."""
        return found_BCHW.relu()

    @torch.no_grad()
    def test_channels_and_strides_are_true_at_any_size(self) -> None:
        backbone = self.build().eval()
        for rows, columns in SIZES:
            shapes = [tuple(tap.shape) for tap in backbone(images(rows, columns, 1))]
            expected = [
                (1, channels, -(-rows // stride), -(-columns // stride))
                for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
            ]
            assert shapes == expected, f"at {rows} rows and {columns} columns"

    def test_there_are_four_taps_shallow_to_deep(self) -> None:
        backbone = self.build()
        assert len(backbone.channels) == len(backbone.strides) == 4
        assert list(backbone.strides) == sorted(backbone.strides)

    @torch.no_grad()
    def test_an_image_has_the_same_maps_in_any_batch_and_at_any_time(self) -> None:
        backbone, batch = self.build().eval(), images(num_images=3)
        together, alone, again = backbone(batch), backbone(batch[1:2]), backbone(batch)
        for tap, single, repeated in zip(together, alone, again, strict=True):
            assert torch.equal(tap, repeated)
            torch.testing.assert_close(tap[1:2], single, rtol=1e-3, atol=1e-4 * float(single.abs().max()) + 1e-7)

    @torch.no_grad()
    def test_it_normalises_by_its_own_mean_and_deviation(self) -> None:
        backbone = self.build()
        mean_BCHW = torch.tensor(backbone.input_mean).view(1, 3, 1, 1).expand(1, 3, 4, 4)
        std_BCHW = torch.tensor(backbone.input_std).view(1, 3, 1, 1)
        torch.testing.assert_close(backbone.normalise(mean_BCHW), torch.zeros(1, 3, 4, 4))
        torch.testing.assert_close(backbone.normalise(mean_BCHW + 2 * std_BCHW), torch.full((1, 3, 4, 4), 2.0))

    @torch.no_grad()
    def test_a_fresh_one_tells_images_apart_at_every_tap(self) -> None:
        for tap in self.build().train()(images()):
            assert bool(torch.isfinite(tap).all())
            assert float((tap[0] - tap[1]).abs().mean()) > 1e-4, "what it sees fades before it can learn"

    def test_images_that_are_no_floats_are_refused(self) -> None:
        refusal = ""
        try:
            self.build()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
        except InputError as error:
            refusal = str(error)
        assert "uint8" in refusal, "bytes passed for an image in [0, 1]"

    def test_every_tap_teaches_every_parameter_before_it(self) -> None:
        backbone = self.build().train()
        taps = backbone(images())
        torch.autograd.backward([(tap * torch.rand_like(tap)).mean() for tap in taps if tap.requires_grad])
        for name, parameter in backbone.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"{name} was not reached"
                assert bool(torch.isfinite(parameter.grad).all()), f"{name} has no finite gradient"
            else:
                assert parameter.grad is None, f"{name} is frozen"
        assert taps[3].requires_grad

    def test_the_deepest_tap_is_computed_from_all_of_the_trunk(self) -> None:
        backbone = self.build().eval()
        taps, trunk = backbone(images()), backbone.trunk(backbone.normalise(images().requires_grad_()))
        assert torch.equal(trunk[3], taps[3])
        for index, (tap, found) in enumerate(zip(taps, trunk, strict=True)):
            assert torch.equal(tap, found) or torch.equal(tap, self.tap_of(backbone, index, found))
        for gradient in torch.autograd.grad(trunk[3].sum(), trunk[:3]):
            assert float(gradient.abs().max()) > 0

    def test_frozen_parts_stay_as_they_are_in_training(self) -> None:
        backbone = self.build().train()
        still = {name: tensor.clone() for name, tensor in backbone.state_dict().items() if _is_frozen(backbone, name)}
        backbone(images())
        state = backbone.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in still.items())
        assert not any(part.training for part in norms_of(backbone) if not _learns(part))

    @torch.no_grad()
    def test_its_state_makes_another_one_equal(self) -> None:
        first, second = self.build(0).eval(), self.build(1).eval()
        audit = load_state(second, first.state_dict())
        assert audit.missing == audit.left_over == ()
        for tap, other in zip(first(images()), second(images()), strict=True):
            assert torch.equal(tap, other)

    @torch.no_grad()
    def test_it_can_be_exported_as_a_graph(self) -> None:
        backbone, batch = self.build().eval(), images()
        graph = torch.export.export(backbone, (batch,)).module()
        for tap, traced in zip(backbone(batch), graph(batch), strict=True):
            torch.testing.assert_close(tap, traced)


def _learns(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _is_frozen(backbone: Backbone, name: str) -> bool:
    """Whether a tensor of the state belongs to a part that does not learn."""
    return not _learns(backbone.get_submodule(name.rpartition(".")[0]))
