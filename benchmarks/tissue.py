"""Tissue and grid from the sizes of stored tiles against the pixel method on the low level: time and agreement.

    python benchmarks/tissue.py [SLIDE ...] [--rounds 9] [--side 40960] [--out RESULT.json]

Claim: told from sizes, tissue and the grid of 256 px tiles over it take a hundredth of the pixel method's CPU seconds, and
of the stored tiles of which a fifth is tissue by pixels (`COVERED`) both find the same, by intersection over union; or the
sizes are said to tell nothing, and the pixel method is used. Three things are timed in turn: the pixel method, the method
"bytes" as users get it (three tiles decoded to see that glass is glass, more where there is doubt), and the sizes alone
with the grid over them.

Slides: a large one (`benchmarks/slides.py`), one of varied synthetic tissue, small ones with artefacts drawn on them, and
those that are given. Prints JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from command import command_given
from counterstain.errors import CounterstainError
from counterstain.geometry import Box, Frame, Size
from counterstain.slides import Slide, open_slide
from counterstain.synth.pyramid import Pyramid, write_pyramid
from counterstain.synth.slide import SlideSettings
from counterstain.synth.slide import write_slide as write_synthetic
from counterstain.tiles import GridSettings, TileGrid, grid
from counterstain.tissue import Tissue, TissueSettings, find_tissue
from counterstain.tissue.bytes import COVERED
from counterstain.tissue.stored import Cells, split_stored
from machine import machine_in_words
from slides import MPP, PERIOD_PX, drawn_plane, write_slide
from timing import in_turn, spread

Drawing = Callable[[ImageDraw.ImageDraw, float], None]

_DETAIL = 4  # artefacts are drawn so many times smaller than the slide
_TILE_PX = 256
_INK = (1.45, 0.75, 0.2)  # optical densities in red, green and blue
_GREEN = (1.0, 0.4, 0.45)
_GREY = (0.8, 0.8, 0.8)


def _pen_on_glass(draw: ImageDraw.ImageDraw, side: float) -> None:
    draw.line([side * part for part in (0.05, 0.1, 0.06, 0.9, 0.2, 0.95, 0.9, 0.95)], 255, 80, "curve")


def _pen_across(draw: ImageDraw.ImageDraw, side: float) -> None:
    draw.line([side * part for part in (0.02, 0.3, 0.5, 0.5, 0.98, 0.4)], 255, 80, "curve")


def _bubbles(draw: ImageDraw.ImageDraw, side: float) -> None:
    for x, y, radius in ((0.1, 0.1, 0.07), (0.85, 0.12, 0.06), (0.5, 0.55, 0.1)):
        draw.ellipse([side * part for part in (x - radius, y - radius, x + radius, y + radius)], None, 255, 8)


def _folds(draw: ImageDraw.ImageDraw, side: float) -> None:
    for x in (0.3, 0.5, 0.62):
        draw.line([side * part for part in (x, 0.1, x + 0.1, 0.9)], 255, 18)


def _dust(draw: ImageDraw.ImageDraw, side: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        x, y, radius = *rng.uniform(0, side, 2), rng.uniform(2, 10)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), 255)


ARTEFACTS: dict[str, tuple[Drawing | None, tuple[float, float, float]]] = {
    "none": (None, _GREY),
    "blue pen on glass": (_pen_on_glass, _INK),
    "green pen across tissue": (_pen_across, _GREEN),
    "bubbles": (_bubbles, _GREY),
    "folds": (_folds, _GREY),
    "dust": (_dust, _GREY),
}


def _drawn(name: str, seed: int) -> npt.NDArray[np.uint8]:
    drawing, density = ARTEFACTS[name]
    pixels = drawn_plane(0.4, seed).copy()
    if drawing is None:
        return pixels
    side = PERIOD_PX // _DETAIL
    canvas = Image.new("L", (side, side))
    drawing(ImageDraw.Draw(canvas), side)
    strength = np.asarray(canvas.resize((PERIOD_PX, PERIOD_PX), Image.Resampling.BILINEAR)).astype(np.float32) / 255
    if name == "folds":  # tissue lies over tissue there: as dark again, and no darker on glass
        passed = ndimage.uniform_filter(pixels, (25, 25, 1)).astype(np.float32) / 245
        light = np.minimum(passed, 1) ** strength[:, :, None]
    else:
        grain = np.random.default_rng(seed).normal(1, 0.04, strength.shape).astype(np.float32)
        light = np.exp(-(strength * grain)[:, :, None] * np.array(density, np.float32))
    return np.clip(pixels * light + 0.5, 0, 255).astype(np.uint8)


def made(folder: Path, side: int) -> Iterator[tuple[str, Path]]:
    """Writes the synthetic slides, each when it is asked for."""
    large = folder / "large.svs"
    write_slide(large, side)
    yield f"{side} px, 40 % tissue", large
    varied = folder / "varied.svs"
    write_synthetic(varied, SlideSettings(size=Size(6144, 6144), seed=3, mpp=MPP))
    yield "varied synthetic tissue", varied
    for name in ARTEFACTS:
        path = folder / f"{name.replace(' ', '_')}.svs"
        pixels = _drawn(name, 0)
        whole = Size.of(pixels)
        pyramid = Pyramid(whole, Box.whole(whole), MPP, (4.0, 16.0), _TILE_PX, 80, "aperio")
        write_pyramid(path, pyramid, partial(_part, pixels))
        yield f"artefact: {name}", path


def _part(pixels: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8]:
    return pixels[box.slices()]


def covered_cells(tissue: Tissue, slide: Slide, frame: Frame) -> npt.NDArray[np.bool_]:
    """(H, W): the cells of which enough is tissue, counted pixel by pixel."""
    rows, columns = frame.size.shape
    boxes = [[frame.to_level0(Box(x, y, 1, 1)).intersection(slide.bounds) for x in range(columns)] for y in range(rows)]
    return np.array([[tissue.coverage(box) >= COVERED for box in row] for row in boxes])


def iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    either = np.count_nonzero(one | other)
    return round(np.count_nonzero(one & other) / either, 4) if either else 1.0


def compared(slide: Slide, rounds: int) -> dict[str, Any]:
    """Both methods on one slide."""

    def tissue_and_grid(method: Literal["otsu", "bytes"]) -> tuple[Tissue, TileGrid]:
        slide.close()  # what was decoded before does not count
        tissue = find_tissue(slide, TissueSettings(method=method))
        return tissue, grid(slide.bounds, slide.mpp, slide.mpp.mean, GridSettings(_TILE_PX), tissue)

    told, by_pixels = tissue_and_grid("bytes")[0], tissue_and_grid("otsu")[0]

    def split() -> Cells:
        cells = split_stored(slide, TissueSettings(method="bytes"))
        assert not isinstance(cells, str), "sizes that the method went by say something"
        return cells

    def sizes_and_grid() -> TileGrid:
        cells = Tissue(split().tissue, told.frame)
        return grid(slide.bounds, slide.mpp, slide.mpp.mean, GridSettings(_TILE_PX), cells)

    tasks: dict[str, Callable[[], Any]] = {
        "pixels": lambda: tissue_and_grid("otsu"),
        "bytes": lambda: tissue_and_grid("bytes"),
        **({"sizes_alone": sizes_and_grid} if told.note is None else {}),
    }
    taken = in_turn(tasks, rounds)
    times = {name: {"cpu": spread(one.cpu, 6), "wall": spread(one.wall, 6)} for name, one in taken.items()}
    result: dict[str, Any] = {"size": [slide.size.width, slide.size.height], "seconds": times}
    if told.note is not None:
        return {**result, "fell_back": told.note}
    truth = covered_cells(by_pixels, slide, told.frame)
    alone = split()
    cpu = {name: values["cpu"]["median"] for name, values in times.items()}
    return {
        **result,
        "cells": told.mask.size,
        "tissue_cells_by_pixels": int(truth.sum()),
        "iou": iou(told.mask, truth),
        "iou_sizes_alone": iou(alone.tissue, truth),
        "cells_in_doubt": int(alone.doubt.sum()),
        "times_faster": round(cpu["pixels"] / cpu["bytes"], 1),
        "times_faster_sizes_alone": round(cpu["pixels"] / cpu["sizes_alone"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="*")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--side", type=int, default=40960)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        named = [*made(Path(folder), given.side), *((path.name, path) for path in given.slides)]
        for name, path in named:
            try:
                with open_slide(path, assume_mpp=MPP) as slide:
                    results[name] = compared(slide, given.rounds)
            except CounterstainError as error:
                results[name] = {"refused": str(error).replace(str(path), path.name)}
    tree = {
        "claim": "tissue and grid from the sizes of stored tiles, against the pixel method",
        "command": command_given(),
        "date": date.today().isoformat(),
        "machine": machine_in_words(),
        "covered": COVERED,
        "slides": results,
    }
    text = json.dumps(tree, indent=2)
    if given.out is not None:
        given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
