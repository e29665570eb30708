import json
from pathlib import Path

import pytest

from counterstain.data import Cohort, open_cohort, read_cohort
from counterstain.errors import InputError, MissingFileError


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Two slides of one stem and another, in two folders, beside what is no slide."""
    for name in ("a/s1.svs", "a/s1.tiff", "b/s2.ndpi", "b/notes.txt", ".trash/s3.svs", "out/map.zarr/c/0.tif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def write(folder: Path, *lines: str) -> Path:
    path = folder / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_folder_gives_its_slides_by_relative_path(slides: Path) -> None:
    cohort = Cohort.from_folder(slides)
    assert [slide.slide_id for slide in cohort.slides] == ["a/s1.svs", "a/s1.tiff", "b/s2.ndpi"]
    assert [(dropped.what, dropped.reason) for dropped in cohort.dropped] == [("b/notes.txt", ".txt is no slide's")]
    assert "3 slides, 1 rows or files left out\n  1 x .txt is no slide's (b/notes.txt)" in cohort.report()


def test_a_folder_without_slides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no slide: .*.svs"):
        Cohort.from_folder(tmp_path)
    with pytest.raises(MissingFileError):
        Cohort.from_folder(tmp_path / "nowhere")


def test_whatever_names_slides_opens(slides: Path) -> None:
    assert len(open_cohort(slides).slides) == 3
    assert open_cohort(slides / "a" / "s1.svs").slides[0].slide_id == "s1.svs"
    assert len(open_cohort(write(slides, "path", "a/s1.svs")).slides) == 1


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("slide_id,patient_id,path,label,mpp,site,scanner", "one,P1,a/s1.svs,tumour,0.5,here,GT450"),
        ("PATIENT,FILENAME,label", "P1,a/s1.svs,tumour"),
        ("wsi,mpp", "a/s1.svs,0.5"),
        ("sample_id,image_path,mask_path,spacing_at_level_0", "one,a/s1.svs,,0.5"),
        ("patient,slide,label", "P1,a/s1.svs,tumour"),
        ("case_id,slide_id,label", "P1,a/s1.svs,tumour"),
    ],
)
def test_other_tools_headers_are_understood(slides: Path, header: str, row: str) -> None:
    slide = read_cohort(write(slides, header, row)).slides[0]
    assert slide.path == slides / "a" / "s1.svs"
    has = header.lower()
    assert slide.patient_id == ("P1" if "patient" in has or "case" in has else None)
    assert slide.mpp == (0.5 if "mpp" in has or "spacing" in has else None)
    assert slide.label == ("tumour" if "label" in has else None)


def test_columns_that_mean_nothing_are_named(slides: Path) -> None:
    cohort = read_cohort(write(slides, "path,stage", "a/s1.svs,II"))
    assert cohort.ignored_columns == ("stage",)
    assert "columns not used: stage" in cohort.report()


def test_a_bare_name_finds_its_file_unless_two_have_it(slides: Path) -> None:
    cohort = read_cohort(write(slides, "case_id,slide_id", "P1,s1", "P2,s2", "P3,s9", "P4,"))
    assert [slide.path.name for slide in cohort.slides] == ["s2.ndpi"]
    assert [dropped.reason for dropped in cohort.dropped] == [
        "several files have this name; add a column 'path'",
        "no file has this name",
        "it names no file",
    ]


def test_rows_that_cannot_be_used_are_dropped_with_their_reasons(slides: Path) -> None:
    table = write(
        slides, "path,mpp", "a/s1.svs,0.5", "a/../a/s1.svs,0.5", "a/s9.svs,0.5", "b/s2.ndpi,20x", ",0.5", "a/s1.tiff,0"
    )
    cohort = read_cohort(table)
    assert len(cohort.slides) == 1
    assert [(dropped.place.split(":")[0], dropped.reason) for dropped in cohort.dropped] == [
        ("line 3", "the same file as line 2"),
        ("line 4", "its file is not there"),
        ("line 5", "its resolution is no number above 0"),
        ("line 6", "it names no file"),
        ("line 7", "its resolution is no number above 0"),
    ]
    assert "1 slides, 5 rows or files left out" in cohort.report()
    assert "2 x its resolution is no number above 0 (line 5: b/s2.ndpi)" in cohort.report()
    assert json.loads(json.dumps(cohort.to_json()))["slides"][0]["mpp"] == 0.5


def test_ids_given_twice_or_unfit_for_a_path_become_relative_paths(slides: Path) -> None:
    table = write(slides, "slide_id,path", "one,a/s1.svs", "one,a/s1.tiff", "two,b/s2.ndpi")
    assert [slide.slide_id for slide in read_cohort(table).slides] == ["a/s1.svs", "a/s1.tiff", "two"]
    table = write(slides, "slide_id,path", "../../one,a/s1.svs", "/two,b/s2.ndpi")
    assert [slide.slide_id for slide in read_cohort(table).slides] == ["a/s1.svs", "b/s2.ndpi"]


def test_slides_may_lie_under_another_root_or_anywhere(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("tables")
    table = write(elsewhere, "path", "s1.svs", str(slides / "b" / "s2.ndpi"))
    cohort = read_cohort(table, root=slides / "a")
    assert [slide.path for slide in cohort.slides] == [slides / "a" / "s1.svs", slides / "b" / "s2.ndpi"]
    assert all(not slide.slide_id.startswith("/") for slide in cohort.slides)


def test_tables_that_name_no_slides_are_refused(slides: Path) -> None:
    with pytest.raises(InputError, match=r"names no slides: it has PATIENT, label(.|\n)*join it"):
        read_cohort(write(slides, "PATIENT,label", "P1,tumour"))
    with pytest.raises(InputError, match="slide and slide_id for the slide_id"):
        read_cohort(write(slides, "slide,slide_id", "a,b"))
    with pytest.raises(InputError, match=r"No row .* can be used.*--root(.|\n)*line 2: x.svs: its file is not there"):
        read_cohort(write(slides, "path", "x.svs"))


def test_the_files_of_a_dicom_series_are_one_slide(real_data: Path, tmp_path: Path) -> None:
    for name in ("other/boxes_0.dcm", "other/boxes_1.dcm", "dicom/multi_frame_jpeg_camelyon_challenge_image.dcm"):
        (tmp_path / Path(name).name).write_bytes((real_data / "wsi" / name).read_bytes())
    (tmp_path / "report.dcm").write_bytes(b"no DICOM: left to the reader, which says so")
    cohort = Cohort.from_folder(tmp_path)
    assert [slide.slide_id for slide in cohort.slides] == [
        "boxes_0.dcm",
        "multi_frame_jpeg_camelyon_challenge_image.dcm",
        "report.dcm",
    ]
    assert [(dropped.what, dropped.reason) for dropped in cohort.dropped] == [
        ("boxes_1.dcm", "another file of the same DICOM series stands for it")
    ]


def test_a_file_that_rows_contradict_each_other_about_is_a_conflict_and_a_repeated_row_is_none(slides: Path) -> None:
    header = "path,patient_id,label"
    rows = ("a/s1.svs,P1,tumour", "a/s1.svs,P1,", "a/s1.tiff,P1,tumour", "./a/s1.tiff,P2,normal")
    cohort = read_cohort(write(slides, header, *rows))
    assert [dropped.reason for dropped in cohort.dropped] == [
        "the same file as line 2",
        "the same file as line 4, and says another patient_id, label",
    ]
    assert cohort.conflicts == cohort.dropped[1:]
    assert cohort.to_json()["conflicts"][0]["line"] == 5
