"""Evidence as a picture, as tiles and as numbers: what lies where, and that nothing is rescaled but colours."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image

from counterstain.errors import ExistingOutputError, InputError, UnknownNameError
from counterstain.export import read_geojson
from counterstain.export.heat import (
    HeatLayout,
    HeatSettings,
    HeatTileSettings,
    chance_text,
    colors_of,
    draw_heat_map,
    evidence_at,
    heat,
    number_texts,
    verdict_of,
    write_heat_map,
    write_heat_ome_tiff,
    write_heat_tiles,
)
from counterstain.geometry import Box, Frame, Point, Size
from counterstain.infer.evidence import EvidenceMap
from counterstain.results import SlideScore
from counterstain.slides import open_slide
from counterstain.synth.slide import SlideSettings, write_slide
from counterstain.testing.evidence import DIAGNOSIS, plant_evidence
from counterstain.testing.writers import Place

SCORE = SlideScore("slide", 0.931, 2.6, "tumour", ("tumour",))
HOT = (4, 6)  # row and column of the planted cell

PLACES = {
    "level 0": Place(downsample=(16, 16)),
    "fractional ratio": Place(downsample=(13.7, 13.7), mpp=(0.27, 0.27), overhang=0.6),
    "bounds": Place(corner=(1203, 417), downsample=(20.0, 20.0)),
    "bounds, fractional, oblong pixels": Place(
        corner=(733, 1291), downsample=(25.3, 24.1), mpp=(0.2, 0.26), overhang=0.9
    ),
}


def planted() -> np.ndarray:
    """9 x 11 cells: one of much evidence among some of little, the first three columns not observed."""
    values = np.full((9, 11), 0.25, np.float32)
    values[:, :3] = np.nan
    values[HOT] = 7.5
    return values


def place_of(evidence: EvidenceMap, row: int, column: int) -> Box:
    """Worked out by hand: the level-0 box of a cell inside the scanned part."""
    frame, bounds = evidence.frame, evidence.slide.bounds
    left, top = frame.origin.x + column * frame.downsample_x, frame.origin.y + row * frame.downsample_y
    right, bottom = left + frame.downsample_x, top + frame.downsample_y
    return Box.from_corners(left, top, min(right, bounds.right), min(bottom, bounds.bottom))


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("frame", ["qupath", "openslide"])
def test_a_planted_cell_is_a_tile_at_its_level_0_box(tmp_path: Path, place: Place, frame: str) -> None:
    evidence = plant_evidence(tmp_path, planted(), place)
    path = tmp_path / "heat.tiles.geojson"
    write_heat_tiles(evidence, path, HeatTileSettings(frame=frame))  # type: ignore[arg-type]
    shift = (evidence.slide.bounds.x, evidence.slide.bounds.y) if frame == "qupath" else (0, 0)
    features = json.loads(path.read_text())["features"]
    assert len(features) == np.isfinite(planted()).sum()
    (hot,) = [one for one in features if one["properties"]["measurements"]["Evidence: tumour"] > 1]
    corners = np.array(hot["geometry"]["coordinates"][0])
    wanted = place_of(evidence, *HOT)
    found = [*corners.min(0) + shift, *corners.max(0) + shift]
    assert found == pytest.approx([wanted.x, wanted.y, wanted.right, wanted.bottom], abs=1e-3)
    (read,) = [one for one in read_geojson(path) if one.measurements["Evidence: tumour"] > 1]
    assert read.geometry.bounds == pytest.approx((wanted.x, wanted.y, wanted.right, wanted.bottom), abs=1e-3)


def test_tiles_hold_evidence_as_it_is_and_no_class(tmp_path: Path) -> None:
    evidence = plant_evidence(tmp_path, planted())
    write_heat_tiles(evidence, tmp_path / "heat.geojson")
    for shape in read_geojson(tmp_path / "heat.geojson"):
        assert shape.object_type == "tile"
        assert shape.class_name is None
        assert shape.measurements["Evidence: tumour"] in (0.25, 7.5)
    text = (tmp_path / "heat.geojson").read_text()
    assert "classification" not in text
    assert "f" * 64 in text


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_planted_cell_is_a_pixel_at_its_level_0_box_in_the_ome_tiff(tmp_path: Path, place: Place) -> None:
    evidence = plant_evidence(tmp_path, planted(), place)
    write_heat_ome_tiff(evidence, tmp_path / "heat.ome.tif")
    with tifffile.TiffFile(tmp_path / "heat.ome.tif") as tif:
        tree, pixels = ElementTree.fromstring(tif.ome_metadata or ""), tif.series[0].levels[0].asarray().squeeze()
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, planted(), equal_nan=True), "as it is, NaN where nothing was observed"
    about, plane = tree.find(".//{*}Pixels"), tree.find(".//{*}Plane")
    assert about is not None
    assert plane is not None
    row, column = np.unravel_index(np.nanargmax(pixels), pixels.shape)
    wanted = evidence.frame.to_level0(Box(HOT[1], HOT[0], 1, 1))
    for axis, number, mpp, low, side in (
        ("X", column, evidence.slide.mpp.x, wanted.x, wanted.width),
        ("Y", row, evidence.slide.mpp.y, wanted.y, wanted.height),
    ):
        size_um = float(about.get(f"PhysicalSize{axis}", 0))
        assert size_um / mpp == pytest.approx(side)
        assert (float(plane.get(f"Position{axis}", 0)) + number * size_um) / mpp == pytest.approx(low)
    assert "no outline" in (ElementTree.tostring(tree, encoding="unicode"))


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_planted_cell_has_its_colour_at_its_level_0_box_in_the_picture(tmp_path: Path, place: Place) -> None:
    evidence = plant_evidence(tmp_path, planted(), place)
    write_heat_map(evidence, SCORE, tmp_path / "heatmap.png", settings=HeatSettings(panel_px=550))
    picture, layout = np.asarray(Image.open(tmp_path / "heatmap.png").convert("RGB")), HeatLayout.of(evidence, 550)
    assert picture.shape[:2] == (layout.height, layout.width)
    (x, y), panel = layout.panels[1], layout.panel
    shown = picture[y : y + panel.height, x : x + panel.width].astype(int)
    purple = (shown[..., 2] > shown[..., 0] + 15) & (shown[..., 2] > shown[..., 1] + 30)
    rows, columns = np.nonzero(purple)
    bounds = evidence.slide.bounds
    wanted = place_of(evidence, *HOT).shifted(-bounds.x, -bounds.y)
    wanted = wanted.scaled(panel.width / bounds.width, panel.height / bounds.height)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert found == pytest.approx((wanted.x, wanted.y, wanted.right, wanted.bottom), abs=1)
    assert len(rows) == pytest.approx(wanted.area, rel=0.06), "all of the cell and nothing else"
    unseen = shown[5:-5, 5 : int(2.9 * panel.width / 11)]
    assert np.ptp(unseen, axis=2).max() == 0, "what was not looked at is grey"
    x, y = layout.panels[0]
    assert (picture[y + 9 : y + panel.height // 2, x + 9 : x + panel.width - 9] == (240, 220, 230)).all(), "untouched"


def test_a_cell_lies_on_the_tissue_of_a_slide_that_was_scanned_in_part(tmp_path: Path) -> None:
    """A .scn file with bounds, read by OpenSlide: a box of evidence over the tissue lies over the tissue in all files."""
    write_slide(tmp_path / "s.scn", SlideSettings(size=Size(1200, 1000), mpp=1.0, seed=2, margin_px=150))
    with open_slide(tmp_path / "s.scn") as slide:
        bounds = slide.bounds
        assert (bounds.x, bounds.y) == (150, 150)
        frame = Frame.covering(bounds, slide.mpp, 64)
        values = np.zeros(frame.size.shape, np.float32)
        values[3, 5] = 1
        evidence = EvidenceMap(values, frame, DIAGNOSIS, slide.record(), "a" * 64)
        write_heat_tiles(evidence, tmp_path / "heat.geojson")
        layout = HeatLayout.of(evidence, 900)
        sheet = draw_heat_map(evidence, SCORE, slide, HeatSettings())
    (hot,) = [one for one in json.loads((tmp_path / "heat.geojson").read_text())["features"]
              if one["properties"]["measurements"]["Evidence: tumour"] == 1]  # fmt: skip
    corners = np.array(hot["geometry"]["coordinates"][0])
    assert corners.min(0).tolist() == [5 * 64, 3 * 64], "counted from the scanned part's corner, as QuPath does"
    assert corners.max(0).tolist() == [6 * 64, 4 * 64]
    (read,) = [one for one in read_geojson(tmp_path / "heat.geojson") if one.measurements["Evidence: tumour"] == 1]
    assert read.geometry.bounds == (150 + 320, 150 + 192, 150 + 384, 150 + 256)
    view = evidence_at(evidence, layout.panel)
    rows, columns = np.nonzero(view == 1)
    scale = layout.panel.width / bounds.width
    assert (columns.min(), rows.min()) == pytest.approx((320 * scale, 192 * scale), abs=1)
    assert sheet.height == layout.height


def test_evidence_is_taken_at_the_centres_of_pixels_and_is_nan_beyond_the_grid(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    evidence = plant_evidence(tmp_path, values, Place(corner=(40, 20), downsample=(10, 10)))
    assert np.array_equal(evidence_at(evidence, Size(3, 2)), values)
    assert np.array_equal(evidence_at(evidence, Size(12, 8)), np.kron(values, np.ones((4, 4))))
    wider = replace(evidence, slide=replace(evidence.slide, bounds=Box(30, 20, 50, 20)))
    seen = evidence_at(wider, Size(5, 2))
    assert np.array_equal(seen[:, 1:4], values)
    assert np.isnan(seen[:, [0, 4]]).all()


def test_colours_do_not_change_when_evidence_is_stretched_and_shifted() -> None:
    values = np.array([[0.0, 0.5, 2.0, np.nan]], np.float32).repeat(2, axis=0)
    view = np.full((1, 2, 3), 200, np.uint8)
    assert np.array_equal(heat(view, values, (0, 2), 0.8), heat(view, 40 * values - 7, (-7, 73), 0.8))


def test_more_evidence_is_darker_and_stronger_all_along_the_colours() -> None:
    colors, strength = colors_of(np.linspace(-3, 5, 200, dtype=np.float32), (-3, 5))
    light = colors @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(light) < 0).all()
    assert (np.diff(strength) > 0).all()
    assert strength[-1] == 1


def test_one_value_everywhere_and_nothing_observed_still_make_a_picture(tmp_path: Path) -> None:
    for name, value in (("one", 0.0), ("none", np.nan)):
        evidence = plant_evidence(tmp_path / name, np.full((7, 9), value, np.float32))
        write_heat_map(evidence, replace(SCORE, decision=None), tmp_path / name / "heatmap.png")
        write_heat_tiles(evidence, tmp_path / name / "heat.geojson")
        write_heat_ome_tiff(evidence, tmp_path / name / "heat.ome.tif")
        assert len(read_geojson(tmp_path / name / "heat.geojson")) == (63 if name == "one" else 0)


@pytest.mark.parametrize(("height", "width"), [(400, 60), (60, 400), (100, 100), (3, 90)])
def test_nothing_overlaps_whatever_the_slide_s_shape(tmp_path: Path, height: int, width: int) -> None:
    layout = HeatLayout.of(plant_evidence(tmp_path, np.zeros((height, width), np.float32)), 900)
    (first, second), panel = layout.panels, layout.panel
    assert second[0] >= first[0] + panel.width or second[1] >= first[1] + panel.height
    assert layout.legend[1] >= second[1] + panel.height
    assert second[0] + panel.width + 44 <= layout.width
    assert layout.legend[1] + 128 + 44 <= layout.height


def test_the_same_evidence_gives_the_same_bytes(tmp_path: Path) -> None:
    evidence = plant_evidence(tmp_path, planted())
    for folder in ("a", "b"):
        write_heat_map(evidence, SCORE, tmp_path / folder / "heatmap.png")
        write_heat_tiles(evidence, tmp_path / folder / "heat.geojson")
        write_heat_ome_tiff(evidence, tmp_path / folder / "heat.ome.tif")
    for name in ("heatmap.png", "heat.geojson", "heat.ome.tif"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert b"f" * 64 in (tmp_path / "a" / name).read_bytes()


def test_files_that_are_there_are_not_overwritten_silently(tmp_path: Path) -> None:
    evidence = plant_evidence(tmp_path, planted())
    for name in ("heatmap.png", "heat.geojson", "heat.ome.tif"):
        (tmp_path / name).write_text("work of a week")
    with pytest.raises(ExistingOutputError):
        write_heat_map(evidence, SCORE, tmp_path / "heatmap.png")
    with pytest.raises(ExistingOutputError):
        write_heat_tiles(evidence, tmp_path / "heat.geojson")
    with pytest.raises(ExistingOutputError):
        write_heat_ome_tiff(evidence, tmp_path / "heat.ome.tif")
    write_heat_map(evidence, SCORE, tmp_path / "heatmap.png", overwrite=True)
    assert (tmp_path / "heatmap.png").read_bytes() != b"work of a week"


def test_settings_that_make_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="at least 64 px"):
        HeatSettings(panel_px=10)
    with pytest.raises(InputError, match="the first must be less"):
        HeatSettings(limits=(1.0, 1.0))
    with pytest.raises(UnknownNameError, match="qupath"):
        HeatTileSettings(frame="qpath")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decision", "held", "words"),
    [
        ("tumour", ("tumour",), "Diagnosis: tumour"),
        (None, ("normal", "tumour"), "No decision: normal or tumour"),
        (None, (), "No decision: like no class it knows"),
    ],
)
def test_what_is_said_of_a_slide_is_said_in_words(decision: str | None, held: tuple[str, ...], words: str) -> None:
    assert verdict_of(SlideScore("s", 0.5, 0.0, decision, held)) == words


def test_a_probability_never_reads_as_certainty() -> None:
    assert [chance_text(p) for p in (1.0, 0.9991, 0.931, 0.5, 0.0004)] == [
        "> 99.9 %", "> 99.9 %", "93.1 %", "50.0 %", "< 0.1 %"
    ]  # fmt: skip


def test_numbers_beside_each_other_have_as_many_decimals() -> None:
    assert number_texts([0.0002, 0.998, 1.99]) == ["0.00", "1.00", "1.99"]
    assert number_texts([12345.6, 2.0]) == ["12,346", "2"]
    assert number_texts([0.0, 0.000021]) == ["0", "2.10e-05"]
    assert number_texts([-0.5, 0.25]) == ["-0.500", "0.250"]
    assert number_texts([]) == []


def test_evidence_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    evidence = plant_evidence(tmp_path, planted(), PLACES["bounds, fractional, oblong pixels"])
    evidence.save(tmp_path / "evidence.zarr")
    found = EvidenceMap.open(tmp_path / "evidence.zarr")
    assert np.array_equal(found.evidence_HW, evidence.evidence_HW, equal_nan=True)
    assert found.evidence_HW.dtype == np.float32
    assert (found.frame, found.classes, found.slide) == (evidence.frame, evidence.classes, evidence.slide)
    assert found.inputs_hash == "f" * 64
    with pytest.raises(ExistingOutputError):
        evidence.save(tmp_path / "evidence.zarr")
    evidence.save(tmp_path / "evidence.zarr", overwrite=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_is_no_evidence_is_refused(tmp_path: Path) -> None:
    evidence = plant_evidence(tmp_path, planted())
    with pytest.raises(InputError, match="shape"):
        replace(evidence, frame=Frame(Point(0, 0), 1, 1, Size(3, 3)))
    with pytest.raises(InputError, match="Infinite"):
        replace(evidence, evidence_HW=np.full((9, 11), np.inf, np.float32))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no Zarr group"):
        EvidenceMap.open(tmp_path / "empty")
