"""Where and how exactly a network runs: device, precision, threads; and the step from read tiles to maps.

On a CPU a network runs in fp32 always: bf16 autocast was measured 29 times slower there. Threads that spin while they wait
slow each other down several times on a busy machine, so one core is left to the readers unless OMP_WAIT_POLICY=PASSIVE
says that waiting threads sleep. cuDNN's autotuner stays off: it may choose differently in a resumed prediction.

    B  images    C  channels or classes    H  height    W  width

Does not know: slides, where tiles lie, files.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from counterstain.errors import InputError
from counterstain.infer.dense import DenseModel
from counterstain.infer.settings import PredictSettings
from counterstain.infer.tta import AveragedViews

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what "gray" means in the published white-background masks


@dataclass(frozen=True)
class Runtime:
    """A device and the type its matrix products are computed in.

    Args:
        device: As torch knows it.
        autocast: None for plain fp32.
    """

    device: torch.device
    autocast: torch.dtype | None

    @property
    def precision(self) -> str:
        """Its name in settings."""
        return {None: "32", torch.float16: "16", torch.bfloat16: "bf16"}[self.autocast]

    def context(self) -> AbstractContextManager[Any]:
        """Within it, networks run in this precision."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """The device and precision that settings ask for.

    Args:
        device: "auto" or a name as torch knows it.
        precision: "auto", "32", "16" or "bf16".

    Raises:
        InputError: When there is no such device here, or the precision is one it is slow in.
    """
    chosen = _device(device)
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


class Runner:
    """Gives maps for images as they were read.

    The model's network is moved to the device, and stays there in evaluation mode.

    Args:
        model: Whose maps.
        settings: Views, background, device and precision.
        map_stride: Pixels of the images for one of the maps, along each axis.
    """

    def __init__(self, model: DenseModel, settings: PredictSettings, map_stride: int) -> None:
        self.runtime = choose_runtime(settings.device, settings.precision)
        self._model = AveragedViews(model, settings.tta)
        self._map_stride, self._with_gray = map_stride, bool(settings.white_background)
        model.network.to(self.runtime.device).eval()

    @property
    def num_channels(self) -> int:
        """Classes, and one for the gray value where white becomes background."""
        return len(self._model.classes) + self._with_gray

    @torch.inference_mode()
    def run(self, images_BHWC: npt.NDArray[np.uint8], halo_px: int = 0) -> npt.NDArray[np.float32]:
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
        images = torch.from_numpy(images_BHWC).to(self.runtime.device)
        images = images.permute(0, 3, 1, 2).contiguous().float().div_(255)
        with self.runtime.context():
            maps = self._model.predict_maps(images).float()
        expected = (len(images), len(self._model.classes), *images.shape[2:])
        if tuple(maps.shape) != expected:
            raise InputError(f"The model gave maps of shape {tuple(maps.shape)}; expected {expected}.")
        if self._with_gray:
            maps = torch.cat([maps, _gray(images)], dim=1)
        core = maps[:, :, halo_px : maps.shape[2] - halo_px, halo_px : maps.shape[3] - halo_px]
        pooled: npt.NDArray[np.float32] = F.avg_pool2d(core, self._map_stride).cpu().numpy()
        if not np.isfinite(pooled).all():
            raise InputError("The model gave values that are no numbers. Pass --precision 32, or train it again.")
        return pooled


def _gray(images_BCHW: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, device=images_BCHW.device).view(1, 3, 1, 1)
    return (images_BCHW * weights).sum(1, keepdim=True)
