"""From slide labels to labelled patches: a diagnosis's evidence says which cells to learn pixels from, and which to leave.

    a run of a slide method + its slides -> evidence -> tumour / normal / no label for each cell -> patches with labels

Every cell of a slide without tumour is normal: that is known. Of slides with tumour, cells with more evidence than almost
any normal slide has are taken for tumour, those with as little as most normal cells for normal, and what lies between is
left out. A slide with tumour that shows no such evidence gives no tumour. Patients keep the side they had in the run: what
chose the run's decision validates here. No mask exists anywhere.

    OUT/images/SLIDE_ROW_COLUMN.png, OUT/labels.csv, OUT/classes.toml    a table that `open_patches` reads
    OUT/cascade.json                                                     thresholds, counts, which slides gave what

Does not know: what learns from the patches.

Source: ours: the step from DSNet's map of evidence to methods that learn from labels of patches.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain import log
from counterstain.data.diagnosis import Diagnosis, DiagnosisSlide
from counterstain.data.encoded import EncodedSlide
from counterstain.data.encoded_files import feature_path, read_encoded
from counterstain.data.images import write_image
from counterstain.data.records import PatchDataset
from counterstain.data.slide_sets import labelled_slides, open_slide_set
from counterstain.data.table import TABLE, class_file_text
from counterstain.errors import InputError, StaleResultError, listed
from counterstain.files import atomic, read_json, settings_hash, write_json, write_text
from counterstain.geometry import Box, Size
from counterstain.jobs.run import Failure, run_all
from counterstain.methods import SlideMethod, load_slide_method, model_digest
from counterstain.methods.slide_method import patients_of
from counterstain.results import UNCOVERED
from counterstain.settings import to_tree
from counterstain.slides import open_slide

NOTE = "cascade.json"

Evidence = npt.NDArray[np.float32]
Show = Callable[[SlideMethod, Mapping[str, EncodedSlide]], dict[str, Evidence]]
"""Evidence of encoded slides, by slide id."""


@dataclass(frozen=True)
class CascadeSettings:
    """Which cells get a label, and how their patches are cut.

    Args:
        sure: A cell of a positive slide is tumour where its evidence exceeds this quantile of the evidence of all cells of
            the negative slides.
        clear: It is normal where its evidence is at most this quantile of theirs.
        most_tumour: Tumour cells of a slide at most, those with most evidence.
        most_normal: Normal cells of a slide at most: half those with most evidence among them, half drawn.
        patch_px: Width and height of a patch, which shows a cell and nothing around it.
        seed: Of what is drawn.

    Raises:
        InputError: When a number is out of its range.
    """

    sure: float = 0.995
    clear: float = 0.5
    most_tumour: int = 40
    most_normal: int = 20
    patch_px: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.clear <= self.sure <= 1:
            raise InputError(
                f"Quantiles {self.clear} and {self.sure} were given; the first must not be above the second."
            )
        if min(self.most_tumour, self.most_normal, self.patch_px) < 1:
            raise InputError("Cells of a slide and pixels of a patch must be 1 or more.")


@dataclass(frozen=True)
class CascadeJob:
    """What patches are made of, and where.

    Args:
        run: Of the slide method.
        encoded: Where its slides' folders lie.
        out: The folder of the patch set.
        settings: Which cells, and how.
        slide_mpp: um/px of the slides' level 0, where files say it wrongly.
        assume_mpp: Likewise, for slides that say nothing.
    """

    run: Path
    encoded: Path
    out: Path
    settings: CascadeSettings
    slide_mpp: float | None = None
    assume_mpp: float | None = None


@dataclass(frozen=True)
class Picked:
    """The cells of a slide that get a label.

    Args:
        tumour: (row, column) of those taken for tumour.
        normal: Likewise for normal.
    """

    tumour: tuple[tuple[int, int], ...]
    normal: tuple[tuple[int, int], ...]


def cut_by_evidence(
    diagnosis: Diagnosis, job: CascadeJob, show: Show | None = None
) -> tuple[dict[str, Any], tuple[Failure, ...]]:
    """Makes the patch set, or finishes one that was interrupted.

    Args:
        diagnosis: The labelled slides, those of the run among them; others are left alone.
        job: What and where.
        show: Evidence of encoded slides; the run's own when None.

    Returns:
        What `cascade.json` holds, and the slides that could not be read.

    Raises:
        InputError: When the run's slides are not among them, or none shows evidence of tumour.
        StaleResultError: When the folder holds a set made otherwise.
    """
    method, sides = load_slide_method(job.run), patients_of(job.run)
    side_of = {patient: side for side, patients in sides.items() for patient in patients}
    rows = [row for row in diagnosis.rows if row.patient_id in side_of and _is_encoded(row, method, job)]
    if {row.label for row in rows} != {0, 1}:
        raise InputError(
            f"'{diagnosis.source}' has too few slides that {job.run} learned from and that lie encoded in {job.encoded}. "
            "Give the cohort it had, and as --encoded where its slides were encoded to."
        )
    slides = open_slide_set(
        diagnosis.source.stem, method.classes, labelled_slides(rows, job.encoded), method.encoder.name
    )
    if slides.encoder.digest != method.encoder.digest:
        raise InputError(f"'{job.encoded}' was encoded by another {method.encoder.name} than {job.run} learned from.")
    inputs_hash = settings_hash(model_digest(job.run), slides.digest(), job.settings, job.slide_mpp, job.assume_mpp)
    _refuse_stale(job.out, inputs_hash)
    encoded = {row.slide_id: read_encoded(job.encoded / row.slide_id, method.encoder.name) for row in rows}
    evidence = (show or _evidence)(method, encoded)
    limits = limits_of([evidence[row.slide_id] for row in rows if row.label == 0], job.settings)
    picks = {row.slide_id: pick(evidence[row.slide_id], row.label, limits, job.settings) for row in rows}
    if not any(one.tumour for one in picks.values()):
        raise InputError(
            f"No slide shows evidence of tumour above that of normal slides: {job.run} found nothing to show."
        )
    _refuse_one_name(picks)
    # Before the first patch, so that a kill leaves none that nobody knows the settings of.
    write_json(job.out / NOTE, {"inputs_hash": inputs_hash})
    work = {row.slide_id: partial(_cut, row, picks[row.slide_id], encoded[row.slide_id], job) for row in rows}
    with log.progress("Cutting patches", len(rows), "slides") as counter:
        outcomes = run_all(work, job.out / "failed", counter)
    done = [row for row in rows if row.slide_id in outcomes.done]
    tree = {
        "inputs_hash": inputs_hash,
        "run": job.run.name,
        "settings": to_tree(job.settings),
        "limits": {"clear": limits[0], "sure": limits[1]},
        "slides": {row.slide_id: _told(row, picks[row.slide_id], side_of) for row in done},
    }
    _write_table(done, picks, side_of, method, job)
    write_json(job.out / NOTE, tree)
    return tree, outcomes.failures


def _is_encoded(row: DiagnosisSlide, method: SlideMethod, job: CascadeJob) -> bool:
    return feature_path(job.encoded / row.slide_id, method.encoder.name).exists()


def _refuse_stale(out: Path, inputs_hash: str) -> None:
    note = out / NOTE
    if note.exists() and read_json(note)["inputs_hash"] != inputs_hash:
        raise StaleResultError(f"'{out}' holds patches of another run, other slides or settings. Give another folder.")


def _refuse_one_name(picks: Mapping[str, Picked]) -> None:
    """Refuses slides whose patches would have the same names: all lie in one folder, as methods tell them by name."""
    names = {slide_id: _name(slide_id, (0, 0)) for slide_id in picks}
    shared = [slide_id for slide_id, name in names.items() if list(names.values()).count(name) > 1]
    if shared:
        raise InputError(listed("Slides' names differ in / and _ alone. Give them other ids in the table:", shared))


def _evidence(method: SlideMethod, encoded: Mapping[str, EncodedSlide]) -> dict[str, Evidence]:
    with log.progress("Looking for evidence", len(encoded), "slides") as counter:
        found = {}
        for slide_id, slide in encoded.items():
            found[slide_id] = method.evidence(slide)
            counter.advance(note=slide_id)
    return found


def limits_of(negatives: Sequence[Evidence], settings: CascadeSettings) -> tuple[float, float]:
    """The evidence up to which a cell is clearly normal, and above which it is surely tumour.

    Args:
        negatives: (H, W) evidence of slides without tumour, NaN where nothing was observed.
        settings: The two quantiles.
    """
    values = np.concatenate([one[np.isfinite(one)] for one in negatives])
    clear, sure = np.quantile(values, [settings.clear, settings.sure]).tolist()
    return clear, sure


def pick(evidence_HW: Evidence, label: int, limits: tuple[float, float], settings: CascadeSettings) -> Picked:
    """The cells of a slide that get a label.

    Args:
        evidence_HW: float32, NaN where nothing was observed.
        label: Of the slide, 0 or 1.
        limits: As `limits_of` gives them.
        settings: How many.
    """
    clear, sure = limits
    cells = np.argwhere(np.isfinite(evidence_HW))
    values = evidence_HW[cells[:, 0], cells[:, 1]]
    order = np.argsort(-values, kind="stable")
    tumour = [number for number in order if label and values[number] > sure][: settings.most_tumour]
    normal = [number for number in order if not label or values[number] <= clear]
    hardest = normal[: settings.most_normal // 2]
    rest = np.array(normal[len(hardest) :], np.int64)
    drawn = np.random.default_rng((settings.seed, len(cells))).permutation(rest)[: settings.most_normal - len(hardest)]
    return Picked(_places(cells, tumour), _places(cells, [*hardest, *drawn.tolist()]))


def _places(cells: npt.NDArray[np.int64], numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((int(cells[number, 0]), int(cells[number, 1])) for number in numbers)


def _name(slide_id: str, place: tuple[int, int]) -> str:
    return f"images/{slide_id.replace('/', '_')}_{place[0]}_{place[1]}.png"


def _cut(row: DiagnosisSlide, picked: Picked, encoded: EncodedSlide, job: CascadeJob) -> int:
    places = (*picked.tumour, *picked.normal)
    size = Size(job.settings.patch_px, job.settings.patch_px)
    mpp = job.slide_mpp if job.slide_mpp is not None else row.entry.mpp
    with open_slide(row.entry.path, mpp, assume_mpp=job.assume_mpp) as slide:
        for place in places:
            path = job.out / _name(row.slide_id, place)
            if not path.exists():
                pixels = slide.read_resized(encoded.frame.to_level0(Box(place[1], place[0], 1, 1)), size)
                with atomic(path) as temporary:
                    write_image(temporary, pixels)
    return len(places)


def _told(row: DiagnosisSlide, picked: Picked, side_of: Mapping[str, str]) -> dict[str, Any]:
    return {
        "split": side_of[row.patient_id],
        "label": row.label,
        "tumour": len(picked.tumour),
        "normal": len(picked.normal),
    }


def _write_table(
    rows: Sequence[DiagnosisSlide],
    picks: Mapping[str, Picked],
    side_of: Mapping[str, str],
    method: SlideMethod,
    job: CascadeJob,
) -> None:
    lines = []
    for row in rows:
        for places, label in ((picks[row.slide_id].tumour, ("0", "1")), (picks[row.slide_id].normal, ("1", "0"))):
            lines += [(_name(row.slide_id, one), side_of[row.patient_id], row.patient_id, *label) for one in places]
    note = "Labels are guessed from a diagnosis's evidence: no patch was looked at by a person."
    mpp = method.cell_um / job.settings.patch_px
    dataset = PatchDataset(job.out.name, method.classes, UNCOVERED, mpp, white_is_background=False, notes=(note,))
    write_text(job.out / "classes.toml", class_file_text(dataset))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("image", "split", "patient", *method.classes.names), *lines])
    write_text(job.out / TABLE, text.getvalue())
