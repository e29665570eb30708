import sys
from pathlib import Path

import pytest
import torch

from counterstain.errors import InputError, MissingExtraError, MissingFileError, UnknownNameError, WeightsError
from counterstain.models import build_backbone
from counterstain.models.encoders import backbone_encoder, timm_encoder
from counterstain.models.weights import write_state

STAND_IN = """
import torch
from torch import nn

class Network(nn.Module):
    num_features = 5
    def __init__(self, licence):
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3)
        self.pretrained_cfg = {"license": licence, "classifier": ("head", "head_dist")} if licence else {}
    def forward(self, x):
        return self.layer(x).mean((2, 3))

def create_model(name, num_classes, pretrained):
    assert num_classes == 0
    if name == "nonsense":
        raise RuntimeError("Unknown model (nonsense)")
    if pretrained and name == "gated":
        raise OSError("401: access to this model is restricted")
    return Network("mit" if name == "known" else None)
"""
DATA = """
def resolve_model_data_config(network):
    return {"input_size": (3, 32, 32), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5)}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `import timm` looks into first: the real one needs a torchvision that is seldom importable."""
    for name in ("timm", "timm.data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "first")
    (tmp_path / "first" / "timm").mkdir(parents=True)
    yield tmp_path / "first" / "timm"
    for name in ("timm", "timm.data"):
        sys.modules.pop(name, None)


@pytest.fixture
def timm(install: Path) -> None:
    (install / "__init__.py").write_text(STAND_IN)
    (install / "data.py").write_text(DATA)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    write_state(tmp_path / "tiny.safetensors", build_backbone("tiny").state_dict())
    return tmp_path / "tiny.safetensors"


def images(side: int = 24) -> torch.Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_an_embedding_is_the_mean_of_the_deepest_features(weights: Path) -> None:
    encoder = backbone_encoder("tiny", weights, 24)
    torch.manual_seed(3)
    backbone = build_backbone("tiny").eval()
    with torch.no_grad():
        expected = backbone(images())[3].mean((2, 3))
    assert torch.allclose(encoder(images()), expected, atol=1e-6)
    assert encoder.spec.num_features == expected.shape[1] == 128
    assert (encoder.spec.name, encoder.spec.input_px, encoder.input_px) == ("tiny", 24, 24)


def test_an_embedding_does_not_hang_on_its_batch_even_in_training_mode(weights: Path) -> None:
    encoder = backbone_encoder("tiny", weights, 24).train()
    alone = torch.cat([encoder(image[None]) for image in images()])
    assert torch.allclose(encoder(images()), alone, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_weights_and_input_size_tell_encoders_apart(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    torch.manual_seed(4)
    write_state(other, build_backbone("tiny").state_dict())
    digests = [
        backbone_encoder("tiny", weights).spec.digest,
        backbone_encoder("tiny", other).spec.digest,
        backbone_encoder("tiny", weights, 64).spec.digest,
        backbone_encoder("tiny", None, untrained=True).spec.digest,
    ]
    assert len(set(digests)) == 4
    assert backbone_encoder("tiny", weights).spec == backbone_encoder("tiny", weights).spec


def test_untrained_weights_are_refused_unless_asked_for_and_then_always_the_same() -> None:
    with pytest.raises(InputError, match="--weights"):
        backbone_encoder("tiny", None)
    before = torch.random.get_rng_state()
    one = backbone_encoder("tiny", None, 24, untrained=True)
    other = backbone_encoder("tiny", None, 24, untrained=True)
    assert torch.equal(one(images()), other(images()))
    assert one.spec == other.spec
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_can_not_be_an_encoder_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="tiny"):
        backbone_encoder("tiney", weights)
    with pytest.raises(MissingFileError):
        backbone_encoder("tiny", tmp_path / "none.safetensors")
    with pytest.raises(WeightsError):
        backbone_encoder("resnet18", weights)
    with pytest.raises(InputError, match="1 or more"):
        backbone_encoder("tiny", weights, 0)
    with pytest.raises(InputError, match="one of the two"):
        backbone_encoder("tiny", weights, untrained=True)


def test_published_weights_make_an_encoder(real_data: Path) -> None:
    weights = real_data / "weights" / "mobilenet_v2_1.0_224_imagenet_bnfolded.npz"
    encoder = backbone_encoder("mobilenet_v2", weights)
    embeddings = encoder(torch.rand(2, 3, 112, 112))
    assert embeddings.shape == (2, encoder.spec.num_features)
    assert not torch.allclose(embeddings[0], embeddings[1])


@pytest.mark.usefixtures("timm")
def test_a_network_of_timm_is_pooled_and_normalised_as_timm_has_it() -> None:
    encoder = backbone_encoder("timm:known", None)
    given = images(32)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.5])
    expected = encoder.network.layer((given - mean.view(3, 1, 1)) / std.view(3, 1, 1)).mean((2, 3))  # type: ignore[union-attr]
    assert torch.allclose(encoder(given), expected, atol=1e-6)
    assert encoder.spec.input_px == 32
    assert (encoder.spec.name, encoder.spec.num_features, encoder.spec.licence) == ("timm:known", 5, "mit")
    assert timm_encoder("other").spec.licence == "unknown"


@pytest.mark.usefixtures("timm")
def test_weights_for_a_network_of_timm_may_be_a_file_with_a_classifier_left_over(tmp_path: Path) -> None:
    one = timm_encoder("known", untrained=True)
    state = {name: tensor + 1 for name, tensor in one.network.state_dict().items()}
    write_state(tmp_path / "known.safetensors", {**state, "head.weight": torch.ones(9, 5)})
    other = timm_encoder("known", tmp_path / "known.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.network.state_dict().items())
    assert one.spec.digest != other.spec.digest
    with pytest.raises(MissingFileError):
        timm_encoder("known", tmp_path / "none.pth")
    write_state(tmp_path / "short.safetensors", {"layer.weight": state["layer.weight"]})
    with pytest.raises(WeightsError, match=r"layer\.bias"):
        timm_encoder("known", tmp_path / "short.safetensors")


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("name", ["nonsense", "gated"])
def test_what_timm_can_not_give_is_said_with_its_reason(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*--weights"):
        timm_encoder(name)


def test_timm_that_is_not_there_is_asked_for(install: Path) -> None:
    (install / "__init__.py").write_text("raise ImportError('no timm')")
    with pytest.raises(MissingExtraError, match=r"counterstain\[timm\]"):
        backbone_encoder("timm:resnet18", None)
