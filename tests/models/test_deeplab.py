"""DeepLabV3+: its size by hand, its geometry at any stride, an obvious twin, and that it learns."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.losses import mean_over_scored, pixel_cross_entropy
from counterstain.models import DeepLabSettings, DeepLabV3Plus, build_backbone, count
from counterstain.testing.backbones import images

NARROW = DeepLabSettings(channels=8, low_channels=4)


def small(
    name: str = "tiny", settings: DeepLabSettings = NARROW, num_classes: int = 3, **options: object
) -> DeepLabV3Plus:
    torch.manual_seed(0)
    options = options or ({"width": 4} if name == "tiny" else {})
    return DeepLabV3Plus(build_backbone(name, **options), num_classes, settings)


def test_it_has_the_size_worked_by_hand() -> None:
    """ResNet-101 without its classifier, then convolutions without biases, each with 2 numbers of norm for a channel."""
    with torch.device("meta"):
        backbone = build_backbone("resnet101", output_stride=16, multi_grid=(1, 2, 4))
        network = DeepLabV3Plus(backbone, 21)
    resnet = 44_549_160 - 2_049_000
    aspp = 2048 * 256 + 3 * 9 * 2048 * 256 + 2048 * 256 + 5 * 2 * 256
    project = 5 * 256 * 256 + 2 * 256
    low = 256 * 48 + 2 * 48
    decoder = 9 * 304 * 256 + 2 * 256 + 9 * 256 * 256 + 2 * 256
    head = 256 * 21 + 21
    assert resnet + aspp + project + low + decoder + head == 59_344_309
    assert count(network).parameters == 59_344_309


def test_it_costs_what_its_convolutions_do() -> None:
    """At 224 pixels the ASPP looks at 14 x 14 cells (its whole-image branch at 1), the decoder at 56 x 56."""
    with torch.device("meta"):
        network = DeepLabV3Plus(build_backbone("resnet101", output_stride=16, multi_grid=(1, 2, 4)), 4)
    aspp = (2048 * 256 + 3 * 9 * 2048 * 256 + 5 * 256 * 256) * 14 * 14 + 2048 * 256
    decoder = (256 * 48 + 9 * 304 * 256 + 9 * 256 * 256 + 256 * 4) * 56 * 56
    assert count(network).macs - count(network.backbone).macs == aspp + decoder


@pytest.mark.parametrize(
    ("name", "options", "rates"),
    [
        ("resnet18", {"output_stride": 16, "multi_grid": (1, 2)}, (6, 12, 18)),
        ("resnet18", {"output_stride": 8}, (12, 24, 36)),
        ("resnet18", {"output_stride": 32}, (3, 6, 9)),
        ("tiny", {"width": 4}, (12, 24, 36)),
        ("mobilenet_v2", {}, (3, 6, 9)),
        ("wide_resnet38", {"width": 1 / 16, "depths": (1, 1, 1, 1)}, (12, 24, 36)),
    ],
)
@torch.no_grad()
def test_pixels_of_an_image_of_any_size_have_logits(
    name: str, options: dict[str, object], rates: tuple[int, ...]
) -> None:
    network = small(name, **options).eval()
    assert network.rates == rates
    dilated = [conv for conv in network.aspp.modules() if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)]
    assert [conv.dilation for conv in dilated] == [(rate, rate) for rate in rates]
    for rows, columns in ((64, 64), (65, 42), (7, 33)):
        logits = network(images(rows, columns, 1))
        assert logits.shape == (1, 3, rows, columns)
        assert bool(torch.isfinite(logits).all())


def unit(state: Mapping[str, Tensor], name: str, x: Tensor, rate: int = 1) -> Tensor:
    """Convolution, norm, ReLU."""
    weight = state[f"{name}.0.weight"]
    x = F.conv2d(x, weight, None, 1, weight.shape[2] // 2 * rate, rate)
    parts = [state[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.relu(F.batch_norm(x, *parts))


@torch.no_grad()
def test_it_computes_what_the_paper_says() -> None:
    network, batch = small(settings=DeepLabSettings(8, 4, rates=(1, 2, 3))).eval(), images(40, 36)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.weight.uniform_(0.5, 1.5)
    state = network.state_dict()
    low, _, _, deep = network.backbone(batch)
    found = [unit(state, "aspp.branches.0", deep)]
    found += [unit(state, f"aspp.branches.{index}", deep, 2 * index) for index in (1, 2, 3)]
    whole = unit(state, "aspp.whole", F.adaptive_avg_pool2d(deep, 1))
    found.append(F.interpolate(whole, size=deep.shape[2:], mode="bilinear", align_corners=True))
    x = unit(state, "aspp.project.0", torch.cat(found, 1))
    x = F.interpolate(x, size=low.shape[2:], mode="bilinear", align_corners=True)
    x = torch.cat([x, unit(state, "low", low)], 1)
    x = unit(state, "decoder.2", unit(state, "decoder.0", x))
    x = F.conv2d(x, state["head.weight"], state["head.bias"])
    expected = F.interpolate(x, size=(40, 36), mode="bilinear", align_corners=True)
    torch.testing.assert_close(network(batch), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_dropouts_are_at_work_in_training_alone() -> None:
    network, batch = small(), images()
    dropouts = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert dropouts == [0.5, 0.5, 0.1]
    assert not torch.equal(network(batch), network(batch))
    network.eval()
    assert torch.equal(network(batch), network(batch))


def test_one_image_alone_cannot_be_trained_on() -> None:
    network = small()
    with pytest.raises(InputError, match="Raise the batch size"):
        network(images(num_images=1))
    assert network.eval()(images(num_images=1)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    "wrong",
    [{"channels": 0}, {"low_channels": 0}, {"rates": (6, 0, 18)}, {"rates": (6, 12)}, {"dropouts": (0.5, 0.1)}],
)
def test_settings_that_make_no_network_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="three rates and three dropouts"):
        DeepLabSettings(**wrong)


def test_a_network_of_no_class_is_refused() -> None:
    with pytest.raises(InputError, match="0 classes"):
        small(num_classes=0)


def test_every_parameter_stands_in_one_group() -> None:
    network = small("resnet18")
    groups = network.parameter_groups()
    together = [*groups.weights, *groups.biases, *groups.new_weights, *groups.new_biases]
    assert sorted(map(id, together)) == sorted(map(id, network.parameters()))
    backbone = {id(parameter) for parameter in network.backbone.parameters()}
    assert {id(parameter) for parameter in (*groups.weights, *groups.biases)} == backbone
    biases = {id(parameter) for name, parameter in network.named_parameters() if name.endswith("bias")}
    assert {id(parameter) for parameter in (*groups.biases, *groups.new_biases)} == biases
    assert len(groups.new_weights) == 2 * 9 + 1
    assert len(groups.new_biases) == 9 + 1


def test_every_parameter_learns() -> None:
    network = small()
    (network(images()) * torch.rand(2, 3, 64, 64)).mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


@torch.no_grad()
def test_it_can_be_exported_as_a_graph() -> None:
    network, batch = small().eval(), images()
    torch.testing.assert_close(torch.export.export(network, (batch,)).module()(batch), network(batch))


COLORS = torch.tensor([[0.2, 0.2, 0.7], [0.9, 0.2, 0.5]])


def planted(num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy patches of one colour with a rectangle of another; with the class of each pixel."""
    generator = torch.Generator().manual_seed(seed)
    labels_BHW = torch.zeros(num_images, 32, 32, dtype=torch.int64)
    for index in range(num_images):
        row, column = torch.randint(0, 16, (2,), generator=generator).tolist()
        labels_BHW[index] = index % 2
        labels_BHW[index, row : row + 16, column : column + 16] = 1 - index % 2
    noise_BCHW = 0.1 * torch.rand(num_images, 3, 32, 32, generator=generator)
    return COLORS[labels_BHW].permute(0, 3, 1, 2) + noise_BCHW, labels_BHW


def test_it_learns_planted_patches_from_masks_with_holes() -> None:
    network = small(settings=DeepLabSettings(16, 8), num_classes=2)
    images_BCHW, labels_BHW = planted(8, seed=0)
    labels_BHW[:, ::2] = 255
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        mean_over_scored(*pixel_cross_entropy(network(images_BCHW), labels_BHW)).backward()
        optimizer.step()
    seen_BCHW, truth_BHW = planted(8, seed=1)
    assert float((network.eval()(seen_BCHW).argmax(1) == truth_BHW).float().mean()) > 0.9
