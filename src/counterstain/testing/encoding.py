"""A slide with known places to look at, and an encoder whose embeddings can be worked out by hand.

Does not know: what is being checked.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from counterstain.geometry import Box
from counterstain.infer.cells import CellSettings
from counterstain.infer.encode import EncodeSettings
from counterstain.models.encoders import PatchEncoder
from counterstain.results import EncoderSpec
from counterstain.slides import Pixels
from counterstain.testing.slide_files import TiffDialect, write_tiff
from counterstain.tissue import TissueSettings

CELL_UM, INPUT_PX = 16.0, 8

NUCLEI = Box(67, 53, 150, 110)
"""Tissue full of change, level-0 pixels."""
STROMA = Box(217, 53, 60, 110)
"""Tissue without any."""
LETTERS = Box(20, 190, 60, 40)
"""Change without tissue: black on white."""

CELLS = CellSettings(cell_um=CELL_UM, tissue=TissueSettings(mpp=2.0, min_area_um2=500.0, inks=()))
"""Cells for such small slides. No ink is looked for: letters are for the filter of cells to leave out."""
CPU = EncodeSettings(batch_size=8, num_workers=0, num_threads=1, device="cpu")


def draw_tissue(seed: int = 0) -> Pixels:
    """(240, 320, 3) uint8: glass with nuclei, stroma and letters on it, 1 um/px."""
    random = np.random.default_rng(seed)
    image = np.full((240, 320, 3), 244, np.float64)
    grain = random.integers(0, 2, (120, 160)).repeat(2, 0).repeat(2, 1)[:, :, None]
    nuclei = np.where(grain, (90.0, 50.0, 150.0), (235.0, 120.0, 190.0))
    letters = np.where(grain, (10.0, 10.0, 10.0), (244.0, 244.0, 244.0))
    for box, what in ((NUCLEI, nuclei), (LETTERS, letters)):
        image[box.slices()] = what[box.slices()]
    image[STROMA.slices()] = (230.0, 130.0, 190.0)
    return np.clip(image + random.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)


def write_tissue(path: Path, seed: int = 0, mpp: float | None = 1.0, factors: tuple[float, ...] = ()) -> Path:
    """Writes such a slide as a tiled TIFF, with further levels if asked for."""
    return write_tiff(path, draw_tissue(seed), mpp, TiffDialect(factors=factors))


def damage(path: Path) -> Path:
    """Blanks what a TIFF's tiles hold; its header stays whole."""
    import tifffile

    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        places = [pair for page in file.pages for pair in zip(page.dataoffsets, page.databytecounts, strict=True)]
    for start, count in places:
        content[start : start + count] = bytes(count)
    path.write_bytes(content)
    return path


class MeanEncoder(PatchEncoder):
    """The mean of each channel, and how much each varies over the image: six numbers.

    Args:
        name: What it is called.
        digest: What its "weights" are known by.
        input_px: Width and height at which it is shown a cell.
    """

    def __init__(self, name: str = "mean", digest: str = "1", input_px: int = INPUT_PX) -> None:
        super().__init__()
        self.spec = EncoderSpec(name, 6, digest, input_px, "CC0-1.0")
        self.num_batches = 0

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.num_batches += 1
        flat_BCX = images_BCHW.flatten(2)
        return torch.cat([flat_BCX.mean(2), flat_BCX.std(2)], dim=1)
