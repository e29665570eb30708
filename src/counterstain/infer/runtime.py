"""Where and how exactly a network runs: device, precision, runtime, threads; and the step from read tiles to maps.

On a CPU a network runs in fp32 always: bf16 autocast was measured 29 times slower there. Threads that spin while they wait
slow each other down several times on a busy machine, so one core is left to the readers unless OMP_WAIT_POLICY=PASSIVE
says that waiting threads sleep. cuDNN's autotuner stays off: it may choose differently in a resumed prediction.

    B  images    C  channels or classes    H  height    W  width

Does not know: slides, where tiles lie, files.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from threading import Lock
from typing import Any, Protocol, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from counterstain import log
from counterstain.errors import ExportError, InputError, MissingExtraError
from counterstain.infer.dense import DenseModel, RunsItself
from counterstain.infer.device import Images, Pipeline, place
from counterstain.infer.exported import Identified, Place, Step, exported
from counterstain.infer.onnx_runtime import Run
from counterstain.infer.pool import float_images, pooled_gray, pooled_maps
from counterstain.infer.settings import PredictSettings, RuntimeName
from counterstain.infer.tta import AveragedViews

T = TypeVar("T")

NEEDED = {"onnx": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino", "onnx", "onnxscript")}
"""The libraries that run networks on a CPU beside torch, the preferred first, and what each is made of."""


@dataclass(frozen=True)
class Runtime:
    """A device, the type its matrix products are computed in, and the library that computes them.

    Args:
        device: As torch knows it.
        autocast: None for plain fp32.
        name: "torch", or a name in OPENERS.
    """

    device: torch.device
    autocast: torch.dtype | None
    name: str = "torch"

    @property
    def label(self) -> str:
        """What results are known by that it made: the precision, and the library where it is not torch."""
        return self.precision if self.name == "torch" else f"{self.precision} {self.name}"

    @property
    def precision(self) -> str:
        """Its name in settings."""
        return {None: "32", torch.float16: "16", torch.bfloat16: "bf16"}[self.autocast]

    @property
    def is_shared(self) -> bool:
        """Whether threads may share what it runs: of torch's, each would start a team of its own."""
        return self.name != "torch"

    def context(self) -> AbstractContextManager[Any]:
        """Within it, networks run in this precision."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()


def choose_runtime(device: str = "auto", precision: str = "auto", runtime: str = "torch") -> Runtime:
    """The device, precision and library that settings ask for.

    Args:
        device: "auto" or a name as torch knows it.
        precision: "auto", "32", "16" or "bf16".
        runtime: "auto", "torch", "onnx" or "openvino".

    Raises:
        InputError: When there is no such device here, or the precision is one it is slow in, or the library does not run
            on it.
        MissingExtraError: When the library is not installed.
    """
    chosen = _precise(_device(device), precision)
    return replace(chosen, name=_library(runtime, chosen.device))


def runtime_of_images(settings: PredictSettings) -> Runtime:
    """Likewise for single images, of any size: nothing is exported for them unless it was asked for by name."""
    wanted = "torch" if settings.runtime == "auto" else settings.runtime
    return choose_runtime(settings.device, settings.precision, wanted)


def _library(wanted: str, device: torch.device) -> str:
    known = get_args(RuntimeName)
    wanted = os.environ.get("COUNTERSTAIN_RUNTIME", "auto") if wanted == "auto" else wanted
    if wanted not in known:
        raise InputError(
            f"Runtime {wanted!r} was given, by --runtime or by COUNTERSTAIN_RUNTIME; expected one of {', '.join(known)}."
        )
    if wanted == "auto":
        there = [name for name, needed in NEEDED.items() if all(map(find_spec, needed))]
        return there[0] if there and device.type == "cpu" else "torch"
    if wanted != "torch" and device.type != "cpu":
        raise InputError(f"Runtime {wanted!r} was given for {device}; it runs on a CPU here. Pass --runtime torch.")
    for library in NEEDED.get(wanted, ()):
        if find_spec(library) is None:
            raise MissingExtraError(library, wanted, f"Runtime {wanted!r}")
    return wanted


def _precise(chosen: torch.device, precision: str) -> Runtime:
    if precision == "auto":
        return Runtime(chosen, _fastest(chosen))
    wanted = {"32": None, "16": torch.float16, "bf16": torch.bfloat16}.get(precision, precision)
    if isinstance(wanted, str):
        raise InputError(f"Precision {precision!r} was given; expected auto, 32, 16 or bf16.")
    if wanted is not None and chosen.type == "cpu":
        raise InputError(
            f"Precision {precision!r} was given for a CPU, where it is many times slower. Pass --precision 32."
        )
    return Runtime(chosen, wanted)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Device {name!r} can't be used here: {reason}. Pass --device cpu.") from error
    return device


def _fastest(device: torch.device) -> torch.dtype | None:
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def reader_threads(wanted: int | None) -> int:
    """Threads that read tiles: as asked, else one for each core but one, at most four."""
    return wanted if wanted is not None else max(1, min(4, available_cores() - 1))


def network_threads(wanted: int | None) -> int:
    """Threads of a network on a CPU: as asked, else by OMP_NUM_THREADS, else all cores where waiting threads sleep."""
    if wanted is not None:
        return wanted
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    sleeps = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    return available_cores() if sleeps else max(1, available_cores() - 1)


@contextmanager
def threads(wanted: int | None) -> Iterator[None]:
    """Within it, networks on a CPU use so many threads; after it, as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(network_threads(wanted))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Exportable(Protocol):
    """Opens what it was made for at a size of images."""

    def __call__(self, size: tuple[int, int], /) -> Run:
        """The step, run by another library."""


def open_elsewhere(
    network: nn.Module, function: Callable[[Tensor], Tensor], owner: object, runtime: Runtime, num_threads: int | None
) -> Exportable:
    """How a function of images, and the network it computes with, is run by another library than torch.

    Args:
        network: Its tensors.
        function: As `Step` has it.
        owner: What says what the function follows from.
        runtime: The library.
        num_threads: As `network_threads` has it.

    Raises:
        ExportError: When the owner does not say it.
    """
    if not isinstance(owner, Identified):
        raise ExportError(f"A {type(owner).__name__} does not say what its results follow from: it has no identity().")
    step, place = Step(network, function, owner.identity()), Place(runtime.name, network_threads(num_threads))
    return lambda size: _one_at_a_time(exported(step, size, place))


def _one_at_a_time(run: Run) -> Run:
    """As it is, for threads that share it: two networks at once would drive each other out of the caches."""
    lock = Lock()

    def alone(images_BCHW: Tensor) -> Tensor:
        with lock:
            return run(images_BCHW)

    return alone


def or_torch(runtime: Runtime, wanted: str, make: Callable[[], Any]) -> tuple[Runtime, Any]:
    """What another library runs, or None and torch where it can't and was not asked for by name.

    Args:
        runtime: The library.
        wanted: What settings ask for.
        make: Opens it.

    Raises:
        InputError: When it can't, and was asked for by name.
    """
    if runtime.name == "torch":
        return runtime, None
    try:
        return runtime, make()
    except (ExportError, ImportError) as error:
        if wanted == runtime.name:
            raise InputError(
                f"Runtime {runtime.name!r} can't run this model. {error} Pass --runtime torch, or leave it out."
            ) from error
        log.say(f"Torch runs the network, {runtime.name} can't: {error}")
        return replace(runtime, name="torch"), None


class _Elsewhere:
    """A model whose maps another library makes.

    Args:
        model: The model.
        runtime: The library.
        num_threads: As `network_threads` has it.
    """

    def __init__(self, model: DenseModel, runtime: Runtime, num_threads: int | None) -> None:
        self.classes, self.input, self.network = model.classes, model.input, model.network
        self._runs: dict[tuple[int, int], Run] = {}
        self._open = open_elsewhere(model.network, model.predict_maps, model, runtime, num_threads)

    def at(self, size: tuple[int, int]) -> "_Elsewhere":
        """Itself, open for images of a size."""
        if size not in self._runs:
            self._runs[size] = self._open(size)
        return self

    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        height, width = images_BCHW.shape[2:]
        return self.at((height, width))._runs[height, width](images_BCHW)


@dataclass(frozen=True)
class _Means:
    """A batch's pixels to its pooled maps.

    On the device all the way, and without a look at values: it may be captured in a CUDA graph.
    """

    model: AveragedViews
    runtime: Runtime
    map_stride: int
    with_gray: bool
    halo_px: int

    def __call__(self, pixels_BHWC: Tensor) -> Tensor:
        images = float_images(pixels_BHWC)
        with self.runtime.context():
            maps = self.model.predict_maps(images).float()
        expected = (len(images), len(self.model.classes), *images.shape[2:])
        if tuple(maps.shape) != expected:
            raise InputError(f"The model gave maps of shape {tuple(maps.shape)}; expected {expected}.")
        rows, columns = (slice(self.halo_px, side - self.halo_px) for side in images.shape[2:])
        means = pooled_maps(maps[:, :, rows, columns], self.map_stride)
        if self.with_gray:
            means = torch.cat([means, pooled_gray(pixels_BHWC[:, rows, columns], self.map_stride)], dim=1)
        return means


class Runner:
    """Gives maps for images as they were read.

    The model's network is moved to the device, and stays there in evaluation mode.

    Args:
        model: Whose maps.
        settings: Views, background, device, precision and runtime.
        map_stride: Pixels of the images for one of the maps, along each axis.
        tile_px: Width and height of all images; None where they differ: then nothing is exported unless asked for by name.

    Raises:
        InputError: When the device can't be used, or the runtime that was asked for by name.
        MissingExtraError: When that is not installed.
    """

    def __init__(
        self, model: DenseModel, settings: PredictSettings, map_stride: int, tile_px: int | None = None
    ) -> None:
        if tile_px is None:
            runtime = runtime_of_images(settings)
        else:
            runtime = choose_runtime(settings.device, settings.precision, settings.runtime)
        place(model.network, runtime.device)

        def make() -> _Elsewhere:
            other = _Elsewhere(model, runtime, settings.num_threads)
            return other if tile_px is None else other.at((tile_px, tile_px))

        self.runtime, elsewhere = or_torch(runtime, settings.runtime, make)
        self._model = AveragedViews(elsewhere or model, settings.tta)
        self._own = model.runs if isinstance(model, RunsItself) else {}
        self._map_stride, self._with_gray = map_stride, bool(settings.white_background)
        self._full = None if tile_px is None else settings.batch_size
        self._pipelines: dict[int, Pipeline] = {}

    @property
    def described(self) -> dict[str, str]:
        """What maps are made with: device, precision and runtime, for people to read."""
        runtime = self.runtime
        return {"device": str(runtime.device), "precision": runtime.precision, "runtime": runtime.name, **self._own}

    @property
    def num_channels(self) -> int:
        """Classes, and one for the gray value where white becomes background."""
        return len(self._model.classes) + self._with_gray

    def run(self, images_BHWC: Images, halo_px: int = 0) -> npt.NDArray[np.float32]:
        """Maps of a batch, averaged over squares of `map_stride` pixels.

        Args:
            images_BHWC: uint8 RGB; height and width are multiples of `map_stride`.
            halo_px: Margin to leave out of the maps, a multiple of `map_stride` too.

        Returns:
            (B, num_channels, height, width) float32, of (H - 2 * halo_px) / map_stride rows and likewise columns:
            probabilities, then the gray value in [0, 1].

        Raises:
            InputError: When the model gives something else than maps of its classes.
        """
        return next(self.maps([images_BHWC], lambda images: images, halo_px))[1]

    def maps(
        self, batches: Iterable[T], images_of: Callable[[T], Images], halo_px: int = 0
    ) -> Generator[tuple[T, npt.NDArray[np.float32]], None, None]:
        """Each batch with its maps, as `run` gives them, in order; on a GPU the next batches are under way meanwhile.

        Args:
            batches: At most `settings.batch_size` images each.
            images_of: A batch's images.
            halo_px: As for `run`.

        Raises:
            InputError: When the model gives something else than maps of its classes.
        """
        if halo_px not in self._pipelines:
            means = _Means(self._model, self.runtime, self._map_stride, self._with_gray, halo_px)
            runtime = self.runtime
            self._pipelines[halo_px] = Pipeline(means, runtime.device, self._full, is_shared=runtime.is_shared)
        with closing(self._pipelines[halo_px].map(batches, images_of)) as mapped:
            for batch, maps_BCHW in mapped:
                if not np.isfinite(maps_BCHW).all():
                    raise InputError(
                        "The model gave values that are no numbers. Pass --precision 32, or train it again."
                    )
                yield batch, maps_BCHW
