"""Embeddings of fewer channels, for networks that learn from few slides: principal components of an encoder's embeddings.

    python benchmarks/reduced_features.py COHORT.csv ENCODED --encoder mobilenet_v2 --channels 128 --learn-split encoder

The components are learned on the slides of one split alone, which nothing is scored on, without labels; each is scaled to
variance 1 there. Every slide below ENCODED gets a further file of features, ENCODER_pcaN. Prints JSON.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from command import command_given
from counterstain.data.cell_files import read_cells
from counterstain.data.cohorts import open_cohort
from counterstain.data.encoded_files import read_encoded, read_header, write_features
from counterstain.files import settings_hash


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("encoded", type=Path)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--learn-split", default="encoder")
    given = parser.parse_args()
    slides = open_cohort(given.cohort).slides
    learn = [slide.slide_id for slide in slides if slide.split == given.learn_split]
    rows = np.concatenate([read_encoded(given.encoded / one, given.encoder).features_NC for one in learn])
    rows = rows.astype(np.float64)
    mean = rows.mean(0)
    values, vectors = np.linalg.eigh(np.cov((rows - mean).T))
    order = np.argsort(values)[::-1][: given.channels]
    basis = vectors[:, order] / np.sqrt(values[order])
    told = settings_hash(given.encoder, basis.round(6).tolist())
    for slide in slides:
        folder = given.encoded / slide.slide_id
        spec = read_header(folder, given.encoder).encoder
        name = f"{given.encoder}_pca{given.channels}"
        reduced = replace(spec, name=name, num_features=given.channels, digest=settings_hash(spec.digest, told))
        features = ((read_encoded(folder, given.encoder).features_NC - mean) @ basis).astype(np.float16)
        grid = read_cells(folder)
        write_features(folder, features, grid, reduced, settings_hash(grid.inputs_hash, reduced.digest))
    share = float(values[order].sum() / values.sum())
    print(json.dumps({"command": command_given(), "learned_on": len(learn), "cells": len(rows), "variance": share}))


if __name__ == "__main__":
    main()
