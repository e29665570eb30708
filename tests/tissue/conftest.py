"""Slides drawn in memory: pixels, resolution and scanned part as a test wants them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from counterstain.geometry import Box, Mpp, Size
from counterstain.slides import Header, Level, Resolution, Slide

GLASS = (240.0, 238.0, 243.0)


class DrawnSlide(Slide):
    """An array in an .npz file, with bounds beside it."""

    reader: ClassVar[str] = "drawn"

    @classmethod
    def detects(cls, path: Path) -> bool:
        return path.suffix == ".npz"

    def _read_header(self) -> Header:
        with np.load(self.path) as file:
            height, width = file["pixels"].shape[:2]
            mpp, bounds = file["mpp"].tolist(), file["bounds"].tolist()
        size = Size(width, height)
        resolution = Resolution(Mpp(*mpp), "reader") if mpp else None
        return Header((Level.of(size, size),), resolution, Box(*bounds) if bounds else None, {})

    def _open(self) -> Any:
        with np.load(self.path) as file:
            return file["pixels"]

    def _decode(self, handle: Any, level: int, box: Box) -> np.ndarray:
        return handle[box.slices()]


Draw = Callable[..., Slide]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """`draw(pixels, mpp=8.0, bounds=None)` gives a slide; `mpp=None` one of unknown resolution."""
    counter = iter(range(100))

    def drawn(pixels: np.ndarray, mpp: Mpp | float | None = 8.0, bounds: Box | None = None) -> Slide:
        path = tmp_path / f"slide{next(counter)}.npz"
        square = Mpp.square(mpp) if isinstance(mpp, float) else mpp
        corners = [] if bounds is None else [bounds.x, bounds.y, bounds.width, bounds.height]
        np.savez(path, pixels=pixels, mpp=[square.x, square.y] if square else [], bounds=corners)
        return DrawnSlide(path)

    return drawn


class Scene:
    """Stain and ink laid over glass by Beer-Lambert's law.

    Args:
        height: Rows.
        width: Columns.
    """

    def __init__(self, height: int = 200, width: int = 240) -> None:
        self.rng = np.random.default_rng(7)
        self.density = np.zeros((height, width, 3))
        self.rows, self.columns = np.mgrid[:height, :width] + 0.5

    def disc(self, x: float, y: float, radius: float) -> np.ndarray:
        return (self.columns - x) ** 2 + (self.rows - y) ** 2 < radius**2

    def box(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        return (self.columns > left) & (self.columns < right) & (self.rows > top) & (self.rows < bottom)

    def lay(self, where: np.ndarray, density: tuple[float, float, float], grain: float = 0.0) -> "Scene":
        noise = 1 + grain * self.rng.standard_normal((*where.shape, 1))
        self.density += where[..., None] * np.maximum(noise, 0.2) * np.array(density)
        return self

    @property
    def pixels(self) -> np.ndarray:
        light = np.array(GLASS) * np.exp(-self.density) + self.rng.normal(0, 1.5, self.density.shape)
        return np.clip(light, 0, 255).round().astype(np.uint8)


PINK = (0.14, 0.6, 0.35)
PURPLE = (0.6, 1.0, 0.5)
PALE = (0.02, 0.09, 0.04)
GREEN_INK = (1.0, 0.4, 0.45)
BLUE_INK = (1.45, 0.75, 0.2)
RED_INK = (0.12, 1.9, 1.7)
BLACK_INK = (1.8, 1.85, 1.8)


@pytest.fixture
def scene() -> Callable[..., Scene]:
    return Scene


@pytest.fixture
def stains() -> dict[str, tuple[float, float, float]]:
    """Optical densities in red, green, blue, as measured on real slides."""
    return {
        "pink": PINK,
        "purple": PURPLE,
        "pale": PALE,
        "green": GREEN_INK,
        "blue": BLUE_INK,
        "red": RED_INK,
        "black": BLACK_INK,
    }
