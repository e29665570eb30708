import json
from pathlib import Path

import openslide
import pandas as pd
import pytest

from counterstain.errors import ExistingOutputError, InputError
from counterstain.geometry import Size
from counterstain.synth.cohort import COLUMNS, CohortSettings, write_cohort

FEW = CohortSettings(num_slides=4, num_patients=3, size=Size(700, 600), mpp=2.0, seed=5, split=(0.4, 0.3, 0.3))


def changed(**changes: object) -> CohortSettings:
    return CohortSettings(**{**vars(FEW), **changes})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort") / "c", FEW)


def test_the_table_has_the_canonical_header(cohort: Path) -> None:
    table = pd.read_csv(cohort)
    assert tuple(table.columns) == COLUMNS
    assert tuple(table.columns) == ("slide_id", "patient_id", "path", "label", "split", "mpp", "site", "scanner")
    assert len(table) == 4
    assert table["slide_id"].is_unique
    assert (table["mpp"] == 2.0).all()


def test_every_slide_opens_where_the_table_says(cohort: Path) -> None:
    for row in pd.read_csv(cohort).itertuples():
        with openslide.OpenSlide(cohort.parent / row.path) as slide:
            assert slide.dimensions == (700, 600)
            assert float(slide.properties["openslide.mpp-x"]) == 2.0


def test_labels_follow_from_the_truth(cohort: Path) -> None:
    table, truth = pd.read_csv(cohort), pd.read_csv(cohort.parent / "truth.csv")
    assert (table["slide_id"] == truth["slide_id"]).all()
    assert ((table["label"] == "tumour") == (truth["tumour_fraction"] > 0)).all()
    assert set(table["label"]) == {"tumour", "normal"}
    for row in table.itertuples():
        features = json.loads((cohort.parent / "truth" / f"{row.slide_id}.geojson").read_text())["features"]
        names = {feature["properties"]["classification"]["name"] for feature in features}
        assert ("tumour epithelium" in names) == (row.label == "tumour")


def test_a_patient_stays_in_one_split_and_site(cohort: Path) -> None:
    table = pd.read_csv(cohort)
    by_patient = table.groupby("patient_id")
    assert by_patient.ngroups == 3
    assert (by_patient[["split", "site", "scanner", "label"]].nunique() == 1).all().all()
    assert set(table["split"]) == {"train", "val", "test"}


def test_settings_are_kept_beside_the_slides(cohort: Path) -> None:
    kept = json.loads((cohort.parent / "settings.json").read_text())
    assert kept["num_slides"] == 4
    assert kept["seed"] == 5


def test_truth_can_be_told_in_a_datasets_words(tmp_path: Path) -> None:
    path = write_cohort(
        tmp_path / "c", changed(num_slides=1, num_patients=1, tumour_patients=1, split=(1, 0, 0), layout="bcss_wsss")
    )
    truth = pd.read_csv(path.parent / "truth.csv")
    assert "lymphocytic infiltrate mm2" in truth.columns
    assert truth["tumour_fraction"][0] > 0
    assert pd.read_csv(path)["label"].tolist() == ["tumour"]


def test_an_existing_cohort_is_kept(cohort: Path) -> None:
    with pytest.raises(ExistingOutputError, match="exists already"):
        write_cohort(cohort.parent, FEW)
    assert cohort.is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_patients": 5}, "5 patients were given for 4 slides"),
        ({"num_patients": 0}, "0 patients"),
        ({"split": (0.5, 0.2, 0.2)}, "must sum to 1"),
        ({"num_patients": 2}, "each split that is not 0"),
        ({"tumour": (0.5, 0.2)}, "the smaller one first"),
        ({"tumour_patients": 1.5}, "give parts of 1"),
        ({"num_sites": 0}, "at least one site"),
    ],
    ids=str,
)
def test_impossible_cohorts_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(**changes)


def test_slides_too_small_for_any_tumour_are_refused(tmp_path: Path) -> None:
    settings = changed(
        num_slides=1, num_patients=1, tumour_patients=1, split=(1, 0, 0), size=Size(64, 64), tumour=(0.1, 0.1), mpp=1.0
    )
    with pytest.raises(InputError, match="No slide of"):
        write_cohort(tmp_path / "c", settings)
    assert list(tmp_path.iterdir()) == []
