"""OME-TIFF: what other readers see in it, and that labels and probabilities come back exactly."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from counterstain.errors import InputError, MissingFileError
from counterstain.export import read_class_map, write_class_map, write_probability_map
from counterstain.export.ome_tiff import class_palette
from counterstain.results import UNCOVERED, Classes, SlideMap
from counterstain.slides import open_slide
from counterstain.testing.writers import THREE, Place, patchwork, plant_map

FAR = Place(corner=(1200, 340), downsample=(3.7, 2.9), mpp=(0.25, 0.3), overhang=0.4)


@pytest.fixture(scope="module")
def slide_map(tmp_path_factory: pytest.TempPathFactory) -> SlideMap:
    """Larger than a tile, odd in both directions."""
    label = patchwork(701, 1107)
    rng = np.random.default_rng(0)
    probability = rng.random((3, 701, 1107)).astype(np.float16)
    probability[:, label == UNCOVERED] = np.nan
    probability[:, :8, :8] = np.nan
    return plant_map(tmp_path_factory.mktemp("slide"), label, FAR, probability=probability)


@pytest.fixture(scope="module")
def class_map(slide_map: SlideMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "map.ome.tiff"
    write_class_map(slide_map, path)
    return path


@pytest.fixture(scope="module")
def probability_map(slide_map: SlideMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "probability.ome.tiff"
    write_probability_map(slide_map, path)
    return path


def pixels_element(path: Path) -> ElementTree.Element:
    with tifffile.TiffFile(path) as tif:
        found = ElementTree.fromstring(tif.ome_metadata or "").find(".//{*}Pixels")
    assert found is not None
    return found


def test_labels_come_back_exactly(slide_map: SlideMap, class_map: Path) -> None:
    back = read_class_map(class_map)
    assert np.array_equal(back.label, slide_map.label[:])
    assert (back.classes, back.frame, back.slide) == (slide_map.classes, slide_map.frame, slide_map.slide)
    assert back.inputs_hash == slide_map.inputs_hash


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 254), st.integers(0, 1000))
def test_labels_come_back_exactly_with_any_number_of_classes(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, num_classes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.choice(1 << 24, num_classes, replace=False)
    colors = tuple((int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in codes)
    classes = Classes(tuple(f"class {number}" for number in range(num_classes)), colors)
    label = rng.integers(0, num_classes + 1, (height, width))
    label[label == num_classes] = UNCOVERED
    folder = tmp_path_factory.mktemp("map")
    probability = np.zeros((num_classes, height, width), np.float16)
    planted = plant_map(folder, label.astype(np.uint8), classes=classes, probability=probability)
    write_class_map(planted, folder / "map.ome.tiff")
    assert np.array_equal(read_class_map(folder / "map.ome.tiff").label, label)


def test_probabilities_come_back_exactly(slide_map: SlideMap, probability_map: Path) -> None:
    with tifffile.TiffFile(probability_map) as tif:
        values = tif.series[0].levels[0].asarray()
        assert tif.series[0].axes == "CYX"
    assert values.dtype == np.float32
    assert np.array_equal(values, slide_map.probability[:].astype(np.float32), equal_nan=True)
    assert np.isnan(values[:, 0, 0]).all()


def test_other_readers_see_the_classes_in_their_colours(slide_map: SlideMap, class_map: Path) -> None:
    palette = class_palette(THREE)
    expected = palette[slide_map.label[:]]
    with openslide.OpenSlide(class_map) as slide:
        assert slide.dimensions == (1107, 701)
        seen = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    assert np.array_equal(seen, expected)
    with tifffile.TiffFile(class_map) as tif:
        assert tif.is_ome
        assert tif.pages[0].photometric == tifffile.PHOTOMETRIC.RGB
        assert np.array_equal(tif.series[0].asarray(), expected)


def test_our_own_reader_opens_the_class_map_with_its_levels(slide_map: SlideMap, class_map: Path) -> None:
    with open_slide(class_map) as slide:
        assert [(level.size.width, level.size.height) for level in slide.levels] == [
            (1107, 701),
            (554, 351),
            (277, 176),
        ]
        assert slide.mpp.x == pytest.approx(3.7 * 0.25)
        assert slide.mpp.y == pytest.approx(2.9 * 0.3)


@pytest.mark.parametrize("kind", ["class_map", "probability_map"])
def test_levels_are_halves_in_sub_ifds_of_compressed_tiles(kind: str, request: pytest.FixtureRequest) -> None:
    with tifffile.TiffFile(request.getfixturevalue(kind)) as tif:
        pages = list(tif.pages)
        assert len(tif.series) == 1
        shapes = [tuple(size for size in level.shape if size > 3) for level in tif.series[0].levels]
        assert shapes == [(701, 1107), (351, 554), (176, 277)]
        assert len(pages) == (1 if kind == "class_map" else 3)
        for page in pages:
            assert page.subifds is not None
            assert len(page.subifds) == 2
            for each in (page, *page.pages):
                assert each.is_tiled
                assert (each.tilewidth, each.tilelength) == (512, 512)
                assert each.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
                assert each.predictor == 1, "Bio-Formats refuses the floating-point predictor"
        assert [each.subfiletype for each in pages[0].pages] == [1, 1]


def test_smaller_levels_of_classes_are_the_nearest_pixels(slide_map: SlideMap, class_map: Path) -> None:
    label = slide_map.label[:]
    with tifffile.TiffFile(class_map) as tif:
        for number, level in enumerate(tif.series[0].levels):
            step, (height, width) = 2**number, level.shape[:2]
            rows = np.minimum((np.arange(height) + 0.5) * step, 700).astype(int)
            columns = np.minimum((np.arange(width) + 0.5) * step, 1106).astype(int)
            assert np.array_equal(level.asarray(), class_palette(THREE)[label[np.ix_(rows, columns)]])


def test_smaller_levels_of_probabilities_are_means_that_leave_nan_out(
    slide_map: SlideMap, probability_map: Path
) -> None:
    with tifffile.TiffFile(probability_map) as tif:
        fine, half, quarter = (level.asarray() for level in tif.series[0].levels)
    assert np.isnan(half[:, :4, :4]).all()
    assert np.isnan(quarter[:, :2, :2]).all()
    for y, x in ((100, 200), (350, 553), (12, 0), (350, 7)):
        four = fine[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        if np.isnan(four).all():
            assert np.isnan(half[:, y, x]).all()
        else:
            assert half[:, y, x] == pytest.approx(np.nanmean(four, axis=(1, 2)))
    assert np.array_equal(np.isnan(quarter[0]), np.isnan(nan_means(half[0])))
    assert quarter[2] == pytest.approx(nan_means(half[2]), nan_ok=True)


def nan_means(values: np.ndarray) -> np.ndarray:
    """The slow twin, pixel by pixel."""
    height, width = -(-values.shape[0] // 2), -(-values.shape[1] // 2)
    means = np.full((height, width), np.nan)
    for y in range(height):
        for x in range(width):
            four = values[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            if np.isfinite(four).any():
                means[y, x] = four[np.isfinite(four)].mean()
    return means


@pytest.mark.parametrize(("kind", "num_planes"), [("class_map", 1), ("probability_map", 3)])
def test_sizes_and_places_stand_in_the_ome_xml(kind: str, num_planes: int, request: pytest.FixtureRequest) -> None:
    pixels = pixels_element(request.getfixturevalue(kind))
    assert (pixels.get("SizeX"), pixels.get("SizeY"), pixels.get("SizeC")) == ("1107", "701", "3")
    assert float(pixels.get("PhysicalSizeX", 0)) == pytest.approx(3.7 * 0.25)
    assert float(pixels.get("PhysicalSizeY", 0)) == pytest.approx(2.9 * 0.3)
    assert pixels.get("PhysicalSizeXUnit") == pixels.get("PhysicalSizeYUnit") == "µm"
    planes = pixels.findall("{*}Plane")
    assert len(planes) == num_planes
    for plane in planes:
        assert float(plane.get("PositionX", 0)) == pytest.approx(1200 * 0.25)
        assert float(plane.get("PositionY", 0)) == pytest.approx(340 * 0.3)
        assert plane.get("PositionXUnit") == plane.get("PositionYUnit") == "µm"


def test_channels_have_names_and_colours(probability_map: Path) -> None:
    channels = pixels_element(probability_map).findall("{*}Channel")
    assert [channel.get("Name") for channel in channels] == list(THREE.names)
    for channel, (red, green, blue) in zip(channels, THREE.colors, strict=True):
        packed = int(channel.get("Color", 0)) & 0xFFFFFFFF
        assert packed.to_bytes(4, "big") == bytes((red, green, blue, 255))


def test_a_wide_map_is_written_strip_by_strip(tmp_path: Path) -> None:
    planted = plant_map(tmp_path, patchwork(20, 5000))
    write_class_map(planted, tmp_path / "map.ome.tif")
    write_probability_map(planted, tmp_path / "p.ome.tif")
    assert np.array_equal(read_class_map(tmp_path / "map.ome.tif").label, planted.label[:])
    assert np.array_equal(tifffile.imread(tmp_path / "p.ome.tif"), planted.probability[:], equal_nan=True)


def test_uncovered_pixels_have_a_colour_of_their_own(tmp_path: Path) -> None:
    assert tuple(class_palette(Classes(("a",), ((1, 2, 3),)))[UNCOVERED]) == (255, 255, 255)
    assert tuple(class_palette(THREE)[UNCOVERED]) == (254, 254, 254), "white is glass here"


def test_classes_that_share_a_colour_are_refused(tmp_path: Path) -> None:
    twins = Classes(("tumour", "necrosis"), ((9, 9, 9), (9, 9, 9)))
    planted = plant_map(tmp_path, np.zeros((4, 4), np.uint8), classes=twins)
    with pytest.raises(InputError, match=r"'tumour' and 'necrosis' share the colour \(9, 9, 9\)"):
        write_class_map(planted, tmp_path / "map.ome.tiff")
    assert not (tmp_path / "map.ome.tiff").exists()


@pytest.mark.parametrize("write", [write_class_map, write_probability_map])
def test_names_that_readers_do_not_know_as_ome_are_refused(write: Any, tmp_path: Path) -> None:
    planted = plant_map(tmp_path, np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"must end in one of: \.ome\.tiff"):
        write(planted, tmp_path / "map.tiff")


def test_a_map_whose_colours_were_changed_is_not_read_back(
    slide_map: SlideMap, class_map: Path, tmp_path: Path
) -> None:
    with tifffile.TiffFile(class_map) as tif:
        pixels, description = tif.series[0].asarray(), tif.pages[0].description
    pixels[10, 10] += 1
    tifffile.imwrite(tmp_path / "blurred.ome.tiff", pixels, description=description.encode(), metadata=None)
    with pytest.raises(InputError, match="row 10"):
        read_class_map(tmp_path / "blurred.ome.tiff")


def test_what_is_no_class_map_is_not_read_as_one(probability_map: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no class map of ours"):
        read_class_map(probability_map)
    tifffile.imwrite(tmp_path / "plain.tiff", np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(InputError, match="no class map of ours"):
        read_class_map(tmp_path / "plain.tiff")
    tifffile.imwrite(tmp_path / "other.ome.tiff", np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(InputError, match="no class map of ours"):
        read_class_map(tmp_path / "other.ome.tiff")
    (tmp_path / "text.ome.tiff").write_text("no picture")
    with pytest.raises(InputError, match="is no TIFF"):
        read_class_map(tmp_path / "text.ome.tiff")
    with pytest.raises(MissingFileError):
        read_class_map(tmp_path / "gone.ome.tiff")


def test_nothing_but_the_file_is_left(probability_map: Path) -> None:
    assert [path.name for path in probability_map.parent.iterdir()] == ["probability.ome.tiff"]
