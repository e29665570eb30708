"""Blocks of a map: how every writer here walks over arrays that don't fit in memory.

A block is the box of one piece of a map in map pixels. Rows of blocks come from the top, blocks of a row from the left, so
that whoever sweeps with them has finished everything above.

Does not know: what the arrays hold.
"""

from collections.abc import Iterator

from counterstain.geometry import Box, Size


def blocks(size: Size, block: Size) -> Iterator[Box]:
    """Boxes of at most the size of a block that tile a map, row by row."""
    for y in range(0, size.height, block.height):
        for x in range(0, size.width, block.width):
            yield Box(x, y, min(block.width, size.width - x), min(block.height, size.height - y))


def halved(size: Size) -> Size:
    """Half a size, rounded up: no pixel is dropped at an odd edge."""
    return Size(-(-size.width // 2), -(-size.height // 2))
