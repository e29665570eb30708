from pathlib import Path

import numpy as np
import pytest

from counterstain.data.cell_files import read_cells
from counterstain.data.cohorts import CohortSlide
from counterstain.data.encoded import LabelledSlide, SlideSet
from counterstain.data.encoded_files import read_encoded
from counterstain.data.features import ImportSettings, import_features
from counterstain.data.slide_sets import open_slide_set
from counterstain.errors import InputError, MissingFileError, StaleResultError
from counterstain.jobs.import_features import ImportJob, import_cohort, match_files
from counterstain.results import Classes
from counterstain.testing.encoding import write_tissue
from counterstain.testing.feature_files import write_trident

PLACES = np.array([(16, 32), (48, 32), (48, 64)])


def write_features(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).random((3, 4))
    return write_trident(path, values, PLACES, patch_size_level0=32, level0_width=320, level0_height=240)


def test_without_slides_each_file_is_one(tmp_path: Path) -> None:
    for name in ("a.h5", "deeper/a.h5"):
        write_features(tmp_path / "features" / name)
    (tmp_path / "features" / "deeper" / "b.h5").write_text("no HDF5")
    (tmp_path / "features" / "notes.txt").write_text("nothing")
    matches = match_files(tmp_path / "features")
    assert list(matches.files) == ["a", "deeper/a", "deeper/b"]
    outcomes = import_cohort(matches, ImportJob(tmp_path / "out", ImportSettings(mpp=0.5)))
    assert list(outcomes.done) == ["a", "deeper/a"]
    assert [(one.slide_id, one.kind, one.is_defect) for one in outcomes.failures] == [("deeper/b", "InputError", False)]
    assert read_encoded(tmp_path / "out" / "deeper" / "a", "uni_v1").thumbnail_HWC is None


def test_files_and_slides_are_matched_by_name(tmp_path: Path) -> None:
    for name in ("a", "b.svs", "case 7", "foreign"):
        write_features(tmp_path / "features" / f"{name}.h5")
    slides = [
        CohortSlide("deeper/a.tiff", tmp_path / "a.tiff"),
        CohortSlide("b.svs", tmp_path / "other.svs"),
        CohortSlide("case 7", tmp_path / "0071.tiff"),
        CohortSlide("none.tiff", tmp_path / "none.tiff"),
    ]
    matches = match_files(tmp_path / "features", slides)
    assert {slide_id: path.name for slide_id, path in matches.files.items()} == {
        "deeper/a.tiff": "a.h5",
        "b.svs": "b.svs.h5",
        "case 7": "case 7.h5",
    }
    assert [entry.what for entry in matches.dropped] == ["none.tiff"]
    assert [path.name for path in matches.unused] == ["foreign.h5"]


def test_slides_give_thumbnails_and_resolution(tmp_path: Path) -> None:
    write_features(tmp_path / "features" / "a.h5")
    slide = CohortSlide("a.tiff", write_tissue(tmp_path / "a.tiff", mpp=None), mpp=0.5)
    matches = match_files(tmp_path / "features", [slide])
    outcomes = import_cohort(matches, ImportJob(tmp_path / "out"))
    assert outcomes.done["a.tiff"].cell_um == 16
    grid = read_cells(tmp_path / "out" / "a.tiff")
    assert grid.thumbnail_HWC is not None
    assert grid.slide is not None
    assert grid.slide.mpp_source == "user"


def test_what_can_not_be_matched_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    with pytest.raises(MissingFileError):
        match_files(folder)
    folder.mkdir()
    with pytest.raises(InputError, match=r"\.h5"):
        match_files(folder)
    write_features(folder / "one" / "a.h5")
    write_features(folder / "two" / "a.h5")
    with pytest.raises(InputError, match="folder of one encoder"):
        match_files(folder, [CohortSlide("a.tiff", tmp_path / "a.tiff")])
    slides = [CohortSlide("x/a.tiff", tmp_path / "x" / "a.tiff"), CohortSlide("y/a.tiff", tmp_path / "y" / "a.tiff")]
    with pytest.raises(InputError, match="several slides"):
        match_files(folder / "one", slides)
    with pytest.raises(InputError, match="matched by name"):
        match_files(folder / "one", [CohortSlide("b.tiff", tmp_path / "b.tiff")])
    (folder / "one" / "a.hdf5").write_bytes((folder / "one" / "a.h5").read_bytes())
    with pytest.raises(InputError, match="suffix alone"):
        match_files(folder / "one")


def test_slides_of_one_magnification_make_one_set_and_others_do_not(tmp_path: Path) -> None:
    def opened(*all_mpp: float) -> SlideSet:
        slides = []
        for mpp in all_mpp:
            folder = tmp_path / "out" / str(mpp)
            import_features(write_features(tmp_path / "a.h5"), folder, settings=ImportSettings(mpp=mpp))
            slides.append(LabelledSlide(str(mpp), str(mpp), 0, folder))
        classes = Classes(("normal", "tumour"), ((0, 0, 0), (255, 0, 0)), "normal")
        return open_slide_set("imported", classes, slides, "uni_v1")

    assert len(opened(0.2273, 0.25, 0.2526).slides) == 3
    with pytest.raises(StaleResultError, match="different ways"):
        opened(0.25, 0.5)
