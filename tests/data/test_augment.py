from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterstain.data import Augment, AugmentSettings
from counterstain.errors import InputError

SYMMETRIES = 8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(number: int = 4, side: int = 5) -> torch.Tensor:
    return torch.rand(number, 3, side, side, generator=generator(9))


def symmetries(image_CHW: torch.Tensor) -> list[torch.Tensor]:
    turned = [torch.rot90(image_CHW, turns, (1, 2)) for turns in range(4)]
    return [*turned, *(torch.flip(image, (2,)) for image in turned)]


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_every_image_is_one_of_its_symmetries(seed: int, flip: bool, turn: bool) -> None:
    batch = images()
    moved = Augment(AugmentSettings(flip, turn))(batch, generator(seed))
    for image, result in zip(batch, moved, strict=True):
        assert any(torch.equal(result, symmetry) for symmetry in symmetries(image))


def test_all_symmetries_are_equally_likely_and_images_are_moved_independently() -> None:
    image = images(1)[0]
    moved = Augment()(image.expand(4000, -1, -1, -1), generator())
    known = symmetries(image)
    counts = Counter(next(n for n, symmetry in enumerate(known) if torch.equal(result, symmetry)) for result in moved)
    assert len(counts) == SYMMETRIES
    assert all(400 < count < 600 for count in counts.values())


def test_flips_alone_turn_nothing_and_do_not_need_squares() -> None:
    batch = torch.rand(200, 3, 4, 7, generator=generator())
    moved = Augment(AugmentSettings(turn=False))(batch, generator())
    kinds = set()
    for image, result in zip(batch, moved, strict=True):
        known = [image, image.flip(2), image.flip(1), image.flip(1, 2)]
        kinds |= {number for number, flipped in enumerate(known) if torch.equal(result, flipped)}
    assert kinds == {0, 1, 2, 3}
    with pytest.raises(InputError, match=r"7 x 4 px can't be turned .* turn = false"):
        Augment()(batch)


def test_with_everything_off_nothing_changes() -> None:
    batch = images()
    assert torch.equal(Augment(AugmentSettings(flip=False, turn=False))(batch, generator()), batch)


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_the_same_generator_gives_the_same_images(sigma: float) -> None:
    augment = Augment(AugmentSettings(stain_sigma=sigma))
    first, again, other = (augment(images(), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bytes_stay_bytes_and_floats_floats() -> None:
    augment = Augment(AugmentSettings(stain_sigma=0.1))
    batch = images()
    as_bytes = (batch * 255).round().to(torch.uint8)
    first, second = augment(batch, generator()), augment(as_bytes, generator())
    assert first.dtype == torch.float32
    assert second.dtype == torch.uint8
    assert float((first * 255 - second.float()).abs().max()) < 4


def test_one_image_is_augmented_like_a_batch_of_one() -> None:
    image = images(1)[0]
    augment = Augment(AugmentSettings(stain_sigma=0.1))
    assert torch.equal(augment(image, generator()), augment(image[None], generator())[0])


def test_stain_jitter_changes_stained_pixels_and_stays_in_range() -> None:
    stained = Augment(AugmentSettings(flip=False, turn=False, stain_sigma=0.2))(images(), generator())
    assert not torch.equal(stained, images())
    assert float(stained.min()) >= 0
    assert float(stained.max()) <= 1


def test_the_images_given_are_left_as_they_are() -> None:
    batch = images()
    before = batch.clone()
    Augment(AugmentSettings(stain_sigma=0.2))(batch, generator())
    assert torch.equal(batch, before)


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(InputError, match="0 or more"):
        AugmentSettings(stain_sigma=-0.1)
