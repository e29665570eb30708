"""A model's tensor step in another runtime than eager torch: exported once, kept on disk, compared before it is used.

    step -> key -> ONNX file in the cache -> session of a runtime -> compared with the step on random images -> used

The key follows from all that the step computes with: its tensors, its settings, the source code of networks and methods,
the versions of what exports. Nothing is used that does not give what torch gives: `TOLERANCE` says how nearly.

    B  images    C  channels    H  height    W  width

Does not know: slides, tiles, which runtime is wanted.
"""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import counterstain
from counterstain import log
from counterstain.cache import cache_folder, drop_oldest, mark_used
from counterstain.errors import ExportError
from counterstain.files import settings_hash
from counterstain.infer.onnx_runtime import OPSET, Run, open_onnx, write_onnx
from counterstain.infer.openvino_runtime import open_openvino
from counterstain.models.weights import digest

TOLERANCE = 1e-3
"""The root mean square difference from torch, relative to the values, that the median image may have; 1e-6 is usual."""

_WORST = 0.05  # that one image may have: where a threshold is met by the last bits, a step decides otherwise
_EXPORTED, _LOADED = 5, 1  # images that are compared
_MORE = 4  # images that decide where the first was off
_FORMAT = 1
_MOST_OPEN = 2

OPENERS: dict[str, Callable[[Path, int], Run]] = {"onnx": open_onnx, "openvino": open_openvino}
"""Runtimes that run an ONNX file on a CPU, by name."""


@runtime_checkable
class Identified(Protocol):
    """What can be exported: something that says what its results follow from, its tensors and code excepted."""

    def identity(self) -> str:
        """A hash of settings."""


class Step(nn.Module):
    """A function of images that computes with a network.

    Args:
        network: Whose tensors; moved nowhere.
        function: (B, 3, H, W) float32 RGB in [0, 1] to (B, ...) float32.
        identity: What the function follows from, the network's tensors and code excepted.
    """

    def __init__(self, network: nn.Module, function: Callable[[Tensor], Tensor], identity: str) -> None:
        super().__init__()
        self.network, self.identity = network, identity
        self.function = function

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The function's values."""
        return self.function(images_BCHW).float()


@dataclass(frozen=True)
class Place:
    """Which runtime runs a step, and on how many threads.

    Args:
        runtime: A name in OPENERS.
        num_threads: Of the CPU.
    """

    runtime: str
    num_threads: int


_open: dict[tuple[str, Place], Run] = {}  # slide after slide is mapped by one network


def exported(step: Step, size: tuple[int, int], place: Place) -> Run:
    """A step, run by another runtime; compared with the step itself.

    Args:
        step: On the CPU, in evaluation mode.
        size: Height and width of images.
        place: Where it runs.

    Returns:
        The step as a function of (B, 3, height, width) float32 images on the CPU.

    Raises:
        ExportError: When it can't be exported, kept or run, or gives something else than torch.
        MissingExtraError: When a library is not installed.
    """
    key = key_of(step, size)
    if (key, place) in _open:
        return _open[key, place]
    path = cache_folder("networks") / f"{key}.onnx"
    run = _kept(step, size, path, place)
    if run is None:
        log.say(f"Exporting the network for {place.runtime}, once.")
        try:
            write_onnx(step, size, path)
        except OSError as error:
            raise ExportError(
                f"{path.parent} can't be written ({error}); name another folder as COUNTERSTAIN_CACHE."
            ) from error
        run = OPENERS[place.runtime](path, place.num_threads)
        try:
            compare(step, run, images(_EXPORTED, size))
        except ExportError:
            path.unlink(missing_ok=True)
            raise
        drop_oldest(path.parent)
    while len(_open) >= _MOST_OPEN:
        del _open[next(iter(_open))]
    _open[key, place] = run
    return run


def _kept(step: Step, size: tuple[int, int], path: Path, place: Place) -> Run | None:
    """What an earlier export left, where it still gives what the step gives."""
    if not path.exists():
        return None
    mark_used(path)
    try:
        run = OPENERS[place.runtime](path, place.num_threads)
        try:
            compare(step, run, images(_LOADED, size))
        except ExportError:
            compare(step, run, images(_MORE, size))
    except ExportError:
        return None  # damaged, or another machine's habit: it is made anew, and refused if it is wrong again
    return run


def images(num: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Random pictures with coarse and fine structure: (num, 3, height, width) float32, multiples of 1 / 255."""
    generator = torch.Generator().manual_seed(seed)
    coarse_BChw = torch.rand(num, 3, 6, 6, generator=generator)
    fine_BCHW = torch.rand(num, 3, *size, generator=generator)
    mixed_BCHW = 0.7 * F.interpolate(coarse_BChw, size=size, mode="bilinear", align_corners=False) + 0.3 * fine_BCHW
    return (mixed_BCHW * 255).round() / 255


@torch.inference_mode()
def compare(step: nn.Module, run: Run, images_BCHW: Tensor) -> None:
    """Refuses a runtime that does not give what a step gives.

    Args:
        step: Run by torch.
        run: The same by another runtime.
        images_BCHW: What both are shown.

    Raises:
        ExportError: When shapes differ, or values by more than `TOLERANCE`.
    """
    expected, found = step(images_BCHW), run(images_BCHW)
    if expected.shape != found.shape:
        raise ExportError(f"It gives values of shape {tuple(found.shape)}; torch gives {tuple(expected.shape)}.")
    off_BX = (found.double() - expected.double()).flatten(1)
    scale_B = expected.double().flatten(1).square().mean(1).sqrt().clamp(min=1e-9)
    off_B = off_BX.square().mean(1).sqrt() / scale_B
    if not (float(off_B.median()) <= TOLERANCE and float(off_B.max()) <= _WORST):  # no number is refused as well
        raise ExportError(
            f"Its values differ from torch's by {float(off_B.median()):.2g} of their size, {TOLERANCE:g} is allowed."
        )


def key_of(step: Step, size: tuple[int, int]) -> str:
    """By what an exported step is known."""
    tensors = {**dict(step.named_parameters()), **dict(step.named_buffers())}
    versions = [_version(name) for name in ("torch", "onnx", "onnxscript")]
    code = [_code(), _file_of(type(step.network)), _file_of(step.function)]
    return settings_hash(_FORMAT, OPSET, step.identity, repr(step.network), digest(tensors), size, versions, code)


@cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # an export of before may still run
        return ""


@cache
def _code() -> str:
    """A hash of the source of everything that a step may be made of: nobody has to remember to count a revision up."""
    root, hashed = Path(counterstain.__file__).parent, hashlib.sha256()
    rooms = [path for room in ("models", "methods") for path in (root / room).rglob("*.py")]
    for path in sorted(
        [*rooms, root / "stain.py", root / "filled.py", root / "infer" / "onnx_runtime.py", Path(__file__)]
    ):
        hashed.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return hashed.hexdigest()


def _file_of(what: Any) -> str:
    """A hash of the file in which a class or function is written, which may lie elsewhere."""
    try:
        return hashlib.sha256(Path(inspect.getfile(what)).read_bytes()).hexdigest()
    except (TypeError, OSError):  # typed into a console
        return ""
