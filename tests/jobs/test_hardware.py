"""Limits of the hardware."""

import io

from PIL import Image

from counterstain.jobs.hardware import TILE_PX, best_seconds, drawn_tissue, hardware, jpeg_tiles


def test_limits_of_the_hardware_are_positive_and_told_for_one_core() -> None:
    figures = hardware(0.0)
    assert {figure.what for figure in figures} >= {
        "matrix products, one core",
        "memory copied",
        "JPEG decoding, one core",
    }
    assert all(figure.value > 0 for figure in figures)


def test_an_action_is_done_twice_at_least_and_its_first_time_does_not_count() -> None:
    done = []
    assert best_seconds(lambda: done.append(None), 0.0) >= 0
    assert len(done) == 2


def test_what_is_decoded_are_whole_tiles_of_tissue() -> None:
    tiles = jpeg_tiles(drawn_tissue())
    assert len(tiles) == 4
    assert {Image.open(io.BytesIO(tile)).size for tile in tiles} == {(TILE_PX, TILE_PX)}
