"""Maps of an image of any size: the same tiles, windows and blend as on a slide, with the image as the frame.

Unlike on a slide, tiles don't overhang: white beyond the rim would be taken for glass. They are shifted inwards
instead, and a tile at the image's rim keeps its halo there, since no neighbour sees more. An image smaller than a tile
is one tile.

Does not know: slides, files.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.geometry import Size
from counterstain.infer.dense import DenseModel
from counterstain.infer.paint import Painter
from counterstain.infer.runtime import Runner, threads
from counterstain.infer.settings import PredictSettings, TileSizes, tile_sizes
from counterstain.infer.stitch import Stitcher, window
from counterstain.results import Maps

Pixels = npt.NDArray[np.uint8]


def predict_image(image_HWC: Pixels, model: DenseModel, settings: PredictSettings | None = None) -> Maps:
    """Class probabilities of every pixel of an image.

    Args:
        image_HWC: uint8 RGB at the resolution the model was trained at.
        model: Whose maps.
        settings: Tiles, blending, device. `map_stride` and the tissue are of slides and not looked at.

    Returns:
        Maps of the image's size; NaN only where glass becomes background and the classes have none.

    Raises:
        InputError: When the image is no uint8 RGB, or tiles, device or model don't fit.
    """
    if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8 or not image_HWC.size:
        raise InputError(
            f"An image of shape {image_HWC.shape} and type {image_HWC.dtype} was given; expected (height, width, 3) uint8."
        )
    settings = settings or PredictSettings()
    sizes = tile_sizes(model.input, settings, map_stride=1)
    runner = Runner(model, settings, map_stride=1)
    size = Size.of(image_HWC)
    stitcher = Stitcher(runner.num_channels, size, band_px=size.height, core_px=size.height)
    with threads(settings.num_threads):
        _blend(image_HWC, runner, stitcher, sizes, settings.batch_size)
    band = next(stitcher.rest())
    painter = Painter(model.classes, map_stride=1, with_gray=bool(settings.white_background))
    return Maps(painter.paint(band.mean_CHW, band.is_covered)[0], model.classes)


def starts(length: int, tile_px: int, stride_px: int) -> tuple[int, ...]:
    """First pixels of tiles along one axis: evenly spread, at most a stride apart, the last ending at the rim."""
    if length <= tile_px:
        return (0,)
    num = -(-(length - tile_px) // stride_px) + 1
    return tuple(int(start) for start in np.linspace(0, length - tile_px, num).round())


def _blend(image: Pixels, runner: Runner, stitcher: Stitcher, sizes: TileSizes, batch_size: int) -> None:
    size = Size.of(image)
    tile = Size(min(sizes.tile_px, size.width), min(sizes.tile_px, size.height))
    for y in starts(size.height, sizes.tile_px, sizes.stride_px):
        for xs in _batches(starts(size.width, sizes.tile_px, sizes.stride_px), batch_size):
            maps = runner.run(np.stack([image[y : y + tile.height, x : x + tile.width] for x in xs]))
            rows = _core(y, tile.height, size.height, sizes.halo_px)
            for x, maps_CHW in zip(xs, maps, strict=True):
                columns = _core(x, tile.width, size.width, sizes.halo_px)
                core = maps_CHW[:, rows, columns]
                weights = window(Size.of(core[0]), sizes.overlap_px, sizes.overlap_px)
                stitcher.add(core, weights, x + columns.start, y + rows.start)


def _batches(xs: tuple[int, ...], batch_size: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(xs), batch_size):
        yield xs[start : start + batch_size]


def _core(start: int, tile_px: int, length: int, halo_px: int) -> slice:
    """What of a tile is kept along one axis: all but its halo, and the halo too at the rim."""
    lead = halo_px if start > 0 else 0
    trail = halo_px if start + tile_px < length else 0
    return slice(lead, tile_px - trail)
