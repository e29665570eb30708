"""Which of two networks maps tumour better, judged by the masks of a few validation images.

    records with masks -> PixelTruth -> count(network) -> Counted -> pixel_verdict(student, teacher)

`PixelTruth` is the only class of this package that reads a mask. It is asked once for a candidate, not each epoch: every
look at so few images makes their choice a little more of a coincidence.

Does not know: training, teachers' maps, what follows from a verdict.

B images of a batch, H W rows and columns, N images; counts are in the order TP, FP, FN, TN.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn import functional as F

from counterstain import log
from counterstain.data.images import image_size
from counterstain.data.records import PatchRecord
from counterstain.data.weak import WeakPatches, WeakSettings
from counterstain.errors import InputError
from counterstain.methods.fusion_kd.drift import THRESHOLD, Floats
from counterstain.methods.fusion_kd.finish import smoothed
from counterstain.methods.fusion_kd.seen import batches, fused, judging
from counterstain.methods.fusion_kd.selectors import Verdict
from counterstain.metrics.intervals import BootstrapSettings, Interval, bootstrap_difference
from counterstain.metrics.segmentation import ratio
from counterstain.metrics.tumour import PixelCounts, mean_counts, summed_mean

if TYPE_CHECKING:
    from counterstain.data import PatchDataset

_ROUNDING = 1e-9  # of differences that are to be compared with a margin
_FEW = 10  # positives, below which a verdict says how few there were


@dataclass(frozen=True)
class PixelRules:
    """When a student is better.

    Args:
        margin: Of F1 on positives, by which it must be: nothing smaller counts as a new best.
        confidence: Share of resamples over patients in which it must be better at all.
        false_positive: How much more of negatives' pixels it may call tumour.
        bootstrap: How resamples are drawn.

    Raises:
        InputError: When a margin is negative, or the confidence no share.

    Source: ours; the margin is the step of the Ladder (Blum and Hardt 2015, arXiv 1502.04585), which keeps a set that is
        looked at often from being fitted.
    """

    margin: float = 0.005
    confidence: float = 0.9
    false_positive: float = 0.005
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)

    def __post_init__(self) -> None:
        if min(self.margin, self.false_positive) < 0 or not 0 < self.confidence <= 1:
            raise InputError(
                f"Margins {self.margin} and {self.false_positive} with confidence {self.confidence} were given; 0 or more "
                "and (0, 1] were expected."
            )


@dataclass(frozen=True)
class Counted:
    """Pixels of a network's masks against the truth.

    Args:
        counts_N4: (N, 4) int64: TP, FP, FN, TN of each image.
    """

    counts_N4: npt.NDArray[np.int64]

    @property
    def pixels(self) -> PixelCounts:
        """The same, each kind of pixel by its name."""
        return PixelCounts(*self.counts_N4.T)

    @property
    def is_positive(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the truth holds any tumour."""
        return self.pixels.is_positive

    @property
    def f1_positive(self) -> Floats:
        """(N,) F1 of tumour; NaN for negatives."""
        return np.where(self.is_positive, self.pixels.f1, np.nan)

    @property
    def f1_negative(self) -> Floats:
        """(N,) F1 of normal tissue, 2 TN / (2 TN + FP); NaN for positives and where nothing was scored."""
        pixels = self.pixels
        return np.where(pixels.is_positive, np.nan, ratio(2 * pixels.spared, 2 * pixels.spared + pixels.false))

    @property
    def false_positive(self) -> Floats:
        """(N,) share of scored pixels called tumour; NaN for positives and where nothing was scored."""
        pixels = self.pixels
        return np.where(pixels.is_positive, np.nan, ratio(pixels.false, pixels.false + pixels.spared))

    @property
    def scores(self) -> dict[str, float]:
        """Means over images by name, NaN over none; `f1_mix` is over positives and negatives alike, as released."""
        values = {
            "f1_pos": self.f1_positive,
            "f1_neg": self.f1_negative,
            "f1_mix": np.where(self.is_positive, self.f1_positive, self.f1_negative),
            "fp_neg": self.false_positive,
        }
        return {name: float(summed_mean(mean_counts(found_N).sum(0))) for name, found_N in values.items()}


class PixelTruth:
    """The masks of validation images.

    Args:
        data: Which knows how masks are written.
        records: Of its validation split. A negative one needs no mask: its label says that all of it is normal.
        positive_index: The tumour's place in a label and its value in masks.
        tile_px: Width and height that images are resized to; counts are taken at the masks' own size.
        sigma_px: Of a Gaussian over the fused map before the threshold, in pixels of `tile_px`; 0 leaves it as it is.

    Raises:
        InputError: When there are none, or positives without a mask; all of them at once.
        LabelError: Listing every record without a label.
    """

    def __init__(
        self,
        data: "PatchDataset",
        records: Sequence[PatchRecord],
        positive_index: int,
        tile_px: int,
        sigma_px: float = 0.0,
    ) -> None:
        self._patches = WeakPatches(records, WeakSettings(patch_px=tile_px))
        self._data, self._records = data, tuple(records)
        self._positive, self._sigma_px = positive_index, sigma_px
        bare = [
            record.image.name
            for record, label in zip(records, self._patches.labels, strict=True)
            if not record.has_truth and label[positive_index] > 0
        ]
        if bare:
            raise InputError(
                f"{len(bare)} positive validation images have no mask, '{bare[0]}' first. Give their masks, or let the "
                "selector be 'proxy', which needs none."
            )

    @property
    def patients(self) -> tuple[str, ...]:
        """Whose tissue each image shows."""
        return tuple(record.patient for record in self._records)

    def count(self, network: nn.Module) -> Counted:
        """Compares a network's masks with the truth, at the truth's resolution.

        Args:
            network: (B, 3, H, W) float32 RGB in [0, 1] to (B, S, H, W) probabilities, the fused ones last. Its mode and
                device are left as they were.
        """
        counts: list[list[int]] = []
        with judging(network) as device, log.progress("Scoring masks", len(self._records), "images") as counter:
            for images_BCHW in batches(self._patches):
                maps_BHW = smoothed(fused(network, images_BCHW.to(device))[:, None], self._sigma_px)[:, 0].cpu()
                counts += [self._counts(len(counts) + row, map_HW) for row, map_HW in enumerate(maps_BHW)]
                counter.advance(len(images_BCHW))
        return Counted(np.array(counts, np.int64))

    def _counts(self, index: int, map_HW: Tensor) -> list[int]:
        is_tumour_HW, is_scored_HW = self._truth(self._records[index])
        is_called_HW = _mask(map_HW, is_tumour_HW.shape)
        cells = [
            is_called_HW & is_tumour_HW,
            is_called_HW & ~is_tumour_HW,
            ~is_called_HW & is_tumour_HW,
            ~is_called_HW & ~is_tumour_HW,
        ]
        return [int((cell_HW & is_scored_HW).sum()) for cell_HW in cells]

    def _truth(self, record: PatchRecord) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Where tumour is, and which pixels are scored."""
        if not record.has_truth:
            size = image_size(record.image)
            return np.zeros((size.height, size.width), bool), np.ones((size.height, size.width), bool)
        mask_HW = self._data.read_mask(record)
        return mask_HW == self._positive, mask_HW < len(self._data.classes)


def pixel_verdict(
    student: Counted, teacher: Counted, patients: Sequence[str], rules: PixelRules | None = None
) -> Verdict:
    """Whether masks speak for the student.

    Args:
        student: Its counts.
        teacher: Likewise, of the same images.
        patients: Of each image.
        rules: When it is better.

    Raises:
        InputError: When the two are of different images, or fewer than two patients have tumour.
    """
    rules = rules or PixelRules()
    _check_same(student, teacher)
    own = [patient for patient, is_one in zip(patients, student.is_positive, strict=True) if is_one]
    if len(set(own)) < 2:
        raise InputError(
            f"{len(own)} images of {len(set(own))} patients have tumour in their masks; two patients or more are needed to "
            "say how sure a difference is. Add pixel-labelled positives to the val split, or let the selector be 'proxy'."
        )
    found = bootstrap_difference(
        mean_counts(student.f1_positive), mean_counts(teacher.f1_positive), patients, summed_mean, rules.bootstrap
    )
    ours, theirs = student.scores, teacher.scores
    against = _against(found, ours["fp_neg"] - theirs["fp_neg"], rules)
    few = [f"only {len(own)} positive images had masks"] if len(own) < _FEW else []
    scores = {
        "num_positive": float(len(own)),
        "num_patients": float(len(set(own))),
        "student_f1": ours["f1_pos"],
        "teacher_f1": theirs["f1_pos"],
        "gain_f1": found.estimate,
        "gain_fp_neg": theirs["fp_neg"] - ours["fp_neg"],
    }
    reasons = (against or [f"F1 on positives better by {found.estimate:.4f}"]) + few
    return Verdict(not against, scores, found, tuple(reasons))


def _against(found: Interval, more_false: float, rules: PixelRules) -> list[str]:
    """What speaks against a student; more false positives are NaN without negatives, and then nothing is worse."""
    assert found.above_zero is not None
    against = []
    if not found.estimate >= rules.margin - _ROUNDING:
        against.append(f"F1 on positives gained {found.estimate:.4f}, less than {rules.margin:g}")
    if not found.above_zero >= rules.confidence:
        against.append(f"better in {found.above_zero:.0%} of resamples, fewer than {rules.confidence:.0%}")
    if more_false > rules.false_positive + _ROUNDING:
        against.append(f"false positives on negatives rose by {more_false:.4f}, more than {rules.false_positive:g}")
    return against


def _check_same(student: Counted, teacher: Counted) -> None:
    def tumour_and_rest(counted: Counted) -> npt.NDArray[np.int64]:
        hits, false, missed, spared = counted.counts_N4.T
        return np.stack([hits + missed, false + spared])

    if not np.array_equal(tumour_and_rest(student), tumour_and_rest(teacher)):
        raise InputError(
            f"Counts of {len(student.counts_N4)} images of a student and {len(teacher.counts_N4)} of a teacher were given, "
            "and their truths differ. Count both on the same images."
        )


def _mask(map_HW: Tensor, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if map_HW.shape != size:
        map_HW = F.interpolate(map_HW[None, None], (size[0], size[1]), mode="bilinear", align_corners=False)[0, 0]
    mask_HW: npt.NDArray[np.bool_] = map_HW.numpy() >= THRESHOLD
    return mask_HW
