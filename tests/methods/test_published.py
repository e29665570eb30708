"""Published checkpoints against a forward pass written from the paper's tables alone, and what is refused of them.

`published_state` and `published_cams` know nothing of our network: tensors come from a table of blocks, and are put through
torch's functions by their names in the published layout.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from counterstain.data import PatchDataset
from counterstain.errors import ExistingOutputError, InputError, StaleResultError, UnknownNameError, WeightsError
from counterstain.files import read_json, whole_hash
from counterstain.layouts import BCSS_WSSS, LUAD_HISTOSEG, WSSS4LUAD
from counterstain.methods import SSHR, load_dense_method
from counterstain.methods.artefacts import Recipe, begin
from counterstain.methods.base import InputSpec
from counterstain.methods.published import Published, load_published, published_config, write_published
from counterstain.models import SSHRNetwork, build_backbone, load_state
from counterstain.models.published import Adopted, adopt_published
from counterstain.training import TrainSettings

State = dict[str, Tensor]

SMALL = 1 / 16

# Blocks in order: name, channels in, in the middle, out, stride, dilations of the two 3x3 convolutions.
BASIC = [
    ("b2", 64, 128, 128, 2, 1, 1),
    *((f"b2_{index}", 128, 128, 128, 1, 1, 1) for index in (1, 2)),
    ("b3", 128, 256, 256, 2, 1, 1),
    *((f"b3_{index}", 256, 256, 256, 1, 1, 1) for index in (1, 2)),
    ("b4", 256, 512, 512, 2, 1, 1),
    *((f"b4_{index}", 512, 512, 512, 1, 1, 1) for index in (1, 2, 3, 4, 5)),
    ("b5", 512, 512, 1024, 1, 1, 2),
    *((f"b5_{index}", 1024, 512, 1024, 1, 2, 2) for index in (1, 2)),
]
BOTTLENECK = [("b6", 1024, 512, 1024, 2048), ("b7", 2048, 1024, 2048, 4096)]
TAPS = {"56": 256, "28_1": 512, "28_2": 1024}

# How a layout that was never published may call its heads and the parts of its rectification.
PLAIN = {
    "head": "ic{tap}",
    "squeeze": "hfrm{tap}.mlp.0.weight",
    "excite": "hfrm{tap}.mlp.2.weight",
    "smooth": "hfrm{tap}.dwconv.weight",
    "semantic_scale": "hfrm{tap}.g_s",
    "context_scale": "hfrm{tap}.g_c",
}
LISTED = {
    "head": "heads.{index}",
    "squeeze": "rectifiers.{index}.GSR.fc1.weight",
    "excite": "rectifiers.{index}.GSR.fc2.weight",
    "smooth": "rectifiers.{index}.CH.conv.weight",
    "semantic_scale": "rectifiers.{index}.GSR.scale",
    "context_scale": "rectifiers.{index}.CH.scale",
}
WORDED = PLAIN | {"semantic_scale": "hfrm{tap}.gamma_sem", "context_scale": "hfrm{tap}.gammaCtx"}
HALF_WORDED = PLAIN | {"semantic_scale": "hfrm{tap}.scale", "context_scale": "hfrm{tap}.scale_smooth"}
LETTERED = LISTED | {"semantic_scale": "rectifiers.{index}.GSR.s", "context_scale": "rectifiers.{index}.CH.c"}
CAMEL = PLAIN | {"semantic_scale": "hfrm{tap}.gS", "context_scale": "hfrm{tap}.gC"}
UNTOLD = PLAIN | {"semantic_scale": "hfrm{tap}.alpha", "context_scale": "hfrm{tap}.beta"}


def published_state(
    width: float = 1.0,
    names: Mapping[str, str] = PLAIN,
    kernels: tuple[int, int, int] = (15, 15, 15),
    device: str = "cpu",
) -> State:
    """Random tensors in the published layout, 260 of them, with scales that are not zero."""
    generator = None if device == "meta" else torch.Generator().manual_seed(0)
    state: State = {}

    def wide(channels: int) -> int:
        return round(channels * width)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device) * (high - low) + low

    def conv(name: str, out: int, given: int, side: int) -> None:
        bound = (3 / (given * side**2)) ** 0.5
        state[f"{name}.weight"] = uniform(-bound, bound, out, given, side, side)

    def norm(name: str, channels: int) -> None:
        for part, low, high in (("weight", 0.8, 1.2), ("bias", -0.2, 0.2), ("running_mean", -0.3, 0.3)):
            state[f"{name}.{part}"] = uniform(low, high, channels)
        state[f"{name}.running_var"] = uniform(0.5, 1.5, channels)
        state[f"{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64, device=device)

    conv("conv1a", wide(64), 3, 3)
    for name, *numbers in BASIC:
        given, middle, out = map(wide, numbers[:3])
        norm(f"{name}.bn_branch2a", given)
        conv(f"{name}.conv_branch2a", middle, given, 3)
        norm(f"{name}.bn_branch2b1", middle)
        conv(f"{name}.conv_branch2b1", out, middle, 3)
        if given != out or numbers[3] != 1:
            conv(f"{name}.conv_branch1", out, given, 1)
    for name, *numbers in BOTTLENECK:
        given, narrow, middle, out = map(wide, numbers)
        norm(f"{name}.bn_branch2a", given)
        conv(f"{name}.conv_branch2a", narrow, given, 1)
        norm(f"{name}.bn_branch2b1", narrow)
        conv(f"{name}.conv_branch2b1", middle, narrow, 3)
        norm(f"{name}.bn_branch2b2", middle)
        conv(f"{name}.conv_branch2b2", out, middle, 1)
        conv(f"{name}.conv_branch1", out, given, 1)
    norm("bn7", wide(4096))
    norm("bn45", wide(512))
    norm("bn52", wide(1024))
    conv("fc8", 4, wide(4096), 1)
    for index, (tap, channels) in enumerate(TAPS.items()):
        named = {part: name.format(tap=tap, index=index) for part, name in names.items()}
        low, deep = wide(channels), wide(4096)
        state[named["squeeze"]] = uniform(-1, 1, deep // 8, deep) * (3 / deep) ** 0.5
        state[named["excite"]] = uniform(-1, 1, low, deep // 8) * (24 / deep) ** 0.5
        state[named["smooth"]] = uniform(0, 2 / kernels[index] ** 2, low, 1, kernels[index], kernels[index])
        state[named["semantic_scale"]] = torch.tensor([0.57 - 0.1 * index], device=device)
        state[named["context_scale"]] = torch.tensor([1.57 - 0.3 * index], device=device)
        conv(named["head"], 4, low, 1)
        state[f"{named['head']}.bias"] = uniform(-0.5, 0.5, 4)
    return state


def published_cams(state: State, images: Tensor, names: Mapping[str, str] = PLAIN) -> list[Tensor]:
    """The four CAMs of images in [0, 1], shallow to deep."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images - mean[:, None, None]) / std[:, None, None]

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance, scale, shift = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    def conv(name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, dilation * (weight.shape[2] // 2), dilation)

    x = conv("conv1a", x)
    after: State = {}
    for name, _, _, _, stride, first, second in BASIC:
        h = norm(f"{name}.bn_branch2a", x).relu()
        y = norm(f"{name}.bn_branch2b1", conv(f"{name}.conv_branch2a", h, stride, first)).relu()
        shortcut = conv(f"{name}.conv_branch1", h, stride) if f"{name}.conv_branch1.weight" in state else x
        x = after[name] = conv(f"{name}.conv_branch2b1", y, 1, second) + shortcut
    for name, *_ in BOTTLENECK:
        h = norm(f"{name}.bn_branch2a", x).relu()
        y = norm(f"{name}.bn_branch2b1", conv(f"{name}.conv_branch2a", h)).relu()
        y = norm(f"{name}.bn_branch2b2", conv(f"{name}.conv_branch2b1", y, 1, 4)).relu()
        x = conv(f"{name}.conv_branch2b2", y) + conv(f"{name}.conv_branch1", h)
    deep = norm("bn7", x).relu()
    low = {
        "56": after["b3_2"],
        "28_1": norm("bn45", after["b4_5"].relu()),
        "28_2": norm("bn52", after["b5_2"].relu()),
    }
    cams = []
    for index, (tap, feature) in enumerate(low.items()):
        named = {part: name.format(tap=tap, index=index) for part, name in names.items()}
        rectified = feature
        if named["squeeze"] in state:
            down, up = (state[named[part]].flatten(1) for part in ("squeeze", "excite"))
            weights = (up @ (down @ deep.mean((2, 3)).T).relu()).sigmoid().T
            rectified = rectified + state[named["semantic_scale"]] * feature * weights[:, :, None, None]
        if named["smooth"] in state:
            kernel = state[named["smooth"]]
            smooth = F.conv2d(feature, kernel, padding=kernel.shape[2] // 2, groups=len(kernel))
            rectified = rectified + state[named["context_scale"]] * smooth
        head = named["head"]
        cams.append(F.conv2d(rectified, state[f"{head}.weight"], state[f"{head}.bias"]))
    return [*cams, F.conv2d(deep, state["fc8.weight"])]


def network_of(adopted: Adopted) -> SSHRNetwork:
    """Our network with a checkpoint's tensors, ready to predict."""
    method = SSHR(published_config(adopted.state), LUAD_HISTOSEG.classes, InputSpec(224, 56, 1.0))
    load_state(method.network, adopted.state)
    return method.network.eval()


@torch.no_grad()
def assert_same_cams(state: State, images: Tensor, names: Mapping[str, str] = PLAIN) -> None:
    found = network_of(adopt_published(state))(images)
    for cam, expected in zip(found, published_cams(state, images, names), strict=True):
        assert cam.shape == expected.shape
        assert float((cam - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def images(rows: int = 44, columns: int = 35) -> Tensor:
    return torch.rand(2, 3, rows, columns, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "names",
    [PLAIN, LISTED, WORDED, HALF_WORDED, LETTERED, CAMEL],
    ids=["plain", "listed", "worded", "half worded", "lettered", "camel"],
)
def test_a_published_checkpoint_gives_the_published_cams(names: Mapping[str, str]) -> None:
    assert_same_cams(published_state(SMALL, names), images(), names)


@torch.no_grad()
def test_scales_taken_for_each_other_would_show() -> None:
    state = published_state(SMALL)
    swapped = {"hfrm28_1.g_c": "hfrm.1.semantic_scale", "hfrm28_1.g_s": "hfrm.1.context_scale"}
    found, expected = network_of(adopt_published(state, swapped))(images())[1], published_cams(state, images())[1]
    assert float((found - expected).abs().max()) > 1e-2 * float(expected.abs().max())


@pytest.mark.slow
def test_a_published_checkpoint_of_full_size_gives_the_published_cams() -> None:
    state = published_state()
    assert sum(tensor.numel() for name, tensor in state.items() if not is_statistic(name)) == 112_709_714
    assert_same_cams(state, images(64, 64))


def is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_every_tensor_of_full_size_has_its_place_and_shape() -> None:
    state = published_state(device="meta")
    assert len(state) == 260
    assert sum(tensor.numel() for name, tensor in state.items() if not is_statistic(name)) == 112_709_714
    adopted = adopt_published(state)
    with torch.device("meta"):
        own = SSHRNetwork(build_backbone("wide_resnet38"), 4).state_dict()
    assert {name: tensor.shape for name, tensor in adopted.state.items()} == {name: own[name].shape for name in own}
    assert published_config(adopted.state) == SSHR.presets["paper"]


def test_the_audit_says_what_each_tensor_was_taken_for_and_why() -> None:
    state = published_state(SMALL, HALF_WORDED)
    adopted = adopt_published(state)
    assert [one.given for one in adopted.decisions] == list(state)
    told = {one.given: (one.ours, one.why) for one in adopted.decisions}
    assert told["b4_5.conv_branch2a.weight"] == ("backbone.b4_5.conv_branch2a.weight", "its name")
    assert told["fc8.weight"] == ("deep_head.weight", "its name")
    assert told["hfrm28_2.dwconv.weight"] == ("hfrm.2.smooth.weight", "its shape, 64 x 1 x 15 x 15")
    assert told["hfrm28_1.mlp.0.weight"] == (
        "hfrm.1.squeeze.weight",
        "its shape, 32 x 256, beside others of 'hfrm28_1.mlp'",
    )
    assert told["ic56.bias"] == ("heads.0.bias", "beside its weight")
    assert told["hfrm56.scale_smooth"] == ("hfrm.0.context_scale", "'smooth' in its name")
    assert told["hfrm56.scale"] == ("hfrm.0.semantic_scale", "what 'hfrm56.scale_smooth' leaves")
    assert all(torch.equal(adopted.state[one.ours].flatten(), state[one.given].flatten()) for one in adopted.decisions)


def test_a_matrix_may_be_stored_as_a_convolution() -> None:
    state = published_state(SMALL)
    stored = {
        name: tensor[:, :, None, None] if ".mlp." in name else tensor[:, :, 0, 0] if name == "fc8.weight" else tensor
        for name, tensor in state.items()
    }
    assert any(tensor.shape == (32, 256, 1, 1) for tensor in stored.values())
    found, expected = adopt_published(stored).state, adopt_published(state).state
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("wrapper", ["module.", "model.", "module.model."])
def test_what_stands_before_every_name_is_passed_over(wrapper: str) -> None:
    state = published_state(SMALL)
    wrapped = adopt_published({wrapper + name: tensor for name, tensor in state.items()})
    assert list(wrapped.state) == list(adopt_published(state).state)
    assert wrapped.decisions[0].given == f"{wrapper}conv1a.weight"


def test_kernels_and_hidden_units_are_those_of_the_checkpoint() -> None:
    state = published_state(SMALL, kernels=(7, 21, 5))
    config = published_config(adopt_published(state).state)
    assert (config.kernels, config.reduction) == ((7, 21, 5), 8)
    assert config.backbone_options == {"width": SMALL}
    assert_same_cams(state, images())


@pytest.mark.parametrize("left_out", [("semantic",), ("context",), ("semantic", "context")])
def test_branches_that_a_checkpoint_leaves_out_are_not_built(left_out: tuple[str, ...]) -> None:
    parts = {"semantic": (".mlp.", ".g_s"), "context": (".dwconv.", ".g_c")}
    gone = [part for branch in left_out for part in parts[branch]]
    state = {name: tensor for name, tensor in published_state(SMALL).items() if not any(part in name for part in gone)}
    config = published_config(adopt_published(state).state)
    assert (config.semantic, config.context) == ("semantic" not in left_out, "context" not in left_out)
    assert_same_cams(state, images())


def test_a_backbone_of_other_depths_is_built_so() -> None:
    state = {name: tensor for name, tensor in published_state(SMALL).items() if not name.startswith("b2_2.")}
    assert published_config(adopt_published(state).state).backbone_options == {"width": SMALL, "depths": (2, 3, 6, 3)}


def test_scales_whose_names_say_nothing_are_refused_until_the_user_says() -> None:
    state = published_state(SMALL, UNTOLD)
    with pytest.raises(WeightsError) as caught:
        adopt_published(state)
    message = str(caught.value)
    for index, tap in enumerate(TAPS):
        for name in ("alpha", "beta"):
            assert f"hfrm{tap}.{name} 1: its name does not say whether it scales the semantic" in message
        for part in ("semantic", "context"):
            assert f"nothing was found for hfrm.{index}.{part}_scale" in message
    assert "--rename hfrm56.alpha=hfrm.0.semantic_scale" in message
    some = {f"hfrm{tap}.alpha": f"hfrm.{index}.semantic_scale" for index, tap in enumerate(TAPS)}
    rest = {f"hfrm{tap}.beta": f"hfrm.{index}.context_scale" for index, tap in enumerate(TAPS)}
    with pytest.raises(WeightsError, match=r"hfrm56\.beta 1: its name does not say") as caught:
        adopt_published(state, some)
    assert "alpha" not in str(caught.value).split("Say which")[0]
    told = adopt_published(state, some | rest).state
    expected = adopt_published(published_state(SMALL)).state
    assert all(torch.equal(told[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("semantic", "context"),
    [("gamma_s", "gamma_c"), ("s", "c"), ("scale", "scale_ch"), ("mlp.c", "scale"), ("sem_c", "ctx_s")],
)
def test_letters_that_may_stand_for_spatial_and_channel_decide_nothing(semantic: str, context: str) -> None:
    names = PLAIN | {"semantic_scale": f"hfrm{{tap}}.{semantic}", "context_scale": f"hfrm{{tap}}.{context}"}
    with pytest.raises(WeightsError) as caught:
        adopt_published(published_state(SMALL, names))
    doubted = [semantic, context] if semantic != "mlp.c" else [semantic]
    for name in doubted:
        assert f"hfrm56.{name} 1: its name does not say whether it scales the semantic" in str(caught.value)


@pytest.mark.parametrize("units", [(30, 32, 32), (30, 30, 30)])
def test_hidden_units_that_no_whole_number_gives_are_refused(units: tuple[int, int, int]) -> None:
    state = adopt_published(published_state(SMALL)).state
    for level, rows in enumerate(units):
        state[f"hfrm.{level}.squeeze.weight"] = torch.zeros(rows, 256)
    with pytest.raises(WeightsError, match=f"{', '.join(map(str, units))} hidden units for 256 deep channels"):
        published_config(state)


def flat(state: State) -> State:
    """Nothing but underscores: no module lies around a tensor."""
    parts = {".mlp.0.weight": "_w1", ".mlp.2.weight": "_w2", ".dwconv.weight": "_dw", ".g_s": "_g_s", ".g_c": "_g_c"}
    renamed = {}
    for name, tensor in state.items():
        part = next((one for one in parts if name.endswith(one)), None)
        renamed[name.replace(part, parts[part]) if part else name] = tensor
    return renamed


def without(name: str) -> Callable[[State], State]:
    return lambda state: {other: tensor for other, tensor in state.items() if other != name}


def changed(old: str, new: str) -> Callable[[State], State]:
    return lambda state: {new if name == old else name: tensor for name, tensor in state.items()}


def given(**tensors: Tensor) -> Callable[[State], State]:
    return lambda state: state | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


REFUSALS: dict[str, tuple[Callable[[State], State], list[str]]] = {
    "no modules": (
        flat,
        ["hfrm28_1_w1 32 x 256: its name does not say to which", "hfrm56_g_s 1: its name does not say to which"],
    ),
    "a missing kernel": (without("hfrm28_1.dwconv.weight"), ["nothing was found for hfrm.1.smooth.weight"]),
    "a missing scale": (without("hfrm56.g_s"), ["nothing was found for hfrm.0.semantic_scale"]),
    "a missing bias": (without("ic28_2.bias"), ["nothing was found for heads.2.bias"]),
    "a missing norm": (without("bn45.running_var"), ["nothing was found for bn45.running_var"]),
    "a missing deep head": (without("fc8.weight"), ["lacks fc8.weight", "--rename NAME=deep_head.weight"]),
    "no backbone": (
        lambda state: {name: tensor for name, tensor in state.items() if not name.startswith("b")},
        ["lacks b3.conv_branch2b1.weight, b4.conv_branch2b1.weight, b5.conv_branch2b1.weight, bn7.weight:"],
    ),
    "an unknown tensor": (given(extra__weight=torch.ones(5, 7)), ["extra.weight 5 x 7: no part has this shape"]),
    "an even kernel": (
        given(hfrm56__dwconv__weight=torch.ones(16, 1, 4, 4)),
        ["hfrm56.dwconv.weight 16 x 1 x 4 x 4: no part", "nothing was found for hfrm.0.smooth.weight"],
    ),
    "two kernels of one tap": (
        given(more__weight=torch.ones(16, 1, 3, 3)),
        ["more.weight 16 x 1 x 3 x 3: one of 2 that fit", "hfrm56.dwconv.weight 16 x 1 x 15 x 15: one of 2 that fit"],
    ),
    "three scales": (given(hfrm56__g=torch.ones(1)), ["hfrm56.g 1: its name does not say whether"]),
    "two scales of one branch": (
        changed("hfrm56.g_c", "hfrm56.sem"),
        ["hfrm56.sem 1: one of 2 that fit hfrm.0.semantic_scale", "hfrm56.g_s 1: one of 2 that fit"],
    ),
    "a name that says both": (
        changed("hfrm56.g_c", "hfrm56.sem_ctx"),
        ["hfrm56.sem_ctx 1: its name does not say whether", "nothing was found for hfrm.0.context_scale"],
    ),
    "a name that its neighbours deny": (
        changed("hfrm56.g_c", "hfrm56.mlp.ctx"),
        ["hfrm56.mlp.ctx 1: its name does not say whether", "nothing was found for hfrm.0.context_scale"],
    ),
}


@pytest.mark.parametrize("problem", REFUSALS)
def test_what_can_t_be_told_is_refused_by_name(problem: str) -> None:
    change, reasons = REFUSALS[problem]
    with pytest.raises(WeightsError) as caught:
        adopt_published(change(published_state(SMALL)))
    for reason in reasons:
        assert reason in str(caught.value)


def test_a_head_as_wide_as_a_hidden_layer_is_not_guessed() -> None:
    """Where one shape fits two parts, neither is taken."""
    state = published_state(1 / 64)
    with pytest.raises(WeightsError, match=r"4 x 8: fits heads.1.weight and hfrm.0.excite.weight"):
        adopt_published(state)


def test_an_incomplete_backbone_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    torch.save(without("b4_5.conv_branch2a.weight")(published_state(SMALL)), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"1 missing: backbone\.b4_5\.conv_branch2a\.weight"):
        load_published(tmp_path / "w.pth", LUAD_HISTOSEG)


def test_an_empty_checkpoint_is_refused() -> None:
    with pytest.raises(WeightsError, match="holds no tensor"):
        adopt_published({})


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"hfrm56.g_z": "hfrm.0.context_scale"}, "tensor of the checkpoint 'hfrm56.g_z'. Did you mean 'hfrm56.g_"),
        ({"hfrm56.g_c": "hfrm.0.contxt_scale"}, "Did you mean 'hfrm.0.context_scale'"),
        ({"hfrm56.g_c": "b3.conv_branch2a.weight"}, "Unknown part"),
    ],
)
def test_renames_of_nothing_or_to_nothing_are_refused(renames: dict[str, str], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        adopt_published(published_state(SMALL), renames)


def test_a_rename_wins_over_what_could_be_told() -> None:
    swapped = {"hfrm56.g_c": "hfrm.0.semantic_scale", "hfrm56.g_s": "hfrm.0.context_scale"}
    state = published_state(SMALL)
    found = adopt_published(state, swapped)
    assert torch.equal(found.state["hfrm.0.semantic_scale"], state["hfrm56.g_c"])
    assert {one.why for one in found.decisions if one.given in swapped} == {"as told"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "last.pth"
    torch.save({"epoch": 25, "state_dict": published_state(SMALL)}, path)
    return path


@pytest.fixture(scope="module")
def luad(checkpoint: Path) -> Published:
    return load_published(checkpoint, LUAD_HISTOSEG)


def test_a_loaded_checkpoint_has_the_dataset_s_classes_and_the_released_thresholds(
    luad: Published, checkpoint: Path
) -> None:
    method = luad.method
    assert method.classes == LUAD_HISTOSEG.classes
    assert method.thresholds == (0.2,) * 4
    assert luad.provenance["thresholds"] == "of the released code, June 2026"
    assert (method.input.tile_px, method.input.halo_px, method.input.mpp) == (224, 56, 1.0)
    assert method.input.white_is_background
    bcss = load_published(checkpoint, BCSS_WSSS).method
    assert (bcss.thresholds, bcss.input.mpp) == ((0.8,) * 4, None)


def test_thresholds_can_be_given_for_all_or_each(checkpoint: Path) -> None:
    assert load_published(checkpoint, LUAD_HISTOSEG, [0.3]).method.thresholds == (0.3,) * 4
    found = load_published(checkpoint, LUAD_HISTOSEG, (0.1, 0.2, 0.3, 0.4))
    assert found.method.thresholds == (0.1, 0.2, 0.3, 0.4)
    assert found.provenance["thresholds"] == "as given"
    with pytest.raises(InputError, match="'presence_thresholds'"):
        load_published(checkpoint, LUAD_HISTOSEG, (0.1, 0.2))


def test_the_dataset_must_have_as_many_classes_and_a_threshold(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="has 4 classes, and wsss4luad has 3"):
        load_published(checkpoint, WSSS4LUAD)
    unknown = replace(LUAD_HISTOSEG, name="lab")
    with pytest.raises(InputError, match="no presence threshold for lab"):
        load_published(checkpoint, unknown)
    assert load_published(checkpoint, unknown, [0.5]).method.thresholds == (0.5,) * 4


def test_a_written_run_is_finished_and_says_where_it_comes_from(
    luad: Published, checkpoint: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    write_published(luad, run)
    batch = images()
    assert torch.equal(load_dense_method(run).predict_maps(batch), luad.method.predict_maps(batch))
    provenance = read_json(run / "model.json")["provenance"]
    assert provenance["trained_here"] is False
    assert provenance["imported_from"] == "last.pth"
    assert provenance["sha256"] == whole_hash(checkpoint)
    assert provenance["tensors"]["hfrm.0.smooth.weight"]["given"] == "hfrm56.dwconv.weight"


def test_no_run_is_replaced_and_no_training_goes_on_with_an_imported_one(
    luad: Published, textures: PatchDataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_published(luad, run)
    with pytest.raises(ExistingOutputError, match="no run is replaced"):
        write_published(luad, run)
    recipe = Recipe("sshr", luad.method.config, TrainSettings(), textures, luad.method.input)
    with pytest.raises(StaleResultError):
        begin(run, recipe)
