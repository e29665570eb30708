from hypothesis import given
from hypothesis import strategies as st

from counterstain.export.blocks import blocks, halved
from counterstain.geometry import Size

SIZES = st.builds(Size, st.integers(1, 30), st.integers(1, 30))


@given(SIZES, SIZES)
def test_blocks_tile_a_map_row_by_row(size: Size, block: Size) -> None:
    found = list(blocks(size, block))
    pixels = [
        (x, y) for box in found for y in range(int(box.y), int(box.bottom)) for x in range(int(box.x), int(box.right))
    ]
    assert sorted(pixels) == sorted((x, y) for x in range(size.width) for y in range(size.height))
    assert [(box.y, box.x) for box in found] == sorted((box.y, box.x) for box in found)
    assert all(box.width <= block.width and box.height <= block.height for box in found)


@given(SIZES)
def test_half_a_size_covers_it(size: Size) -> None:
    half = halved(size)
    assert 0 <= 2 * half.width - size.width <= 1
    assert 0 <= 2 * half.height - size.height <= 1
