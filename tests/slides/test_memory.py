"""Memory for pixels: where it begins, when it is used again."""

import numpy as np
import pytest

from counterstain.slides.memory import Pool, decoder_memory


def address(pixels: np.ndarray) -> int:
    return int(pixels.__array_interface__["data"][0])


@pytest.mark.parametrize("shape", [(1, 1, 3), (256, 256, 3), (5, 512, 512, 3)])
def test_pixels_begin_where_a_decoder_does_not_write_past_the_caches(shape: tuple[int, ...]) -> None:
    pool = Pool(1 << 24)
    for pixels in (decoder_memory(*shape), pool.lease(*shape)):
        assert pixels.shape == shape
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        assert address(pixels) % 32 == 16


def test_memory_is_used_again_when_the_last_view_of_it_is_gone() -> None:
    pool = Pool(1 << 24)
    whole = pool.lease(100, 1000, 3)
    place, view = address(whole), whole[10:20]
    del whole
    assert address(pool.lease(100, 1000, 3)) != place, "a view still refers to it"
    del view
    assert address(pool.lease(100, 1000, 3)) == place


def test_what_is_kept_too_long_makes_way_for_what_is_used_now() -> None:
    step = 1 << 16
    pool = Pool(4 * step)
    old = [pool.lease(step) for _ in range(3)]
    del old
    now = [pool.lease(2 * step) for _ in range(2)]
    places = {address(pixels) for pixels in now}
    del now
    assert {address(pool.lease(2 * step)), address(pool.lease(2 * step))} <= places, "the younger are kept"
    held = [pool.lease(2 * step) for _ in range(2)]
    assert {address(pixels) for pixels in held} == places, "all that may be kept is theirs"


def test_more_than_may_be_kept_is_given_back_to_the_system() -> None:
    pool = Pool(1 << 16)
    piece = pool.lease(1 << 17)
    del piece
    assert not pool._num_free
    assert not any(pool._free.values())
