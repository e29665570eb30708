"""Overlap of tumour masks, image by image: from the confusion matrix of each image of a set of two classes.

An image whose truth holds tumour is a positive and is scored by the tumour; any other is a negative and is scored by what
is left alone: F1 of the normal class, 2 (1 - phi) / (2 - phi) where phi is the share of its pixels called tumour. Each
image counts once, however large its tumour. The mean over all images, positives and negatives mixed, is the headline of
published work on weak tumour masks; it moves with the mix of the set, so both halves stand beside it, and so do the figures
of all pixels pooled.

Pixels without a predicted class are no tumour. Pixels whose truth is ignored never count; an image that is ignored
everywhere is neither positive nor negative.

For intervals, values of images become counts that add up: [value, 1], or [0, 0] for an image that does not count.
`bootstrap(f1_positives(confusions, 1), patients, summed_mean)` resamples patients, `bootstrap_difference` pairs two models.

Does not know: files, which class is tumour, how masks were predicted.

Source: the released code of "Enhancing Weakly-Supervised Histopathology Image Segmentation with Knowledge Distillation on
MIL-Based Pseudo-Labels" for F1 by image and its mix; docs/metrics.md names where it departs from a plain mean. The strata
are ours: a mean over images hides that small tumours vanish.

N images, K classes and one for what is not scored.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.metrics.segmentation import Counts, Floats, mean_defined, plain, ratio

STRATA = (0.0, 0.02, 0.1, 0.3, 0.6, 1.0)
"""Edges of the bins of tumour fractions; a bin holds its upper edge and not its lower."""


@dataclass(frozen=True)
class PixelCounts:
    """Scored pixels of images, told apart by truth and prediction; arrays of one shape.

    Args:
        hits: Tumour that was called tumour.
        false: Normal that was called tumour.
        missed: Tumour that was not.
        spared: Normal that was not.
    """

    hits: npt.NDArray[Any]
    false: npt.NDArray[Any]
    missed: npt.NDArray[Any]
    spared: npt.NDArray[Any]

    @property
    def is_positive(self) -> npt.NDArray[np.bool_]:
        """Where the truth holds tumour."""
        return np.asarray(self.hits + self.missed > 0)

    @property
    def f1(self) -> Floats:
        """F1 of tumour, 2 TP / (2 TP + FP + FN); NaN where neither truth nor prediction holds any."""
        return ratio(2 * self.hits, 2 * self.hits + self.false + self.missed)

    @property
    def iou(self) -> Floats:
        """IoU of tumour, TP / (TP + FP + FN); NaN where neither truth nor prediction holds any."""
        return ratio(self.hits, self.hits + self.false + self.missed)

    @property
    def precision(self) -> Floats:
        """Share of what was called tumour that is; NaN where nothing was."""
        return ratio(self.hits, self.hits + self.false)

    @property
    def recall(self) -> Floats:
        """Share of the tumour that was called so; NaN where there is none."""
        return ratio(self.hits, self.hits + self.missed)

    @property
    def fraction(self) -> Floats:
        """Share of the pixels that is tumour; NaN where none is scored."""
        return ratio(self.hits + self.missed, self.hits + self.missed + self.false + self.spared)


def pixel_counts(confusions: npt.NDArray[Any], positive_index: int) -> PixelCounts:
    """Pixels by truth and prediction.

    Args:
        confusions: (..., 3, 3) of `confusion` with two classes.
        positive_index: Which class is tumour, 0 or 1.

    Returns:
        Counts of shape (...,).

    Raises:
        InputError: When there are not two classes, or no such one.
    """
    if confusions.shape[-2:] != (3, 3):
        raise InputError(f"Matrices of {confusions.shape} were given; (images, 3, 3) of two classes were expected.")
    if positive_index not in (0, 1):
        raise InputError(f"Class {positive_index} was given for tumour; there are two, counted from 0.")
    tumour, normal = confusions[..., positive_index, :], confusions[..., 1 - positive_index, :]
    hits, false = tumour[..., positive_index], normal[..., positive_index]
    return PixelCounts(hits, false, tumour.sum(-1) - hits, normal.sum(-1) - false)


def image_f1(confusions_NKK: Counts, positive_index: int) -> Floats:
    """F1 of each image: of tumour on positives, of the normal class on negatives.

    Returns:
        (N,) float64 in [0, 1]; NaN for an image without a scored pixel.
    """
    counts = pixel_counts(confusions_NKK, positive_index)
    return np.where(counts.is_positive, counts.f1, ratio(2 * counts.spared, 2 * counts.spared + counts.false))


def image_iou(confusions_NKK: Counts, positive_index: int) -> Floats:
    """IoU of each image: of tumour on positives, of the normal class on negatives; (N,), as `image_f1`."""
    counts = pixel_counts(confusions_NKK, positive_index)
    return np.where(counts.is_positive, counts.iou, ratio(counts.spared, counts.spared + counts.false))


def f1_positives(confusions_NKK: Counts, positive_index: int) -> Floats:
    """(N, 2): what `summed_mean` makes the mean F1 of positive images of."""
    is_positive_N = pixel_counts(confusions_NKK, positive_index).is_positive
    return mean_counts(image_f1(confusions_NKK, positive_index), is_positive_N)


def f1_negatives(confusions_NKK: Counts, positive_index: int) -> Floats:
    """(N, 2): what `summed_mean` makes the mean F1 of negative images of."""
    is_positive_N = pixel_counts(confusions_NKK, positive_index).is_positive
    return mean_counts(image_f1(confusions_NKK, positive_index), ~is_positive_N)


def f1_mix(confusions_NKK: Counts, positive_index: int) -> Floats:
    """(N, 2): what `summed_mean` makes the mean F1 of all images of, positives and negatives mixed."""
    return mean_counts(image_f1(confusions_NKK, positive_index))


def iou_positives(confusions_NKK: Counts, positive_index: int) -> Floats:
    """(N, 2): what `summed_mean` makes the mean IoU of positive images of."""
    is_positive_N = pixel_counts(confusions_NKK, positive_index).is_positive
    return mean_counts(image_iou(confusions_NKK, positive_index), is_positive_N)


def iou_negatives(confusions_NKK: Counts, positive_index: int) -> Floats:
    """(N, 2): what `summed_mean` makes the mean IoU of negative images of."""
    is_positive_N = pixel_counts(confusions_NKK, positive_index).is_positive
    return mean_counts(image_iou(confusions_NKK, positive_index), ~is_positive_N)


def mean_counts(values_N: Floats, is_counted_N: npt.NDArray[np.bool_] | bool = True) -> Floats:
    """Values of images as counts that add up.

    Args:
        values_N: (N,), NaN where undefined.
        is_counted_N: (N,), which images the mean is over; all by default.

    Returns:
        (N, 2) float64: [value, 1], or [0, 0] for an image that does not count or has no value.
    """
    counts = is_counted_N & ~np.isnan(values_N)
    return np.stack([np.where(counts, values_N, 0.0), counts.astype(np.float64)], axis=-1)


def summed_mean(sums: npt.NDArray[Any]) -> Floats:
    """The mean that summed `mean_counts` hold; (..., 2) to (...,), NaN where no image counted. A statistic to bootstrap."""
    return ratio(sums[..., 0], sums[..., 1])


@dataclass(frozen=True)
class TumourStratum:
    """Positive images whose tumour fills a certain share of their scored pixels.

    Args:
        above: The share is more than this.
        up_to: And no more than this.
        num_images: How many there are.
        f1: Their mean F1; NaN where there are none.
        iou: Their mean IoU, likewise.
    """

    above: float
    up_to: float
    num_images: int
    f1: float
    iou: float


@dataclass(frozen=True)
class TumourScores:
    """Scores of tumour masks; fractions, NaN where undefined. "Positives" and "negatives" are means over images.

    Args:
        num_positives: Images whose truth holds tumour.
        num_negatives: Images whose truth holds none.
        f1_positives: Of tumour.
        f1_negatives: Of the normal class.
        f1_mix: Over all images: the published headline, which depends on how many of them are positives.
        iou_positives: Of tumour.
        iou_negatives: Of the normal class.
        precision: Of tumour, all pixels of all images pooled; so are the next three.
        recall: Likewise.
        f1: Likewise.
        iou: Likewise.
        strata: Positives by the share that tumour fills.
    """

    num_positives: int
    num_negatives: int
    f1_positives: float
    f1_negatives: float
    f1_mix: float
    iou_positives: float
    iou_negatives: float
    precision: float
    recall: float
    f1: float
    iou: float
    strata: tuple[TumourStratum, ...]

    @classmethod
    def of(cls, confusions_NKK: Counts, positive_index: int, edges: tuple[float, ...] = STRATA) -> Self:
        """The scores of each image's `confusion`. Those of tumour everywhere: give `one_class(confusions_NKK, index)`.

        Args:
            confusions_NKK: (N, 3, 3) of two classes.
            positive_index: Which of them is tumour.
            edges: Of the strata, rising from 0 to 1.

        Raises:
            InputError: When there are not two classes, no pixel to score, or edges don't rise from 0 to 1.
        """
        counts, pooled = (pixel_counts(one, positive_index) for one in (confusions_NKK, confusions_NKK.sum(0)))
        if np.isnan(pooled.fraction):
            raise InputError(
                "There is no pixel to score: the truth is ignored everywhere. Check masks and ignore index."
            )

        def mean(summed: Floats) -> float:
            return float(summed_mean(summed.sum(0)))

        return cls(
            num_positives=int(counts.is_positive.sum()),
            num_negatives=int((~counts.is_positive & ~np.isnan(counts.fraction)).sum()),
            f1_positives=mean(f1_positives(confusions_NKK, positive_index)),
            f1_negatives=mean(f1_negatives(confusions_NKK, positive_index)),
            f1_mix=mean(f1_mix(confusions_NKK, positive_index)),
            iou_positives=mean(iou_positives(confusions_NKK, positive_index)),
            iou_negatives=mean(iou_negatives(confusions_NKK, positive_index)),
            precision=float(pooled.precision),
            recall=float(pooled.recall),
            f1=float(pooled.f1),
            iou=float(pooled.iou),
            strata=_strata(counts, edges),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        tree = asdict(self)
        strata = [_plain(one) for one in tree.pop("strata")]
        return {**_plain(tree), "strata": strata}


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: plain(value) if isinstance(value, float) else value for name, value in tree.items()}


def _strata(counts: PixelCounts, edges: tuple[float, ...]) -> tuple[TumourStratum, ...]:
    if len(edges) < 2 or (edges[0], edges[-1]) != (0, 1) or list(edges) != sorted(set(edges)):
        raise InputError(f"Edges {edges} were given; values rising from 0 to 1, both included, were expected.")
    bins_N = np.where(counts.is_positive, np.searchsorted(edges, counts.fraction, side="left") - 1, -1)
    return tuple(
        TumourStratum(
            edges[index],
            edges[index + 1],
            int((bins_N == index).sum()),
            float(mean_defined(counts.f1[bins_N == index])),
            float(mean_defined(counts.iou[bins_N == index])),
        )
        for index in range(len(edges) - 1)
    )
