import pytest

from counterstain.errors import InputError, UnknownNameError
from counterstain.methods.fusion_kd.drift import AREA_BAND, Drift
from counterstain.methods.fusion_kd.selectors import (
    KEPT,
    SELECTORS,
    Basis,
    Verdict,
    claim,
    drift_verdict,
    run_claim,
    scheduled,
)

SCORES = {"num_positive": 12.0, "num_patients": 3.0, "student_f1": 0.7, "teacher_f1": 0.625}


def test_only_pixel_truth_may_say_that_the_student_outperformed_the_teacher() -> None:
    assert claim("pixel_val", Verdict(True, SCORES)) == (
        "student outperformed teacher on 12 pixel-labelled validation images of 3 patients (F1 70.0%, teacher 62.5%)"
    )
    assert [name for name, text in SELECTORS.items() if "outperformed" in text] == ["pixel_val"]
    assert not [text for text in KEPT.values() if "outperformed" in text]


def test_no_message_of_a_schedule_claims_that_a_student_is_better() -> None:
    verdicts = (scheduled(), Verdict(True, SCORES), Verdict(False, SCORES))
    messages = [claim("schedule", verdict) for verdict in verdicts]
    assert not scheduled().reasons
    for message in messages:
        assert "no claim that either is better" in message
        assert "outperform" not in message


def test_labels_alone_say_that_no_pixel_truth_was_looked_at() -> None:
    assert "no pixel truth was looked at" in claim("proxy", Verdict(True))
    assert "did not favour the student" in claim("proxy", Verdict(False))


def test_an_unknown_selector_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="pixel_val"):
        claim("pixel_vale", Verdict(True))


@pytest.mark.parametrize("name", SELECTORS)
def test_a_kept_teacher_has_a_sentence_too(name: str) -> None:
    assert claim(name, Verdict(False, SCORES)) != claim(name, Verdict(True, SCORES))


def test_a_drift_inside_the_band_leaves_the_decision_to_the_selector() -> None:
    assert drift_verdict(Drift(1.3, 0.1, 0.26, 0.2)) is None
    assert drift_verdict(Drift(0.25, 0.1, 0.05, 0.2)) is None
    assert drift_verdict(Drift(0.55, 0.1, 0.11, 0.2), AREA_BAND) is None


@pytest.mark.parametrize(("ratio", "way"), [(1.31, "grew"), (0.24, "shrank"), (0.0, "shrank")])
def test_a_drift_outside_the_band_is_rolled_back(ratio: float, way: str) -> None:
    verdict = drift_verdict(Drift(ratio, 0.5, ratio * 0.2, 0.2))
    assert verdict is not None
    assert not verdict.is_better
    assert verdict.reasons[0].startswith(f"rolled back: areas {way}")


def test_a_band_without_one_is_refused() -> None:
    with pytest.raises(InputError, match="must hold 1"):
        drift_verdict(Drift(1, 0, 0.2, 0.2), (1.1, 1.3))


def test_masks_that_choose_what_a_schedule_keeps_are_told() -> None:
    basis = Basis(masks_choose=True)
    for message in (claim("schedule", scheduled(), basis), run_claim("schedule", 3, basis)):
        assert "no claim that" in message
        assert message.endswith("validation masks chose which network is kept")
    assert "masks" not in run_claim("schedule", 3, Basis())


def test_a_choice_among_several_checkpoints_is_told_where_masks_made_it() -> None:
    several = Basis(candidates=4)
    assert claim("pixel_val", Verdict(True, SCORES), several).endswith("best of 4 checkpoints on the same images")
    assert run_claim("pixel_val", 3, several).endswith("best of 4 checkpoints on the same images")
    assert "checkpoints" not in claim("pixel_val", Verdict(True, SCORES), Basis())


def test_areas_are_named_as_evidence_only_where_they_were_looked_at() -> None:
    assert "B1-B6" in claim("proxy", Verdict(True))
    assert "B1-B6" in run_claim("proxy", 1, Basis())
    unwatched = Basis(watches_areas=False)
    assert "B1-B5" in claim("proxy", Verdict(False), unwatched)
    assert "B1-B5" in run_claim("proxy", 1, unwatched)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_run_without_rounds_claims_nothing(name: str) -> None:
    assert "compared with nothing" in run_claim(name, 0, Basis(masks_choose=True))
