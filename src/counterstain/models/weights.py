"""Weights: files into named tensors, and named tensors into a module, with an audit.

A file is read by its suffix into names and CPU tensors, no code in it is run. `load_state` then compares these with what
the module holds: what is missing, left over or of another shape is refused, all of it named at once, unless the caller said
beforehand that it may be so. The audit is kept: it says what was loaded and what was not.

Does not know: which network the tensors belong to; a backbone renames a published file's tensors itself.
"""

import hashlib
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from counterstain.errors import UnknownNameError, WeightsError
from counterstain.files import atomic, existing
from counterstain.models.mxnet import read_mxnet

_BOOKKEEPING = "num_batches_tracked"  # counts training steps, used by no computation here; older files lack it
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # what checkpoints keep a state dict as


@dataclass(frozen=True)
class Audit:
    """What loading did.

    Args:
        loaded: Tensors of the module that were filled.
        missing: Tensors of the module that the weights lack; they keep the values they had.
        left_over: Tensors of the weights that the module has no place for.
        digest: SHA-256 of the weights as they were given, names and values.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    digest: str


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    allow_missing: Iterable[str] = (),
    allow_extra: Iterable[str] = (),
    source: str = "The given state",
) -> Audit:
    """Copies named tensors into a module and says what was done.

    Args:
        module: What to fill. Nothing in it changes when the weights are refused.
        state: Names to tensors, as `module.state_dict()` gives them; other precisions are converted.
        allow_missing: Prefixes of the module's names that the weights may lack: new heads.
        allow_extra: Prefixes of the weights' names that the module may have no place for: an old classifier.
        source: Where the weights come from, for the message.

    Raises:
        WeightsError: When tensors are missing, left over or of another shape; the message names all of them.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(_BOOKKEEPING)]
    left_over = [name for name in state if name not in own and not name.endswith(_BOOKKEEPING)]
    allowed_missing, allowed_extra = tuple(allow_missing), tuple(allow_extra)
    problems = {
        "missing": [name for name in missing if not name.startswith(allowed_missing)],
        "left over": [name for name in left_over if not name.startswith(allowed_extra)],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        raise WeightsError(_refusal(module, source, problems))
    loaded = {name: state[name] for name in own if name in state}
    module.load_state_dict({**own, **loaded})
    return Audit(tuple(loaded), tuple(missing), tuple(left_over), digest(state))


def _refusal(module: nn.Module, source: str, problems: Mapping[str, list[str]]) -> str:
    lines = [f"\n  {len(names)} {kind}: {', '.join(names)}" for kind, names in problems.items() if names]
    return (
        f"{source} does not fit {type(module).__name__}.{''.join(lines)}\n"
        "Build the network with the options these weights were made with, or give other weights."
    )


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Reads a weight file as names and tensors on the CPU.

    Args:
        path: A `.pth` or `.pt` file (a state dict, or a checkpoint that holds one as "state_dict", "model_state_dict" or
            "model"), a `.safetensors` file, a `.npz` archive of arrays, or a `.params` file of MXNet.

    Raises:
        MissingFileError: When it is not there.
        UnknownNameError: When no reader knows its suffix.
        WeightsError: When it can't be decoded, or holds anything but tensors under names.
    """
    path = existing(path, "a weight file")
    if path.suffix not in READERS:
        raise UnknownNameError("kind of weight file", path.suffix, READERS)
    return READERS[path.suffix](path)


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise WeightsError(
            f"{path} is no file of plain tensors ({type(error).__name__}). It is damaged, or holds other objects, which "
            "are never unpickled. Fetch it again, or save its state dict alone."
        ) from error
    if isinstance(state, Mapping):
        state = next((state[name] for name in _WRAPPERS if isinstance(state.get(name), Mapping)), state)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds no state dict: names and tensors were expected. Save `network.state_dict()`.")
    return dict(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is no safetensors file: {error}. Fetch it again.") from error


def _read_numpy(path: Path) -> dict[str, Tensor]:
    import numpy as np

    try:
        # opened here: numpy leaves the file open when it is no archive
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is no archive of numeric arrays: {error}. Fetch it again.") from error


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
    ".npz": _read_numpy,
    ".params": read_mxnet,
}


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes named tensors as a `.safetensors` file, atomically."""
    from safetensors.torch import save_file

    # a safetensors file refuses tensors that share memory or have strides
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    }
    with atomic(path) as temporary:
        save_file(tensors, temporary)


def digest(state: Mapping[str, Tensor]) -> str:
    """A SHA-256 of named tensors: names, precisions, shapes and values, whatever their order and device."""
    hashed = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()
