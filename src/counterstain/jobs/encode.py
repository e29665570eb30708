"""A cohort of slides in, a folder for each with its cells and their embeddings out.

    OUT/SLIDE/cells.zarr            which cells, the thumbnail
    OUT/SLIDE/features/ENCODER.h5   an embedding for each of them
    OUT/SLIDE/features/ENCODER.zarr the same as a dense grid, where asked for
    OUT/SLIDE/error.txt             why a slide failed

A slide that fails is kept with its reason and the others go on. Killed and called again, finished slides are not done
again, and the one that was under way goes on where it was.

Does not know: command lines, labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from counterstain import log
from counterstain.data.cohorts import CohortSlide
from counterstain.data.dense_features import write_dense
from counterstain.data.encoded_files import FeatureHeader
from counterstain.errors import InputError
from counterstain.files import existing
from counterstain.geometry import Box, Size
from counterstain.infer.cells import CellSettings
from counterstain.infer.encode import EncodeSettings, encode_slide
from counterstain.jobs.run import Failure, Outcomes, run_all
from counterstain.methods.scae import scae_encoder
from counterstain.models.encoders import INPUT_PX, PatchEncoder, backbone_encoder
from counterstain.slides import open_slide
from counterstain.tissue import load_tissue


@dataclass(frozen=True)
class EncodeJob:
    """What is done with every slide of a cohort.

    Args:
        out: Where each slide's folder goes.
        encoder: Whose embeddings.
        cells: Which cells are encoded.
        settings: Batches, device, and whether stale results are replaced.
        slide_mpp: Overrides what files and tables say.
        assume_mpp: For slides that have no resolution.
        outline: Of the tissue, GeoJSON; found where None. It belongs to one slide.
        with_dense: Whether a dense grid of embeddings is written as well.
    """

    out: Path
    encoder: PatchEncoder
    cells: CellSettings = field(default_factory=CellSettings)
    settings: EncodeSettings = field(default_factory=EncodeSettings)
    slide_mpp: float | None = None
    assume_mpp: float | None = None
    outline: Path | None = None
    with_dense: bool = False


def encode_cohort(entries: Sequence[CohortSlide], job: EncodeJob) -> Outcomes[FeatureHeader]:
    """Encodes slides, or finishes a batch that was interrupted.

    Args:
        entries: The slides; their folders below `job.out` are named by their ids.
        job: What is done with each.

    Returns:
        What each slide's file of features says of itself, and the failures.

    Raises:
        InputError: When an outline was given with more or fewer than one slide, or two slides have one id.
    """
    if job.outline is not None and len(entries) != 1:
        raise InputError(f"An outline was given with {len(entries)} slides; it belongs to one. Encode that one alone.")
    work = {entry.slide_id: partial(_encode, entry, job) for entry in entries}
    if len(work) != len(entries):
        raise InputError("Slides of one id were given; they would share a folder. Give each an id of its own.")
    counter = log.Counter("Done with", len(entries), "slides", None)  # slides' own displays would hide another one
    return run_all(work, job.out, counter)


def try_slides(
    entries: Sequence[CohortSlide], out: Path, slide_mpp: float | None = None, assume_mpp: float | None = None
) -> tuple[Failure, ...]:
    """Opens slides and reads a pixel of each, to find before hours are spent which can't be encoded.

    Args:
        entries: The slides.
        out: Where their folders are, which keep the reasons.
        slide_mpp: As `EncodeJob` has it.
        assume_mpp: Likewise.

    Returns:
        Those that can't be opened or read, or whose resolution nobody says.
    """

    def work(entry: CohortSlide) -> None:
        mpp = slide_mpp if slide_mpp is not None else entry.mpp
        with open_slide(entry.path, mpp, assume_mpp=assume_mpp) as slide:
            _ = slide.mpp  # refuses what nobody says
            slide.read_resized(Box(slide.size.width // 2, slide.size.height // 2, 1, 1), Size(1, 1))

    with log.progress("Looking at slides", len(entries), "slides") as counter:
        return run_all({entry.slide_id: partial(work, entry) for entry in entries}, out, counter).failures


def _encode(entry: CohortSlide, job: EncodeJob) -> FeatureHeader:
    mpp = job.slide_mpp if job.slide_mpp is not None else entry.mpp
    folder = job.out / entry.slide_id
    with open_slide(entry.path, mpp, assume_mpp=job.assume_mpp) as slide:
        tissue = None if job.outline is None else load_tissue(job.outline, slide, job.cells.tissue)
        header = encode_slide(slide, job.encoder, folder, job.cells, job.settings, tissue)
    if job.with_dense:
        write_dense(folder, header.encoder.name)
    return header


def open_encoder(
    name: str, weights: Path | None = None, input_px: int = INPUT_PX, *, untrained: bool = False
) -> PatchEncoder:
    """The encoder that a name stands for.

    Args:
        name: The folder of a trained S-CAE's run, a backbone, or "timm:" and a name of timm's.
        weights: Of a backbone or a network of timm's.
        input_px: Width and height at which a backbone is shown a cell; the others bring their own.
        untrained: Whether a backbone may have random weights.

    Raises:
        InputError: When a run was given with weights, a backbone without, or the run is of another method.
        UnknownNameError: When there is no such backbone.
        MissingFileError: When the run is not finished, or the file of weights is not there.
        WeightsError: When weights do not fit.
        MissingExtraError: When it is one of timm's and timm can't be imported.
    """
    if "/" in name and not name.startswith("timm:"):
        existing(name, "a trained encoder's run")
    if Path(name).is_dir():
        if weights is not None or untrained:
            raise InputError(f"{name} is a run, which has weights of its own. Leave out --weights and --untrained.")
        return scae_encoder(name)
    return backbone_encoder(name, weights, input_px, untrained=untrained)
