"""How much smaller an encoded slide is than its pixels.

Does not know: slides, files.
"""

from counterstain.errors import InputError


def compression_ratio(levels: int, num_features: int, cell_px: float = 112, scale: float = 56) -> float:
    """Values of a slide's pixels for each value of V and T, when every cell is kept.

    The thumbnail has 3 channels at each of its levels, all enlarged to the finest one's size, as DSNet takes them.

    Args:
        levels: L, thumbnails stacked in T.
        num_features: C, channels of V.
        cell_px: S, width and height of a cell in the pixels that are compared with. 112 are the ones an encoder is shown;
            the cell's own width at level 0 compares with the slide as it was scanned.
        scale: K, such pixels under a pixel of the finest thumbnail, along each side: half a cell.

    Raises:
        InputError: When a number is not above 0.

    Source: DSNet (arXiv 2109.05788), section V-A: 3 S^2 K^2 / (3 S^2 L + C K^2).
    """
    if min(levels, num_features, cell_px, scale) <= 0:
        raise InputError(
            f"{levels} levels, {num_features} features, cells of {cell_px} px and a scale of {scale} were given; all must "
            "be above 0."
        )
    return 3 * cell_px**2 * scale**2 / (3 * cell_px**2 * levels + num_features * scale**2)
