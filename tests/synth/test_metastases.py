import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest

from counterstain.errors import ExistingOutputError, InputError
from counterstain.synth.anatomy import Composition
from counterstain.synth.cohort import COLUMNS
from counterstain.synth.metastases import MetastasesSettings, plan_metastases, write_metastases

FEW = MetastasesSettings(num_slides=6, num_encoder=2, side_px=(480, 660), mpp=2.0, fractions=(0.05, 0.2), seed=3)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_metastases(tmp_path_factory.mktemp("metastases") / "c", FEW)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_table_is_canonical_and_tells_what_the_truth_tells(cohort: Path) -> None:
    table, truth = pd.read_csv(cohort, keep_default_na=False), pd.read_csv(cohort.parent / "truth.csv")
    assert tuple(table.columns) == COLUMNS
    assert Counter(zip(table["split"], table["label"], strict=True)) == {
        ("", "normal"): 3,
        ("", "tumour"): 3,
        ("encoder", "normal"): 1,
        ("encoder", "tumour"): 1,
    }
    assert (table["slide_id"] == truth["slide_id"]).all()
    assert ((table["label"] == "tumour") == (truth["tumour_fraction"] > 0)).all()
    assert ((table["label"] == "normal") == (truth["kind"] == "none")).all()
    assert set(truth["kind"]) == {"none", "both", "texture", "layout"}
    assert truth.loc[truth["kind"] == "layout", "drawn tumour epithelium mm2"].max() == 0


def test_slides_open_and_their_polygons_have_the_area_of_the_table(cohort: Path) -> None:
    truth = pd.read_csv(cohort.parent / "truth.csv").set_index("slide_id")
    for row in pd.read_csv(cohort).itertuples():
        with openslide.OpenSlide(cohort.parent / row.path) as slide:
            assert float(slide.properties["openslide.mpp-x"]) == 2.0
            assert min(slide.dimensions) >= 480
        tree = json.loads((cohort.parent / "truth" / f"{row.slide_id}.geojson").read_text())
        areas = [
            feature["properties"]["measurements"]["area mm2"]
            for feature in tree["features"]
            if feature["properties"]["classification"]["name"] == "tumour"
        ]
        assert sum(areas) == pytest.approx(truth.loc[row.slide_id, "tumour mm2"], rel=0.02, abs=1e-6)


def test_an_interrupted_cohort_is_finished_to_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    whole = contents(cohort.parent)
    for name, content in whole.items():
        (tmp_path / "c" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / name).write_bytes(content)
    (tmp_path / "c" / "cohort.csv").unlink()
    (tmp_path / "c" / "truth.csv").unlink()
    first, second = sorted((tmp_path / "c" / "truth").glob("*.json"))[:2]
    first.unlink()
    kept = (tmp_path / "c" / "slides" / f"{second.stem}.svs").stat().st_mtime_ns
    half = tmp_path / "c" / "slides" / f"{first.stem}.svs"
    half.write_bytes(half.read_bytes()[:100])
    write_metastases(tmp_path / "c", FEW)
    assert contents(tmp_path / "c") == whole
    assert (tmp_path / "c" / "slides" / f"{second.stem}.svs").stat().st_mtime_ns == kept


def test_a_folder_of_other_settings_or_other_things_is_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ExistingOutputError, match="other settings"):
        write_metastases(cohort.parent, replace(FEW, seed=4))
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ExistingOutputError, match="no unfinished cohort"):
        write_metastases(tmp_path, FEW)


def test_kinds_patients_sites_and_sizes_are_dealt_out_alike() -> None:
    planned = plan_metastases(MetastasesSettings(seed=1))
    scored = [one for one in planned if one.slide.split == ""]
    assert Counter(one.kind for one in scored) == {"none": 60, "both": 20, "texture": 20, "layout": 20}
    assert len(planned) == 144
    encoder = {one.slide.patient_id for one in planned} - {one.slide.patient_id for one in scored}
    assert len(encoder) == 24
    frame = pd.DataFrame([{**one.slide.row(), "kind": one.kind, "side": one.size.width} for one in scored])
    by_patient = frame.groupby("patient_id")
    assert (by_patient[["label", "kind", "site", "scanner"]].nunique() == 1).all().all()
    assert Counter(by_patient.size()) == {1: 82, 2: 19}
    assert (by_patient.size()[frame.loc[frame["label"] == "tumour", "patient_id"].unique()] == 2).sum() == 9
    sites = frame.groupby(["label", "site"]).size().unstack()
    assert sites.to_numpy().min() >= 12
    sides = frame.groupby("kind")["side"].median()
    assert sides.max() / sides.min() < 1.15
    assert frame["side"].min() >= 2000
    assert frame["side"].max() <= 8000


def test_fractions_are_spread_over_each_kind() -> None:
    planned = plan_metastases(MetastasesSettings(seed=1))
    for kind, least in (("both", 0.002), ("texture", 0.002), ("layout", 0.06)):
        own = [one.fraction for one in planned if one.kind == kind and one.slide.split == ""]
        assert least <= min(own) < 1.3 * least
        assert 0.15 < max(own) <= 0.2
        assert np.median(own) == pytest.approx((least * 0.2) ** 0.5, rel=0.3)


def test_slides_of_another_seed_are_others() -> None:
    first, second = (plan_metastases(MetastasesSettings(seed=seed)) for seed in (1, 2))
    assert [one.size for one in first] != [one.size for one in second]
    assert plan_metastases(MetastasesSettings(seed=1)) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_slides": 1}, "at least 2"),
        ({"fractions": (0.2, 0.1)}, "the smaller first"),
        ({"rings": 0.5}, "Rings were given"),
        ({"side_px": (900, 300)}, "the smaller first"),
        ({"num_sites": 0}, "at least one site"),
        ({"composition": Composition()}, "give a composition without"),
    ],
    ids=str,
)
def test_impossible_cohorts_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MetastasesSettings(**changes)


def test_slides_too_small_for_a_ring_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has room for what it should hold"):
        write_metastases(tmp_path / "c", replace(FEW, side_px=(64, 100)))
