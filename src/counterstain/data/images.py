"""Image and mask files of patches: read whole, refused where a reading would be a guess.

An image becomes RGB, whatever is transparent in it white. A mask becomes class indices; an indexed PNG keeps its indices
and is never turned into colours, since two datasets paint the same class differently.

Does not know: datasets, folders, slides (a slide is read through `counterstain.slides`).
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from counterstain.errors import InputError, listed
from counterstain.files import existing
from counterstain.geometry import Size
from counterstain.results import RGB, Classes

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
"""Files that count as images in a dataset's folder, in lower case."""

MaskReading = Literal["indices", "not zero", "white"]
"""What pixels of mask files say: a class index or its colour; or, of two classes, the one that is not the background,
where a pixel is not 0 or where it is nearer white than black."""

_MOST_PIXELS = 1 << 29  # of a patch; the largest of DigestPath2019 has 22701 x 19314, which Pillow takes for an attack
_GREY = 127  # masks saved as JPEG hold all greys: above it they meant white
_SMEARED = 32  # a JPEG whose brightest grey is below is black all over
_PILLOW = threading.Lock()

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
)  # what Pillow raises on bad files
_TRANSPARENT_MODES = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
_OPAQUE_MODES = frozenset({"RGB", "L", "P", "1", "CMYK", "YCbCr"})
_WHITE: RGB = (255, 255, 255)


@dataclass(frozen=True)
class MaskCoding:
    """What the values and colours of a dataset's masks mean.

    Args:
        num_classes: Values 0 to num_classes - 1 are classes.
        ignore_index: The value that is no class: scoring leaves it out. None where there is none.
        colors: One for each class and, last, that of `ignore_index` if there is one. Empty where colours mean nothing.
    """

    num_classes: int
    ignore_index: int | None
    colors: tuple[RGB, ...] = ()

    @classmethod
    def of(cls, classes: Classes, ignore_index: int | None, ignore_color: RGB = _WHITE) -> Self:
        """The coding of a dataset with these classes."""
        colors = classes.colors if ignore_index is None else (*classes.colors, ignore_color)
        return cls(len(classes), ignore_index, colors)

    @property
    def values(self) -> tuple[int, ...]:
        """Every value a mask may hold, in the order of `colors`."""
        return (*range(self.num_classes), *(() if self.ignore_index is None else (self.ignore_index,)))


def read_image(path: Path | str) -> Pixels:
    """An image file's pixels.

    Returns:
        (H, W, 3) uint8 RGB. Grey and indexed images are converted; transparent pixels are composited on white.

    Raises:
        MissingFileError: When nothing is there.
        InputError: When it can't be decoded, or has more than 8 bits a channel.
    """
    image = _load(Path(path), "an image")
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (*_WHITE, 255)), layer)
    elif image.mode not in _OPAQUE_MODES:
        raise InputError(
            f"Image '{path}' has pixels of kind {image.mode!r}; 8-bit grey or colour was expected. Convert it, choosing "
            "yourself which range of values becomes black and white."
        )
    return np.array(image.convert("RGB"))


def image_size(path: Path | str) -> Size:
    """An image's size, from its header alone.

    Raises:
        MissingFileError: When nothing is there.
        InputError: When the header can't be read.
    """
    path = existing(path, "an image")
    try:
        with _opened(path) as image:
            return Size(*image.size)
    except _UNREADABLE as error:
        raise InputError(f"'{path}' is no image that can be read: {_reason(error)}. Replace the file.") from error


def read_mask(path: Path | str, coding: MaskCoding | None = None) -> Mask:
    """A mask file's class indices.

    Args:
        path: A lossless image: indexed, grey or one-bit files hold indices; RGB files are looked up in `coding.colors`.
        coding: What its values mean. Without it every value is taken as it is, and RGB is refused.

    Returns:
        (H, W) uint8: class indices, and `coding.ignore_index`.

    Raises:
        MissingFileError: When nothing is there.
        InputError: When it can't be decoded, is JPEG, or holds a value or colour that stands for nothing in `coding`.
    """
    path = Path(path)
    image = _load(path, "a mask")
    _refuse_jpeg(path, image)
    if image.mode in ("RGB", "RGBA"):
        return _from_colors(path, image, coding)
    values = np.array(image)
    if values.ndim != 2 or values.dtype.kind not in "biu" or (values.size and values.max() > 255) or values.min() < 0:
        raise InputError(
            f"Mask '{path}' has pixels of kind {image.mode!r}; an indexed or 8-bit grey image of class indices was "
            "expected. Save it as such."
        )
    mask = values.astype(np.uint8)
    if coding is not None:
        _refuse_foreign_values(path, mask, coding)
        if image.mode == "P":
            _refuse_permuted_palette(path, mask, image, coding)
    return mask


def read_binary_mask(path: Path | str, reading: MaskReading, ignore_index: int | None = None) -> Mask:
    """A mask file of two classes, painted in black and white or numbered.

    Args:
        path: "not zero" takes lossless files alone; "white" JPEG too, and any that show black and white.
        reading: "not zero" or "white": 1 where a pixel is not 0 in any channel, or where the mean of its channels is
            above 127.
        ignore_index: With "not zero", the value that is neither.

    Returns:
        (H, W) uint8 of 0, 1 and `ignore_index`.

    Raises:
        MissingFileError: When nothing is there.
        InputError: When it can't be decoded, is transparent, is JPEG where that is no mask, or is all but black where
            white was expected.
    """
    assert reading != "indices", "masks of indices have a coding"
    path = Path(path)
    image = _load(path, "a mask")
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        raise InputError(f"Mask '{path}' is transparent. Save it opaque, in black and white.")
    if reading == "white":
        return _where_white(path, image)
    _refuse_jpeg(path, image)
    values = np.array(image)
    values = values.reshape(*values.shape[:2], -1)
    is_there: npt.NDArray[np.bool_] = np.any(values, axis=-1)
    mask: Mask = is_there.astype(np.uint8)
    if ignore_index is not None:
        mask = np.where((values == ignore_index).all(axis=-1), np.uint8(ignore_index), mask)
    return mask


def read_flags(path: Path | str) -> npt.NDArray[np.bool_]:
    """Where a mask file is not 0, in any of its channels.

    Returns:
        (H, W) bool.

    Raises:
        MissingFileError: When nothing is there.
        InputError: When it can't be decoded.
    """
    values = np.array(_load(Path(path), "a mask"))
    flags: npt.NDArray[np.bool_] = np.any(values.reshape(*values.shape[:2], -1), axis=-1)
    return flags


def write_image(path: Path, pixels: Pixels) -> None:
    """Writes (H, W, 3) uint8 RGB as PNG. A dataset is whole once its table is written, so its images are not synced."""
    Image.fromarray(pixels).save(path, format="PNG")


def write_mask(path: Path, mask: Mask, colors: Sequence[RGB]) -> None:
    """Writes (H, W) uint8 indices as an indexed PNG, as `write_image` does.

    Args:
        path: The file.
        mask: Class indices.
        colors: The palette's first entries; indices past them are white.
    """
    image = Image.fromarray(mask).convert("L")
    palette = [channel for color in colors for channel in color]
    image.putpalette(palette + [255] * (768 - len(palette)))
    image.save(path, format="PNG")


def _where_white(path: Path, image: Image.Image) -> Mask:
    channels = np.array(image.convert("RGB"))
    sums = channels.sum(axis=-1, dtype=np.uint16)
    brightest = int(sums.max()) / 3
    # JPEG smears black a little; a lossless file has no such excuse.
    least = _SMEARED if image.format == "JPEG" else 0
    if least < brightest <= _GREY:
        raise InputError(
            f"Mask '{path}' holds no pixel brighter than {brightest:.0f}; black and white (255) was expected. If it holds "
            "class indices, give the dataset as a table."
        )
    mask: Mask = (sums > 3 * _GREY).astype(np.uint8)
    return mask


def _refuse_jpeg(path: Path, image: Image.Image) -> None:
    if image.format == "JPEG":
        raise InputError(f"Mask '{path}' is a JPEG, which smears labels. Save masks as PNG.")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header was read. Pillow's limit on pixels is for files of strangers; a dataset's own are larger."""
    with _PILLOW:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _MOST_PIXELS
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with image:
        yield image


def _load(path: Path, what: str) -> Image.Image:
    path = existing(path, what)
    try:
        with _opened(path) as image:
            image.load()
    except _UNREADABLE as error:
        raise InputError(f"'{path}' can't be decoded as {what}: {_reason(error)}. Replace the file.") from error
    return image


def _reason(error: BaseException) -> str:
    text = str(error).rstrip(".") or type(error).__name__
    return "no known image format" if "cannot identify image file" in text else text


def _refuse_foreign_values(path: Path, mask: Mask, coding: MaskCoding) -> None:
    found = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256))
    foreign = sorted(set(found.tolist()) - set(coding.values))
    if not foreign:
        return
    ignored = "" if coding.ignore_index is None else f" and {coding.ignore_index} for what scoring leaves out"
    raise InputError(
        f"Mask '{path}' holds the values {foreign[:10]}; 0 to {coding.num_classes - 1} for the classes{ignored} were "
        "expected. Check the layout, or renumber the mask."
    )


def _refuse_permuted_palette(path: Path, mask: Mask, image: Image.Image, coding: MaskCoding) -> None:
    """Refuses an indexed file that paints an index in another class's colour: some editor has reordered its palette."""
    if len(set(coding.colors)) != len(coding.colors) or not coding.colors:
        return
    value_of: dict[tuple[int, ...], int] = dict(zip(coding.colors, coding.values, strict=True))
    flat = image.getpalette() or []
    for value in np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256)).tolist():
        color = tuple(flat[3 * value : 3 * value + 3])
        meant = value_of.get(color, value)
        if meant != value:
            raise InputError(
                f"Mask '{path}' paints index {value} in {color}, the colour of {meant}: its palette was reordered, most "
                "likely by an image editor. Save it with the dataset's palette, or as RGB."
            )


def _from_colors(path: Path, image: Image.Image, coding: MaskCoding | None) -> Mask:
    channels = np.array(image)
    if channels.shape[2] == 4 and (channels[..., 3] != 255).any():
        raise InputError(
            f"Mask '{path}' is transparent in places. Save it opaque, as indices or in the palette's colours."
        )
    if coding is None or not coding.colors:
        raise InputError(f"Mask '{path}' is RGB, and no palette says what its colours mean. Save it as class indices.")
    if len(set(coding.colors)) != len(coding.colors):
        raise InputError(f"Mask '{path}' is RGB, and two classes share a colour. Save it as class indices.")
    packed = _packed(channels[..., :3])
    colors, places = np.unique(packed, return_inverse=True)
    value_of = {
        int(_packed(np.asarray(color, np.uint8))): value
        for color, value in zip(coding.colors, coding.values, strict=True)
    }
    unknown = [f"({c >> 16}, {c >> 8 & 255}, {c & 255})" for c in colors.tolist() if c not in value_of]
    if unknown:
        known = ", ".join(str(color) for color in coding.colors)
        raise InputError(
            listed(f"Mask '{path}' has colours outside the dataset's palette ({known}). They are:", unknown, shown=5)
        )
    table = np.array([value_of[c] for c in colors.tolist()], np.uint8)
    return table[places].reshape(packed.shape)


def _packed(rgb: Pixels) -> npt.NDArray[np.int32]:
    channels = rgb.astype(np.int32)
    packed: npt.NDArray[np.int32] = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
    return packed
