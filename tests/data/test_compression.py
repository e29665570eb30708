import pytest

from counterstain.data.compression import compression_ratio
from counterstain.errors import InputError


@pytest.mark.parametrize(("levels", "printed"), [(1, 269), (2, 248), (3, 230), (4, 214), (5, 200)])
def test_ratios_are_those_that_dsnet_prints(levels: int, printed: int) -> None:
    assert compression_ratio(levels, 128) == pytest.approx(printed, abs=1)


def test_the_ratio_is_counted_value_by_value() -> None:
    pixels = 3 * 256 * 256
    kept = 128 + 3 * 3 * 2 * 2
    assert compression_ratio(3, 128, cell_px=256, scale=128) == pytest.approx(pixels / kept)
    assert compression_ratio(3, 128, 256, 128) == pytest.approx(1198.8, abs=0.1)


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="above 0"):
        compression_ratio(0, 128)
