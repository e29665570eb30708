"""MobileNetV2 against a slow reading of its published graph, photographs, and the law of dilation."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from counterstain.errors import WeightsError
from counterstain.models import load_backbone_weights
from counterstain.models.backbones.mobilenet_v2 import MobileNetV2
from counterstain.testing.backbones import images

Array = npt.NDArray[np.float32]
NAME = "mobilenet_v2_1.0_224_imagenet_bnfolded"


@pytest.fixture(scope="module")
def archive(real_data: Path) -> Path:
    path = real_data / "weights" / f"{NAME}.npz"
    assert path.exists(), f"{real_data} has no {path.name}: the folder of real data holds it beside wsi/ and ebhi_seg/"
    return path


@pytest.fixture(scope="module")
def pretrained(archive: Path) -> MobileNetV2:
    backbone = MobileNetV2(rectified=(False,) * 4)
    load_backbone_weights(backbone, archive)
    return backbone.eval()


def slow_conv(x_CHW: Array, layer: dict[str, Any], weight: Array, bias: Array) -> Array:
    """A convolution tap by tap, padded as the archive's description says."""
    stride, kernel = layer["stride"], weight.shape[2]
    _, height, width = x_CHW.shape
    rows, columns = -(-height // stride), -(-width // stride)
    pads = [max((out - 1) * stride + kernel - size, 0) for out, size in ((rows, height), (columns, width))]
    x_CHW = np.pad(x_CHW, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads)))
    y = np.zeros((weight.shape[0], rows, columns), np.float32)
    for i in range(kernel):
        for j in range(kernel):
            seen = x_CHW[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
            taps = weight[:, :, i, j]
            y += seen * taps[:, :1, None] if layer["groups"] > 1 else np.tensordot(taps, seen, 1)
    y += bias[:, None, None]
    return np.clip(y, 0, 6) if layer["act"] == "relu6" else y


def slow_graph(archive: Path, image_CHW: Array) -> dict[str, Array]:
    """Every layer's output, read from the description, for an image in [0, 1]."""
    layers = json.loads(archive.with_suffix(".json").read_text())["layers"]
    found = {"input": (image_CHW * 255 / 127.5 - 1).astype(np.float32)}
    with np.load(archive) as arrays:
        for layer in layers:
            name, given = layer["id"], [found[source] for source in layer["inputs"]]
            if layer["op"] == "add":
                found[name] = given[0] + given[1]
            elif layer["op"] == "mean":
                found[name] = given[0].mean((1, 2), keepdims=True)
            elif layer["op"] == "softmax":
                powers = np.exp(given[0] - given[0].max())
                found[name] = powers / powers.sum()
            else:
                found[name] = slow_conv(given[0], layer, arrays[f"{name}/w"], arrays[f"{name}/b"])
    return found


@pytest.mark.parametrize("size", [(64, 64), (65, 49), (50, 71)])
@torch.no_grad()
def test_it_computes_what_the_archives_description_says(
    archive: Path, pretrained: MobileNetV2, size: tuple[int, int]
) -> None:
    batch = images(*size, num_images=1)
    found = slow_graph(archive, batch[0].numpy())
    for tap, layer in zip(pretrained(batch), ("09", "20", "46", "61"), strict=True):
        np.testing.assert_allclose(tap[0].numpy(), found[layer], atol=2e-3)


@pytest.mark.parametrize(("photograph", "label"), [("china.jpg", "palace"), ("flower.jpg", "daisy")])
@torch.no_grad()
def test_it_names_photographs(archive: Path, pretrained: MobileNetV2, photograph: str, label: str) -> None:
    names = (archive.parent / "imagenet_labels.txt").read_text().splitlines()
    sklearn = find_spec("sklearn")  # which brings two photographs; its import would take seconds
    assert sklearn is not None
    assert sklearn.origin is not None
    path = Path(sklearn.origin).parent / "datasets" / "images" / photograph
    image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255
    side = min(image.shape[2:])
    left = (image.shape[3] - side) // 2
    image = F.interpolate(image[..., left : left + side], (224, 224), mode="bilinear", antialias=True)
    with np.load(archive) as arrays:
        head = torch.from_numpy(arrays["63/w"][:, :, 0, 0])
        logits = pretrained(image)[3].mean((2, 3)) @ head.T + torch.from_numpy(arrays["63/b"])
    best = [names[index] for index in logits[0].topk(3).indices]
    assert any(label in name for name in best), best


def fold(norms: MobileNetV2, folded: MobileNetV2) -> None:
    """Writes a network with norms into one without."""
    state, pairs = norms.state_dict(), {}
    for name in folded.state_dict():
        place, kind = name.rsplit(".", 1)
        head, index = place.rsplit(".", 1)
        norm = f"{head}.{int(index) + 1}"
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        if kind == "weight":
            pairs[name] = state[name] * scale[:, None, None, None]
        else:
            pairs[name] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    folded.load_state_dict(pairs)


def stir(backbone: MobileNetV2) -> MobileNetV2:
    """Gives norms statistics that do something."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return backbone.eval()


@pytest.mark.parametrize("output_stride", [32, 8])
@torch.no_grad()
def test_both_forms_agree_where_their_paddings_do(output_stride: int) -> None:
    """At 2^k + 1 pixels every stage has an odd size, and "SAME" padding is symmetric."""
    torch.manual_seed(0)
    norms = stir(MobileNetV2(batch_norm=True, output_stride=output_stride))
    folded = MobileNetV2(output_stride=output_stride).eval()
    fold(norms, folded)
    inputs = images(65, 65) * 2 - 1
    for tap, other in zip(norms.taps(inputs), folded.taps(inputs), strict=True):
        torch.testing.assert_close(tap, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("output_stride", [8, 16])
@torch.no_grad()
def test_dilation_gives_the_same_values_at_more_places(batch_norm: bool, output_stride: int) -> None:
    torch.manual_seed(0)
    strided = stir(MobileNetV2(batch_norm))
    dilated = MobileNetV2(batch_norm, output_stride=output_stride).eval()
    dilated.load_state_dict(strided.state_dict())
    inputs = images(65, 65)
    step = 32 // output_stride
    torch.testing.assert_close(dilated(inputs)[3][..., ::step, ::step], strided(inputs)[3], rtol=1e-3, atol=1e-5)
    assert dilated.strides == tuple(min(stride, output_stride) for stride in strided.strides)


@torch.no_grad()
def test_taps_are_those_asked_for_and_nothing_past_them_is_built() -> None:
    torch.manual_seed(0)
    whole = MobileNetV2(taps=(3, 6, 13, 18), rectified=(False,) * 4).eval()
    part = MobileNetV2(taps=(1, 3, 5, 6), rectified=(False, True, False, True)).eval()
    own = part.state_dict()
    part.load_state_dict({name: tensor for name, tensor in whole.state_dict().items() if name in own})
    batch = images()
    first, second, *_ = whole(batch)
    assert (part.channels, part.strides) == ((16, 24, 32, 32), (2, 4, 8, 8))
    assert torch.equal(part(batch)[1], F.relu(first))
    assert torch.equal(part(batch)[3], F.relu(second))
    assert len(part.features) == 7


@pytest.fixture
def folded_arrays() -> dict[str, Tensor]:
    """An archive as the published one is numbered: additions take numbers too, and the classifier is the last."""
    torch.manual_seed(0)
    network = MobileNetV2()
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    arrays: dict[str, Tensor] = {}
    for number, conv in enumerate(convs):
        assert conv.bias is not None
        nn.init.uniform_(conv.bias)
        arrays |= {f"{number:02d}/w": conv.weight.detach(), f"{number:02d}/b": conv.bias.detach()}
    return {**arrays, "63/w": torch.zeros(1001, 1280, 1, 1), "63/b": torch.zeros(1001)}


def save(arrays: dict[str, Tensor], path: Path) -> Path:
    np.savez(path, **{name: tensor.numpy() for name, tensor in arrays.items()})  # type: ignore[arg-type]
    return path


def test_a_folded_archive_fills_the_features_and_leaves_the_classifier(
    folded_arrays: dict[str, Tensor], tmp_path: Path
) -> None:
    backbone = MobileNetV2()
    audit = load_backbone_weights(backbone, save(folded_arrays, tmp_path / "weights.npz"))
    assert (len(audit.loaded), audit.missing) == (104, ())
    assert audit.left_over == ("classifier.1.weight", "classifier.1.bias")
    state = backbone.state_dict()
    assert torch.equal(state["features.0.0.weight"], folded_arrays["00/w"])
    assert torch.equal(state["features.1.conv.1.bias"], folded_arrays["02/b"])
    assert torch.equal(state["features.18.0.weight"], folded_arrays["51/w"])


def test_stages_past_the_deepest_tap_are_left_over_by_name(folded_arrays: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(folded_arrays, tmp_path / "weights.npz")
    audit = load_backbone_weights(MobileNetV2(taps=(3, 6, 13, 17)), path)
    assert "features.18.0.weight" in audit.left_over
    assert audit.digest == load_backbone_weights(MobileNetV2(), path).digest


def test_an_archive_without_all_convolutions_is_refused(folded_arrays: dict[str, Tensor], tmp_path: Path) -> None:
    del folded_arrays["07/w"], folded_arrays["07/b"]
    with pytest.raises(WeightsError, match="52 convolutions were given; MobileNetV2 has 53"):
        load_backbone_weights(MobileNetV2(), save(folded_arrays, tmp_path / "weights.npz"))


def test_an_archive_with_more_than_weights_and_biases_is_refused(
    folded_arrays: dict[str, Tensor], tmp_path: Path
) -> None:
    path = save({**folded_arrays, "07/scale": torch.zeros(1)}, tmp_path / "weights.npz")
    with pytest.raises(WeightsError, match=r"1 left over: features\.3\.conv\.1\.0\.scale"):
        load_backbone_weights(MobileNetV2(), path)


def test_weights_of_the_other_form_are_refused_with_the_remedy(
    folded_arrays: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="Build it with batch_norm=False"):
        load_backbone_weights(MobileNetV2(batch_norm=True), save(folded_arrays, tmp_path / "weights.npz"))
    torch.save(MobileNetV2(batch_norm=True).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="Build it with batch_norm=True"):
        load_backbone_weights(MobileNetV2(), tmp_path / "weights.pth")


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_file_of_its_own_state_fills_another(batch_norm: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = MobileNetV2(batch_norm).state_dict()
    torch.save({**state, "classifier.1.weight": torch.zeros(5, 1280)}, tmp_path / "weights.pth")
    backbone = MobileNetV2(batch_norm, taps=(3, 6, 13, 17))
    audit = load_backbone_weights(backbone, tmp_path / "weights.pth")
    assert {name.rsplit(".", 2)[0] for name in audit.left_over} == {"features.18", "classifier"}
    name = "features.17.conv.2.weight"
    assert torch.equal(backbone.state_dict()[name], state[name])


def test_names_are_torchvisions() -> None:
    names = set(MobileNetV2(batch_norm=True).state_dict())
    for name in (
        "features.0.0.weight",
        "features.0.1.running_mean",
        "features.1.conv.0.0.weight",
        "features.1.conv.1.weight",
        "features.1.conv.2.bias",
        "features.2.conv.0.0.weight",
        "features.2.conv.1.1.running_var",
        "features.2.conv.2.weight",
        "features.17.conv.3.num_batches_tracked",
        "features.18.1.weight",
    ):
        assert name in names
    assert len(names) == 52 * 6
