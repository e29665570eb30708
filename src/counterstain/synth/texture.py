"""Textures that repeat without a seam: grain, clouds, fibres, clefts; and the two ways to lay them on a plane.

A texture is noise filtered on a torus, so its edges meet. `tiled` lays it along the axes; `flowing` follows two
coordinate fields, which is how collagen gets its waves. A texture repeats after half a millimetre or so, which nobody
sees under the shapes that lie over it.

Does not know: tissue, stains.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from counterstain.synth.noise import Floats, Ints

_SIZE = 1024


@dataclass(frozen=True)
class Texture:
    """A periodic image.

    Args:
        image: (1024, 1024) float32, mean 0, standard deviation 1.
        step_um: Width and height of its pixels.
    """

    image: Floats
    step_um: tuple[float, float]

    def tiled(self, rows: Ints, columns: Ints, offset: int) -> Floats:
        """The texture laid pixel on pixel.

        Args:
            rows: Pixel rows of the plane.
            columns: Pixel columns.
            offset: Where it begins; other offsets give other patterns.
        """
        return self.image.take((columns + (offset >> 10)) % _SIZE, axis=1).take((rows + offset) % _SIZE, axis=0)

    def flowing(self, along_um: Floats, beside_um: Floats) -> Floats:
        """The texture along a flow.

        Args:
            along_um: For each pixel, the coordinate that runs along the fibres, um.
            beside_um: The coordinate across them.
        """
        column = (along_um * np.float32(1 / self.step_um[0])).astype(np.int32) & (_SIZE - 1)
        row = (beside_um * np.float32(1 / self.step_um[1])).astype(np.int32) & (_SIZE - 1)
        row *= _SIZE
        row += column
        return self.image.ravel().take(row)


def _filtered(seed: int, wide_px: float, tall_px: float, fine: float = 0.0) -> Floats:
    """White noise blurred on the torus by a Gaussian of these widths; `fine` removes what is coarser than that factor."""
    white = np.random.default_rng(seed).standard_normal((_SIZE, _SIZE)).astype(np.float32)
    frequency = np.fft.fftfreq(_SIZE).astype(np.float32)
    reach = (frequency[:, None] * tall_px) ** 2 + (frequency[None, : _SIZE // 2 + 1] * wide_px) ** 2
    gain = np.exp(-2 * np.pi**2 * reach)
    if fine:
        gain -= np.exp(-2 * np.pi**2 * reach * fine**2)
    image = np.fft.irfft2(np.fft.rfft2(white) * gain, (_SIZE, _SIZE)).astype(np.float32)
    return _standardised(image)


def _standardised(image: npt.NDArray[np.floating]) -> Floats:
    result: Floats = ((image - image.mean()) / image.std()).astype(np.float32)
    return result


@lru_cache(maxsize=16)
def grain(size_um: float, mpp: float, seed: int) -> Texture:
    """Round grains of one size."""
    wanted = size_um / 2 / mpp
    sigma = max(0.45, wanted)
    # Grains smaller than a pixel average out in it.
    return Texture(_filtered(seed, sigma, sigma, fine=4.0) * np.float32(wanted / sigma), (mpp, mpp))


def _seen(image: Floats, step_um: tuple[float, float], mpp: float) -> Texture:
    """A flowing texture as pixels of a size average it."""
    sigmas = (0.35 * mpp / step_um[1], 0.35 * mpp / step_um[0])
    return Texture(ndimage.gaussian_filter(image, sigmas, mode="wrap"), step_um)


@lru_cache(maxsize=8)
def fibres(mpp: float) -> Texture:
    """Bundles of fibres along the rows: flat bundles with sharp edges, fibrils in them."""
    bundles = np.tanh(1.5 * _filtered(21, 9, 5.5, fine=3.0))
    fibrils = _filtered(22, 4, 1.1, fine=5.0)
    strands = np.tanh(1.3 * _filtered(23, 9, 2.2, fine=4.0))
    rough = _filtered(24, 1.6, 4.0, fine=3.0)
    image = _standardised(bundles + 0.5 * fibrils + 0.7 * strands + 0.45 * rough)
    return _seen(image, (1.0, 0.4), mpp)


@lru_cache(maxsize=8)
def clefts(mpp: float) -> Texture:
    """Where bundles have parted: lens-shaped peaks along the rows, of all sizes."""
    broad, narrow = _filtered(31, 7, 5.0, fine=3.0), _filtered(32, 3.5, 2.0, fine=4.0)
    across = _filtered(33, 1.6, 5.0, fine=4.0)
    return _seen(_standardised(broad + 0.8 * narrow + 0.5 * across), (1.0, 0.5), mpp)
