from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from counterstain.errors import InputError
from counterstain.geometry import Box, Size
from counterstain.synth.pyramid import Pyramid, write_pyramid

SIZE = Size(1003, 717)


def gradient(box: Box) -> np.ndarray:
    """A smooth picture, so that JPEG keeps it."""
    y, x = np.mgrid[round(box.y) : round(box.bottom), round(box.x) : round(box.right)]
    planes = [128 + 100 * np.sin(x / 61), 128 + 100 * np.cos(y / 47), (x + y) * 0.14]
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)


def pyramid(**changes: object) -> Pyramid:
    given = {
        "size": SIZE,
        "scanned": Box.whole(SIZE),
        "mpp": 0.5,
        "downsamples": (4.0, 16.0),
        "tile_px": 64,
        "jpeg_quality": 95,
        "container": "aperio",
    }
    return Pyramid(**{**given, **changes})  # type: ignore[arg-type]


def written(tmp_path: Path, name: str, render: Callable[[Box], np.ndarray] = gradient, **changes: object) -> Path:
    path = tmp_path / name
    write_pyramid(path, pyramid(**changes), render)
    return path


def test_an_aperio_slide_opens_with_its_levels_and_resolution(tmp_path: Path) -> None:
    with openslide.OpenSlide(written(tmp_path, "a.svs")) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.level_dimensions == ((1003, 717), (250, 179), (62, 44))
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        assert slide.properties["aperio.AppMag"] == "20"
        assert "no scan" in slide.properties["aperio.Synthetic"]


def test_a_generic_slide_opens_with_its_levels_and_resolution(tmp_path: Path) -> None:
    with openslide.OpenSlide(written(tmp_path, "a.tiff", container="generic")) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_count == 3
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)


@pytest.mark.parametrize("container", ["aperio", "generic"])
def test_a_slide_can_be_without_a_resolution(tmp_path: Path, container: str) -> None:
    with openslide.OpenSlide(written(tmp_path, "a.svs", container=container, mpp=None)) as slide:
        assert "openslide.mpp-x" not in slide.properties


def test_a_leica_slide_says_what_was_scanned(tmp_path: Path) -> None:
    scanned = Box(128, 64, 640, 512)
    path = written(tmp_path, "a.scn", container="leica", scanned=scanned)
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (1003, 717)
        names = [slide.properties[f"openslide.bounds-{side}"] for side in ("x", "y", "width", "height")]
        assert names == ["128", "64", "640", "512"]
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)
        region = np.asarray(slide.read_region((128, 64), 0, (640, 512)))
        assert (region[..., 3] == 255).all()
        assert np.abs(region[..., :3].astype(int) - gradient(scanned)).mean() < 3
        assert np.asarray(slide.read_region((0, 0), 0, (100, 60)))[..., 3].max() == 0


@pytest.mark.parametrize("downsamples", [(4.0, 16.0), (2.0,), (2.7, 8.1), (1.5, 2.25, 9.0), ()], ids=str)
def test_every_level_is_the_average_of_the_base(tmp_path: Path, downsamples: tuple[float, ...]) -> None:
    path = written(tmp_path, "a.tiff", container="generic", downsamples=downsamples)
    base = gradient(Box.whole(SIZE)).astype(float)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1 + len(downsamples)
        for page, down in zip(tiff.pages, (1.0, *downsamples), strict=True):
            pixels = page.asarray().astype(float)
            assert page.subfiletype == int(down > 1)
            height, width = pixels.shape[:2]
            scale = (down, down) if down == int(down) else (SIZE.width / width, SIZE.height / height)
            x = ((np.arange(width) + 0.5) * scale[0]).astype(int).clip(0, SIZE.width - 1)
            y = ((np.arange(height) + 0.5) * scale[1]).astype(int).clip(0, SIZE.height - 1)
            assert np.abs(pixels - base[np.ix_(y, x)]).mean() < 4


def test_levels_of_whole_downsamples_drop_what_is_left_over() -> None:
    assert pyramid(downsamples=(2.0, 8.0)).level_sizes() == [SIZE, Size(501, 358), Size(125, 89)]
    assert pyramid(downsamples=(2.7,)).level_sizes() == [SIZE, Size(371, 266)]


def test_pixels_are_asked_for_once_in_strips_from_the_top(tmp_path: Path) -> None:
    asked: list[Box] = []

    def render(box: Box) -> np.ndarray:
        asked.append(box)
        return np.full((*box.size.shape, 3), 200, np.uint8)

    tall = Size(200, 3000)
    written(tmp_path, "tall.tiff", render, size=tall, scanned=Box.whole(tall), container="generic")
    assert max(box.height for box in asked) <= 512
    assert [box.y for box in asked] == list(np.cumsum([0, *(box.height for box in asked[:-1])]))
    assert sum(box.height for box in asked) == 3000
    assert {box.width for box in asked} == {200}


def test_a_slide_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def render(box: Box) -> np.ndarray:
        if box.y > 0:
            raise ZeroDivisionError
        return gradient(box)

    with pytest.raises(ZeroDivisionError):
        written(tmp_path, "a.svs", render)
    assert list(tmp_path.iterdir()) == []


def test_the_same_pixels_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = written(tmp_path, "a.svs"), written(tmp_path, "b.svs")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile_px": 100}, "Tiles of 100 px"),
        ({"tile_px": 0}, "Tiles of 0 px"),
        ({"jpeg_quality": 0}, "JPEG quality of 0"),
        ({"downsamples": (4.0, 2.0)}, "ascending"),
        ({"downsamples": (1.0,)}, "above 1"),
        ({"container": "leica", "mpp": None}, "without a resolution"),
        ({"container": "leica"}, "Give it a margin"),
        ({"scanned": Box(900, 0, 200, 100)}, "must lie in the slide"),
    ],
    ids=str,
)
def test_what_can_be_no_slide_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pyramid(**changes)


def test_an_empty_level_is_refused() -> None:
    with pytest.raises(InputError, match="can't be reduced 2000 times"):
        pyramid(downsamples=(2000.0,)).level_sizes()


def test_very_large_slides_are_big_tiffs(tmp_path: Path) -> None:
    with tifffile.TiffFile(written(tmp_path, "a.scn", container="leica", scanned=Box(8, 8, 900, 700))) as tiff:
        assert tiff.is_bigtiff
    with tifffile.TiffFile(written(tmp_path, "b.svs")) as tiff:
        assert not tiff.is_bigtiff
