import numpy as np
import pytest

from counterstain.errors import InputError
from counterstain.synth.look import Look, sensor_noise


def flat(value: float) -> np.ndarray:
    return np.full((8, 9), value, np.float32)


def test_no_stain_is_the_white_of_the_scanner() -> None:
    look = Look(white=(240, 230, 220))
    assert (look.pixels(flat(0), flat(0), flat(1), flat(0)) == (240, 230, 220)).all()
    assert (look.glass(flat(1), flat(0)) == (240, 230, 220)).all()


def test_stains_absorb_by_beer_and_lambert() -> None:
    look = Look(haematoxylin=(0.6, 0.7, 0.3), eosin=(0.2, 0.8, 0.5), white=(250, 250, 250))
    pixel = look.pixels(flat(0.8), flat(0.5), flat(1), flat(0))[0, 0]
    expected = 250 * np.exp(-(0.8 * np.array([0.6, 0.7, 0.3]) + 0.5 * np.array([0.2, 0.8, 0.5])))
    assert np.abs(pixel - expected).max() <= 0.51


def test_haematoxylin_is_blue_and_eosin_is_pink() -> None:
    look = Look()
    red, green, blue = look.pixels(flat(1.2), flat(0), flat(1), flat(0))[0, 0].tolist()
    assert blue > red > green
    red, green, blue = look.pixels(flat(0), flat(0.8), flat(1), flat(0))[0, 0].tolist()
    assert red > blue > green


def test_saturation_spreads_colours_around_grey() -> None:
    dull, vivid = (Look(saturation=value).pixels(flat(0.5), flat(0.4), flat(1), flat(0))[0, 0] for value in (0.6, 1.4))
    assert np.ptp(vivid.astype(int)) > 1.5 * np.ptp(dull.astype(int))


def test_looks_come_from_their_seeds() -> None:
    assert Look.drawn(1, 2, 0.7) == Look.drawn(1, 2, 0.7)
    assert Look.drawn(1, 2, 0.7).haematoxylin == Look.drawn(1, 3, 0.7).haematoxylin
    assert Look.drawn(1, 2, 0.7).white == Look.drawn(5, 2, 0.7).white
    assert Look.drawn(1, 2, 0.7) != Look.drawn(5, 3, 0.7)


def test_without_variation_all_looks_agree_in_stain() -> None:
    one, other = Look.drawn(1, 2, 0), Look.drawn(5, 9, 0)
    assert one == other


def test_a_negative_variation_is_refused() -> None:
    with pytest.raises(InputError, match="-1 was given"):
        Look.drawn(1, 2, -1)


def test_optics_keep_a_flat_density_and_cut_their_reach() -> None:
    look = Look(blur_um=0.5, sharpen=0.8)
    reach = look.reach_px(0.5)
    density = np.full((40, 50), 0.7, np.float32)
    seen = look.optics(density, 0.5)
    assert seen.shape == (40 - 2 * reach, 50 - 2 * reach)
    assert np.allclose(seen, 0.7, atol=1e-5)


def test_optics_blur_a_point_and_sharpening_leaves_a_halo() -> None:
    density = np.zeros((61, 61), np.float32)
    density[30, 30] = 1
    soft = Look(blur_um=0.6, sharpen=0).optics(density, 0.5)
    sharp = Look(blur_um=0.6, sharpen=0.8).optics(density, 0.5)
    assert soft.max() < 0.5
    assert soft.min() >= 0
    assert sharp.max() > soft.max()
    assert sharp.min() < 0


def test_sensor_noise_belongs_to_the_pixel() -> None:
    whole = sensor_noise(np.arange(100), np.arange(120), 4)
    assert (sensor_noise(np.arange(20, 60), np.arange(7, 30), 4) == whole[20:60, 7:30]).all()
    assert np.abs(whole - sensor_noise(np.arange(100), np.arange(120), 5)).mean() > 0.1
