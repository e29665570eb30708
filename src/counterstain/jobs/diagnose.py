"""Diagnoses of slides: a trained slide method and slides in; for each what is said of it, and the evidence, as files.

    slide -> cells and embeddings (infer/encode.py) -> score, evidence (the method) -> files

    OUT/diagnoses.csv             a row for each slide, failed ones with their reason
    OUT/SLIDE/score.json          probability, decision, what it rests on, what to be careful about
    OUT/SLIDE/evidence.zarr       the evidence of each cell, as the method gives it
    OUT/SLIDE/heatmap.png, heat.tiles.geojson, heat.ome.tif, top_tiles.png, top_tiles.csv
    OUT/SLIDE/cells.zarr, features/    the encoded slide, unless it lies elsewhere

The score is written first, under the hash of slide, encoding and run; every file beside it is of that hash, since those of
another are removed before. So what a kill left is finished, what is whole is kept, and what is stale is refused.

Does not know: how a slide is encoded or scored, folds, labels.
"""

import csv
import io
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterstain import __version__, log
from counterstain.data.cell_files import CellGrid, are_cells_alike, how_chosen, read_cells
from counterstain.data.cohorts import CohortSlide, Dropped
from counterstain.data.encoded import EncodedSlide
from counterstain.data.encoded_files import FeatureHeader, read_encoded, read_header
from counterstain.data.slide_sets import told_choice
from counterstain.errors import ExistingOutputError, InputError, StaleResultError
from counterstain.export.heat import HeatSettings, write_heat_map, write_heat_ome_tiff, write_heat_tiles
from counterstain.export.top_tiles import TopTileSettings, write_top_table, write_top_tiles
from counterstain.files import read_json, settings_hash, write_json, write_text
from counterstain.infer.cells import CellSettings, settings_of
from counterstain.infer.encode import EncodeSettings, encode_slide
from counterstain.infer.evidence import EvidenceMap
from counterstain.infer.lock import locked
from counterstain.jobs.run import Outcomes, run_all
from counterstain.methods import SlideMethod
from counterstain.models.encoders import PatchEncoder
from counterstain.results import SlideRecord, SlideScore
from counterstain.settings import to_tree
from counterstain.slides import Slide, open_slide
from counterstain.tissue import load_tissue

TABLE = "diagnoses.csv"
FILES = {
    "score": "score.json",
    "evidence": "evidence.zarr",
    "heat_map": "heatmap.png",
    "heat_tiles": "heat.tiles.geojson",
    "heat_ome_tiff": "heat.ome.tif",
    "top_tiles": "top_tiles.png",
    "top_table": "top_tiles.csv",
}
"""What is written for a slide, in the order in which it is."""

_FORMAT, _VERSION = "counterstain.diagnosis", 1
_COLUMNS = (
    "slide",
    "probability",
    "probability_of",
    "decision",
    "prediction_set",
    "heat_map",
    "warnings",
    "run",
    "reason",
)
_DIGEST = 8  # characters that tell runs apart in the table
_FEW_CELLS = 16
_ENLARGED = 1.1  # a slide this many times coarser than what an encoder was shown is warned of


@dataclass(frozen=True)
class DiagnoseJob:
    """What is done with every slide of a batch.

    Args:
        method: What diagnoses.
        model_digest: Of its run.
        out: Where each slide's folder goes.
        encoder: What made the embeddings that the method learned from; None takes only what is encoded already.
        encoded: Where slides' folders with cells and features lie, or are made; None for `out`.
        cells: Which cells are encoded; None for those that the method learned from.
        encode: Batches, device; whether results of other inputs are replaced.
        slide_mpp: Overrides what files and tables say.
        assume_mpp: For slides that have no resolution.
        outline: Of the tissue, as a person drew it; found where None.
        heat: How large the picture of the evidence is.
        top: How many of the cells with most evidence are shown.
        known: What is to be said of slides that are no new ones to the run, by their names.

    Raises:
        InputError: When encoder or cells are not those of the method's training, or cells or an outline were given for
            slides that are encoded already.
    """

    method: SlideMethod
    model_digest: str
    out: Path
    encoder: PatchEncoder | None = None
    encoded: Path | None = None
    cells: CellSettings | None = None
    encode: EncodeSettings = field(default_factory=EncodeSettings)
    slide_mpp: float | None = None
    assume_mpp: float | None = None
    outline: Path | None = None
    heat: HeatSettings = field(default_factory=HeatSettings)
    top: TopTileSettings = field(default_factory=TopTileSettings)
    known: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = self.method.encoder
        if self.encoder is None:
            if self.cells is not None or self.outline is not None:
                raise InputError(
                    "The cells of slides that are encoded already are fixed. Leave the outline and the choice of cells "
                    "out, or give the encoder."
                )
            return
        if (self.encoder.spec.name, self.encoder.spec.digest) != (wanted.name, wanted.digest):
            raise InputError(
                f"The run learned from embeddings of {wanted.name} ({wanted.digest[:8]}); an encoder "
                f"{self.encoder.spec.name} ({self.encoder.spec.digest[:8]}) was given. Give the weights that made those."
            )
        cells, seen = self.cell_settings, self.method.seen
        if cells.cell_um != seen.cell_um:
            raise InputError(
                f"The run learned from cells of {seen.cell_um:g} um; {cells.cell_um:g} were given. Give those."
            )
        if cells != (settings_of(seen.chosen, seen.cell_um) or cells):
            raise InputError(
                f"The run learned from cells {told_choice(seen.chosen)}; others were given, {told_choice(to_tree(cells))}. "
                "Leave out how cells are chosen, and the run's own way is taken."
            )

    @property
    def cell_settings(self) -> CellSettings:
        """How cells are chosen: as given, else as those that the method learned from; the default where nobody says."""
        seen = self.method.seen
        return self.cells or settings_of(seen.chosen, seen.cell_um) or CellSettings(cell_um=seen.cell_um)

    def folder_of_cells(self, slide_id: str) -> Path:
        """Where a slide's cells and features lie."""
        return (self.encoded or self.out) / slide_id


def diagnose_all(slides: Sequence[CohortSlide], job: DiagnoseJob, dropped: Sequence[Dropped] = ()) -> Outcomes[Any]:
    """Diagnoses slides, none of which can end the batch, and writes the table of all.

    Args:
        slides: No two of one name.
        job: What to do with each.
        dropped: Rows of a cohort's table that name no slide that can be used; listed as not done.

    Returns:
        For each slide that was done, what `diagnose_slide` gives; and failures.
    """
    counter = log.Counter("Done with", len(slides), "slides", None)  # a slide's own display would hide another one
    work = {entry.slide_id: partial(diagnose_slide, entry, job) for entry in slides}
    outcomes = run_all(work, job.out, counter)
    _write_table(job.out, outcomes, dropped)
    return outcomes


def diagnose_slide(entry: CohortSlide, job: DiagnoseJob) -> dict[str, Any]:
    """Diagnoses one slide, or finishes it, or gives what is there.

    Returns:
        What `score.json` holds, and the paths of its files under `files`.

    Raises:
        StaleResultError: When the folder holds a diagnosis of another slide, run or encoding, and `overwrite` is not set.
        ExistingOutputError: When a file that was not made here lies where one goes, and `overwrite` is not set; when
            another process is diagnosing this slide.
        InputError: When the slide is encoded otherwise than what the method learned from.
        CounterstainError: As `encode_slide` and the writers do.
    """
    folder = job.out / entry.slide_id
    mpp = job.slide_mpp if job.slide_mpp is not None else entry.mpp
    with open_slide(entry.path, mpp, assume_mpp=job.assume_mpp) as slide:
        record, header = slide.record(), _encoded(slide, entry.slide_id, job)
        seen = [record.content_hash, record.size, record.mpp, record.mpp_source, record.bounds]
        inputs_hash = settings_hash(seen, job.model_digest, header.inputs_hash)
        with locked(folder):
            before = _standing(folder, inputs_hash, overwrite=job.encode.overwrite)
            if before is None or any(not (folder / name).exists() for name in FILES.values()):
                diagnosed = _Diagnosed(entry.slide_id, job, record, inputs_hash)
                before = diagnosed.finish(slide, folder, before)
            else:
                log.say(f"{folder}: already done")
    return before | {"files": {name: str(folder / file) for name, file in FILES.items()}}


def _encoded(slide: Slide, slide_id: str, job: DiagnoseJob) -> FeatureHeader:
    """The features of a slide as the method knows them, made where an encoder is at hand."""
    folder, wanted, learned = job.folder_of_cells(slide_id), job.method.encoder, job.method.seen.chosen
    if job.encoder is not None:
        header = _encode(slide, job.encoder, folder, job)
    else:
        header = read_header(folder, wanted.name)
        _refuse_others(read_cells(folder), slide, folder)
        chosen = how_chosen(folder)
        if chosen != learned and {"min_tissue"} <= chosen.keys() & learned.keys():
            raise InputError(
                f"{folder} holds cells {told_choice(chosen)}; the run learned from those {told_choice(learned)}. Encode it "
                "likewise."
            )
    if header.encoder.digest != wanted.digest or not are_cells_alike(header.cell_um, job.method.cell_um):
        raise InputError(
            f"{folder} holds cells of {header.cell_um:g} um as {header.encoder.name} ({header.encoder.digest[:8]}) has "
            f"them; the run learned from {job.method.cell_um:g} um and {wanted.name} ({wanted.digest[:8]}). Encode it "
            "likewise."
        )
    return header


def _encode(slide: Slide, encoder: PatchEncoder, folder: Path, job: DiagnoseJob) -> FeatureHeader:
    """Encodes a slide; what lies in a folder that others use is never replaced."""
    cells, settings = job.cell_settings, job.encode
    tissue = load_tissue(job.outline, slide, cells.tissue) if job.outline is not None else None
    if job.encoded is None:
        return encode_slide(slide, encoder, folder, cells, settings, tissue)
    try:
        return encode_slide(slide, encoder, folder, cells, replace(settings, overwrite=False), tissue)
    except StaleResultError as error:
        raise StaleResultError(
            f"{folder} holds cells or embeddings of another slide, other settings, or this encoder in another precision. "
            "Give another folder of encoded slides, or replace them by `counterstain encode --overwrite`."
        ) from error


def _refuse_others(grid: CellGrid, slide: Slide, folder: Path) -> None:
    """Refuses cells that are known to be of another slide; imported ones don't say, but lie on it."""
    own, encoded, frame = slide.record(), grid.slide, grid.frame
    over = (
        (frame.box.right - own.size.width) / frame.downsample_x,
        (frame.box.bottom - own.size.height) / frame.downsample_y,
    )
    is_other = encoded is not None and (encoded.content_hash, encoded.mpp) != (own.content_hash, own.mpp)
    if is_other or max(over) > 1:
        raise StaleResultError(
            f"{folder} holds cells of another slide than '{slide.path}', or at another resolution. Encode this one."
        )


def _standing(folder: Path, inputs_hash: str, *, overwrite: bool) -> dict[str, Any] | None:
    """The diagnosis that lies in a folder, when it is of these inputs; what is of others is removed where it may be."""
    score = folder / FILES["score"]
    if score.exists():
        tree: dict[str, Any] = read_json(score)
        if tree.get("format") == _FORMAT and tree.get("inputs_hash") == inputs_hash:
            return tree
        if not overwrite:
            raise StaleResultError(
                f"{score} was made of another slide, run or encoding than given now. Give another output folder, or pass "
                "--overwrite to replace it."
            )
    for name in FILES.values():
        path = folder / name
        if not path.exists() or path == score:
            continue
        if not overwrite:
            raise ExistingOutputError(
                f"{path} is there already, and no diagnosis of ours lies beside it. Move it away, or pass --overwrite to "
                "replace it."
            )
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


@dataclass(frozen=True)
class _Diagnosed:
    """One slide that is being diagnosed."""

    slide_id: str
    job: DiagnoseJob
    record: SlideRecord
    inputs_hash: str

    def finish(self, slide: Slide, folder: Path, before: dict[str, Any] | None) -> dict[str, Any]:
        """Writes what is not there yet; gives the score as it is on disk."""
        job, method = self.job, self.job.method
        encoded = read_encoded(job.folder_of_cells(self.slide_id), method.encoder.name)
        tree = before
        if tree is None:
            tree = self._score(encoded)
            write_json(folder / FILES["score"], tree)
        evidence = self._evidence(encoded, folder / FILES["evidence"])
        score = SlideScore(
            self.slide_id, tree["probability"], tree["logit"], tree["decision"], tuple(tree["prediction_set"])
        )
        writers: dict[str, Callable[[Path], None]] = {
            "heat_map": lambda path: write_heat_map(evidence, score, path, slide, job.heat),
            "heat_tiles": lambda path: write_heat_tiles(evidence, path),
            "heat_ome_tiff": lambda path: write_heat_ome_tiff(evidence, path),
            "top_tiles": lambda path: write_top_tiles(evidence, score, path, slide, job.top),
            "top_table": lambda path: write_top_table(evidence, path, job.top.count),
        }
        for name, write in writers.items():
            if not (folder / FILES[name]).exists():
                write(folder / FILES[name])
        return tree

    def _score(self, encoded: EncodedSlide) -> dict[str, Any]:
        method = self.job.method
        negative, positive = method.score([encoded])[0].tolist()
        score, decision = method.judge(self.slide_id, positive - negative), method.decision
        chosen = how_chosen(self.job.folder_of_cells(self.slide_id))
        known = [note] if (note := self.job.known.get(self.slide_id)) else []
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "slide_id": self.slide_id,
            "positive": method.classes.names[1],
            "probability": score.probability,
            "logit": score.logit,
            "decision": score.decision,
            "abstains": score.decision is None,
            "prediction_set": list(score.prediction_set),
            "threshold": decision.threshold,
            "temperature": decision.temperature,
            "promised_error": decision.error,
            "local_share": method.local_share(encoded),
            "warnings": [*known, *warnings_of(self.record, encoded, method, chosen)],
            "num_cells": len(encoded.cells_N2),
            "cell_um": method.cell_um,
            "encoder": asdict(method.encoder),
            "method": method.name,
            "model_digest": self.job.model_digest,
            "slide": self.record.to_json(),
            "inputs_hash": self.inputs_hash,
            "versions": {
                "counterstain": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        }

    def _evidence(self, encoded: EncodedSlide, path: Path) -> EvidenceMap:
        if path.exists():
            return EvidenceMap.open(path)
        method = self.job.method
        evidence = EvidenceMap(method.evidence(encoded), encoded.frame, method.classes, self.record, self.inputs_hash)
        evidence.save(path)
        return evidence


def warnings_of(
    record: SlideRecord, encoded: EncodedSlide, method: SlideMethod, chosen: Mapping[str, Any]
) -> list[str]:
    """What to be careful about with a slide, a sentence each; `chosen` says how its cells were."""
    warnings, decision, num_cells = [], method.decision, len(encoded.cells_N2)
    if record.mpp_source == "assumed":
        warnings.append(f"Its resolution, {record.mpp.mean:.4g} um/px, is assumed, not known.")
    shown_px = method.encoder.input_px
    shown_mpp = method.cell_um / shown_px if shown_px else None
    if shown_mpp is not None and record.mpp.mean > _ENLARGED * shown_mpp:
        warnings.append(
            f"It has {record.mpp.mean:.4g} um/px and was enlarged for an encoder that looks at {shown_mpp:.4g} um/px."
        )
    if num_cells < _FEW_CELLS:
        warnings.append(f"Only {num_cells} cells of it were looked at.")
    learned = method.seen.chosen
    if learned and chosen and learned != chosen:
        warnings.append(
            f"Its cells were {told_choice(chosen)}; those that the run learned from were {told_choice(learned)}."
        )
    if decision.counts == (0, 0):
        warnings.append("The run was not calibrated: its probability is the network's own.")
    elif decision.error is not None and None in decision.reach:
        warnings.append("Too few slides calibrated the run to rule a class out at its promised error.")
    return [*warnings, *decision.cautions(method.classes)]


def _write_table(out: Path, outcomes: Outcomes[dict[str, Any]], dropped: Sequence[Dropped]) -> None:
    """Writes the table; rows of slides that were done before and not asked for now stay."""
    rows = {row["slide"]: row for row in _rows_before(out)}
    rows |= {slide_id: _row(slide_id, answer, out) for slide_id, answer in outcomes.done.items()}
    rows |= {one.slide_id: _failed(one.slide_id, one.reason) for one in outcomes.failures}
    rows |= {one.place: _failed(one.place, one.reason) for one in dropped}
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows.values())
    write_text(out / TABLE, text.getvalue())
    runs = {row["run"] for row in rows.values()} - {""}
    if len(runs) > 1:
        log.say(
            f"{out / TABLE} has slides of {len(runs)} runs, whose probabilities do not compare; its column 'run' tells "
            "them apart."
        )


def _rows_before(out: Path) -> list[dict[str, str]]:
    """Rows of a table of ours whose slides' scores are still there."""
    path = out / TABLE
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        missing = set(_COLUMNS) - set(table.fieldnames or ())
        if missing - {"probability_of"} or len(table.fieldnames or ()) + len(missing) > len(_COLUMNS):
            return []
        return [dict.fromkeys(missing, "") | row for row in table if (out / row["slide"] / FILES["score"]).exists()]


def _row(slide_id: str, answer: Mapping[str, Any], out: Path) -> dict[str, str]:
    return {
        "slide": slide_id,
        "probability": f"{answer['probability']:.6g}",
        "probability_of": answer["positive"],
        "decision": answer["decision"] or "no decision",
        "prediction_set": "; ".join(answer["prediction_set"]),
        "heat_map": Path(answer["files"]["heat_map"]).relative_to(out).as_posix(),
        "warnings": " ".join(answer["warnings"]),
        "run": answer["model_digest"][:_DIGEST],
        "reason": "",
    }


def _failed(slide_id: str, reason: str) -> dict[str, str]:
    return {**dict.fromkeys(_COLUMNS, ""), "slide": slide_id, "reason": " ".join(reason.split())}
