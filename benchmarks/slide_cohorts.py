"""The two cohorts with truth that slide classifiers are compared on, written from nothing and from EBHI-Seg.

python benchmarks/slide_cohorts.py synthetic OUT [--seed 0]
python benchmarks/slide_cohorts.py ebhi EBHI_SEG OUT [--seed 0]

What a killed run left is taken up again. EBHI-Seg publishes no resolution: 0.5 um/px is assumed.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd

from counterstain.synth import BankSettings, MetastasesSettings, SlideBankSettings, write_metastases, write_slide_bank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="cohort", required=True)
    for name in ("synthetic", "ebhi"):
        command = kinds.add_parser(name)
        if name == "ebhi":
            command.add_argument("ebhi_seg", type=Path)
        command.add_argument("out", type=Path)
        command.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    if options.cohort == "synthetic":
        table = write_metastases(options.out, MetastasesSettings(seed=options.seed))
    else:
        bank = BankSettings(options.ebhi_seg / "labels_dev.csv", folder=options.ebhi_seg / "dev", truth="label")
        table = write_slide_bank(options.out, SlideBankSettings(bank, seed=options.seed))
    print(json.dumps({**told(table), "minutes": round((time.monotonic() - start) / 60, 1)}, indent=2))


def told(table: Path) -> dict[str, Any]:
    """Counts, patients, kinds and fractions of a cohort that is whole."""
    slides = pd.read_csv(table, keep_default_na=False)
    truth = pd.read_csv(table.parent / "truth.csv", keep_default_na=False)
    positive = truth[truth["tumour_fraction"] > 0]
    files = sum(path.stat().st_size for path in table.parent.rglob("*") if path.is_file())
    tree: dict[str, Any] = {
        "slides": {
            f"{split or 'scored'} {label}": len(some) for (split, label), some in slides.groupby(["split", "label"])
        },
        "patients": {split or "scored": some["patient_id"].nunique() for split, some in slides.groupby("split")},
        "tumour_fraction": quantiles(positive["tumour_fraction"]),
        "tissue_mm2": quantiles(truth["tumour mm2"] + truth["normal mm2"]),
        "megabytes": round(files / 1e6),
    }
    if "kind" in truth:
        by_kind = positive.groupby("kind")
        tree["kinds"] = truth["kind"].value_counts().to_dict()
        tree["tumour_fraction_by_kind"] = {kind: quantiles(some["tumour_fraction"]) for kind, some in by_kind}
    if "graft patient" in truth:
        sources = set(truth["graft patient"]) | {one for some in truth["host patients"] for one in some.split()}
        tree["source_patients"] = len(sources)
        tree["source_images"] = int((truth["graft images"] + truth["host images"]).sum())
    return tree


def quantiles(values: "pd.Series[float]") -> dict[str, float]:
    return {name: round(float(values.quantile(part)), 4) for name, part in (("min", 0), ("median", 0.5), ("max", 1))}


if __name__ == "__main__":
    main()
