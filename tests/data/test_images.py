from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.data import MaskCoding, image_size, read_flags, read_image, read_mask, write_image, write_mask
from counterstain.errors import InputError, MissingFileError
from counterstain.geometry import Size
from counterstain.layouts import LAYOUTS

RED, GREEN, WHITE = (205, 51, 51), (0, 255, 0), (255, 255, 255)
CODING = MaskCoding(2, 4, (RED, GREEN, WHITE))
MASK = np.array([[0, 1, 4], [1, 1, 0]], np.uint8)
PALETTE = (RED, GREEN, WHITE, WHITE, WHITE)


def test_an_rgb_image_comes_back_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_image(tmp_path / "a.png", pixels)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    assert image_size(tmp_path / "a.png") == Size(7, 5)


def test_transparent_pixels_are_composited_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 128, 255)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [255, 127, 0]


def test_grey_and_indexed_images_become_rgb(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 9, 255]], np.uint8))
    grey.save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").tolist() == [[[0] * 3, [9] * 3, [255] * 3]]
    write_mask(tmp_path / "indexed.png", MASK, PALETTE)
    assert read_image(tmp_path / "indexed.png")[0].tolist() == [list(RED), list(GREEN), list(WHITE)]


def test_an_indexed_image_with_a_transparent_entry_is_white_there(tmp_path: Path) -> None:
    image = Image.fromarray(MASK).convert("L")
    image.putpalette([0] * 768)
    image.save(tmp_path / "a.png", transparency=1)
    assert read_image(tmp_path / "a.png")[..., 0].tolist() == [[0, 255, 0], [255, 255, 0]]


def test_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 3000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="kind 'I;16'; 8-bit grey or colour was expected"):
        read_image(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow warns of a cut TIFF before it gives up
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_broken_image_is_refused_wherever_it_breaks(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"can't be decoded as an image: .*Replace the file"):
            read_image(path)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    for read in (read_image, read_mask, image_size):
        with pytest.raises(MissingFileError, match=r"a\.png was given as"):
            read(tmp_path / "a.png")


def test_the_header_of_a_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(InputError, match="no known image format"):
        image_size(tmp_path / "a.png")


def test_an_indexed_mask_keeps_its_indices(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", MASK, PALETTE)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
    assert np.array_equal(read_mask(tmp_path / "a.png", CODING), MASK)
    assert np.array_equal(read_mask(tmp_path / "a.png"), MASK)


def test_an_indexed_mask_of_unknown_colours_keeps_its_indices(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", MASK, [(1, 1, 1), (2, 2, 2)])
    assert np.array_equal(read_mask(tmp_path / "a.png", CODING), MASK)


def test_grey_one_bit_and_wide_masks_hold_indices(tmp_path: Path) -> None:
    Image.fromarray(MASK).save(tmp_path / "grey.png")
    assert np.array_equal(read_mask(tmp_path / "grey.png", CODING), MASK)
    Image.fromarray(MASK == 1).save(tmp_path / "bit.png")
    assert read_mask(tmp_path / "bit.png", CODING).tolist() == [[0, 1, 0], [1, 1, 0]]
    Image.fromarray(MASK.astype(np.uint16)).save(tmp_path / "wide.png")
    assert np.array_equal(read_mask(tmp_path / "wide.png", CODING), MASK)
    Image.fromarray(MASK.astype(np.uint16) + 300).save(tmp_path / "wider.png")
    with pytest.raises(InputError, match="8-bit grey image of class indices was expected"):
        read_mask(tmp_path / "wider.png")


def test_a_mask_of_0_and_255_is_refused_for_two_classes(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"holds the values \[255\]; 0 to 1 for the classes and 4 for what scoring"):
        read_mask(tmp_path / "a.png", CODING)


def test_a_palette_reordered_by_an_editor_is_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", MASK, (GREEN, RED, WHITE, WHITE, WHITE))
    with pytest.raises(InputError, match=r"paints index 0 .* palette was reordered"):
        read_mask(tmp_path / "a.png", CODING)


def test_colours_are_looked_up_in_the_palette(tmp_path: Path) -> None:
    colors = np.array(PALETTE, np.uint8)[MASK]
    Image.fromarray(colors).save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", CODING), MASK)
    opaque = np.dstack([colors, np.full(MASK.shape, 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "b.png")
    assert np.array_equal(read_mask(tmp_path / "b.png", CODING), MASK)


def test_colours_that_stand_for_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    colors = np.array(PALETTE, np.uint8)[MASK]
    Image.fromarray(colors).save(path)
    with pytest.raises(InputError, match="no palette says what its colours mean"):
        read_mask(path)
    with pytest.raises(InputError, match="two classes share a colour"):
        read_mask(path, MaskCoding(2, None, (RED, RED)))
    colors[0, 0] = (206, 51, 51)
    Image.fromarray(colors).save(path)
    with pytest.raises(InputError, match=r"outside the dataset's palette(.|\n)*\(206, 51, 51\)"):
        read_mask(path, CODING)
    Image.fromarray(np.dstack([colors, np.zeros(MASK.shape, np.uint8)])).save(path)
    with pytest.raises(InputError, match="transparent in places"):
        read_mask(path, CODING)


def test_a_mask_in_jpeg_is_refused(tmp_path: Path) -> None:
    Image.fromarray(MASK).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="smears labels"):
        read_mask(tmp_path / "a.jpg", CODING)


def test_the_same_indices_are_other_colours_in_another_dataset(tmp_path: Path) -> None:
    luad, bcss = LAYOUTS["luad_histoseg"], LAYOUTS["bcss_wsss"]
    truth = np.array([[0, 1, 2, 3, 4]], np.uint8)
    for layout in (luad, bcss):
        coding = MaskCoding.of(layout.classes, layout.mask_ignore, layout.mask_ignore_color)
        write_mask(tmp_path / "a.png", truth, (*layout.classes.colors, layout.mask_ignore_color))
        assert np.array_equal(read_mask(tmp_path / "a.png", coding), truth)
    with pytest.raises(InputError, match="reordered"):  # necrosis (0, 255, 0) of the one is stroma of the other
        mixed = MaskCoding.of(luad.classes, 4)
        write_mask(tmp_path / "a.png", truth, [*bcss.classes.colors[:1], *bcss.classes.colors[2:], (0, 255, 0), WHITE])
        read_mask(tmp_path / "a.png", mixed)


def test_flags_are_whatever_is_not_0(tmp_path: Path) -> None:
    flags = np.array([[True, False], [False, True]])
    blue = np.zeros((2, 2, 3), np.uint8)
    blue[flags, 2] = 3
    for name, pixels in {"bit": flags, "grey": flags * np.uint8(9), "blue": blue}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        assert np.array_equal(read_flags(tmp_path / f"{name}.png"), flags), name
