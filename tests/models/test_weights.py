"""Weights: what loading reports and what it refuses."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from counterstain.errors import MissingFileError, UnknownNameError, WeightsError
from counterstain.models import digest, load_state, read_state, write_state


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_all_that_does_not_fit_is_named_at_once_and_nothing_changes() -> None:
    module = network()
    before = digest(module.state_dict())
    state = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    del state["0.bias"]
    state |= {"fc.weight": torch.zeros(2), "1.weight": torch.zeros(5)}
    with pytest.raises(WeightsError) as caught:
        load_state(module, state, source="weights.pth")
    message = str(caught.value)
    assert message.startswith("weights.pth does not fit Sequential.")
    assert "1 missing: 0.bias" in message
    assert "1 left over: fc.weight" in message
    assert "1 of another shape: 1.weight (5,) for (4,)" in message
    assert digest(module.state_dict()) == before


def test_what_was_allowed_is_in_the_audit() -> None:
    module, given = network(0), dict(network(1).state_dict())
    bias = given.pop("0.bias")
    kept = module.state_dict()["0.bias"].clone()
    given["fc.weight"] = bias
    audit = load_state(module, given, allow_missing=["0.b"], allow_extra=["fc."])
    assert audit.missing == ("0.bias",)
    assert audit.left_over == ("fc.weight",)
    assert "0.weight" in audit.loaded
    assert audit.digest == digest(given)
    assert torch.equal(module.state_dict()["0.bias"], kept)
    assert torch.equal(module.state_dict()["0.weight"], given["0.weight"])


def test_counters_of_norms_may_be_absent_or_superfluous() -> None:
    state = dict(network().state_dict())
    del state["1.num_batches_tracked"]
    assert load_state(network(), state | {"2.num_batches_tracked": torch.tensor(3)}).missing == ()


def test_half_precision_is_converted() -> None:
    module = network()
    own = network(1).state_dict()
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in own.items()}
    load_state(module, state)
    assert module.state_dict()["0.weight"].dtype == torch.float32
    assert torch.equal(module.state_dict()["0.weight"], state["0.weight"].float())


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".npz"])
def test_every_kind_of_file_gives_back_its_tensors(tmp_path: Path, suffix: str) -> None:
    state, path = dict(network().state_dict()), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        write_state(path, state)
    elif suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})  # type: ignore[arg-type]
    else:
        torch.save(state, path)
    assert_equal(read_state(path), state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_a_checkpoint_that_holds_a_state_dict_is_opened(tmp_path: Path, wrapper: str) -> None:
    state = dict(network().state_dict())
    torch.save({"epoch": 3, wrapper: state}, tmp_path / "last.pth")
    assert_equal(read_state(tmp_path / "last.pth"), state)


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    write_state(tmp_path / "w.safetensors", {"a": shared, "b": shared.T})
    assert_equal(read_state(tmp_path / "w.safetensors"), {"a": shared, "b": shared.T})


class Trap:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[type[Path], tuple[str]]:
        return Path, ("trap",)


def test_code_in_a_file_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(WeightsError, match="no file of plain tensors"):
        read_state(tmp_path / "trap.pth")
    with (tmp_path / "trap.npz").open("wb") as file:
        np.savez(file, weight=np.array([Trap()], dtype=object))
    with pytest.raises(WeightsError, match="no archive of numeric arrays"):
        read_state(tmp_path / "trap.npz")


@pytest.mark.parametrize("content", [{"weight": 3.0}, [1, 2], {"state_dict": {"weight": "text"}}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_state(tmp_path / "other.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, pickle.dumps([1], protocol=2)[:5], b"PK\x03\x04 and no more"])
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged.* is no "):
        read_state(path)


def test_an_unknown_suffix_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").touch()
    with pytest.raises(UnknownNameError, match=r"'\.h5'.*\.npz, \.params, \.pt, \.pth, \.safetensors"):
        read_state(tmp_path / "weights.h5")


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="a weight file"):
        read_state(tmp_path / "absent.pth")


def test_a_digest_tells_values_names_and_precisions_apart_but_not_order() -> None:
    a, b = torch.arange(4.0), torch.tensor(2)
    first = digest({"a": a, "b": b})
    assert first == digest({"b": b, "a": a.clone()})
    others = [{"a": a + 1e-6, "b": b}, {"c": a, "b": b}, {"a": a.double(), "b": b}, {"a": a.view(2, 2), "b": b}]
    assert len({first, *(digest(state) for state in others)}) == 5


def test_a_digest_takes_any_precision_and_stride() -> None:
    half = torch.arange(6.0).view(2, 3).bfloat16()
    assert digest({"a": half.T}) == digest({"a": half.T.contiguous()}) != digest({"a": half})
