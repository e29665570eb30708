from pathlib import Path

import pytest

from counterstain.data.cohorts import Cohort, CohortSlide, read_cohort
from counterstain.data.diagnosis import DiagnosisSettings, diagnose, label_slides
from counterstain.data.label_words import NEGATIVE_WORDS, POSITIVE_WORDS, UNLABELLED_WORDS
from counterstain.errors import InputError, SplitError, UnknownNameError

TABLE, CAMELYON, TCGA = (DiagnosisSettings(cohort) for cohort in ("table", "camelyon16", "tcga"))


def table(folder: Path, *rows: str, header: str = "path,patient_id,label,split") -> Cohort:
    """A cohort from a table whose files are there."""
    for row in rows:
        (folder / row.split(",")[0]).touch()
    path = folder / "cohort.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return read_cohort(path)


def labelled(folder: Path, *words: str) -> Cohort:
    """A cohort of one slide a patient, by their labels."""
    return table(folder, *(f"s{number}.svs,P{number},{word}," for number, word in enumerate(words)))


def files(folder: Path, *names: str) -> Cohort:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return Cohort.from_folder(folder)


def test_words_that_can_only_be_negative_need_no_flag(tmp_path: Path) -> None:
    for negative, positive in (("Normal", "LUSC"), ("0", "1"), ("no tumor", "tumor"), ("benign", "melanoma")):
        diagnosis = diagnose(labelled(tmp_path, negative, positive, negative))
        assert [row.label for row in diagnosis.rows] == [0, 1, 0]
        assert diagnosis.classes.background == diagnosis.classes.names[0]


def test_the_words_that_are_known_do_not_overlap() -> None:
    assert not NEGATIVE_WORDS & POSITIVE_WORDS
    assert not UNLABELLED_WORDS & (NEGATIVE_WORDS | POSITIVE_WORDS)


def test_classes_are_called_what_the_table_calls_them_and_digits_are_no_names(tmp_path: Path) -> None:
    assert diagnose(labelled(tmp_path, "Healthy", "IDC", "idc")).classes.names == ("Healthy", "IDC")
    for words in (("1", "0"), ("pos", "neg"), ("yes", "no"), ("true", "false")):
        assert diagnose(labelled(tmp_path, *words)).classes.names == ("negative", "positive")
    settings = DiagnosisSettings(positive=("IDC", "ILC"))
    assert diagnose(labelled(tmp_path, "ILC", "normal", "IDC"), settings).classes.names == ("normal", "IDC or ILC")


def test_two_words_of_which_neither_is_surely_negative_are_refused_until_one_is_named(tmp_path: Path) -> None:
    cohort = labelled(tmp_path, "LUAD", "LUSC", "LUSC")
    with pytest.raises(InputError, match=r"labels are luad, lusc.*--positive"):
        diagnose(cohort)
    assert [row.label for row in diagnose(cohort, DiagnosisSettings(positive=("lusc",))).rows] == [0, 1, 1]
    assert [row.label for row in diagnose(cohort, DiagnosisSettings(negative=("LUSC",))).rows] == [1, 0, 0]


def test_several_words_beside_a_negative_one_are_refused_until_named(tmp_path: Path) -> None:
    cohort = labelled(tmp_path, "normal", "IDC", "ILC")
    with pytest.raises(InputError, match=r"which of them is the diagnosis.*--positive idc"):
        diagnose(cohort)
    with pytest.raises(InputError, match=r"which of them idc is told from.*--negative normal"):
        diagnose(cohort, DiagnosisSettings(positive=("IDC",)))
    assert [row.label for row in diagnose(cohort, DiagnosisSettings(positive=("IDC", "ILC"))).rows] == [0, 1, 1]


def test_what_is_of_neither_class_is_left_out_aloud_when_both_are_named(tmp_path: Path) -> None:
    cohort = labelled(tmp_path, "normal", "IDC", "ILC", "ILC")
    diagnosis = diagnose(cohort, DiagnosisSettings(positive=("IDC",), negative=("normal",)))
    assert [row.slide_id for row in diagnosis.rows] == ["s0.svs", "s1.svs"]
    assert [one.place for one in diagnosis.dropped] == ["line 4: s2.svs", "line 5: s3.svs"]
    assert "'ILC' is of neither class" in diagnosis.dropped[0].reason
    assert "left out: ilc (2)" in diagnosis.notes[0]


def test_the_users_word_wins_over_what_words_usually_mean(tmp_path: Path) -> None:
    diagnosis = diagnose(labelled(tmp_path, "benign", "malignant"), DiagnosisSettings(positive=("benign",)))
    assert [row.label for row in diagnosis.rows] == [1, 0]


def test_named_words_must_occur_and_be_of_one_class(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tumour'"):
        diagnose(labelled(tmp_path, "normal", "tumour"), DiagnosisSettings(positive=("tumor",)))
    with pytest.raises(InputError, match="idc is named for both classes"):
        DiagnosisSettings(positive=("IDC",), negative=("idc",))
    with pytest.raises(InputError, match="barcodes say what is tumour"):
        DiagnosisSettings("tcga", positive=("LUSC",))
    with pytest.raises(UnknownNameError, match="Unknown cohort 'tcgaa'"):
        DiagnosisSettings("tcgaa")  # type: ignore[arg-type]


def test_a_cohort_of_one_class_is_refused(tmp_path: Path) -> None:
    for word, missing in (("tumour", "negative"), ("normal", "positive")):
        with pytest.raises(InputError, match=f"No slide is of the {missing} class; labels are {word}"):
            diagnose(labelled(tmp_path, word, word))


def test_slides_without_a_label_are_listed_with_their_reason(tmp_path: Path) -> None:
    diagnosis = diagnose(labelled(tmp_path, "normal", "tumour", "", "NA"))
    assert [(one.place, one.reason) for one in diagnosis.dropped] == [
        ("line 4: s2.svs", "it has no label"),
        ("line 5: s3.svs", "its label is 'NA', which says none"),
    ]
    with pytest.raises(InputError, match=r"has a label.*not used: grade"):
        diagnose(table(tmp_path, "a.svs,P1,high", header="path,patient_id,grade"))


def test_patients_are_never_guessed(tmp_path: Path) -> None:
    rows = ("a.svs,normal", "b.svs,tumour")
    cohort = table(tmp_path, *rows, header="path,label")
    with pytest.raises(InputError, match=r"'patient_id'.*--patient-is-slide"):
        diagnose(cohort)
    diagnosis = diagnose(cohort, DiagnosisSettings(patient_is_slide=True))
    assert [row.patient_id for row in diagnosis.rows] == ["a.svs", "b.svs"]
    assert "by the user's word" in diagnosis.notes[-1]
    with pytest.raises(InputError, match="Leave the flag out"):
        diagnose(labelled(tmp_path, "normal", "tumour"), DiagnosisSettings(patient_is_slide=True))


def test_a_slide_whose_patient_is_empty_is_left_out_and_listed(tmp_path: Path) -> None:
    diagnosis = diagnose(table(tmp_path, "a.svs,P1,normal,", "b.svs,P2,tumour,", "c.svs,,tumour,"))
    assert [(one.place, one.reason) for one in diagnosis.dropped] == [
        ("line 4: c.svs", "nobody says whose it is: its patient_id is empty")
    ]
    with pytest.raises(InputError, match=r"No slide is of the positive class(.|\n)*line 3: b.svs: nobody says whose"):
        diagnose(table(tmp_path, "a.svs,P1,normal,", "b.svs,,tumour,"))


def test_a_column_of_patients_that_is_empty_throughout_is_called_so_by_its_own_name(tmp_path: Path) -> None:
    cohort = table(tmp_path, "a.svs,,normal,", "b.svs,,tumour,", "c.svs,,,", header="path,PATIENT,label,split")
    with pytest.raises(InputError, match="column 'PATIENT' is empty in all 2 rows with a label: fill it in") as caught:
        diagnose(cohort)
    assert "Add a column" not in str(caught.value)


def test_a_patient_on_two_splits_is_refused_and_labelled_all_the_same(tmp_path: Path) -> None:
    rows = ("a.svs,P1,normal,train", "b.svs,P1,normal,test", "c.svs,P2,tumour,test", "d.svs,P2,tumour,")
    cohort = table(tmp_path, *rows)
    with pytest.raises(SplitError, match=r"P1: test \(line 3: b.svs\), train \(line 2: a.svs\)(.|\n)*P2: no split"):
        diagnose(cohort)
    assert set(label_slides(cohort).shared_patients()) == {"P1", "P2"}


def test_of_a_patient_with_many_slides_on_a_side_a_few_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    rows = [*(f"s{number}.svs,P1,normal,train" for number in range(5)), "t.svs,P1,tumour,test"]
    sides = label_slides(table(tmp_path, *rows)).shared_patients()["P1"]
    assert sides == ("test (line 7: t.svs)", "train (line 2: s0.svs, line 3: s1.svs, line 4: s2.svs and 2 more)")


def test_splits_are_told_in_any_usual_word_and_in_no_other(tmp_path: Path) -> None:
    rows = ("a.svs,P1,normal,Training", "b.svs,P2,tumour,validation", "c.svs,P3,tumour,TEST", "d.svs,P4,tumour,")
    assert [row.split for row in diagnose(table(tmp_path, *rows)).rows] == ["train", "val", "test", None]
    with pytest.raises(UnknownNameError, match=r"split of slide 'a\.svs'"):
        diagnose(table(tmp_path, "a.svs,P1,normal,fold1", "b.svs,P2,tumour,"))


def test_a_file_of_two_labels_is_refused(tmp_path: Path) -> None:
    rows = ("a.svs,P1,normal,", "./a.svs,P1,tumour,", "b.svs,P2,tumour,")
    with pytest.raises(InputError, match=r"contradict each other(.|\n)*line 3: ./a.svs: the same file as line 2, and"):
        diagnose(table(tmp_path, *rows))


def test_a_patient_with_slides_of_both_classes_is_positive_and_said(tmp_path: Path) -> None:
    diagnosis = diagnose(table(tmp_path, "a.svs,P1,normal,", "b.svs,P1,tumour,", "c.svs,P2,normal,"))
    assert diagnosis.patients == {"P1": 1, "P2": 0}
    assert [row.label for row in diagnosis.rows] == [0, 1, 0]
    assert any("1 of 2 patients have slides of both classes" in note for note in diagnosis.notes)


def test_a_folder_of_camelyon16_needs_no_table(tmp_path: Path) -> None:
    names = ("training/normal/normal_001.tif", "training/tumor/tumor_001.tif", "masks/tumor_001_mask.tif")
    tests = [f"testing/images/test_{number:03}.tif" for number in (1, 2, 49, 114)]
    cohort = files(tmp_path, *names, "training/normal/normal_086.tif", *tests)
    (tmp_path / "testing" / "reference.csv").write_text("test_001,Tumor,IDC,Macro\ntest_114,Tumor,IDC,Macro\n")
    diagnosis = diagnose(cohort, CAMELYON)
    assert {row.entry.path.stem: (row.label, row.split) for row in diagnosis.rows} == {
        "normal_001": (0, None),
        "tumor_001": (1, None),
        "test_001": (1, "test"),
        "test_114": (1, "test"),  # its label is certain; only its drawing is not
    }
    assert diagnosis.classes.names == ("normal", "tumour")
    assert len(set(diagnosis.patients)) == 4
    assert any("one slide of each patient" in note for note in diagnosis.notes)
    reasons = {Path(one.what).stem: one.reason for one in diagnosis.dropped}
    assert "no slide of camelyon16" in reasons["tumor_001_mask"]
    assert "duplicate" in reasons["test_049"]
    assert "renamed to tumor_111" in reasons["normal_086"]
    assert "reference.csv does not name it" in reasons["test_002"]


def test_an_excluded_slide_is_taken_when_it_is_asked_for(tmp_path: Path) -> None:
    cohort = files(tmp_path, "normal_144.tif", "tumor_001.tif", "normal_002.tif")
    assert len(diagnose(cohort, CAMELYON).rows) == 2
    assert len(diagnose(cohort, DiagnosisSettings("camelyon16", include=("Normal_144",))).rows) == 3
    with pytest.raises(UnknownNameError, match="test_114"):
        DiagnosisSettings("camelyon16", include=("test_114",))


def test_test_slides_without_a_reference_are_left_out_not_guessed(tmp_path: Path) -> None:
    diagnosis = diagnose(files(tmp_path, "normal_001.tif", "tumor_001.tif", "test_001.tif"), CAMELYON)
    assert [one.reason for one in diagnosis.dropped] == [
        "no reference.csv says what test slides hold; put the release's own beside the slides"
    ]
    with pytest.raises(InputError, match=r"no labelled slide of Camelyon16(.|\n)*other.tif: by its name"):
        diagnose(Cohort(tmp_path, (CohortSlide("other.tif", tmp_path / "other.tif"),)), CAMELYON)


def test_a_tables_labels_win_over_camelyon16s_names_aloud(tmp_path: Path) -> None:
    rows = ("normal_001.tif,tumor", "normal_002.tif,", "tumor_001.tif,NA")
    diagnosis = diagnose(table(tmp_path, *rows, header="path,label"), CAMELYON)
    assert [row.label for row in diagnosis.rows] == [1, 0, 1]
    assert any("labels 1 slides otherwise and is followed: normal_001" in note for note in diagnosis.notes)


def test_tcgas_barcodes_say_labels_patients_and_sites(tmp_path: Path) -> None:
    names = (
        "TCGA-22-4591-01A-01-TS1.svs",
        "TCGA-22-4591-11A-01-BS1.svs",
        "TCGA-33-4532-11A-01-MS1.uuid.svs",
        "TCGA-33-4532-01Z-00-DX1.svs",
        "TCGA-33-4532-06A-01-TS1.svs",
        "slide_1.svs",
    )
    diagnosis = diagnose(files(tmp_path, *names), TCGA)
    assert [(row.patient_id, row.label, row.entry.site) for row in diagnosis.rows] == [
        ("TCGA-22-4591", 1, "22"),
        ("TCGA-22-4591", 0, "22"),
        ("TCGA-33-4532", 0, "33"),
    ]
    assert diagnosis.patients == {"TCGA-22-4591": 1, "TCGA-33-4532": 0}
    reasons = " | ".join(one.reason for one in diagnosis.dropped)
    assert all(word in reasons for word in ("DX", "metastasis", "no slide's barcode"))
    assert diagnosis.classes.names == ("normal", "tumour")


def test_a_table_of_tcga_names_keeps_its_splits_and_not_its_labels(tmp_path: Path) -> None:
    names = ("TCGA-22-4591-01A-01-TS1.svs", "TCGA-33-4532-11A-01-TS1.svs")
    rows = [
        f"{name},x{number},LUSC,{split}"
        for number, (name, split) in enumerate(zip(names, ("train", "test"), strict=True))
    ]
    diagnosis = diagnose(table(tmp_path, *rows), TCGA)
    assert [(row.label, row.split, row.patient_id) for row in diagnosis.rows] == [
        (1, "train", "TCGA-22-4591"),
        (0, "test", "TCGA-33-4532"),
    ]
    assert "The table's own labels are not looked at." in diagnosis.notes
    with pytest.raises(InputError, match="no frozen section of TCGA"):
        diagnose(table(tmp_path, "a.svs,P1,normal,"), TCGA)


def test_a_diagnosis_becomes_plain_values(tmp_path: Path) -> None:
    tree = diagnose(labelled(tmp_path, "normal", "tumour", "")).to_json()
    assert [slide["label"] for slide in tree["slides"]] == [0, 1]
    assert tree["dropped"] == [{"what": "s2.svs", "reason": "it has no label", "line": 4, "kind": "left out"}]
    assert tree["classes"][1]["name"] == "tumour"
