import numpy as np
import pytest

from counterstain.synth.texture import clefts, fibres, grain


def test_grain_repeats_without_a_seam() -> None:
    texture = grain(4.0, 0.5, 3)
    strip = texture.tiled(np.arange(900, 1200), np.arange(5), 0)
    inside, across = np.abs(np.diff(strip[:100], axis=0)), np.abs(np.diff(strip[120:127], axis=0))
    assert float(across.max()) < 3 * float(inside.max())
    assert (texture.tiled(np.arange(1024, 1030), np.arange(4), 0) == texture.tiled(np.arange(6), np.arange(4), 0)).all()


def test_grain_has_standard_deviation_one_and_fades_below_a_pixel() -> None:
    assert float(grain(4.0, 0.5, 3).image.std()) == pytest.approx(1, abs=1e-3)
    assert float(grain(0.9, 2.0, 3).image.std()) == pytest.approx(0.5, abs=0.01)


def test_other_offsets_give_other_patterns() -> None:
    texture = grain(4.0, 0.5, 3)
    places = np.arange(64)
    assert np.abs(texture.tiled(places, places, 5) - texture.tiled(places, places, 77777)).mean() > 0.3


@pytest.mark.parametrize("texture", [fibres(0.5), clefts(0.5)], ids=["fibres", "clefts"])
def test_fibres_are_longer_than_wide(texture) -> None:  # type: ignore[no-untyped-def]
    along = np.abs(np.diff(texture.image, axis=1)).mean() / texture.step_um[0]
    across = np.abs(np.diff(texture.image, axis=0)).mean() / texture.step_um[1]
    assert across > 2 * along


def test_a_flow_carries_the_texture_with_it() -> None:
    texture = fibres(0.5)
    along, beside = np.meshgrid(np.arange(50.0), np.arange(40) * 0.4)
    turned = texture.flowing(along.T.astype(np.float32), beside.T.astype(np.float32))
    assert (turned == texture.flowing(along.astype(np.float32), beside.astype(np.float32)).T).all()


def test_coarse_pixels_see_less_of_the_fibres() -> None:
    assert fibres(2.0).image.std() < 0.9 * fibres(0.25).image.std()
