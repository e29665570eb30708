from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from counterstain.data.images import write_mask
from counterstain.data.records import PatchDataset
from counterstain.errors import InputError
from counterstain.methods.fusion_kd.pixel_val import Counted, PixelRules, PixelTruth, pixel_verdict

PATIENTS = tuple(f"patient{number // 2}" for number in range(12))


class Dark(nn.Module):
    """Calls tumour what is dark."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(50.0))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        fused_BHW = (self.gain * (0.6 - images_BCHW.mean(1))).sigmoid()
        return torch.stack([1 - fused_BHW, fused_BHW], 1)


def counted(hits: int, false: int, false_on_negatives: int = 0) -> Counted:
    """Twelve images of 1000 px, six patients with a positive of 100 px of tumour and a negative each."""
    positive, negative = [hits, false, 100 - hits, 900 - false], [0, false_on_negatives, 0, 1000 - false_on_negatives]
    return Counted(np.array([positive, negative] * 6, np.int64))


def test_the_planted_tumour_is_counted_pixel_by_pixel(planted: PatchDataset) -> None:
    network = Dark().train()
    found = PixelTruth(planted, planted.val, 1, 64).count(network)
    assert network.training
    np.testing.assert_array_equal(found.is_positive, [True, False] * 4)
    assert (found.counts_N4.sum(1) == 64 * 64).all()
    hits, false, missed, _ = found.counts_N4[0]
    assert hits + missed == 32 * 32
    assert hits > 900
    assert false == 0


def test_a_map_is_scored_at_the_size_of_the_mask(planted: PatchDataset) -> None:
    small = PixelTruth(planted, planted.val, 1, 32).count(Dark())
    assert (small.counts_N4.sum(1) == 64 * 64).all()
    assert small.scores["f1_pos"] > 0.9


def test_a_gaussian_before_the_threshold_fills_specks(planted: PatchDataset) -> None:
    rough = PixelTruth(planted, planted.val, 1, 64).count(Dark())
    smooth = PixelTruth(planted, planted.val, 1, 64, sigma_px=1.5).count(Dark())
    assert not np.array_equal(rough.counts_N4, smooth.counts_N4)
    assert smooth.scores["f1_pos"] > 0.95


def test_ignored_pixels_do_not_count(tmp_path: Path, planted: PatchDataset) -> None:
    mask = np.array(Image.open(planted.val[0].mask or ""))
    mask[:10] = 255
    write_mask(tmp_path / "mask.png", mask, planted.classes.colors)
    records = (replace(planted.val[0], mask=tmp_path / "mask.png"), *planted.val[1:])
    found = PixelTruth(planted, records, 1, 64).count(Dark())
    assert found.counts_N4[0].sum() == 54 * 64


def test_a_negative_needs_no_mask_and_a_positive_does(planted: PatchDataset) -> None:
    without = tuple(replace(record, mask=None) if record.label == (1, 0) else record for record in planted.val)
    np.testing.assert_array_equal(
        PixelTruth(planted, without, 1, 64).count(Dark()).counts_N4,
        PixelTruth(planted, planted.val, 1, 64).count(Dark()).counts_N4,
    )
    with pytest.raises(InputError, match=r"4 positive validation images have no mask, 'val0.png' first"):
        PixelTruth(planted, [replace(record, mask=None) for record in planted.val], 1, 64)


def test_scores_are_means_over_images() -> None:
    found = Counted(np.array([[50, 0, 50, 900], [100, 0, 0, 900], [0, 100, 0, 900], [0, 0, 0, 1000]], np.int64))
    first, third = 2 * 50 / (2 * 50 + 50), 2 * 900 / (2 * 900 + 100)
    assert found.scores["f1_pos"] == pytest.approx((first + 1) / 2)
    assert found.scores["f1_neg"] == pytest.approx((third + 1) / 2)
    assert found.scores["f1_mix"] == pytest.approx((first + 1 + third + 1) / 4)
    assert found.scores["fp_neg"] == pytest.approx(0.05)


def test_a_better_student_takes_its_teachers_place() -> None:
    verdict = pixel_verdict(counted(90, 20), counted(80, 20), PATIENTS)
    assert verdict.is_better
    assert verdict.scores["num_positive"] == verdict.scores["num_patients"] == 6
    assert verdict.scores["student_f1"] == pytest.approx(180 / 210)
    assert verdict.reasons[0].startswith("F1 on positives better by")
    assert verdict.reasons[1] == "only 6 positive images had masks"


@pytest.mark.parametrize(
    "student",
    [counted(100, 900), counted(0, 0), counted(100, 150), counted(50, 0)],
    ids=["everything", "nothing", "dilated", "eroded"],
)
def test_a_planted_mistake_does_not(student: Counted) -> None:
    assert not pixel_verdict(student, counted(90, 20), PATIENTS).is_better


def test_a_gain_below_the_margin_is_no_new_best() -> None:
    student, teacher = counted(900, 100), counted(900, 100)
    teacher.counts_N4[::2] = [900, 105, 100, 8895]
    student.counts_N4[::2] = [900, 100, 100, 8900]
    teacher.counts_N4[1::2] = student.counts_N4[1::2] = [0, 0, 0, 10000]
    verdict = pixel_verdict(student, teacher, PATIENTS)
    assert not verdict.is_better
    assert 0 < verdict.scores["gain_f1"] < 0.005
    assert verdict.reasons[0].endswith("less than 0.005")
    assert pixel_verdict(student, teacher, PATIENTS, PixelRules(margin=0.001)).is_better


def test_a_gain_does_not_buy_false_positives_on_negatives() -> None:
    verdict = pixel_verdict(counted(90, 20, 6), counted(80, 20), PATIENTS)
    assert not verdict.is_better
    assert verdict.reasons[0].startswith("false positives on negatives rose by 0.0060")
    assert pixel_verdict(counted(90, 20, 5), counted(80, 20), PATIENTS).is_better


def test_a_gain_in_one_patient_of_six_is_not_sure() -> None:
    student, teacher = counted(80, 20), counted(82, 20)
    student.counts_N4[0], teacher.counts_N4[0] = [100, 0, 0, 900], [30, 0, 70, 900]
    verdict = pixel_verdict(student, teacher, PATIENTS)
    assert verdict.scores["gain_f1"] > 0.05
    assert not verdict.is_better
    assert "of resamples, fewer than 90%" in verdict.reasons[0]


def test_images_of_one_patient_are_one_piece_of_evidence() -> None:
    with pytest.raises(InputError, match="6 images of 1 patients"):
        pixel_verdict(counted(90, 20), counted(80, 20), ("one", "other") * 6)


def test_positives_without_negatives_can_be_compared() -> None:
    student, teacher = (Counted(counted(hits, 20).counts_N4[::2]) for hits in (90, 80))
    assert pixel_verdict(student, teacher, PATIENTS[::2]).is_better
    assert np.isnan(student.scores["fp_neg"])


def test_counts_of_other_images_are_refused() -> None:
    with pytest.raises(InputError, match="their truths differ"):
        pixel_verdict(counted(90, 20), Counted(counted(90, 20).counts_N4[::-1]), PATIENTS)
    with pytest.raises(InputError, match="Margins"):
        PixelRules(margin=-1)
