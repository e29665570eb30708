from pathlib import Path

import numpy as np
import pytest
import torch

from counterstain.data.encoded import EncodedSlide
from counterstain.data.encoded_files import read_encoded
from counterstain.errors import InputError
from counterstain.geometry import Frame, Point, Size
from counterstain.methods.slide_batches import EpochShuffle, GridSlide, SlideItems, augmented, collate
from counterstain.methods.slide_config import SlideConfig
from counterstain.testing.encoded_slides import EncodedSlides, write_encoded_slides

AREAS = [int(area) for area in np.random.default_rng(0).integers(10, 1000, 37)]


def marked(height: int, width: int) -> GridSlide:
    """A slide whose embeddings and thumbnail tell the place they come from."""
    rows, columns = np.mgrid[:height, :width]
    features = np.stack([rows, columns], -1).astype(np.float16)
    fine_rows, fine_columns = np.mgrid[: 2 * height, : 2 * width]
    thumbnail = np.stack([fine_rows, fine_columns, 0 * fine_rows], -1).astype(np.uint8)
    return GridSlide(features, np.ones((height, width), np.bool_), thumbnail)


@pytest.mark.parametrize("seed", range(12))
def test_crops_and_turns_keep_embeddings_and_thumbnail_aligned(seed: int) -> None:
    slide = augmented(marked(11, 8), SlideConfig(crop_cells=5), np.random.default_rng(seed))
    assert slide.thumbnail_HWC is not None
    rows, columns = slide.observed_HW.shape
    cells = slide.thumbnail_HWC[..., :2].reshape(rows, 2, columns, 2, 2)
    assert np.array_equal(cells.mean((1, 3)), 2 * slide.features_HWC.astype(float) + 0.5)


def test_crops_discard_as_much_as_was_allowed_and_no_more() -> None:
    config, shapes = SlideConfig(crop_cells=3, turn=False), set()
    for seed in range(60):
        slide = augmented(marked(20, 20), config, np.random.default_rng(seed))
        shapes.add(slide.observed_HW.shape[0])
    assert shapes == {17, 18, 19, 20}


def test_what_was_observed_is_never_cropped_away_altogether() -> None:
    slide = marked(9, 9)
    slide.observed_HW[:] = False
    slide.observed_HW[0, 0] = True
    assert all(
        augmented(slide, SlideConfig(), np.random.default_rng(seed)).observed_HW.sum() == 1 for seed in range(40)
    )


def encoded(features: np.ndarray) -> EncodedSlide:
    frame = Frame(Point(0, 0), 1, 1, Size(len(features), 1))
    return EncodedSlide(features, np.array([[0, column] for column in range(len(features))], np.int32), frame, None)


def test_embeddings_keep_the_precision_they_were_encoded_in() -> None:
    large, small = np.array([[7e4], [1e-9]], np.float32), np.array([[0.1], [2.0]], np.float16)
    assert GridSlide.of(encoded(small)).features_HWC.dtype == np.float16
    assert collate([GridSlide.of(encoded(large))]).features_BCHW[0, 0, 0].tolist() == large[:, 0].tolist()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_embeddings_that_are_no_numbers_are_refused(wrong: float) -> None:
    with pytest.raises(InputError, match="not finite"):
        GridSlide.of(encoded(np.array([[0.5], [wrong]], np.float32)))


def test_all_eight_ways_to_lay_a_slide_come() -> None:
    config = SlideConfig(crop_cells=0)
    ways = {augmented(marked(3, 4), config, np.random.default_rng(seed)).features_HWC.tobytes() for seed in range(80)}
    assert len(ways) == 8


def test_padding_is_blank_and_told_from_glass() -> None:
    batch = collate([marked(2, 3), marked(4, 1)])
    assert batch.thumbnails_B3HW is not None
    assert batch.features_BCHW.shape == (2, 2, 4, 3)
    assert batch.extent_B1HW.sum((1, 2, 3)).tolist() == [6, 4]
    outside = batch.thumbnail_extent == 0
    assert torch.equal(batch.thumbnails_B3HW[outside.expand(-1, 3, -1, -1)].unique(), torch.zeros(1))
    assert torch.allclose(batch.thumbnails_B3HW[0, 2, :4, :6], torch.ones(4, 6))  # ink of black
    assert batch.to("cpu").features_BCHW.equal(batch.features_BCHW)


def test_slides_with_and_without_thumbnail_are_not_mixed() -> None:
    bare = marked(2, 2)
    bare.thumbnail_HWC = None
    with pytest.raises(InputError, match="1 of 2 slides have a thumbnail"):
        collate([marked(2, 2), bare])
    assert collate([bare, bare]).thumbnails_B3HW is None


def test_every_slide_comes_once_an_epoch_in_batches_of_like_size() -> None:
    order = EpochShuffle(AREAS, 4, seed=3)
    epochs = []
    for epoch in range(3):
        order.set_epoch(epoch)
        indices = [number - epoch * len(AREAS) for number in order]
        assert sorted(indices) == list(range(len(AREAS)))
        epochs.append(indices)
    assert len({tuple(indices) for indices in epochs}) == 3
    batches = [epochs[0][start : start + 4] for start in range(0, 36, 4)]
    spread = np.mean([np.ptp([AREAS[index] for index in batch]) for batch in batches])
    shuffled = np.random.default_rng(1).permutation(AREAS)[:36].reshape(-1, 4)
    assert spread < 0.6 * np.ptp(shuffled, axis=1).mean()


def test_what_fills_no_batch_is_not_always_the_largest() -> None:
    order = EpochShuffle(AREAS, 4, seed=0)
    left = []
    for epoch in range(40):
        order.set_epoch(epoch)
        left.append(AREAS[list(order)[-1] - epoch * len(AREAS)])
    assert min(left) < np.median(AREAS) < max(left)


def test_the_same_item_of_another_epoch_is_another_view_and_of_the_same_epoch_the_same(tmp_path: Path) -> None:
    slides = write_encoded_slides(tmp_path, EncodedSlides(num_slides=2))
    items = SlideItems(slides, SlideConfig(), seed=1)
    first, again, later = (items[number][0].features_HWC for number in (0, 0, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)
    plain = SlideItems(slides)[0][0]
    assert np.array_equal(plain.features_HWC, read_encoded(slides.slides[0].folder, "planted").dense_features())
    assert items.areas() == [item[0].observed_HW.size for item in (SlideItems(slides)[0], SlideItems(slides)[1])]


def test_hidden_cells_are_told_as_not_observed_and_no_slide_is_hidden_whole() -> None:
    config = SlideConfig(crop_cells=0, turn=False, hide_cells=0.9)
    shares = []
    for seed in range(40):
        slide = augmented(marked(10, 10), config, np.random.default_rng(seed))
        assert not slide.features_HWC[~slide.observed_HW].any()
        shares.append(slide.observed_HW.mean())
    assert 0 < min(shares) < 0.4
    assert max(shares) > 0.8
