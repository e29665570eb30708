"""The first stage's classifier: attention, maps and Grad-CAM against slow obvious twins."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.losses import multilabel_soft_margin
from counterstain.models import CamClassifier, build_backbone
from counterstain.models.backbones.base import Backbone, Taps
from counterstain.models.classifier import progressive_dropout_attention
from counterstain.testing.backbones import images


def small(name: str = "tiny", num_classes: int = 3, **options: object) -> CamClassifier:
    torch.manual_seed(0)
    options = options or ({"width": 8} if name == "tiny" else {})
    return CamClassifier(build_backbone(name, **options), num_classes)


def attention_twin(features_BCHW: Tensor, head_weight_KC: Tensor, gamma: float) -> Tensor:
    """Image by image, class by class, cell by cell."""
    batch, _, height, width = features_BCHW.shape
    num_classes = len(head_weight_KC)
    out = features_BCHW.clone()
    for image in range(batch):
        attention = torch.zeros(height, width)
        for label in range(num_classes):
            cam = torch.zeros(height, width)
            for row in range(height):
                for column in range(width):
                    cam[row, column] = max(0.0, float(features_BCHW[image, :, row, column] @ head_weight_KC[label]))
            largest = float(cam.max())
            for row in range(height):
                for column in range(width):
                    if float(cam[row, column]) <= gamma * largest:
                        attention[row, column] += float(cam[row, column]) / num_classes
        out[image] *= attention
    return out


@pytest.mark.parametrize("gamma", [0.3, 0.65, 0.98, 1.0])
def test_the_attention_agrees_with_a_loop(gamma: float) -> None:
    generator = torch.Generator().manual_seed(1)
    features_BCHW = torch.rand(2, 5, 4, 3, generator=generator)
    head_weight_KC = torch.randn(3, 5, generator=generator)
    found = progressive_dropout_attention(features_BCHW, head_weight_KC, gamma)
    torch.testing.assert_close(found, attention_twin(features_BCHW, head_weight_KC, gamma))


def test_the_attention_is_as_worked_by_hand() -> None:
    """A channel 1, 2, -4 and heads 1, -1: maps (1, 2, 0) and (0, 0, 4), of which 0.9 of the largest leaves (1, 0, 0)."""
    features_BCHW = torch.tensor([[[[1.0, 2.0, -4.0]]]])
    heads_KC = torch.tensor([[1.0], [-1.0]])
    assert progressive_dropout_attention(features_BCHW, heads_KC, 0.9).flatten().tolist() == [0.5, 0, 0]
    assert progressive_dropout_attention(features_BCHW, heads_KC, 1.0).flatten().tolist() == [0.5, 2, -8]


def test_gradients_flow_through_the_attention() -> None:
    """With one channel x and a head w, kept cells are x * w x: 2 w x by x, and x * x by w."""
    features_BCHW = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)
    head_weight_KC = torch.tensor([[3.0]], requires_grad=True)
    progressive_dropout_attention(features_BCHW, head_weight_KC, 0.9).sum().backward()
    assert features_BCHW.grad is not None
    assert head_weight_KC.grad is not None
    assert features_BCHW.grad.flatten().tolist() == [6.0, 0.0]
    assert head_weight_KC.grad.item() == 1.0


@pytest.mark.parametrize("gamma", [0.0, -1.0, 1.1])
def test_a_gamma_outside_its_range_is_refused(gamma: float) -> None:
    with pytest.raises(InputError, match="above 0 and at most 1"):
        small().eval()(images(), attention_gamma=gamma)


@torch.no_grad()
def test_the_logit_is_the_mean_of_the_map() -> None:
    network = small().eval()
    torch.testing.assert_close(network(images(65, 42)), network.cams(images(65, 42)).mean((2, 3)))
    assert network.cams(images(65, 42)).shape == (2, 3, 9, 6)


@torch.no_grad()
def test_attention_is_applied_to_the_deep_features_when_asked_for() -> None:
    network, batch = small().eval(), images()
    weight_KC = network.deep_head.weight[:, :, 0, 0]
    attended_BCHW = attention_twin(network.backbone(batch)[3], weight_KC, 0.8)
    expected_BK = torch.einsum("bchw,kc->bk", attended_BCHW, weight_KC) / (8 * 8)
    torch.testing.assert_close(network(batch, attention_gamma=0.8), expected_BK)
    assert not torch.allclose(network(batch), expected_BK)


@torch.no_grad()
def test_channels_are_dropped_in_training_alone_and_never_from_maps() -> None:
    network, batch = small(), images()
    network.backbone.eval()
    assert not torch.equal(network(batch), network(batch))
    assert torch.equal(network.cams(batch), network.cams(batch))
    network.eval()
    assert torch.equal(network(batch), network(batch))


def test_the_head_starts_as_published() -> None:
    network = small(num_classes=4)
    bound = math.sqrt(6 / (32 + 4))
    assert 0.5 * bound < float(network.deep_head.weight.detach().abs().max()) <= bound
    assert network.deep_head.bias is None
    torch.manual_seed(0)
    faint = CamClassifier(build_backbone("tiny", width=8), 4, head_gain=0.1)
    torch.testing.assert_close(faint.deep_head.weight, 0.1 * network.deep_head.weight)


def grad_cam_twin(network: CamClassifier, image_1CHW: Tensor, label: int, tap: int) -> Tensor:
    """One image, one class, one tap: backward through the whole network, and a loop over channels."""
    backbone = network.backbone
    features = backbone.trunk(backbone.normalise(image_1CHW))
    features[tap].retain_grad()
    network.deep_head(features[3]).mean((2, 3))[0, label].backward()
    gradient, found = features[tap].grad, features[tap].detach()[0]
    assert gradient is not None
    network.zero_grad(set_to_none=True)
    total = torch.zeros(found.shape[1:])
    for channel, features_HW in enumerate(found):
        total += gradient[0, channel].mean() * features_HW
    return total


BACKBONES = [
    ("tiny", {"width": 4}),
    ("wide_resnet38", {"width": 1 / 16, "depths": (1, 2, 1, 2)}),
    ("mobilenet_v2", {}),
    ("resnet18", {"output_stride": 16}),
]


@pytest.mark.parametrize(("name", "options"), BACKBONES)
def test_grad_cams_agree_with_one_backward_pass_for_each_image_class_and_tap(
    name: str, options: dict[str, object]
) -> None:
    network, batch = small(name, **options).eval(), images(40, 33)
    taps = (3, 0, 2, 1)
    found = network.grad_cams(batch, taps)
    for tap, cams_BKhw in zip(taps, found, strict=True):
        for image in range(2):
            for label in range(3):
                expected = grad_cam_twin(network, batch[image : image + 1], label, tap)
                scale = float(expected.abs().max())
                torch.testing.assert_close(cams_BKhw[image, label], expected, rtol=1e-3, atol=1e-4 * scale)


@torch.no_grad()
def test_the_deepest_grad_cam_is_the_plain_map_over_its_number_of_cells() -> None:
    network, batch = small().eval(), images()
    torch.testing.assert_close(network.grad_cams(batch, [3])[0], network.cams(batch) / 64)


def test_grad_cams_leave_no_gradients_and_need_no_trainable_parameter() -> None:
    network, batch = small().eval(), images()
    expected = network.grad_cams(batch, [1, 2])
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(cams.requires_grad for cams in expected)
    network.requires_grad_(False)
    with torch.inference_mode():
        frozen = network.grad_cams(batch.clone(), [1, 2])
    assert batch.grad is None
    assert not batch.requires_grad
    assert all(torch.equal(cams, other) for cams, other in zip(frozen, expected, strict=True))


def test_grad_cams_in_training_mode_are_refused() -> None:
    with pytest.raises(InputError, match="Call eval"):
        small().train().grad_cams(images(), [3])


@pytest.mark.parametrize("taps", [[4], [0, -1]])
def test_a_tap_that_is_none_is_refused(taps: list[int]) -> None:
    with pytest.raises(InputError, match="numbers from 0 to 3"):
        small().eval().grad_cams(images(), taps)


class Copying(Backbone):
    """Its first tap leads nowhere, and it does not say so."""

    channels, strides = (4, 4, 4, 4), (1, 1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def taps(self, inputs_BCHW: Tensor) -> Taps:
        x_BCHW = self.conv(inputs_BCHW)
        return x_BCHW.relu(), x_BCHW, x_BCHW, x_BCHW.tanh()


def test_a_tap_that_no_logit_hangs_on_is_refused() -> None:
    network = CamClassifier(Copying(), 2).eval()
    assert len(network.grad_cams(images(), [1, 2, 3])) == 3
    with pytest.raises(InputError, match="tap 0, from which no way leads"):
        network.grad_cams(images(), [1, 0])


def test_every_parameter_stands_in_one_group() -> None:
    network = small("wide_resnet38", **BACKBONES[1][1])
    groups = network.parameter_groups()
    together = [*groups.weights, *groups.biases, *groups.new_weights, *groups.new_biases]
    assert sorted(map(id, together)) == sorted(map(id, network.parameters()))
    assert [id(parameter) for parameter in groups.new_weights] == [id(network.deep_head.weight)]
    assert groups.new_biases == ()
    biases = [parameter for name, parameter in network.named_parameters() if name.endswith("bias")]
    assert list(map(id, groups.biases)) == list(map(id, biases))


def test_a_classifier_of_no_class_is_refused() -> None:
    with pytest.raises(InputError, match="0 classes"):
        small(num_classes=0)


COLORS = torch.tensor([[0.2, 0.2, 0.7], [0.9, 0.2, 0.5]])


def planted(num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy patches of two colours, each of one or divided anywhere; with the class of each pixel."""
    generator = torch.Generator().manual_seed(seed)
    labels_BHW = torch.zeros(num_images, 32, 32, dtype=torch.int64)
    for index in range(num_images):
        labels_BHW[index] = index % 2
        if index % 4 < 2:
            edge = int(torch.randint(8, 25, (), generator=generator))
            labels_BHW[index, :, edge:] = 1 - index % 2
    noise_BCHW = 0.1 * torch.rand(num_images, 3, 32, 32, generator=generator)
    return COLORS[labels_BHW].permute(0, 3, 1, 2) + noise_BCHW, labels_BHW


def learn(network: CamClassifier, learning_rate: float, gammas: Sequence[float | None]) -> None:
    """From 16 planted patches, one step for each gamma."""
    images_BCHW, labels_BHW = planted(16, seed=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    for gamma in gammas:
        optimizer.zero_grad()
        logits_BC = network(images_BCHW, attention_gamma=gamma)
        multilabel_soft_margin(logits_BC, present(labels_BHW).float()).backward()
        optimizer.step()
    network.eval()


def present(labels_BHW: Tensor) -> Tensor:
    return torch.stack([(labels_BHW == label).flatten(1).any(1) for label in range(2)], dim=1)


def test_it_learns_which_classes_planted_patches_hold() -> None:
    network = small(num_classes=2)
    learn(network, 5e-3, [None] * 60 + [0.9] * 20)
    images_BCHW, labels_BHW = planted(16, seed=1)
    assert float(((network(images_BCHW) > 0) == present(labels_BHW)).float().mean()) > 0.9  # all present: 0.75


class Cells(Backbone):
    """Sees each cell of 8 x 8 pixels alone, so that a map can be right only where its class is."""

    channels, strides = (8, 8, 16, 16), (2, 4, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 8, 2), (8, 8, 2), (8, 16, 2), (16, 16, 1))
        self.convs = nn.ModuleList(nn.Conv2d(given, out, side, side) for given, out, side in sizes)

    def taps(self, inputs_BCHW: Tensor) -> Taps:
        first = self.convs[0](inputs_BCHW).relu()
        second = self.convs[1](first).relu()
        third = self.convs[2](second).relu()
        return first, second, third, self.convs[3](third).relu()


def test_its_maps_show_where_classes_are() -> None:
    torch.manual_seed(0)
    network = CamClassifier(Cells(), 2)
    learn(network, 1e-2, [None] * 200)
    images_BCHW, labels_BHW = planted(16, seed=1)
    is_mixed_B = present(labels_BHW).all(1)
    cams_BKhw = network.grad_cams(images_BCHW[is_mixed_B], [3])[0]
    assert float((cams_BKhw.argmax(1) == labels_BHW[is_mixed_B, 4::8, 4::8]).float().mean()) > 0.9
