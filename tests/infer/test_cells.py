from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counterstain.data.cell_files import CellGrid, how_chosen, read_cells
from counterstain.data.thumbnail import read_thumbnail
from counterstain.errors import (
    DamagedSlideError,
    ExistingOutputError,
    InputError,
    MissingResolutionError,
    NoTissueError,
    StaleResultError,
    UnknownNameError,
    UnsupportedSlideError,
)
from counterstain.geometry import Box, Frame, Point, Size
from counterstain.infer.cells import OUTLINE, CellSettings, coverage, find_cells, keep_cells, settings_of
from counterstain.slides import Slide, open_slide
from counterstain.testing.encoding import (
    CELL_UM,
    CELLS,
    LETTERS,
    NUCLEI,
    STROMA,
    damage,
    draw_tissue,
    write_tissue,
)
from counterstain.testing.planted import ArraySlide, PlantedSettings, plant
from counterstain.testing.slide_pixels import area_twin
from counterstain.tissue import Tissue, find_tissue
from counterstain.tissue.runs import cell_scores


def is_seen(grid: CellGrid, x: float, y: float) -> bool:
    """Whether the cell over a level-0 point is observed; what was cut off is not."""
    place = grid.frame.from_level0(Box(x, y, 1, 1))
    row, column = int(np.floor(place.y)), int(np.floor(place.x))
    inside = 0 <= row < grid.frame.size.height and 0 <= column < grid.frame.size.width
    return bool(inside and grid.observed_HW[row, column])


def middle(box: Box) -> tuple[float, float]:
    return box.x + box.width / 2, box.y + box.height / 2


@pytest.mark.parametrize(
    ("chosen", "nuclei", "stroma", "letters"),
    [("runs", True, False, True), ("otsu", True, True, False), ("runs_and_tissue", True, False, False)],
)
def test_filters_see_what_they_are_for(tmp_path: Path, chosen: str, nuclei: bool, stroma: bool, letters: bool) -> None:
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    grid = find_cells(slide, replace(CELLS, filter=chosen))
    seen = [is_seen(grid, *middle(box)) for box in (NUCLEI, STROMA, LETTERS)]
    assert seen == [nuclei, stroma, letters]
    assert not is_seen(grid, 300, 10)


def test_the_box_is_the_tightest_of_whole_cells(tmp_path: Path) -> None:
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    grid = find_cells(slide, CELLS)
    observed = grid.observed_HW
    assert all(rim.any() for rim in (observed[0], observed[-1], observed[:, 0], observed[:, -1]))
    assert grid.frame.size == Size.of(observed)
    assert (grid.frame.downsample_x, grid.frame.downsample_y) == (CELL_UM, CELL_UM)
    assert grid.frame.origin.x % CELL_UM == grid.frame.origin.y % CELL_UM == 0
    assert grid.frame.box.contains(Box(*middle(NUCLEI), 1, 1))
    first_row, first_column = grid.cells_N2[0]
    assert grid.corners()[0].tolist() == [
        grid.frame.origin.x + CELL_UM * first_column,
        grid.frame.origin.y + CELL_UM * first_row,
    ]


def test_cells_are_judged_by_the_run_lengths_of_their_own_pixels(tmp_path: Path) -> None:
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    grid = find_cells(slide, replace(CELLS, filter="runs"))
    assert grid.run_scores_HW is not None
    twin = cell_scores(draw_tissue(), CELLS.runs)
    left, top = int(grid.frame.origin.x / CELL_UM), int(grid.frame.origin.y / CELL_UM)
    height, width = grid.observed_HW.shape
    assert np.array_equal(grid.run_scores_HW, twin[top : top + height, left : left + width])
    assert np.array_equal(grid.observed_HW, grid.run_scores_HW > grid.chosen["run_threshold"])


def test_run_lengths_are_counted_at_one_resolution_whatever_the_cells_size() -> None:
    for cell_um, cell_px in ((64.0, 64), (16.0, 16), (112.0, 112), (63.0, 64)):
        runs = CellSettings(cell_um=cell_um).runs
        assert (runs.cell_um, runs.cell_px) == (cell_um, cell_px)


@pytest.mark.parametrize("origin", [Point(0, 0), Point(37.3, 21.8), Point(-9.5, -4)])
@pytest.mark.parametrize("cell", [16.0, 13.37])
def test_the_thumbnail_is_the_average_of_what_lies_under_each_quarter_of_a_cell(
    tmp_path: Path, origin: Point, cell: float
) -> None:
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    frame = Frame(origin, cell, cell, Size(7, 5))
    thumbnail = read_thumbnail(slide, frame)
    assert thumbnail.shape == (10, 14, 3)
    assert thumbnail.dtype == np.uint8
    pixels = draw_tissue()
    for row in range(5):
        for column in range(7):
            box = frame.to_level0(Box(column, row, 1, 1))
            twin = area_twin(pixels, box, Size(2, 2)).astype(int)
            given = thumbnail[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert np.abs(given - twin).max() <= 1, f"cell {row}, {column}"


def test_the_thumbnail_is_white_beyond_the_slide(tmp_path: Path) -> None:
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    thumbnail = read_thumbnail(slide, Frame(Point(288, 208), 16, 16, Size(4, 4)))
    assert (thumbnail[:, 4:] == 255).all()
    assert (thumbnail[4:] == 255).all()
    assert (thumbnail[:4, :4] < 255).all()


def test_a_scanned_part_is_where_cells_are_counted_from(tmp_path: Path) -> None:
    bounds = Box(150, 70, 320, 240)
    slide = plant(tmp_path / "a.planted", PlantedSettings(Size(700, 500), 1.0, bounds), [])
    pixels = np.full((500, 700, 3), 255, np.uint8)
    pixels[bounds.slices()] = draw_tissue()
    _repaint(slide, pixels)
    grid = find_cells(ArraySlide(slide.path), CELLS)
    assert (grid.frame.origin.x - bounds.x) % CELL_UM == (grid.frame.origin.y - bounds.y) % CELL_UM == 0
    assert is_seen(grid, bounds.x + middle(NUCLEI)[0], bounds.y + middle(NUCLEI)[1])


def _repaint(slide: ArraySlide, pixels: np.ndarray) -> None:
    import io
    import zipfile

    with zipfile.ZipFile(slide.path) as file:
        header = file.read("header.json")
    stream = io.BytesIO()
    np.save(stream, pixels)
    with zipfile.ZipFile(slide.path, "w") as file:
        file.writestr("header.json", header)
        file.writestr("0.npy", stream.getvalue())


def test_coverage_is_that_of_each_cell_alone() -> None:
    random = np.random.default_rng(0)
    own = Frame(Point(5, 9), 8.0, 6.5, Size(31, 27))
    tissue = Tissue(random.random((27, 31)) > 0.5, own)
    frame = Frame(Point(-3, 2.5), 21.7, 19.2, Size(14, 11))
    shares = coverage(tissue, frame)
    for row in range(11):
        for column in range(14):
            box = frame.to_level0(Box(column, row, 1, 1))
            assert shares[row, column] == pytest.approx(tissue.coverage(box), abs=1e-9)


def test_a_persons_outline_decides_where_tissue_is(tmp_path: Path) -> None:
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    frame = Frame(Point(0, 0), 16, 16, Size(20, 15))
    mask = np.zeros((15, 20), bool)
    mask[5, 6] = True
    grid = find_cells(slide, CELLS, Tissue(mask, frame))
    assert grid.frame.origin == Point(96, 80)
    assert grid.observed_HW.tolist() == [[True]]
    assert grid.inputs_hash != find_cells(slide, CELLS).inputs_hash


def test_cells_are_kept_and_found_again(tmp_path: Path) -> None:
    path = write_tissue(tmp_path / "a.tiff")
    kept = keep_cells(open_slide(path), tmp_path / "out", CELLS)
    stamp = (tmp_path / "out" / "cells.zarr" / "zarr.json").stat().st_mtime_ns
    moved = path.rename(tmp_path / "b.tiff")
    again = keep_cells(open_slide(moved), tmp_path / "out", CELLS)
    assert (tmp_path / "out" / "cells.zarr" / "zarr.json").stat().st_mtime_ns == stamp
    for grid in (again, read_cells(tmp_path / "out")):
        assert grid.frame == kept.frame
        assert np.array_equal(grid.observed_HW, kept.observed_HW)
        assert np.array_equal(grid.thumbnail_HWC, kept.thumbnail_HWC)
        assert np.array_equal(grid.run_scores_HW, kept.run_scores_HW)
        assert (grid.cell_um, grid.inputs_hash, grid.slide) == (kept.cell_um, kept.inputs_hash, kept.slide)
        assert grid.chosen == kept.chosen


def test_other_settings_and_other_slides_are_refused_or_replaced(tmp_path: Path) -> None:
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    keep_cells(slide, tmp_path / "out", CELLS)
    larger = replace(CELLS, cell_um=32.0)
    with pytest.raises(StaleResultError, match="--overwrite"):
        keep_cells(slide, tmp_path / "out", larger)
    with pytest.raises(StaleResultError):
        keep_cells(open_slide(write_tissue(tmp_path / "b.tiff", seed=1)), tmp_path / "out", CELLS)
    with pytest.raises(StaleResultError):
        keep_cells(open_slide(tmp_path / "a.tiff", 0.9), tmp_path / "out", CELLS)
    assert keep_cells(slide, tmp_path / "out", larger, overwrite=True).cell_um == 32.0
    assert read_cells(tmp_path / "out").cell_um == 32.0


def outlined(slide: Slide, *, mended: bool) -> Tissue:
    tissue = find_tissue(slide, replace(CELLS.tissue, method="otsu"))
    mask = tissue.mask.copy()
    mask[: len(mask) // 2 * mended] = False
    return replace(tissue, mask=mask)


def test_a_persons_outline_is_never_replaced(tmp_path: Path) -> None:
    slide, out = open_slide(write_tissue(tmp_path / "a.tiff")), tmp_path / "out"
    outline = out / OUTLINE
    keep_cells(slide, out, CELLS)
    found = outline.read_bytes()
    outline.write_text('{"drawn": "by hand"}')
    with pytest.raises(StaleResultError):
        keep_cells(slide, out, CELLS, outlined(slide, mended=True))
    keep_cells(slide, out, CELLS, outlined(slide, mended=True), overwrite=True)
    assert outline.read_text() == '{"drawn": "by hand"}', "cells were chosen by it, and it stays as it is"
    with pytest.raises(ExistingOutputError, match="--outline"):
        keep_cells(slide, out, CELLS, overwrite=True)
    assert outline.read_text() == '{"drawn": "by hand"}'
    assert sorted(path.name for path in out.iterdir()) == ["cells.zarr", OUTLINE]
    outline.unlink()
    keep_cells(slide, out, CELLS, overwrite=True)
    assert outline.read_bytes() == found


def test_an_outline_of_ours_is_replaced_with_its_cells(tmp_path: Path) -> None:
    slide, out = open_slide(write_tissue(tmp_path / "a.tiff")), tmp_path / "out"
    keep_cells(slide, out, CELLS, outlined(slide, mended=True))
    given = (out / OUTLINE).read_bytes()
    with pytest.raises(StaleResultError):
        keep_cells(slide, out, CELLS)
    keep_cells(slide, out, CELLS, overwrite=True)
    assert (out / OUTLINE).read_bytes() != given
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / OUTLINE).write_text("drawn before anything was found")
    with pytest.raises(ExistingOutputError):
        keep_cells(slide, tmp_path / "new", CELLS)


def test_settings_come_back_from_disk(tmp_path: Path) -> None:
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    settings = replace(CELLS, filter="otsu", min_tissue=0.4)
    keep_cells(slide, tmp_path / "out", settings)
    assert settings_of(how_chosen(tmp_path / "out"), settings.cell_um) == settings
    assert settings_of({"filter": "imported"}, 16.0) is None
    assert settings_of({}, 16.0) is None


def test_half_written_cells_are_made_again(tmp_path: Path) -> None:
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    grid = find_cells(slide, CELLS)
    (tmp_path / "out" / ".cells.zarr" / "thumbnail").mkdir(parents=True)
    kept = keep_cells(slide, tmp_path / "out", CELLS)
    assert np.array_equal(kept.thumbnail_HWC, grid.thumbnail_HWC)
    assert not (tmp_path / "out" / ".cells.zarr").exists()


def test_slides_that_can_not_be_cut_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSlideError, match=r"has 4 um/px.*--cells otsu"):
        find_cells(open_slide(write_tissue(tmp_path / "coarse.tiff", mpp=4.0)), replace(CELLS, filter="runs"))
    with pytest.raises(MissingResolutionError, match="--mpp"):
        find_cells(open_slide(write_tissue(tmp_path / "bare.tiff", mpp=None)), CELLS)
    with pytest.raises(DamagedSlideError):
        find_cells(open_slide(damage(write_tissue(tmp_path / "damaged.tiff"))), CELLS)
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    strict = replace(CELLS.tissue.runs, threshold="fixed", fixed=1.0)
    with pytest.raises(NoTissueError, match="--cells"):
        find_cells(slide, replace(CELLS, tissue=replace(CELLS.tissue, runs=strict)))


@pytest.mark.parametrize("wrong", [{"cell_um": 0}, {"cell_um": float("nan")}, {"min_tissue": 0}, {"min_tissue": 1.5}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="give"):
        CellSettings(**wrong)


def test_unknown_filters_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="runs_and_tissue"):
        CellSettings(filter="runs_or_tissue")  # type: ignore[arg-type]


def test_a_real_slide_is_cut(real_data: Path) -> None:
    grid = find_cells(open_slide(real_data / "wsi" / "svs" / "CMU-1-Small-Region.svs"))
    assert grid.thumbnail_HWC is not None
    assert grid.thumbnail_HWC.shape == (2 * grid.frame.size.height, 2 * grid.frame.size.width, 3)
    seen = grid.observed_HW.repeat(2, 0).repeat(2, 1)
    assert grid.thumbnail_HWC[seen].mean() < grid.thumbnail_HWC[~seen].mean()
