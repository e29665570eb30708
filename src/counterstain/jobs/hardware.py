"""What this machine's hardware allows: matrix products, memory, JPEG decoding.

Each figure is the best of a few repetitions: a limit is what was possible once, and other work on the machine only ever
slows.

Does not know: what counterstain does with it.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch

from counterstain.geometry import Box
from counterstain.infer.runtime import available_cores, threads
from counterstain.slides import Pixels
from counterstain.synth.scene import Scene, SceneSettings

PATIENCE_S = 0.4
"""For one figure, beyond its first repetition."""

MPP = 0.5
"""Of what is drawn."""

DRAWN_PX, TILE_PX = 512, 256
QUALITY = 80

_SIDE = 1024  # of matrices
_COPIED_BYTES = 1 << 27


@dataclass(frozen=True)
class Figure:
    """Something measured.

    Args:
        what: In words.
        value: How much.
        unit: Of what.
        of_limit: The share of what the hardware allows, where there is such a limit.
        limit: What that is, in words; empty where there is none.
    """

    what: str
    value: float
    unit: str
    of_limit: float | None = None
    limit: str = ""


def best_seconds(action: Callable[[], object], patience_s: float = PATIENCE_S) -> float:
    """The shortest time of an action, done again until so many seconds are spent, twice at least; the first is left out."""
    action()
    best, spent = float("inf"), -1.0
    while spent < patience_s:
        start = time.perf_counter()
        action()
        taken = time.perf_counter() - start
        best, spent = min(best, taken), max(spent, 0.0) + taken
    return best


def hardware(patience_s: float = PATIENCE_S) -> list[Figure]:
    """What the hardware allows: matrix products, memory, JPEG decoding, on one core and on all."""
    cores = available_cores()
    one, every = (f"{name}, {cores_told(num)}" for name, num in (("matrix products", 1), ("matrix products", cores)))
    found = [Figure(one, matrix_gflops(1, patience_s), "GFLOP/s")]
    if cores > 1:
        found.append(Figure(every, matrix_gflops(cores, patience_s), "GFLOP/s"))
    found.append(Figure("memory copied", copied_gb_per_s(patience_s), "GB/s"))
    streams = jpeg_tiles(drawn_tissue())
    found += [
        Figure(f"JPEG decoding, {cores_told(num)}", decoded_mpx_per_s(streams, num, patience_s), "Mpx/s")
        for num in dict.fromkeys((1, cores))
    ]
    if torch.cuda.is_available():
        found.append(Figure("matrix products, GPU", gpu_tflops(patience_s), "TFLOP/s"))
    return found


def cores_told(num_threads: int) -> str:
    """How many, in words."""
    return "one core" if num_threads == 1 else f"{num_threads} cores"


def matrix_gflops(num_threads: int, patience_s: float = PATIENCE_S) -> float:
    """float32 products of large matrices, GFLOP/s."""
    left, right = torch.rand(_SIDE, _SIDE), torch.rand(_SIDE, _SIDE)
    out = torch.empty(_SIDE, _SIDE)
    with threads(num_threads):
        return 2e-9 * _SIDE**3 / best_seconds(lambda: torch.mm(left, right, out=out), patience_s)


def gpu_tflops(patience_s: float = PATIENCE_S) -> float:
    """bfloat16 products of large matrices on the GPU, TFLOP/s."""
    side = 8 * _SIDE
    left, right = (torch.rand(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)
        torch.cuda.synchronize()

    return 2e-12 * side**3 / best_seconds(multiply, patience_s)


def copied_gb_per_s(patience_s: float = PATIENCE_S) -> float:
    """Memory read and written by copying more than caches hold, on all cores, GB/s."""
    source = torch.ones(_COPIED_BYTES // 4)
    target = torch.empty_like(source)
    with threads(available_cores()):
        return 2e-9 * _COPIED_BYTES / best_seconds(lambda: target.copy_(source), patience_s)


def decoded_mpx_per_s(streams: list[bytes], num_threads: int, patience_s: float = PATIENCE_S) -> float:
    """JPEG tiles of tissue decoded by libjpeg-turbo into memory that is used again, Mpx/s."""
    share = [streams[start::num_threads] for start in range(num_threads)]
    buffers = [bytearray(TILE_PX * TILE_PX * 3) for _ in share]

    def decode(number: int) -> None:
        for stream in share[number]:
            simplejpeg.decode_jpeg(stream, "RGB", buffer=buffers[number])

    with ThreadPoolExecutor(num_threads) as pool:
        taken = best_seconds(lambda: list(pool.map(decode, range(num_threads))), patience_s)
    return len(streams) * TILE_PX**2 / taken / 1e6


def drawn_tissue() -> Pixels:
    """(512, 512, 3): tissue everywhere."""
    return Scene(SceneSettings(seed=0, mpp=MPP)).render(Box(0, 0, DRAWN_PX, DRAWN_PX))


def jpeg_tiles(pixels: Pixels) -> list[bytes]:
    """Pixels as tiles of `TILE_PX`, each a JPEG."""
    starts = [(y, x) for y in range(0, len(pixels), TILE_PX) for x in range(0, pixels.shape[1], TILE_PX)]
    tiles = (np.ascontiguousarray(pixels[y : y + TILE_PX, x : x + TILE_PX]) for y, x in starts)
    return [simplejpeg.encode_jpeg(tile, QUALITY, "RGB", "420") for tile in tiles]
