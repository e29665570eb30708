import numpy as np
import pytest

from counterstain.synth.noise import OUTSIDE, Discs, Scatter, Sites, again, hashed, key_of, noise, noise_at


def test_noise_depends_on_the_place_alone() -> None:
    ys, xs = np.arange(-300, 300) * 1.7, np.arange(-200, 250) * 1.7
    whole = noise(11, 23.0, ys, xs)
    assert (noise(11, 23.0, ys[37:155], xs[201:260]) == whole[37:155, 201:260]).all()
    assert (noise(11, 23.0, ys[::7], xs[3::11]) == whole[::7, 3::11]).all()


def test_noise_at_single_places_is_the_same_noise() -> None:
    ys, xs = np.arange(40) * 3.1 - 60, np.arange(30) * 2.3 - 20
    y, x = np.meshgrid(ys, xs, indexing="ij")
    assert np.allclose(noise_at(4, 12.0, y, x), noise(4, 12.0, ys, xs), atol=1e-5)


def test_noise_has_mean_zero_and_standard_deviation_one() -> None:
    values = noise(3, 5.0, np.arange(900.0), np.arange(900.0))
    assert abs(float(values.mean())) < 0.03
    assert float(values.std()) == pytest.approx(1, abs=0.03)


def test_noise_is_smooth() -> None:
    values = noise(3, 40.0, np.arange(400) * 0.5, np.arange(400) * 0.5)
    assert float(np.abs(np.diff(values, axis=0)).max()) < 0.1


def test_keys_of_other_names_and_seeds_are_unrelated() -> None:
    keys = {key_of(seed, name) for seed in (0, 1, 2**40, -3) for name in ("bed", "nests", "bed ")}
    assert len(keys) == 12
    assert all(0 <= key < 2**32 for key in keys)


def test_hashed_numbers_are_uniform_and_independent() -> None:
    hashes = hashed(9, np.arange(300)[:, None], np.arange(300)[None, :])
    first, second = again(hashes, 1), again(hashes, 2)
    assert 0 <= float(first.min()) < float(first.max()) < 1
    assert float(first.mean()) == pytest.approx(0.5, abs=0.01)
    assert abs(float(np.corrcoef(first.ravel(), second.ravel())[0, 1])) < 0.01
    assert abs(float(np.corrcoef(first[1:].ravel(), first[:-1].ravel())[0, 1])) < 0.01


def test_a_window_of_sites_holds_those_that_a_larger_one_holds_there() -> None:
    scatter = Scatter(7, 10.0, 0.9)
    large, small = scatter.sites(-200, -100, 300, 250), scatter.sites(-33, 12, 71, 90)
    is_inside = (large.x >= -33) & (large.x < 71) & (large.y >= 12) & (large.y < 90)
    assert len(small) > 40
    assert (small.x == large.x[is_inside]).all()
    assert (small.hashes == large.hashes[is_inside]).all()


def test_sites_keep_apart_when_they_hardly_stray() -> None:
    sites = Scatter(7, 10.0, 0.1).sites(0, 0, 300, 300)
    across, down = sites.x[:, None] - sites.x[None, :], sites.y[:, None] - sites.y[None, :]
    apart = np.hypot(across, down) + 1e9 * np.eye(len(sites))
    assert apart.min() > 8


def test_the_two_nearest_sites_are_those_that_a_search_finds() -> None:
    scatter = Scatter(21, 14.0, 0.75)
    ys, xs = np.arange(30) * 2.0 - 25, np.arange(40) * 2.0 - 11
    first, second = scatter.around(ys, xs).two_nearest()
    sites = scatter.sites(-120, -120, 160, 160)
    distances = np.hypot(ys[:, None, None] - sites.y[None, None, :], xs[None, :, None] - sites.x[None, None, :])
    distances.sort(axis=-1)
    assert np.allclose(first, distances[..., 0], atol=1e-3)
    assert np.allclose(second, distances[..., 1], atol=1e-3)


def test_depth_of_discs_is_the_distance_to_their_rim() -> None:
    sites = Sites(np.array([0.0, 50.0]), np.array([0.0, 10.0]), np.zeros(2, np.uint32))
    discs = Discs(sites, np.float32([10, 5]), np.float32([1, 1]), np.float32([0, 0]))
    ys, xs = np.arange(-20.0, 31.0), np.arange(-20.0, 80.0)
    depth = discs.depth(ys, xs, 6)
    assert depth[20, 20] == pytest.approx(10)
    assert depth[20, 25] == pytest.approx(5)
    assert depth[30, 70] == pytest.approx(5)
    assert depth[20, 55] == OUTSIDE


def test_an_ellipse_reaches_further_along_its_axis() -> None:
    discs = Discs(
        Sites(np.array([0.0]), np.array([0.0]), np.zeros(1, np.uint32)),
        np.float32([10]),
        np.float32([3]),
        np.float32([np.pi / 2]),
    )
    places = np.arange(-40.0, 41.0)
    depth = discs.depth(places, places, 5)
    assert depth[40 + 25, 40] > 0 > depth[40, 40 + 25]
