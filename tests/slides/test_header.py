"""What headers hold."""

import pytest

from counterstain.geometry import Size
from counterstain.slides import Level


@pytest.mark.parametrize(
    ("level0", "level", "factors"),
    [
        (Size(2967, 2220), Size(741, 555), (4, 4)),
        (Size(2967, 2220), Size(742, 555), (4, 4)),
        (Size(46000, 32914), Size(11500, 8228), (4, 4)),
        (Size(203, 149), Size(81, 60), (203 / 81, 149 / 60)),
        (Size(1000, 1000), Size(333, 400), (1000 / 333, 2.5)),
        (Size(300, 250), Size(300, 250), (1, 1)),
    ],
)
def test_whole_factors_are_recognised(level0: Size, level: Size, factors: tuple[float, float]) -> None:
    found = Level.of(level, level0)
    assert (found.downsample_x, found.downsample_y) == factors
