"""`encode_slide`: a slide and an encoder in, the slide's cells and their embeddings on disk out.

    slide -> cells, thumbnail (cells.py) -> images of cells, read ahead (stream.py) -> encoder -> rows (rows.py) -> HDF5

    FOLDER/cells.zarr            made once for all encoders
    FOLDER/features/ENCODER.h5   written in one go from the finished rows

Memory is bounded whatever the slide's area. Killed and called again, it goes on at the first chunk of cells that was not
stored and ends with the same embeddings. Results of other inputs are refused, finished ones returned at once.

Shapes: B images of a batch, H W their rows and columns, C channels of an embedding, N observed cells.
Does not know: which encoder it is, cohorts.
"""

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from counterstain import log
from counterstain.data.cell_files import CellGrid
from counterstain.data.encoded_files import (
    FeatureHeader,
    are_features_kept,
    feature_path,
    read_header,
    write_features,
)
from counterstain.data.encoder_patches import READING
from counterstain.errors import InputError
from counterstain.files import settings_hash
from counterstain.geometry import Frame, Size
from counterstain.infer.cells import DEFAULT, CellSettings, keep_cells
from counterstain.infer.device import Pipeline, place
from counterstain.infer.heap import HeapTrimmer
from counterstain.infer.int8 import Int8Encoder
from counterstain.infer.lock import locked
from counterstain.infer.onnx_runtime import Run
from counterstain.infer.pool import float_images
from counterstain.infer.rows import PartialRows
from counterstain.infer.runtime import Runtime, choose_runtime, open_elsewhere, or_torch, reader_threads, threads
from counterstain.infer.settings import RuntimeName
from counterstain.infer.stream import Cutter
from counterstain.models.encoders import PatchEncoder
from counterstain.results import EncoderSpec
from counterstain.slides.base import Slide
from counterstain.slides.memory import POOL
from counterstain.tiles import TileRow
from counterstain.tissue import Tissue

Images = npt.NDArray[np.uint8]

_CHUNK_CELLS = 1024  # stored at once; what a kill costs at most
_READ_CELLS = 32  # neighbours that are read as one strip


@dataclass(frozen=True)
class EncodeSettings:
    """How an encoder is run over a slide.

    Args:
        batch_size: Cells encoded at once.
        num_workers: Threads that read cells; 0 reads between batches, None takes what suits the machine.
        num_threads: Threads of a network on a CPU; None takes what suits the machine.
        device: "auto" takes a GPU where there is one; else a name as torch knows it: "cpu", "cuda:1".
        precision: "auto" takes bf16 where a GPU has it, fp16 on other GPUs, fp32 on CPUs. Embeddings are stored as float16.
        runtime: "auto" takes ONNX Runtime on a CPU, or OpenVINO where that alone is installed, else torch. The environment
            variable COUNTERSTAIN_RUNTIME says otherwise.
        overwrite: Whether results of other inputs or settings are replaced instead of refused.

    Raises:
        InputError: When a number is out of its range.
    """

    batch_size: int = 64
    num_workers: int | None = None
    num_threads: int | None = None
    device: str = "auto"
    precision: Literal["auto", "32", "16", "bf16"] = "auto"
    runtime: RuntimeName = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.num_threads is not None and self.num_threads < 1):
            raise InputError(
                f"Batches of {self.batch_size} and {self.num_threads} threads were given; both must be 1 or more."
            )
        if self.num_workers is not None and self.num_workers < 0:
            raise InputError(f"{self.num_workers} workers were given; give 0 or more.")


def encode_slide(
    slide: Slide,
    encoder: PatchEncoder,
    folder: Path,
    cells: CellSettings = DEFAULT,
    settings: EncodeSettings | None = None,
    tissue: Tissue | None = None,
) -> FeatureHeader:
    """Encodes a slide, or finishes one that was interrupted, or returns one that is done.

    Args:
        slide: Of known resolution.
        encoder: Moved to the device, and stays there in evaluation mode.
        folder: Of this slide.
        cells: Which cells are encoded.
        settings: Batches, device.
        tissue: Where tissue lies, as a person outlined it; found where None.

    Returns:
        What the file of features says of itself; `read_encoded` reads it.

    Raises:
        MissingResolutionError: When the slide's resolution is unknown.
        UnsupportedSlideError: When it is too coarse for the filter of cells, or its background is dark.
        NoTissueError: When no cell is left.
        StaleResultError: When the folder holds results of other inputs and `settings.overwrite` is not set.
        ExistingOutputError: When another process is encoding this slide.
        DamagedSlideError: When a cell can't be decoded; what was stored before stays, and is not done again.
        InputError: When the device can't be used, or the encoder gives something else than its embeddings.
    """
    settings = settings or EncodeSettings()
    # "auto" is another precision and library on another machine, and a slide's features are made by one of each throughout.
    step = EncoderStep(encoder, settings)
    spec = encoder.spec
    with locked(folder):
        grid = keep_cells(slide, folder, cells, tissue, overwrite=settings.overwrite)
        inputs_hash = settings_hash(grid.inputs_hash, spec.digest, spec.input_px, step.label, READING)
        if are_features_kept(folder, spec.name, inputs_hash, overwrite=settings.overwrite):
            log.say(f"{folder}: already encoded by {spec.name}")
            return read_header(folder, spec.name)
        chunk = settings.batch_size * max(1, _CHUNK_CELLS // settings.batch_size)
        shape = (len(grid.cells_N2), spec.num_features)
        with PartialRows(feature_path(folder, spec.name), inputs_hash, shape, chunk) as rows:
            with threads(settings.num_threads):
                _Work(slide, step, grid, settings).finish(rows, chunk)
            write_features(folder, rows.rows(), grid, spec, inputs_hash)
            rows.remove()
        return read_header(folder, spec.name)


@dataclass(frozen=True)
class _Work:
    """Everything that the encoding of one slide needs."""

    slide: Slide
    step: "EncoderStep"
    grid: CellGrid
    settings: EncodeSettings

    def finish(self, rows: PartialRows, chunk: int) -> None:
        """Encodes and stores the cells that are not done."""
        done, total = rows.num_done, len(self.grid.cells_N2)
        spec = self.step.spec
        heap, pending = HeapTrimmer(), np.empty((chunk, spec.num_features), np.float16)
        heap.now()  # finding cells held views of the slide
        filled = 0
        images = cell_images(self.slide, self.grid, self.step.input_px, done, self.settings)
        with (
            closing(images),
            closing(self.step.stream(images)) as embedded,
            log.progress(f"Encoding {self.slide.path.name}", total, "cells", done=done) as counter,
        ):
            for embeddings_BC in embedded:
                pending[filled : filled + len(embeddings_BC)] = embeddings_BC
                filled += len(embeddings_BC)
                done += len(embeddings_BC)
                if filled == chunk or done == total:
                    rows.append(pending[:filled])
                    filled = 0
                counter.advance(len(embeddings_BC))
                heap.when_grown()


@dataclass(frozen=True)
class _Embed:
    """A batch's pixels to its embeddings, on the device all the way: it may be captured in a CUDA graph."""

    encoder: Run
    runtime: Runtime
    spec: EncoderSpec

    def __call__(self, pixels_BHWC: torch.Tensor) -> torch.Tensor:
        images_BCHW = float_images(pixels_BHWC)
        with self.runtime.context():
            embeddings_BC = self.encoder(images_BCHW)
        expected = (len(images_BCHW), self.spec.num_features)
        if tuple(embeddings_BC.shape) != expected:
            raise InputError(
                f"Encoder {self.spec.name} gave embeddings of shape {tuple(embeddings_BC.shape)}; {expected} was "
                "expected."
            )
        return embeddings_BC.to(torch.float16)


class EncoderStep:
    """An encoder where it runs.

    Args:
        encoder: Moved to the device, and stays there in evaluation mode.
        settings: Device, precision and runtime.
    """

    def __init__(self, encoder: PatchEncoder, settings: EncodeSettings) -> None:
        runtime = choose_runtime(settings.device, settings.precision, settings.runtime)
        place(encoder, runtime.device)
        self.spec, self.input_px = encoder.spec, encoder.input_px

        def make() -> Run:
            elsewhere = open_elsewhere(encoder, encoder, encoder, runtime, settings.num_threads)
            return elsewhere((encoder.input_px, encoder.input_px))

        self.runtime, run = or_torch(runtime, settings.runtime, make)
        self._encoder: Run = run or encoder
        self.label = encoder.label if isinstance(encoder, Int8Encoder) else self.runtime.label
        embed = _Embed(self._encoder, self.runtime, self.spec)
        chosen = self.runtime
        self._pipeline = Pipeline(embed, chosen.device, settings.batch_size, is_shared=chosen.is_shared)

    def encode(self, images_BHWC: Images) -> npt.NDArray[np.float16]:
        """Embeddings of images as they were read: (B, C).

        Raises:
            InputError: When they are no embeddings, or no numbers that float16 holds.
        """
        return next(self.stream([images_BHWC]))

    def stream(self, batches: Iterable[Images]) -> Generator[npt.NDArray[np.float16], None, None]:
        """Each batch's embeddings, in order; on a GPU the next batches are under way meanwhile.

        Args:
            batches: At most `settings.batch_size` images each.

        Raises:
            InputError: As `encode` does.
        """
        with closing(self._pipeline.map(batches, lambda images: images)) as embedded:
            for _, stored in embedded:
                if not np.isfinite(stored).all():
                    raise InputError(
                        f"Encoder {self.spec.name} gave values that are no numbers, or larger than float16 holds. Pass "
                        "--precision 32, or other weights."
                    )
                yield stored


def cell_images(
    slide: Slide, grid: CellGrid, input_px: int, start: int, settings: EncodeSettings
) -> Generator[Images, None, None]:
    """Images of the observed cells in their order, batch by batch. Close the iterator when you stop early.

    Where reading starts changes no pixel.

    Args:
        slide: The slide.
        grid: Its cells.
        input_px: Width and height of an image.
        start: The first cell that is wanted.
        settings: Batches and readers.

    Yields:
        (B, input_px, input_px, 3) uint8 RGB, every batch but the last of `settings.batch_size`.
    """
    cell = grid.frame
    down_x, down_y = cell.downsample_x / input_px, cell.downsample_y / input_px
    frame = Frame(cell.origin, down_x, down_y, Size(cell.size.width * input_px, cell.size.height * input_px))
    cutter = Cutter(frame, Size(input_px, input_px), _READ_CELLS, reader_threads(settings.num_workers), is_scaled=True)
    rows, unwanted = _rows_from(grid.cells_N2, start, input_px)
    shape, filled = (settings.batch_size, input_px, input_px, 3), 0
    batch = POOL.lease(*shape)
    with closing(cutter.stream(slide, rows)) as strips:
        for strip in strips:
            images = strip.images_BHWC[unwanted:]
            unwanted = 0
            while len(images):
                taken, images = np.split(images, [len(batch) - filled])
                batch[filled : filled + len(taken)] = taken
                filled += len(taken)
                if filled == len(batch):
                    yield batch
                    batch, filled = POOL.lease(*shape), 0
    if filled:
        yield batch[:filled]


def _rows_from(cells_N2: npt.NDArray[np.int32], start: int, input_px: int) -> tuple[list[TileRow], int]:
    """The rows of cells from the strip on in which a cell lies, and how many cells of that strip lie before it."""
    rows, first_of_row, sizes = np.unique(cells_N2[:, 0], return_index=True, return_counts=True)
    tiles: list[TileRow] = []
    unwanted = 0
    for row, first, size in zip(rows.tolist(), first_of_row.tolist(), sizes.tolist(), strict=True):
        if first + size <= start:
            continue
        before = max(0, start - first)
        skipped = before // _READ_CELLS * _READ_CELLS
        unwanted += before - skipped
        columns = cells_N2[first + skipped : first + size, 1] * input_px
        tiles.append(TileRow(row * input_px, tuple(columns.tolist())))
    return tiles, unwanted
