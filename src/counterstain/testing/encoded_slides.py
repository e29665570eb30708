"""A small set of encoded slides on disk, with something planted in the positive ones: for tests of slide methods.

Does not know: any method.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from counterstain.data.cell_files import CellGrid, write_cells
from counterstain.data.encoded import LabelledSlide, SlideSet
from counterstain.data.encoded_files import write_features
from counterstain.data.slide_sets import open_slide_set
from counterstain.geometry import Frame, Point, Size
from counterstain.results import Classes, EncoderSpec

CLASSES = Classes(("normal", "tumour"), ((0, 114, 178), (213, 94, 0)), background="normal")
"""The planted classes."""

CELL_UM, CELL_PX = 64.0, 128


@dataclass(frozen=True)
class EncodedSlides:
    """What the set is.

    Args:
        num_slides: Every other one positive, two a patient.
        num_features: Channels of an embedding.
        cells: Smallest and largest height and width.
        in_features: How far the planted cells' first channels differ from the others'; 0 plants nothing there.
        in_thumbnail: How much darker the planted cells are on the thumbnail, of 255; 0 plants nothing there.
        seed: Of everything.
    """

    num_slides: int = 16
    num_features: int = 8
    cells: tuple[int, int] = (6, 12)
    in_features: float = 3.0
    in_thumbnail: int = 0
    seed: int = 0


def write_encoded_slides(folder: Path, settings: EncodedSlides | None = None) -> SlideSet:
    """Writes the set and opens it; planted cells are a square of 2 x 2."""
    settings = settings or EncodedSlides()
    random = np.random.default_rng(settings.seed)
    encoder = EncoderSpec("planted", settings.num_features, f"seed {settings.seed}", 112, "none needed")
    slides = []
    for number in range(settings.num_slides):
        slide = LabelledSlide(
            slide_id=f"slide_{number:02}",
            patient_id=f"patient_{number // 4}_{number % 2}",
            label=number % 2,
            folder=folder / f"slide_{number:02}",
            site=f"site {number // 2 % 2}",
        )
        _write(slide, settings, encoder, random)
        slides.append(slide)
    return open_slide_set("planted", CLASSES, slides, encoder.name)


def write_table(folder: Path, slides: SlideSet, **columns: dict[str, str]) -> Path:
    """Writes a cohort's table of the slides; their files are there and hold nothing, since all are encoded already.

    Args:
        folder: For the table and the files.
        slides: Its rows.
        **columns: Further ones, by patient.
    """
    path = folder / "cohort.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "patient_id", "path", "label", *columns])
        for slide in slides.slides:
            (folder / f"{slide.slide_id}.svs").touch()
            label = slides.classes.names[slide.label or 0]
            row = [slide.slide_id, slide.patient_id, f"{slide.slide_id}.svs", label]
            writer.writerow([*row, *(column.get(slide.patient_id, "") for column in columns.values())])
    return path


def planted_cells(slide: LabelledSlide) -> tuple[slice, slice]:
    """Rows and columns of the planted square of a positive slide."""
    row, column = int(slide.slide_id[-2:]) % 3, int(slide.slide_id[-2:]) % 4
    return slice(row, row + 2), slice(column, column + 2)


def _write(slide: LabelledSlide, settings: EncodedSlides, encoder: EncoderSpec, random: np.random.Generator) -> None:
    height, width = random.integers(settings.cells[0], settings.cells[1] + 1, 2).tolist()
    observed = random.random((height, width)) < 0.8
    features = random.normal(0, 1, (height, width, settings.num_features)).astype(np.float32)
    thumbnail = random.integers(150, 230, (2 * height, 2 * width, 3)).astype(np.uint8)
    rows, columns = planted_cells(slide)
    observed[rows, columns] = True
    if slide.label:
        features[rows, columns, : settings.num_features // 2] += settings.in_features
        doubled = tuple(slice(2 * one.start, 2 * one.stop) for one in (rows, columns))
        thumbnail[doubled] -= np.uint8(settings.in_thumbnail)
    frame = Frame(Point(0, 0), CELL_PX, CELL_PX, Size(width, height))
    grid = CellGrid(frame, observed, CELL_UM, f"cells of {slide.slide_id} {settings}", thumbnail)
    write_cells(slide.folder, grid)
    write_features(slide.folder, features[observed].astype(np.float16), grid, encoder, f"{slide.slide_id} {settings}")
