"""What stain and scanner make of a section: from stain densities to RGB.

Stains mix in optical density (Beer and Lambert); their vectors and amounts vary from laboratory to laboratory and from
slide to slide, white point, contrast, sharpness and noise from scanner to scanner.

Does not know: tissue.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from counterstain.errors import InputError
from counterstain.synth.noise import Floats, Ints, key_of
from counterstain.synth.texture import grain

Pixels = npt.NDArray[np.uint8]

# Between the vectors of Ruifrok and Johnston 2001 and of Macenko et al. 2009: optical densities of R, G, B.
_HAEMATOXYLIN = (0.60, 0.725, 0.34)
_EOSIN = (0.150, 0.865, 0.480)


@dataclass(frozen=True)
class Look:
    """One slide's stains and scanner.

    Args:
        haematoxylin: Optical densities of R, G, B; length 1.
        eosin: Likewise.
        amounts: Factors on the two densities.
        white: RGB of glass, 0 to 255.
        gamma: Of the transmitted light; above 1 is darker.
        saturation: Of colours around grey; 1 changes nothing.
        blur_um: Standard deviation of the optics' blur.
        sharpen: How much of the lost detail the scanner puts back, with halos.
        noise: Standard deviation of the sensor's noise, grey levels.
    """

    haematoxylin: tuple[float, float, float] = _HAEMATOXYLIN
    eosin: tuple[float, float, float] = _EOSIN
    amounts: tuple[float, float] = (1.0, 1.0)
    white: tuple[float, float, float] = (244.0, 243.0, 245.0)
    gamma: float = 1.0
    saturation: float = 1.0
    blur_um: float = 0.3
    sharpen: float = 0.4
    noise: float = 1.2

    @classmethod
    def drawn(cls, stain_seed: int, scanner_seed: int, variation: float) -> "Look":
        """A laboratory's and a scanner's look.

        Args:
            stain_seed: Of the laboratory or patient.
            scanner_seed: Of the scanner.
            variation: 0 gives the same look for all seeds, 1 what several hospitals show.

        Raises:
            InputError: When `variation` is negative.
        """
        if variation < 0:
            raise InputError(f"A stain variation of {variation} was given; give 0 or more.")
        stain = np.random.default_rng(key_of(stain_seed, "stain"))
        scanner = np.random.default_rng(key_of(scanner_seed, "scanner"))
        amounts = np.exp(stain.normal(0, (0.16, 0.22)) * variation)
        white = np.clip((244, 243, 245) + variation * (scanner.normal(0, 3.0) + scanner.normal(0, 2.2, 3)), 222, 252)
        return cls(
            haematoxylin=_vector(np.array(_HAEMATOXYLIN) + variation * stain.normal(0, 0.05, 3)),
            eosin=_vector(np.array(_EOSIN) + variation * stain.normal(0, (0.05, 0.03, 0.09))),
            amounts=(float(amounts[0]), float(amounts[1])),
            white=(float(white[0]), float(white[1]), float(white[2])),
            gamma=float(np.exp(variation * scanner.normal(0, 0.1))),
            saturation=float(np.exp(variation * scanner.normal(0.02, 0.1))),
            blur_um=0.3 + 0.12 * variation * float(scanner.uniform(-1, 1.5)),
            sharpen=0.5 + 0.4 * min(variation, 1.2) * float(scanner.uniform(-1, 1)),
            noise=1.2 * float(np.exp(0.4 * variation * scanner.normal())),
        )

    def reach_px(self, mpp: float) -> int:
        """How far around a pixel its look depends on."""
        return int(np.ceil(3 * self._blur_px(mpp))) + 1

    def _blur_px(self, mpp: float) -> float:
        return float(np.hypot(self.blur_um / mpp, 0.28))

    def optics(self, density: Floats, mpp: float) -> Floats:
        """A density blurred and sharpened; the outer `reach_px` pixels are cut off."""
        kernel = _kernel(self._blur_px(mpp), self.reach_px(mpp), self.sharpen)
        reach = self.reach_px(mpp)
        inner = slice(reach, -reach)
        rows = ndimage.correlate1d(density, kernel, axis=0, mode="nearest")[inner]
        return np.asarray(ndimage.correlate1d(rows, kernel, axis=1, mode="nearest")[:, inner], np.float32)

    def pixels(self, haematoxylin: Floats, eosin: Floats, light: Floats, noise: Floats) -> Pixels:
        """RGB of stain densities.

        Args:
            haematoxylin: (H, W) float32 optical density.
            eosin: Likewise.
            light: (H, W), evenness of the lamp, around 1.
            noise: (H, W) of standard deviation 1.

        Returns:
            (H, W, 3) uint8.
        """
        optical = np.empty((3, *haematoxylin.shape), np.float32)
        for plane, (of_haematoxylin, of_eosin) in zip(optical, self._mixing(), strict=True):
            np.multiply(haematoxylin, of_haematoxylin, out=plane)
            plane += eosin * of_eosin
        np.exp(optical, out=optical)
        if self.saturation != 1.0:
            optical *= np.float32(self.saturation)
            optical += (optical[0] + optical[1] + optical[2]) * np.float32((1 / self.saturation - 1) / 3)
        optical *= light
        return self._exposed(optical, noise)

    def glass(self, light: Floats, noise: Floats) -> Pixels:
        """RGB where there is no stain, (H, W, 3) uint8."""
        return self._exposed(np.stack([light] * 3), noise)

    def _exposed(self, transmitted: Floats, noise: Floats) -> Pixels:
        """(3, H, W) transmitted light, changed in place, to RGB."""
        result = np.empty((*noise.shape, 3), np.uint8)
        added = noise * np.float32(self.noise) + np.float32(0.5)
        for channel, plane in enumerate(transmitted):
            plane *= np.float32(self.white[channel])
            plane += added
            np.clip(plane, 0, 255, out=plane)
            result[..., channel] = plane
        return result

    def _mixing(self) -> Floats:
        """(3, 2): minus the stains' vectors with amounts and gamma, ready for `exp`."""
        stains = np.array([self.haematoxylin, self.eosin]).T * np.array(self.amounts)
        mixing: Floats = (-self.gamma * stains).astype(np.float32)
        return mixing


def _vector(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    values = np.maximum(values, 0.03)
    red, green, blue = (values / np.linalg.norm(values)).tolist()
    return red, green, blue


def _kernel(sigma_px: float, reach: int, sharpen: float) -> Floats:
    places = np.arange(-reach, reach + 1)
    narrow = np.exp(-0.5 * (places / sigma_px) ** 2)
    broad = np.exp(-0.5 * (places / (2 * sigma_px)) ** 2)
    kernel = (1 + sharpen) * narrow / narrow.sum() - sharpen * broad / broad.sum()
    return np.asarray(kernel / kernel.sum(), np.float32)


def sensor_noise(rows: Ints, columns: Ints, seed: int) -> Floats:
    """(rows, columns) float32 of standard deviation 1: the same for the same pixels."""
    return grain(0.6, 1.0, 77).tiled(rows, columns, key_of(seed, "sensor"))
