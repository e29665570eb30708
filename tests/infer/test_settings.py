import dataclasses

import pytest

from counterstain.errors import InputError
from counterstain.infer.settings import SPEED, PredictSettings, tile_sizes
from counterstain.testing.planted import PlantedInput


@pytest.mark.parametrize("name", ["model_mpp", "tile_px", "map_stride", "chunk_px", "batch_size", "num_threads"])
def test_numbers_must_be_above_0(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' was given as 0"):
        PredictSettings(**{name: 0})


@pytest.mark.parametrize("name", ["halo_px", "num_workers"])
def test_numbers_must_be_0_or_more(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' was given as -1"):
        PredictSettings(**{name: -1})


@pytest.mark.parametrize("overlap", [-0.1, 0.95, float("nan")])
def test_an_overlap_is_a_share(overlap: float) -> None:
    with pytest.raises(InputError, match=r"between 0 and 0\.9"):
        PredictSettings(overlap=overlap)


def test_what_changes_the_speed_alone_is_not_hashed() -> None:
    names = {field.name for field in dataclasses.fields(PredictSettings)}
    assert names > SPEED
    assert set(PredictSettings().that_matter()) == names - SPEED
    assert PredictSettings(batch_size=3, device="cpu").that_matter() == PredictSettings().that_matter()
    assert PredictSettings(overlap=0.5).that_matter() != PredictSettings().that_matter()


def test_a_model_without_a_resolution_needs_one() -> None:
    unknown = PlantedInput(mpp=None)
    with pytest.raises(InputError, match="--model-mpp"):
        PredictSettings().target_mpp(unknown)
    assert PredictSettings(model_mpp=0.5).target_mpp(unknown) == 0.5
    assert PredictSettings().target_mpp(PlantedInput(mpp=1.0)) == 1.0


def test_tiles_fall_on_whole_map_pixels() -> None:
    sizes = tile_sizes(PlantedInput(tile_px=224, halo_px=58), PredictSettings(), map_stride=4)
    assert (sizes.tile_px, sizes.halo_px, sizes.core_px) == (224, 60, 104)
    assert sizes.stride_px == 76  # 104 * 0.75 = 78, rounded down to the map
    assert sizes.overlap_px == 28


def test_settings_override_the_model() -> None:
    settings = PredictSettings(tile_px=96, halo_px=0, overlap=0)
    sizes = tile_sizes(PlantedInput(tile_px=224, halo_px=58), settings, map_stride=1)
    assert (sizes.tile_px, sizes.halo_px, sizes.stride_px, sizes.overlap_px) == (96, 0, 96, 0)


def test_a_stride_is_at_least_one_map_pixel() -> None:
    assert tile_sizes(PlantedInput(16, 4), PredictSettings(overlap=0.9), map_stride=4).stride_px == 4


def test_tiles_that_fit_no_map_are_refused() -> None:
    with pytest.raises(InputError, match="a tile of 224 px"):
        tile_sizes(PlantedInput(tile_px=225), PredictSettings(), map_stride=4)
    with pytest.raises(InputError, match="leaves nothing"):
        tile_sizes(PlantedInput(tile_px=64, halo_px=32), PredictSettings(), map_stride=4)
