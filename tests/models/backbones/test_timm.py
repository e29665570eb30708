"""The adapter to timm, with a stand-in for timm: the real one needs a torchvision that is seldom importable."""

import sys
from pathlib import Path

import pytest
import torch

from counterstain.errors import InputError, MissingExtraError
from counterstain.models import build_backbone, load_backbone_weights

STAND_IN = """
import torch
from torch import nn

class Info:
    def __init__(self, rows): self.rows = rows
    def channels(self): return [row[0] for row in self.rows]
    def reduction(self): return [row[1] for row in self.rows]

class Network(nn.Module):
    default_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    def __init__(self, rows, last):
        super().__init__()
        self.output_fmt = "NHWC" if last else "NCHW"
        self.feature_info, self.last = Info(rows), last
        given, reached = 3, 1
        for index, (channels, stride) in enumerate(rows):
            self.add_module(f"stages_{index}", nn.Conv2d(given, channels, 3, stride // reached, 1))
            given, reached = channels, stride
    def forward(self, x):
        found = []
        for stage in self.children():
            x = stage(x)
            found.append(x.permute(0, 2, 3, 1) if self.last else x)
        return found

def create_model(name, pretrained, features_only, out_indices=(0, 1, 2, 3, 4), output_stride=32):
    assert features_only and not pretrained
    if name == "nonsense":
        raise RuntimeError("Unknown model (nonsense)")
    rows = [(4, 2), (5, 4), (6, 8), (7, 16), (8, 32)]
    return Network([rows[index] for index in out_indices], last=name == "windows")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `import timm` looks into first."""
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("timm", None)


@pytest.fixture
def timm(install: Path) -> None:
    (install / "timm.py").write_text(STAND_IN)


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("name", ["timm:plain", "timm:windows"])
def test_the_last_four_stages_are_the_taps(name: str) -> None:
    backbone = build_backbone(name)
    assert (backbone.channels, backbone.strides) == ((5, 6, 7, 8), (4, 8, 16, 32))
    assert backbone.input_mean == (0.1, 0.2, 0.3)
    shapes = [tuple(tap.shape) for tap in backbone(torch.rand(1, 3, 64, 96))]
    assert shapes == [(1, 5, 16, 24), (1, 6, 8, 12), (1, 7, 4, 6), (1, 8, 2, 3)]


@pytest.mark.usefixtures("timm")
def test_a_map_as_high_as_it_has_channels_is_laid_out_like_the_others() -> None:
    torch.manual_seed(0)
    windows = build_backbone("timm:windows", taps=[0, 1, 2, 3])
    torch.manual_seed(0)
    plain = build_backbone("timm:plain", taps=[0, 1, 2, 3])
    batch = torch.rand(1, 3, 20, 12)  # the second tap has 5 channels and 5 rows
    taps = windows(batch)
    assert tuple(taps[1].shape) == (1, 5, 5, 3)
    assert all(torch.equal(tap, expected) for tap, expected in zip(taps, plain(batch), strict=True))


@pytest.mark.usefixtures("timm")
def test_taps_can_be_chosen() -> None:
    backbone = build_backbone("timm:plain", taps=[0, 1, 2, 3], output_stride=16)
    assert backbone.strides == (2, 4, 8, 16)


@pytest.mark.usefixtures("timm")
def test_fewer_than_four_stages_are_refused() -> None:
    with pytest.raises(InputError, match="gives 2 feature maps; four were expected"):
        build_backbone("timm:plain", taps=(0, 1))


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(("name", "options"), [("timm:nonsense", {}), ("timm:plain", {"taps": (1, 2, 3, 9)})])
def test_what_timm_cannot_build_is_refused(name: str, options: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="timm can't build"):
        build_backbone(name, **options)


@pytest.mark.usefixtures("timm")
def test_a_files_dots_match_timms_underscores(tmp_path: Path) -> None:
    backbone = build_backbone("timm:plain")
    state = {
        name.removeprefix("model.").replace("stages_", "stages."): tensor + 1
        for name, tensor in backbone.state_dict().items()
    }
    torch.save({**state, "head.fc.weight": torch.zeros(2, 8)}, tmp_path / "weights.pth")
    before = backbone.state_dict()["model.stages_3.weight"].clone()
    audit = load_backbone_weights(backbone, tmp_path / "weights.pth")
    assert audit.left_over == ("head.fc.weight",)
    assert audit.missing == ()
    assert torch.equal(backbone.state_dict()["model.stages_3.weight"], before + 1)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"counterstain\[timm\]"):
        build_backbone("timm:convnext_tiny")


def test_a_torchvision_of_another_torch_is_told_apart(install: Path) -> None:
    (install / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    with pytest.raises(MissingExtraError, match="a torchvision that matches this torch"):
        build_backbone("timm:convnext_tiny")
