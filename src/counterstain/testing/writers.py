"""The exam of a writer: a small planted map, and what every export of it must keep to.

    class TestGeoJSON(WriterContract):
        writer = WRITERS["geojson"]

`plant_map` writes a map as inference would, with any labels, anywhere on a slide.

Does not know: pytest; any runner that calls methods named `test_...` with a temporary folder will do.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import zarr
from PIL import Image

from counterstain.errors import ExistingOutputError
from counterstain.export import Writer
from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.results import UNCOVERED, Classes, SlideMap, SlideRecord
from counterstain.slides import open_slide

Labels = npt.NDArray[np.uint8]

THREE = Classes(("tumour", "stroma", "glass"), ((205, 51, 51), (65, 105, 225), (255, 255, 255)), background="glass")
"""Two tissues and a background that is white."""


@dataclass(frozen=True)
class Place:
    """Where a map lies on its slide.

    Args:
        corner: Of the scanned part, level-0 pixels.
        downsample: Level-0 pixels under a map pixel, along x and y.
        mpp: Level 0.
        overhang: How much of the last row and column of the map lies beyond the scanned part, in [0, 1).
    """

    corner: tuple[float, float] = (0.0, 0.0)
    downsample: tuple[float, float] = (1.0, 1.0)
    mpp: tuple[float, float] = (0.5, 0.5)
    overhang: float = 0.0


def plant_map(
    folder: Path,
    label: Labels,
    place: Place | None = None,
    *,
    classes: Classes = THREE,
    probability: npt.NDArray[np.float16] | None = None,
) -> SlideMap:
    """Writes a finished map and the plain white image that it is of.

    Args:
        folder: Where to.
        label: (H, W) uint8, `UNCOVERED` where nothing was predicted.
        place: Where it lies; None for the corner of level 0, pixel on pixel.
        classes: What the labels mean.
        probability: (C, H, W) float16; None for 0.75 on the label's class and the rest shared by the others.
    """
    place = place or Place()
    height, width = label.shape
    frame = Frame(Point(*place.corner), *place.downsample, Size(width, height))
    covered = 1 - place.overhang
    x, y = place.corner
    bounds = Box(x, y, (width - 1 + covered) * place.downsample[0], (height - 1 + covered) * place.downsample[1])
    size = Size(int(np.ceil(bounds.right - 1e-6)), int(np.ceil(bounds.bottom - 1e-6)))
    slide = folder / "slide.png"
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size.width, size.height), (240, 220, 230)).save(slide)
    record = SlideRecord(str(slide), "image", size, Mpp(*place.mpp), "user", bounds, "0" * 64)
    planted = SlideMap(folder / "map.zarr", frame, classes, record, inputs_hash="f" * 64)
    group = zarr.open_group(planted.path, mode="w")
    values = _spread(label, len(classes)) if probability is None else probability
    group.create_array("label", data=label, chunks=(128, 128), fill_value=UNCOVERED)
    group.create_array("probability", data=values, chunks=(1, 128, 128), fill_value=np.nan)
    group.attrs.update({**planted.attributes(), "complete": True})
    return SlideMap.open(planted.path)


def _spread(label: Labels, num_classes: int) -> npt.NDArray[np.float16]:
    rest = 0.25 / max(1, num_classes - 1)
    values = np.full((num_classes, *label.shape), rest, np.float16)
    for number in range(num_classes):
        values[number, label == number] = 0.75 if num_classes > 1 else 1
    values[:, label == UNCOVERED] = np.nan
    return values


def patchwork(height: int, width: int, seed: int = 0) -> Labels:
    """(height, width) uint8: blots of the three classes and of uncovered pixels, with holes, specks and long borders."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 1, 2, UNCOVERED], (-(-height // 5), -(-width // 5)), p=[0.4, 0.3, 0.2, 0.1])
    label = np.kron(coarse, np.ones((5, 5), int))[:height, :width]
    specks = rng.random(label.shape) < 0.05
    label[specks] = rng.choice([0, 1, 2], int(specks.sum()))
    return label.astype(np.uint8)


class WriterContract:
    """What holds for every writer."""

    writer: ClassVar[Writer]

    def test_it_says_what_it_is(self) -> None:
        assert self.writer.description
        assert "." in self.writer.file_name
        assert self.writer.function.__doc__

    def test_the_file_carries_the_hash_of_its_inputs(self, tmp_path: Path) -> None:
        written = self._written(tmp_path, patchwork(40, 53))
        assert b"f" * 64 in written.read_bytes()

    def test_the_same_map_gives_the_same_bytes(self, tmp_path: Path) -> None:
        planted = plant_map(tmp_path / "slide", patchwork(33, 21))
        first, second = tmp_path / "a" / self.writer.file_name, tmp_path / "b" / self.writer.file_name
        self.writer.write(planted, first)
        self.writer.write(planted, second)
        assert first.read_bytes() == second.read_bytes()

    def test_a_file_that_is_there_is_not_overwritten_silently(self, tmp_path: Path) -> None:
        planted = plant_map(tmp_path / "slide", patchwork(20, 20))
        path = tmp_path / self.writer.file_name
        path.write_text("work of a week")
        message = ""
        try:
            self.writer.write(planted, path)
        except ExistingOutputError as error:
            message = str(error)
        assert str(path) in message
        assert path.read_text() == "work of a week"
        self.writer.write(planted, path, overwrite=True)
        assert path.read_bytes() != b"work of a week"

    def test_a_failure_leaves_nothing_behind(self, tmp_path: Path) -> None:
        planted = plant_map(tmp_path / "slide", patchwork(20, 20))
        for chunk in planted.path.rglob("c/**/*"):
            if chunk.is_file():
                chunk.write_bytes(b"damaged")
        out, is_refused = tmp_path / "out", False
        try:
            self.writer.write(planted, out / self.writer.file_name)
        except (ValueError, RuntimeError, OSError):
            is_refused = True
        assert is_refused
        assert not list(out.rglob("*"))

    def test_maps_of_any_shape_are_written(self, tmp_path: Path) -> None:
        for height, width in ((1, 1), (1, 37), (41, 1), (130, 67)):
            written = self._written(tmp_path / f"{height}x{width}", patchwork(height, width))
            assert written.stat().st_size > 0

    def test_a_map_without_a_covered_pixel_is_written(self, tmp_path: Path) -> None:
        written = self._written(tmp_path, np.full((30, 20), UNCOVERED, np.uint8))
        assert written.stat().st_size > 0

    def test_a_map_of_one_class_is_written(self, tmp_path: Path) -> None:
        planted = plant_map(
            tmp_path / "slide", np.zeros((9, 12), np.uint8), classes=Classes(("tumour",), ((200, 0, 0),))
        )
        path = tmp_path / self.writer.file_name
        self.writer.write(planted, path)
        assert path.stat().st_size > 0

    def test_names_outside_ascii_are_written(self, tmp_path: Path) -> None:
        classes = Classes(("épithélium « dysplasique » & <tumoral>", "Bindegewebe µ"), ((200, 0, 0), (0, 0, 200)))
        planted = plant_map(tmp_path / "slide", (patchwork(25, 25) == 1).astype(np.uint8), classes=classes)
        path = tmp_path / "Präparat 1" / self.writer.file_name
        self.writer.write(planted, path)
        assert path.stat().st_size > 0

    def test_a_slide_that_is_open_is_used(self, tmp_path: Path) -> None:
        planted = plant_map(tmp_path / "slide", patchwork(30, 30))
        path = tmp_path / self.writer.file_name
        with open_slide(planted.slide.path, planted.slide.mpp) as slide:
            self.writer.write(planted, path, slide=slide)
        assert path.stat().st_size > 0

    def _written(self, folder: Path, label: Labels) -> Path:
        planted = plant_map(folder / "slide", label, Place(corner=(11, 7), downsample=(2.5, 2.5), overhang=0.25))
        path = folder / self.writer.file_name
        self.writer.write(planted, path)
        return path
