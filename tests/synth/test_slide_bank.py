from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image

from counterstain.errors import InputError
from counterstain.geometry import Box
from counterstain.synth.bank import BankPlane, BankSettings, Graft, open_bank
from counterstain.synth.cohort import COLUMNS
from counterstain.synth.scene import SceneSettings
from counterstain.synth.slide_bank import SlideBankSettings, compose, composed_plane, write_slide_bank

PX = 40
COLOURS = {"normal": (200, 120, 180), "polyp": (190, 110, 190), "carcinoma": (110, 60, 140), "borderline": (90, 90, 90)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> SlideBankSettings:
    """Four malignant patients, one of them with a benign image; fourteen benign ones of one to five images."""
    folder = tmp_path_factory.mktemp("patches")
    random = np.random.default_rng(2)
    wanted = [(f"m{number}", ["carcinoma"] * 3) for number in range(4)]
    wanted[0][1].append("normal")
    wanted += [
        (f"b{number}", ["normal", "polyp", "polyp", "normal", "normal"][: 1 + number % 5]) for number in range(14)
    ]
    wanted += [("h0", ["borderline"] * 3)]
    rows = []
    for patient, labels in wanted:
        for label in labels:
            name = f"{len(rows)}.png"
            pixels = np.clip(random.normal(COLOURS[label], 12, (PX, PX, 3)), 0, 255).astype(np.uint8)
            pixels[:6, :6] = 244
            Image.fromarray(pixels).save(folder / name)
            rows.append({"image": name, "label": label, "patient": patient})
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    bank = BankSettings(folder / "table.csv", truth="label", overlap_px=4)
    return SlideBankSettings(
        bank,
        malignant="carcinoma",
        benign=("normal", "polyp"),
        num_slides=4,
        num_encoder=2,
        fractions=(0.05, 0.3),
        side_px=(400, 600),
        graft_images=3,
    )


@pytest.fixture(scope="module")
def cohort(settings: SlideBankSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide_bank(tmp_path_factory.mktemp("composed") / "c", settings)


def composed_of(settings: SlideBankSettings):  # type: ignore[no-untyped-def]
    bank = open_bank(replace(settings.bank, labels=(settings.malignant, *settings.benign)))
    return bank, compose(settings, bank)


def test_no_patient_stands_on_two_slides(settings: SlideBankSettings) -> None:
    _, composed = composed_of(settings)
    patients = [patient for one in composed for patient in {entry.patient for entry in (*one.host, *one.graft)}]
    assert len(patients) == len(set(patients)) > 12


def test_malignant_images_are_grafts_of_positive_slides_alone(settings: SlideBankSettings) -> None:
    _, composed = composed_of(settings)
    for one in composed:
        assert {entry.label for entry in one.host} <= {"normal", "polyp"}
        is_positive = one.slide.label == "tumour"
        assert {entry.label for entry in one.graft} <= ({"carcinoma"} if is_positive else {"normal", "polyp"})
        assert "m0" not in {entry.patient for entry in one.host}


def test_both_labels_have_grafts_of_as_many_images_and_of_the_same_fractions(settings: SlideBankSettings) -> None:
    _, composed = composed_of(settings)
    by_label = {label: [one for one in composed if one.slide.label == label] for label in ("tumour", "normal")}
    positive, negative = (sorted((len(one.graft), one.fraction) for one in some) for some in by_label.values())
    assert positive == negative
    hosts = [len(one.host) for one in composed]
    assert max(hosts) - min(hosts) <= 5


def test_tables_and_slides_are_written(cohort: Path) -> None:
    table, truth = pd.read_csv(cohort, keep_default_na=False), pd.read_csv(cohort.parent / "truth.csv")
    assert tuple(table.columns) == COLUMNS
    assert Counter(zip(table["split"], table["label"], strict=True)) == {
        ("", "normal"): 2,
        ("", "tumour"): 2,
        ("encoder", "normal"): 1,
        ("encoder", "tumour"): 1,
    }
    assert ((table["label"] == "tumour") == (truth["tumour_fraction"] > 0)).all()
    positive = truth[truth["tumour_fraction"] > 0]
    np.testing.assert_allclose(positive["tumour_fraction"], positive["graft_fraction"], rtol=0.15)
    assert (truth["graft_fraction"] > 0.02).all()
    for path in table["path"]:
        with openslide.OpenSlide(cohort.parent / path) as slide:
            assert float(slide.properties["openslide.mpp-x"]) == 0.5


def test_a_graft_lies_together_and_covers_about_what_it_should(settings: SlideBankSettings) -> None:
    bank, composed = composed_of(settings)
    for one in composed:
        plane, part = composed_plane(settings, bank, one)
        labels = plane.labels(Box(0, 0, one.size.width, one.size.height), 2.0)
        is_positive = one.slide.label == "tumour"
        assert (labels == 0).any() == is_positive
        assert abs(part - one.fraction) < 0.06
        if is_positive:
            rows, columns = np.nonzero(labels == 0)
            area = (labels != 2).sum() * part
            assert np.hypot(rows.std(), columns.std()) < 1.2 * area**0.5


def test_images_of_a_graft_stand_in_its_cells_alone(settings: SlideBankSettings) -> None:
    bank = open_bank(settings.bank)
    entries = [entry for entry in bank.entries if entry.label != "carcinoma" or entry.patient == "m1"]
    cells = frozenset({(0, 1), (1, 1), (1, 2)})
    plane = BankPlane(replace(bank, entries=tuple(entries)), SceneSettings(seed=3), Graft(frozenset({"m1"}), cells))
    pitch = PX - 4
    labels = plane.labels(Box(2, 2, 4 * pitch, 3 * pitch))
    middles = labels[pitch // 2 :: pitch, pitch // 2 :: pitch]
    assert {(row, column) for row, column in np.argwhere(middles == plane.classes.index("carcinoma")).tolist()} == cells


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_slides": 3}, "give even numbers"),
        ({"fractions": (0.3, 0.1)}, "the smaller first"),
        ({"side_px": (2, 100)}, "above the overlap"),
    ],
    ids=str,
)
def test_impossible_cohorts_are_refused(settings: SlideBankSettings, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(settings, **changes)


def test_banks_with_too_few_patients_are_refused(settings: SlideBankSettings) -> None:
    with pytest.raises(InputError, match="Ask for fewer slides"):
        composed_of(replace(settings, num_slides=20))


def test_banks_without_patients_are_refused(settings: SlideBankSettings) -> None:
    with pytest.raises(InputError, match="column of patients"):
        replace(settings, bank=replace(settings.bank, patient_column=None))
