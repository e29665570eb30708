"""Sets of encoded slides: all of one encoder, one size of cells, one way to choose them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterstain.data.cell_files import read_cells, write_cells
from counterstain.data.slide_sets import open_slide_set
from counterstain.errors import InputError, StaleResultError
from counterstain.testing.encoded_slides import CLASSES, EncodedSlides, write_encoded_slides

BOTH = {"filter": "runs_and_tissue", "min_tissue": 0.25, "tissue": {"mpp": 4.0}}


def say(folder: Path, chosen: dict[str, Any]) -> None:
    write_cells(folder, replace(read_cells(folder), chosen=chosen))


def test_a_set_knows_how_its_cells_were_chosen(tmp_path: Path) -> None:
    slides = write_encoded_slides(tmp_path, EncodedSlides(num_slides=4)).slides
    for number, slide in enumerate(slides):
        # each slide's own threshold and outline are no other way to choose
        say(slide.folder, {**BOTH, "cell_um": 64.0, "run_threshold": 0.1 * number, "outline_hash": str(number)})
    assert open_slide_set("a", CLASSES, slides, "planted").chosen == BOTH


@pytest.mark.parametrize("change", [{"filter": "otsu"}, {"min_tissue": 0.5}, {"tissue": {"mpp": 8.0}}])
def test_slides_whose_cells_were_chosen_otherwise_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    slides = write_encoded_slides(tmp_path, EncodedSlides(num_slides=4)).slides
    for number, slide in enumerate(slides):
        say(slide.folder, {**BOTH, **(change if number == 2 else {})})
    with pytest.raises(StaleResultError, match=r"different ways(.|\n)*slide_02") as refused:
        open_slide_set("a", CLASSES, slides, "planted")
    assert "one choice of cells" in str(refused.value)
    assert "slide_01" not in str(refused.value)


def test_imported_cells_do_not_mix_with_chosen_ones(tmp_path: Path) -> None:
    slides = write_encoded_slides(tmp_path, EncodedSlides(num_slides=2)).slides
    say(slides[0].folder, BOTH)
    say(slides[1].folder, {"filter": "imported"})
    with pytest.raises(StaleResultError, match="chosen by 'imported'"):
        open_slide_set("a", CLASSES, slides, "planted")


def test_a_set_of_no_slide_is_refused() -> None:
    with pytest.raises(InputError, match="no slide"):
        open_slide_set("a", CLASSES, (), "planted")
