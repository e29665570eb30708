"""Planted maps, right and wrong in known ways, as image labels see them."""

import numpy as np
import numpy.typing as npt
import pytest

from counterstain.data.records import PatchDataset
from counterstain.errors import InputError
from counterstain.methods.fusion_kd.proxy import (
    ProxyMargins,
    ProxyScores,
    believed,
    completeness,
    proxy_scores,
    proxy_verdict,
    sufficiency,
    witnessed,
)
from counterstain.methods.fusion_kd.seen import HeldOut, Seen

Maps, Cells = npt.NDArray[np.float32], npt.NDArray[np.float64]


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
PLANTED = (TRUE, GROWN, SHRUNK, EVERYTHING, NOTHING)

SURE = 0.75 / 0.9
"""What is left of the planted verifier's 0.85 inside the tumour when the 0.1 that it says of negatives is taken off."""


def knowing(held: HeldOut) -> Cells:
    """What a verifier says that tells every cell of 2 x 2 squares, not quite for certain."""
    cells = np.full((len(held), 8, 8), 0.1)
    cells[held.is_positive_N, 2:6, 2:6] = 0.85
    return cells


def scored(
    held: HeldOut, maps: Maps, *, cells: Cells | None = None, witness: Maps | None = None, consistency: float = 0.9
) -> ProxyScores:
    """Judged by a verifier, as a rule the knowing one; the first column of its cells is glass."""
    cells = knowing(held) if cells is None else cells
    is_tissue = np.ones(cells.shape, bool)
    is_tissue[:, :, 0] = False
    seen = Seen(maps.astype(np.float16), np.full(len(held), consistency, np.float32))
    return proxy_scores(seen, held, cells, is_tissue, witness)


def test_growth_and_shrinking_cost_in_opposite_terms(held: HeldOut) -> None:
    true, grown, shrunk = (scored(held, boxes(held, *box)).scores for box in (TRUE, GROWN, SHRUNK))
    assert true["b2_sufficiency"] == pytest.approx(SURE)
    assert grown["b2_sufficiency"] == pytest.approx(SURE * 16 / 36)
    assert shrunk["b2_sufficiency"] == pytest.approx(SURE)
    assert true["b2_completeness"] == grown["b2_completeness"] == 1
    assert shrunk["b2_completeness"] == pytest.approx(4 / 16)
    assert true["b2_verifier"] == pytest.approx(2 * SURE / (SURE + 1))
    assert true["b2_verifier"] > max(grown["b2_verifier"], shrunk["b2_verifier"]) + 0.3


def test_the_truth_ranks_above_every_planted_mistake(held: HeldOut) -> None:
    best = scored(held, boxes(held, *TRUE)).total()
    for wrong in PLANTED[1:]:
        assert scored(held, boxes(held, *wrong)).total() < best - 0.3
    assert scored(held, boxes(held, *TRUE, false=0.25)).total() == pytest.approx(best - 0.25)


def test_an_empty_map_has_no_worth_and_one_of_everything_misses_nothing(held: HeldOut) -> None:
    nothing, everything = scored(held, boxes(held, *NOTHING)).scores, scored(held, boxes(held, *EVERYTHING)).scores
    assert nothing["b2_verifier"] == nothing["b2_sufficiency"] == nothing["b2_completeness"] == 0
    assert everything["b2_completeness"] == 1
    assert everything["b2_sufficiency"] == pytest.approx(16 * SURE / 64)  # glass counts as normal
    assert everything["b2_verifier"] < 0.35


def test_the_verifiers_terms_are_those_of_a_loop_over_cells() -> None:
    rng = np.random.default_rng(0)
    inside, belief = rng.random((3, 5, 6)), rng.random((3, 5, 6)) * (rng.random((3, 5, 6)) < 0.8)
    for number in range(3):
        both = covered = everywhere = 0.0
        for row in range(5):
            for column in range(6):
                both += inside[number, row, column] * belief[number, row, column]
                covered += inside[number, row, column]
                everywhere += belief[number, row, column]
        assert sufficiency(inside, belief)[number] == pytest.approx(both / covered)
        assert completeness(inside, belief)[number] == pytest.approx(both / everywhere)
    nothing = np.zeros((1, 5, 6))
    assert sufficiency(nothing, belief[:1]) == completeness(inside[:1], nothing) == 0


def test_of_the_verifiers_word_the_part_is_believed_that_nine_in_ten_normal_cells_stay_below() -> None:
    """Of 0, 0.1, ... 1.0 said of a negative's cells, nine in ten lie below 0.9; 0.96 is 0.6 of the way from there to 1."""
    normal = np.linspace(0, 1, 11)
    cells, is_tissue = np.stack([normal, np.full(11, 0.96)])[:, None], np.ones((2, 1, 11), bool)
    cells[1, 0, 0], is_tissue[1, 0, 1] = 0.9, False
    found = believed(cells, is_tissue, np.array([False, True]))
    assert found[1, 0].tolist() == pytest.approx([0, 0, *[0.6] * 9])
    assert found[0, 0].tolist() == pytest.approx([0] * 10 + [1])
    is_tissue[0] = False  # nothing is known of what it says of normal tissue
    np.testing.assert_allclose(believed(cells, is_tissue, np.array([False, True])), cells * is_tissue)


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3])
def test_the_best_map_stays_the_best_though_the_verifier_errs(held: HeldOut, noise: float) -> None:
    cells = (knowing(held) + np.random.default_rng(0).normal(0, noise, (len(held), 8, 8))).clip(0, 1)
    totals = {box: scored(held, boxes(held, *box), cells=cells).total() for box in PLANTED}
    assert max(totals, key=lambda box: totals[box]) == TRUE


def guessing(held: HeldOut, seed: int) -> Cells:
    """A verifier that knows nothing."""
    return np.random.default_rng(seed).random((len(held), 8, 8))


def test_a_verifier_that_knows_nothing_does_not_favour_all_tumour(held: HeldOut) -> None:
    totals = {
        box: [scored(held, boxes(held, *box), cells=guessing(held, seed)).total() for seed in range(20)]
        for box in (TRUE, EVERYTHING)
    }
    # a tenth of all cells is believed by mistake, and a map of everything holds them all: it is worth next to nothing
    assert max(totals[EVERYTHING]) < 0.15
    assert np.mean(totals[EVERYTHING]) < np.mean(totals[TRUE]) + 0.03
    assert scored(held, boxes(held, *EVERYTHING), cells=np.full((len(held), 8, 8), 0.7)).total() == 0


@pytest.mark.parametrize("seed", range(5))
def test_all_tumour_does_not_pass_the_witness_where_the_verifier_knows_nothing(held: HeldOut, seed: int) -> None:
    judged = {
        box: scored(held, boxes(held, *box), cells=guessing(held, seed), witness=boxes(held, 5, 13))
        for box in (TRUE, EVERYTHING)
    }
    assert judged[TRUE].total() > judged[EVERYTHING].total() + 0.1
    assert not proxy_verdict(judged[EVERYTHING], judged[TRUE]).is_better


def test_a_witness_is_compared_by_dice_as_worked_by_hand() -> None:
    """Boxes of 64 and 36 squares that share 36: 2 * 36 / 100; a witness that sees none says nothing."""
    held_out = np.array([True, False, True])
    maps, witness = np.zeros((3, 16, 16), np.float32), np.zeros((3, 16, 16), np.float32)
    maps[0, 4:12, 4:12], witness[0, 4:10, 4:10] = 0.6, 0.9
    assert witnessed(maps, witness, held_out).tolist() == pytest.approx([0.72, np.nan, np.nan], nan_ok=True)


def test_what_a_witness_sees_in_negatives_as_well_is_no_tumour_to_it(held: HeldOut) -> None:
    """A teacher that calls too much tumour, by 0.7, in negatives as around tumours, is sure of the tumours alone."""
    witness = boxes(held, *GROWN)
    witness[witness == np.float32(0.9)] = 0.7
    witness[held.is_positive_N, 4:12, 4:12] = 0.95
    witness[~held.is_positive_N, :4, :4] = 0.75
    true, grown = (scored(held, boxes(held, *box), witness=witness) for box in (TRUE, GROWN))
    assert true.scores["b3_witness"] == 1
    assert grown.scores["b3_witness"] == pytest.approx(2 * 64 / (64 + 144))
    unwatched = witness.copy()
    unwatched[~held.is_positive_N] = 0.05
    assert scored(held, boxes(held, *GROWN), witness=unwatched).scores["b3_witness"] == 1


def test_terms_concern_the_images_they_can_be_known_of(held: HeldOut) -> None:
    scores = scored(held, boxes(held, *TRUE, false=0.5), witness=boxes(held, *TRUE))
    assert scores.witness_N is not None
    for values in (scores.sufficiency_N, scores.completeness_N, scores.witness_N):
        np.testing.assert_array_equal(np.isnan(values), ~held.is_positive_N)
    np.testing.assert_array_equal(scores.false_positive_N[~held.is_positive_N], 0.5)
    assert np.isnan(scores.false_positive_N[held.is_positive_N]).all()
    assert scores.scores["b3_witness"] == 1


def test_candidates_rank_by_the_two_terms_that_see_both_kinds_of_mistake_less_false_positives(held: HeldOut) -> None:
    found = scored(held, boxes(held, *SHRUNK, false=0.25), witness=boxes(held, *TRUE))
    verifier, dice = 2 * SURE * 0.25 / (SURE + 0.25), 2 * 16 / (16 + 64)
    assert found.total() == pytest.approx((verifier + dice) / 2 - 0.25)
    assert found.scores["proxy"] == found.total()


def test_the_image_score_is_the_generalised_mean(held: HeldOut) -> None:
    scores = scored(held, boxes(held, *TRUE))
    share = (np.float16(0.9).astype(float) ** 4 * 64 + np.float16(0.05).astype(float) ** 4 * 192) / 256
    np.testing.assert_allclose(scores.image_score_N[held.is_positive_N], share**0.25)
    assert scores.scores["b5_auroc"] == 1


@pytest.mark.parametrize("teacher", PLANTED[1:])
def test_a_student_that_is_right_takes_the_place_of_a_teacher_that_is_not(
    held: HeldOut, teacher: tuple[int, int]
) -> None:
    verdict = proxy_verdict(scored(held, boxes(held, *TRUE)), scored(held, boxes(held, *teacher)))
    assert verdict.is_better
    assert verdict.interval is not None
    assert verdict.interval.above_zero == 1
    assert verdict.reasons[0].startswith("B2 verifier better by")


@pytest.mark.parametrize("student", PLANTED)
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

    def judged(box: tuple[int, int], maps: Maps | None) -> ProxyScores:
        return scored(held, boxes(held, *box), cells=np.full((len(held), 8, 8), 0.5), witness=maps)

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


def test_a_witness_that_sees_no_tumour_does_not_speak_for_maps_of_nothing(held: HeldOut) -> None:
    witness = boxes(held, *TRUE)
    first = np.flatnonzero(held.is_positive_N)[0]
    witness[first] = 0.05
    nothing = scored(held, boxes(held, *NOTHING), witness=witness)
    assert nothing.witness_N is not None
    assert np.isnan(nothing.witness_N[first])
    assert nothing.scores["b3_witness"] == 0
    assert scored(held, boxes(held, *TRUE), witness=witness).scores["b3_witness"] == 1


def test_a_witness_that_sees_no_tumour_anywhere_is_none(held: HeldOut) -> None:
    blind, without = (scored(held, boxes(held, *TRUE), witness=witness) for witness in (boxes(held, *NOTHING), None))
    assert blind.scores == without.scores
    assert proxy_verdict(blind, scored(held, boxes(held, *GROWN), witness=boxes(held, *NOTHING))).is_better
