import numpy as np
import numpy.typing as npt
import pytest

from counterstain.data.records import PatchDataset
from counterstain.errors import InputError
from counterstain.methods.fusion_kd.proxy import (
    ProxyMargins,
    ProxyScores,
    completeness,
    correlation,
    moments,
    proxy_scores,
    proxy_verdict,
    sufficiency,
)
from counterstain.methods.fusion_kd.seen import HeldOut, Seen

Maps = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def held(planted: PatchDataset) -> HeldOut:
    return HeldOut.of(planted.val, 1, 64)


def boxes(held: HeldOut, start: int, stop: int, false: float = 0.0) -> Maps:
    """Maps of 16 x 16 squares, positives with a box of 0.9, negatives with one of that share; the truth is 4 to 12."""
    maps = np.full((len(held), 16, 16), 0.05, np.float32)
    maps[held.is_positive_N, start:stop, start:stop] = 0.9
    maps[~held.is_positive_N, : round(16 * false), :] = 0.9
    return maps


TRUE, GROWN, SHRUNK, EVERYTHING, NOTHING = (4, 12), (2, 14), (6, 10), (0, 16), (0, 0)


def scored(held: HeldOut, maps: Maps, *, witness: Maps | None = None, consistency: float = 0.9) -> ProxyScores:
    """Judged by a verifier that tells every cell of 2 x 2 squares, not quite for certain; the first column is glass."""
    cells = np.full((len(held), 8, 8), 0.1)
    cells[held.is_positive_N, 2:6, 2:6] = 0.85
    is_tissue = np.ones(cells.shape, bool)
    is_tissue[:, :, 0] = False
    seen = Seen(maps.astype(np.float16), np.full(len(held), consistency, np.float32))
    return proxy_scores(seen, held, cells, is_tissue, witness)


def test_growth_and_shrinking_cost_in_opposite_terms(held: HeldOut) -> None:
    true, grown, shrunk = (scored(held, boxes(held, *box)).scores for box in (TRUE, GROWN, SHRUNK))
    assert grown["b2_sufficiency"] < true["b2_sufficiency"] - 0.2
    assert grown["b2_completeness"] == true["b2_completeness"]
    assert shrunk["b2_completeness"] < true["b2_completeness"] - 0.2
    assert shrunk["b2_sufficiency"] == true["b2_sufficiency"]
    assert true["b2_verifier"] > max(grown["b2_verifier"], shrunk["b2_verifier"])


def test_the_truth_ranks_above_every_planted_mistake(held: HeldOut) -> None:
    best = scored(held, boxes(held, *TRUE)).total()
    for wrong in (GROWN, SHRUNK, EVERYTHING, NOTHING):
        assert scored(held, boxes(held, *wrong)).total() < best
    assert scored(held, boxes(held, *TRUE, false=0.25)).total() == pytest.approx(best - 0.25)


def test_an_empty_map_has_no_worth_and_one_of_everything_misses_nothing(held: HeldOut) -> None:
    nothing, everything = scored(held, boxes(held, *NOTHING)).scores, scored(held, boxes(held, *EVERYTHING)).scores
    assert nothing["b2_verifier"] == nothing["b2_sufficiency"] == 0
    assert everything["b2_verifier"] == 0
    assert everything["b2_completeness"] == 1
    assert everything["b2_sufficiency"] == pytest.approx((16 * 0.85 + 40 * 0.1) / 64)  # glass counts as normal


def test_the_verifiers_terms_are_those_of_a_loop_over_cells() -> None:
    rng = np.random.default_rng(0)
    inside, cells = rng.random((3, 5, 6)), rng.random((3, 5, 6))
    is_tissue = rng.random((3, 5, 6)) < 0.8
    for number in range(3):
        believed = covered = 0.0
        outside = []
        for row in range(5):
            for column in range(6):
                place = number, row, column
                covered += inside[place]
                believed += inside[place] * cells[place] if is_tissue[place] else 0
                if is_tissue[place] and inside[place] < 0.5:
                    outside.append(cells[place])
        count = max(1, round(0.1 * is_tissue[number].sum()))
        missed = sum(sorted(outside, reverse=True)[:count]) / count
        assert sufficiency(inside, cells, is_tissue)[number] == pytest.approx(believed / covered)
        assert completeness(inside, cells, is_tissue)[number] == pytest.approx(1 - missed)


def test_the_correlation_is_numpys_over_all_tissue_cells() -> None:
    rng = np.random.default_rng(0)
    inside, cells, is_tissue = rng.random((3, 5, 6)), rng.random((3, 5, 6)), rng.random((3, 5, 6)) < 0.8
    expected = np.corrcoef(inside[is_tissue], cells[is_tissue])[0, 1]
    assert correlation(moments(inside, cells, is_tissue).sum(0)) == pytest.approx(expected)
    assert correlation(moments(np.ones_like(inside), cells, is_tissue).sum(0)) == 0
    assert correlation(np.zeros(6)) == 0


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_the_best_map_stays_the_best_however_little_the_verifier_knows(held: HeldOut, noise: float) -> None:
    cells = np.full((len(held), 8, 8), 0.1)
    cells[held.is_positive_N, 2:6, 2:6] = 0.85
    cells = (cells + np.random.default_rng(0).normal(0, noise, cells.shape)).clip(0, 1)

    def total(box: tuple[int, int]) -> float:
        seen = Seen(boxes(held, *box).astype(np.float16), np.ones(len(held), np.float32))
        return proxy_scores(seen, held, cells, np.ones(cells.shape, bool)).total()

    assert max((TRUE, GROWN, SHRUNK, EVERYTHING, NOTHING), key=total) == TRUE


def test_terms_concern_the_images_they_can_be_known_of(held: HeldOut) -> None:
    scores = scored(held, boxes(held, *TRUE, false=0.5), witness=boxes(held, *TRUE))
    assert scores.cross_fit_N is not None
    for values in (scores.sufficiency_N, scores.completeness_N, scores.cross_fit_N):
        np.testing.assert_array_equal(np.isnan(values), ~held.is_positive_N)
    np.testing.assert_array_equal(scores.false_positive_N[~held.is_positive_N], 0.5)
    assert np.isnan(scores.false_positive_N[held.is_positive_N]).all()
    assert scores.scores["b3_cross_fit"] == pytest.approx(1, abs=1e-3)  # half precision


def test_the_image_score_is_the_generalised_mean(held: HeldOut) -> None:
    scores = scored(held, boxes(held, *TRUE))
    share = (np.float16(0.9).astype(float) ** 4 * 64 + np.float16(0.05).astype(float) ** 4 * 192) / 256
    np.testing.assert_allclose(scores.image_score_N[held.is_positive_N], share**0.25)
    assert scores.scores["b5_auroc"] == 1


@pytest.mark.parametrize("teacher", [GROWN, SHRUNK, EVERYTHING])
def test_a_student_that_is_right_takes_the_place_of_a_teacher_that_is_not(
    held: HeldOut, teacher: tuple[int, int]
) -> None:
    verdict = proxy_verdict(scored(held, boxes(held, *TRUE)), scored(held, boxes(held, *teacher)))
    assert verdict.is_better
    assert verdict.interval is not None
    assert verdict.interval.above_zero == 1
    assert verdict.reasons[0].startswith("B2 verifier better by")


@pytest.mark.parametrize("student", [TRUE, GROWN, SHRUNK, EVERYTHING, NOTHING])
def test_no_student_takes_the_place_of_a_teacher_that_is_right(held: HeldOut, student: tuple[int, int]) -> None:
    verdict = proxy_verdict(scored(held, boxes(held, *student)), scored(held, boxes(held, *TRUE)))
    assert not verdict.is_better
    assert verdict.reasons


def test_a_gain_does_not_buy_false_positives(held: HeldOut) -> None:
    student, teacher = scored(held, boxes(held, *TRUE, false=1 / 16)), scored(held, boxes(held, *GROWN))
    verdict = proxy_verdict(student, teacher)
    assert not verdict.is_better
    assert "B1 false positives on negatives worse by 0.0625, 0.005 is allowed" in verdict.reasons
    assert proxy_verdict(student, teacher, ProxyMargins(false_positive=0.1, auroc=1)).is_better


def test_a_gain_does_not_buy_inconsistency(held: HeldOut) -> None:
    student = scored(held, boxes(held, *TRUE), consistency=0.85)
    verdict = proxy_verdict(student, scored(held, boxes(held, *GROWN), consistency=0.9))
    assert not verdict.is_better
    assert verdict.reasons[0].startswith("B4 consistency worse by 0.05")


def test_a_gain_does_not_buy_images_that_are_told_apart_worse(held: HeldOut) -> None:
    maps = boxes(held, *TRUE)
    maps[np.flatnonzero(~held.is_positive_N)[0]] = 0.49  # nowhere called tumour, and yet close to it all over
    maps[np.flatnonzero(held.is_positive_N)[0]] *= 0.56
    student = scored(held, maps)
    assert student.scores["b1_false_positive"] == 0
    assert student.scores["b5_auroc"] < 1
    verdict = proxy_verdict(student, scored(held, boxes(held, *EVERYTHING)))
    assert any(reason.startswith("B5 image AUROC worse") for reason in verdict.reasons)
    assert not verdict.is_better


def test_a_witness_can_show_the_gain_that_the_verifier_does_not_see(held: HeldOut) -> None:
    witness = boxes(held, *TRUE)
    blind = np.full((len(held), 8, 8), 0.5)

    def judged(box: tuple[int, int], maps: Maps | None) -> ProxyScores:
        seen = Seen(boxes(held, *box).astype(np.float16), np.ones(len(held), np.float32))
        return proxy_scores(seen, held, blind, np.ones(blind.shape, bool), maps)

    assert proxy_verdict(judged((4, 12), witness), judged((5, 12), witness)).is_better
    assert not proxy_verdict(judged((4, 12), None), judged((5, 12), None)).is_better


def test_a_gain_in_one_patient_of_four_is_not_sure(held: HeldOut) -> None:
    teacher, student = boxes(held, *TRUE), boxes(held, *TRUE)
    first, *others = np.flatnonzero(held.is_positive_N)
    teacher[first] = boxes(held, *EVERYTHING)[first]
    student[others, 3, 4:12] = 0.9  # a row too many in each of the others
    verdict = proxy_verdict(scored(held, student), scored(held, teacher))
    assert verdict.interval is not None
    assert verdict.interval.above_zero is not None
    assert verdict.interval.estimate > 0.05
    assert verdict.interval.above_zero < 0.9
    assert not verdict.is_better


def test_scores_of_other_images_or_other_evidence_are_not_compared(held: HeldOut, planted: PatchDataset) -> None:
    true = scored(held, boxes(held, *TRUE))
    fewer = HeldOut.of(planted.val[:4], 1, 64)
    with pytest.raises(InputError, match="same held-out set"):
        proxy_verdict(true, scored(fewer, boxes(fewer, *TRUE)))
    with pytest.raises(InputError, match="one of the two"):
        proxy_verdict(true, scored(held, boxes(held, *TRUE), witness=boxes(held, *TRUE)))
    with pytest.raises(InputError, match="with views"):
        proxy_verdict(true, scored(held, boxes(held, *TRUE), consistency=float("nan")))
    with pytest.raises(InputError, match="same images"):
        scored(held, boxes(held, *TRUE)[1:])
    with pytest.raises(InputError, match="Margins"):
        ProxyMargins(gain=-0.1)
