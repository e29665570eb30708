import json
from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely
import tifffile
from PIL import Image

from counterstain.errors import ExistingOutputError, InputError, UnknownNameError
from counterstain.geometry import Box, Size
from counterstain.layouts import LUAD_HISTOSEG
from counterstain.synth.anatomy import GLASS
from counterstain.synth.bank import BankSettings
from counterstain.synth.scene import Scene
from counterstain.synth.slide import RepeatedPlane, SlideSettings, write_slide

SMALL = SlideSettings(size=Size(1101, 903), mpp=2.0, seed=11, tile_px=128, truth_mpp=8.0, jpeg_quality=92)


def changed(**changes: object) -> SlideSettings:
    return SlideSettings(**{**vars(SMALL), **changes})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "s.svs"
    write_slide(path, SMALL)
    return path


def test_a_slide_shows_its_scene(small: Path) -> None:
    scene = Scene(SMALL.scene(SMALL.glass))
    box = Box(400, 300, 300, 250)
    with openslide.OpenSlide(small) as slide:
        assert slide.dimensions == (1101, 903)
        pixels = np.asarray(slide.read_region((400, 300), 0, (300, 250)))[..., :3]
    assert np.abs(pixels.astype(int) - scene.render(box)).mean() < 9


def test_both_libraries_read_the_same_pixels(small: Path) -> None:
    with openslide.OpenSlide(small) as slide, tifffile.TiffFile(small) as tiff:
        for level, page in enumerate(tiff.pages):
            other = page.asarray()
            assert slide.level_dimensions[level] == other.shape[1::-1]
            whole = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., :3]
            assert np.abs(whole.astype(int) - other).mean() < 1


def test_levels_are_added_until_the_last_is_small() -> None:
    assert SlideSettings(size=Size(10_000, 8000)).pyramid().downsamples == (4, 16)
    assert SlideSettings(size=Size(60_000, 8000)).pyramid().downsamples == (4, 16, 64, 256)
    assert SlideSettings(size=Size(700, 500)).pyramid().downsamples == ()


def test_a_slide_is_mostly_glass_and_its_rim_too(small: Path) -> None:
    labels = Scene(SMALL.scene(SMALL.glass)).labels(Box.whole(SMALL.size), 8.0)
    assert 0.2 < (labels != GLASS).mean() < 0.6
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    assert (rim == GLASS).all()
    with openslide.OpenSlide(small) as slide:
        assert np.asarray(slide.read_region((0, 0), 0, (60, 60)))[..., :3].min() > 200


def test_truth_polygons_agree_with_the_labels(tmp_path: Path) -> None:
    truth = write_slide(tmp_path / "s.svs", changed(layout="luad_histoseg", is_truth_raster=True))
    assert truth.path == tmp_path / "s.truth.geojson"
    assert truth.classes == LUAD_HISTOSEG.classes
    assert truth.raster is not None
    with Image.open(truth.raster) as image:
        assert image.mode == "P"
        labels = np.asarray(image)
    features = json.loads(truth.path.read_text())["features"]
    assert len(features) == len(truth.regions)
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    x, y = (x + 0.5) * truth.frame.downsample_x, (y + 0.5) * truth.frame.downsample_y
    for number, name in enumerate(truth.classes.names):
        shapes = [
            shapely.Polygon(rings[0], rings[1:])
            for feature in features
            if feature["properties"]["classification"]["name"] == name
            for rings in [feature["geometry"]["coordinates"]]
        ]
        inside = shapely.contains_xy(shapely.union_all(shapes), x, y)
        assert (inside == (labels == number)).all(), name
        assert truth.areas_mm2[name] == pytest.approx((labels == number).sum() * 64 / 1e6)


def test_fine_labels_agree_with_the_polygons_up_to_a_truth_pixel(tmp_path: Path) -> None:
    truth = write_slide(tmp_path / "s.svs", changed(truth_mpp=4.0))
    box = Box(300, 250, 500, 400)
    labels = Scene(SMALL.scene(SMALL.glass)).labels(box)
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    for name in ("stroma", "tumour epithelium"):
        shapes = shapely.union_all([region.polygon for region in truth.regions if region.class_name == name])
        inside = shapely.contains_xy(shapes, x + 0.5 + box.x, y + 0.5 + box.y)
        wanted = labels == truth.classes.index(name)
        assert wanted.any()
        assert (inside == wanted).mean() > 0.96


def test_unscanned_margins_become_bounds_and_truth_stays_in_level_0(tmp_path: Path) -> None:
    settings = changed(container="leica", margin_px=160, downsamples=(2.7,), is_truth_raster=True)
    truth = write_slide(tmp_path / "s.scn", settings)
    with openslide.OpenSlide(tmp_path / "s.scn") as slide:
        assert slide.dimensions == (1101, 903)
        assert slide.properties["openslide.bounds-x"] == "160"
        assert slide.properties["openslide.bounds-width"] == str(1101 - 320)
    assert (truth.frame.origin.x, truth.frame.origin.y) == (160, 160)
    assert all(region.polygon.bounds[0] >= 160 for region in truth.regions)
    tissue = shapely.union_all([region.polygon for region in truth.regions])
    with openslide.OpenSlide(tmp_path / "s.scn") as slide:
        dark = np.asarray(slide.read_region((160, 160), 0, (781, 583)))[..., :3].min(2) < 160
    ys, xs = np.nonzero(dark)
    inside = shapely.contains_xy(tissue.buffer(12), xs + 160.5, ys + 160.5)
    assert inside.mean() > 0.98


@pytest.mark.parametrize(("name", "vendor"), [("s.svs", "aperio"), ("s.SCN", "leica"), ("s.tiff", "generic-tiff")])
def test_a_files_name_says_what_kind_it_is(tmp_path: Path, name: str, vendor: str) -> None:
    write_slide(tmp_path / name, changed(size=Size(256, 200)))
    with openslide.OpenSlide(tmp_path / name) as slide:
        assert slide.properties["openslide.vendor"] == vendor


def test_a_margin_of_scanned_glass_holds_no_tissue(tmp_path: Path) -> None:
    truth = write_slide(tmp_path / "s.tiff", changed(container="generic", margin_px=200, has_mpp=False))
    assert all(region.polygon.bounds[0] >= 196 for region in truth.regions)
    with openslide.OpenSlide(tmp_path / "s.tiff") as slide:
        assert "openslide.mpp-x" not in slide.properties
        assert np.asarray(slide.read_region((0, 0), 0, (190, 903)))[..., :3].mean() > 225


def test_a_block_can_be_repeated(tmp_path: Path) -> None:
    settings = changed(size=Size(800, 600), repeat_px=256, truth_mpp=4.0, is_truth_raster=True)
    truth = write_slide(tmp_path / "s.svs", settings)
    with tifffile.TiffFile(tmp_path / "s.svs") as tiff:
        pixels = tiff.pages[0].asarray().astype(int)
    assert np.abs(pixels[:256, :256] - pixels[256:512, 512:768]).mean() < 1
    assert truth.raster is not None
    with Image.open(truth.raster) as image:
        labels = np.asarray(image)
    assert (labels[:128, :128] == labels[128:256, 256:384]).all()
    assert len(np.unique(labels)) > 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.svs", "s.truth.geojson", "s.truth.png"]


def test_a_repeated_plane_begins_where_its_block_lies(tmp_path: Path) -> None:
    scene = Scene(SMALL.scene(Box(100, 50, 200, 160)))
    plane = RepeatedPlane(scene, Box(100, 50, 200, 160), tmp_path / "pixels")
    expected = scene.render(Box(100, 50, 200, 160))
    assert (plane.render(Box(300, 210, 200, 160)) == expected).all()
    assert (plane.labels(Box(300, 50, 200, 160)) == scene.labels(Box(100, 50, 200, 160))).all()
    assert plane.mpp == 2.0
    assert plane.classes == scene.classes


def test_a_slide_of_real_patches_has_their_truth(tmp_path: Path, bank_folder: Path) -> None:
    bank = BankSettings(bank_folder / "table.csv", overlap_px=8)
    truth = write_slide(tmp_path / "s.svs", changed(size=Size(500, 400), bank=bank, truth_mpp=2.0))
    assert truth.classes.names == ("other tissue", "gland or lesion", "glass")
    assert truth.areas_mm2["gland or lesion"] > 0
    assert truth.areas_mm2["glass"] == 0
    assert {region.class_name for region in truth.regions} == {"other tissue", "gland or lesion"}


def test_nothing_is_overwritten(tmp_path: Path, small: Path) -> None:
    with pytest.raises(ExistingOutputError, match=r"s\.svs exists already"):
        write_slide(small, SMALL)
    with pytest.raises(ExistingOutputError, match="geojson exists already"):
        write_slide(tmp_path / "new.svs", SMALL, small.with_suffix(".truth.geojson"))
    assert not (tmp_path / "new.svs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin_px": 460}, "leaves nothing"),
        ({"margin_px": -1}, "leaves nothing"),
        ({"repeat_px": 1000}, "do not fit"),
    ],
    ids=str,
)
def test_impossible_slides_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_slide(tmp_path / "s.svs", changed(**changes))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_layout_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'luad_histoseg'"):
        write_slide(tmp_path / "s.svs", changed(layout="luad_histosec"))
    assert list(tmp_path.iterdir()) == []
