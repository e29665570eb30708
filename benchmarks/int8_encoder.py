"""An S-CAE in 8-bit integers: how far its embeddings are from float32's, and what a slide method loses by it.

A synthetic cohort is drawn; an S-CAE learns from cells of half of its slides, and is calibrated on the same cells. All
slides are then encoded in float32 and in int8. ABMIL learns from the float32 embeddings of each fold's training slides and
scores the slides left out twice: as it learned to see them, and in int8.

    python benchmarks/int8_encoder.py [--slides 24] [--cells 500] [--epochs 5] > result.json

Does not know: speed, which int8.py measures.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads

import argparse
import json
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from command import command_given
from counterstain.data.cohorts import read_cohort
from counterstain.data.diagnosis import diagnose
from counterstain.data.encoded import SlideSet
from counterstain.data.encoded_files import read_encoded
from counterstain.data.slide_sets import labelled_slides, open_slide_set
from counterstain.geometry import Size
from counterstain.infer.encode import EncodeSettings
from counterstain.infer.int8 import Int8Encoder
from counterstain.jobs.encode import EncodeJob, encode_cohort
from counterstain.jobs.onnx import export_encoder
from counterstain.jobs.train_encoder import EncoderTraining, train_encoder
from counterstain.methods import SLIDE_METHODS, load_slide_method
from counterstain.methods.scae import scae_encoder
from counterstain.metrics.ranking import auroc
from counterstain.models.encoders import PatchEncoder
from counterstain.report.crossval import FoldSettings, folds_of
from counterstain.synth.cohort import CohortSettings, write_cohort
from counterstain.training import TrainSettings
from machine import one_thread

_CPU = EncodeSettings(device="cpu", num_threads=1, runtime="torch")
_RESAMPLED = 2000


def encoded(diagnosis: Any, encoder: PatchEncoder, out: Path) -> SlideSet:
    entries = [row.entry for row in diagnosis.rows]
    outcomes = encode_cohort(entries, EncodeJob(out, encoder, settings=_CPU))
    done = [row for row in diagnosis.rows if row.slide_id in outcomes.done]
    return open_slide_set("synthetic", diagnosis.classes, labelled_slides(done, out), encoder.spec.name)


def off(exact: SlideSet, rough: SlideSet) -> dict[str, Any]:
    """Of each cell: the angle's cosine, and the distance over the length."""
    cosines, distances = [], []
    for one, other in zip(exact.slides, rough.slides, strict=True):
        first, second = (
            read_encoded(slide.folder, slides.encoder.name).features_NC.astype(np.float64)
            for slide, slides in ((one, exact), (other, rough))
        )
        lengths = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
        cosines.append((first * second).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-12))
        distances.append(np.linalg.norm(first - second, axis=1) / np.maximum(lengths[0], 1e-12))

    def told(values: list[npt.NDArray[np.float64]]) -> dict[str, float]:
        low, median, high = np.percentile(np.concatenate(values), [1, 50, 99])
        return {"median": float(median), "p1": float(low), "p99": float(high)}

    foreground = [
        (read_encoded(one.folder, exact.encoder.name).features_NC[:, :96] != 0).any(1) for one in exact.slides
    ]
    return {
        "cells": sum(map(len, cosines)),
        "cells_with_foreground": int(np.concatenate(foreground).sum()),
        "cosine": told(cosines),
        "relative_distance": told(distances),
    }


def loss(exact: SlideSet, rough: SlideSet, folder: Path, epochs: int) -> dict[str, Any]:
    config = SLIDE_METHODS["abmil"].presets["short"]
    forms: dict[str, list[float]] = {"float32": [], "int8": []}
    labels: list[int] = []
    for fold in folds_of(exact, FoldSettings(folds=4, val=0.5)):
        training = TrainSettings(epochs=epochs, batch_size=4, seed=fold.number)
        run = folder / fold.name
        SLIDE_METHODS["abmil"].create(config, fold.train, training.seed).fit(fold.train, fold.val, run, training)
        method, tested = load_slide_method(run), [slide.slide_id for slide in fold.test.slides]
        for form, slides in (("float32", exact), ("int8", rough)):
            forms[form] += method.margins(slides.of(tested)).tolist()
        labels += [slide.label or 0 for slide in fold.test.slides]
    truth, draws = np.array(labels), np.random.default_rng(0)
    scores = {form: np.array(values) for form, values in forms.items()}
    lost = []
    for _ in range(_RESAMPLED):
        drawn = np.concatenate([draws.choice(np.flatnonzero(truth == side), (truth == side).sum()) for side in (0, 1)])
        lost.append(auroc(scores["float32"][drawn], truth[drawn]) - auroc(scores["int8"][drawn], truth[drawn]))
    low, high = np.percentile(lost, [2.5, 97.5])
    found = {form: auroc(values, truth) for form, values in scores.items()}
    return {
        "method": "abmil, four folds, learned from float32 embeddings",
        "slides": len(truth),
        "auroc": found,
        "lost": found["float32"] - found["int8"],
        "lost_interval_95": [float(low), float(high)],
        "margins_spread": float(scores["float32"].std()),
        "largest_change_of_a_margin": float(np.abs(scores["float32"] - scores["int8"]).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=24)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=5, help="of the encoder; ABMIL learns for ten times as many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = CohortSettings(num_slides=options.slides, num_patients=options.slides, size=Size(1536, 1280))
        diagnosis = diagnose(read_cohort(write_cohort(folder / "cohort", drawn)))
        how = EncoderTraining.preset("small")
        how = replace(how, training=replace(how.training, epochs=options.epochs), num_cells=options.cells)
        train_encoder([row.entry for row in diagnosis.rows[::2]], folder / "encoder", how)
        encoder = scae_encoder(folder / "encoder")
        path = export_encoder(encoder, folder / "encoder", cells=folder / "encoder" / "cells")
        exact = encoded(diagnosis, encoder, folder / "float32")
        rough = encoded(diagnosis, Int8Encoder(encoder, path, 1), folder / "int8")
        result = {
            "embeddings": off(exact, rough),
            "slide_method": loss(exact, rough, folder / "runs", 10 * options.epochs),
            "command": command_given(),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": one_thread("torch", "onnxruntime"),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
