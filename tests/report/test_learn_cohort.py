"""From a cohort to a diagnosis with slides that were encoded before, and with an encoder of six numbers' worth of work."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterstain.data.cohorts import CohortSlide
from counterstain.data.diagnosis import Diagnosis, DiagnosisSlide
from counterstain.data.encoded import SlideSet
from counterstain.errors import InputError, SplitError, StaleResultError
from counterstain.files import read_json
from counterstain.jobs.run import Failure
from counterstain.methods import load_slide_method
from counterstain.methods.slide_baselines import MeanPoolConfig
from counterstain.methods.slide_method import patients_of
from counterstain.report import learn_cohort as module
from counterstain.report.crossval import FoldSettings, Learner
from counterstain.report.diagnosis import read_scores
from counterstain.report.learn_cohort import CohortJob, EncoderChoice, learn_cohort, that_leave
from counterstain.testing.encoded_slides import CLASSES, EncodedSlides, write_encoded_slides
from counterstain.training import TrainSettings

CONFIG = MeanPoolConfig(
    pool="max", learning_rate=0.1, warmup_epochs=0, schedule="cosine", select="last", turn=False, crop_cells=0
)
QUICK = TrainSettings(epochs=16, batch_size=8, seed=1)
LEARNER = Learner("short", "mean_pool", CONFIG, QUICK)
TWO = FoldSettings(folds=2, val=0.5, seed=1)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> SlideSet:
    return write_encoded_slides(tmp_path_factory.mktemp("encoded"), EncodedSlides(num_slides=24, in_features=5.0))


def diagnosis_of(slides: SlideSet, splits: dict[str, str] | None = None, extra: Sequence[str] = ()) -> Diagnosis:
    """The cohort whose slides were encoded; `extra` ones were not."""
    rows = [
        DiagnosisSlide(
            CohortSlide(one.slide_id, Path(f"nowhere/{one.slide_id}.svs"), one.patient_id, site=one.site),
            one.label or 0,
            one.patient_id,
            (splits or {}).get(one.patient_id),
        )
        for one in slides.slides
    ]
    rows += [DiagnosisSlide(CohortSlide(name, Path(f"nowhere/{name}.svs")), 1, f"P {name}", None) for name in extra]
    return Diagnosis(Path("planted.csv"), CLASSES, tuple(rows), (), ("A note.",))


def job_of(slides: SlideSet, run: Path, **changes: Any) -> CohortJob:
    encoder = EncoderChoice(name="planted", encoded=slides.slides[0].folder.parent)
    return replace(CohortJob(run, (LEARNER,), encoder, TWO, val=0.5), **changes)


@pytest.fixture(scope="module")
def learned(slides: SlideSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, module.CohortRun]:
    run = tmp_path_factory.mktemp("learned") / "run"
    return run, learn_cohort(diagnosis_of(slides, extra=["gone"]), job_of(slides, run))


def test_what_was_learned_can_diagnose_and_its_estimate_is_of_every_slide_once(
    slides: SlideSet, learned: tuple[Path, module.CohortRun]
) -> None:
    run, done = learned
    method = load_slide_method(run)
    scores = read_scores(run / "scores.csv")
    assert sorted(row.slide_id for row in scores) == sorted(one.slide_id for one in slides.slides)
    assert read_json(run / "diagnosis.json") == done.estimate
    assert done.estimate is not None
    assert done.estimate["slides"]["num"] == 24
    assert done.estimate["ranking"]["within_folds"]["auroc"]["estimate"] > 0.8, "what is planted is found"
    assert (method.encoder, method.cell_um) == (slides.encoder, slides.cell_um)
    assert (run / "figures" / "roc.png").exists()


def test_a_slide_that_was_not_encoded_is_listed_and_the_others_go_on(learned: tuple[Path, module.CohortRun]) -> None:
    run, done = learned
    assert [(one.slide_id, one.kind) for one in done.failures] == [("gone", "MissingFileError")]
    assert "gone" not in [slide.slide_id for slide in done.slides.slides]
    assert "P gone" not in set().union(*patients_of(run).values())


def test_the_final_model_learns_from_all_patients_and_sets_some_of_them_aside(
    slides: SlideSet, learned: tuple[Path, module.CohortRun]
) -> None:
    sides = patients_of(learned[0])
    assert not sides["train"] & sides["val"]
    assert sides["train"] | sides["val"] == {slide.patient_id for slide in slides.slides}


def test_the_cohort_s_notes_stand_in_the_report(learned: tuple[Path, module.CohortRun]) -> None:
    _, done = learned
    assert done.estimate is not None
    assert done.estimate["notes"] == ["A note."]
    model = load_slide_method(done.run)
    assert list(done.notes) == ["A note.", *model.decision.cautions(model.classes)]


def test_called_again_it_trains_nothing_and_for_other_slides_it_refuses(
    slides: SlideSet, learned: tuple[Path, module.CohortRun]
) -> None:
    run, done = learned
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    again = learn_cohort(diagnosis_of(slides, extra=["gone"]), job_of(slides, run))
    assert again.estimate == done.estimate
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before
    fewer = diagnosis_of(slides)
    fewer = replace(fewer, rows=fewer.rows[:-4])
    with pytest.raises(StaleResultError, match=r"run holds .* 5 slides fewer \(slide_20, .*, gone\).* remove .*run to"):
        learn_cohort(fewer, job_of(slides, run))
    rows = diagnosis_of(slides, extra=["gone"]).rows
    other = replace(fewer, rows=(replace(rows[0], patient_id="P new"), *rows[1:]))
    with pytest.raises(StaleResultError, match=r"1 slide changed \(slide_00\)"):
        learn_cohort(other, job_of(slides, run))


def splits_of(slides: SlideSet) -> dict[str, str]:
    """Of each class six patients: three to learn from, one to validate on, two to test."""
    names = sorted({slide.patient_id for slide in slides.slides})
    return {name: {"3": "val", "4": "test", "5": "test"}.get(name.split("_")[1], "train") for name in names}


def test_the_table_s_splits_are_kept_and_test_slides_are_not_even_looked_for(slides: SlideSet, tmp_path: Path) -> None:
    splits = splits_of(slides)
    moved = tmp_path / "encoded"
    moved.mkdir()
    for slide in slides.slides:
        if splits[slide.patient_id] != "test":
            (moved / slide.slide_id).symlink_to(slide.folder)
    encoder = EncoderChoice(name="planted", encoded=moved)
    job = job_of(slides, tmp_path / "run", encoder=encoder, folds=None)
    done = learn_cohort(diagnosis_of(slides, splits), job)
    assert (done.failures, done.estimate) == ((), None)
    sides = patients_of(job.run)
    for side in ("train", "val"):
        assert sides[side] == {name for name, split in splits.items() if split == side}
    assert not (job.run / "folds").exists()
    assert not (job.run / "diagnosis.json").exists()


def test_folds_are_dealt_of_what_the_table_neither_sets_aside_nor_tests(slides: SlideSet, tmp_path: Path) -> None:
    names = sorted({slide.patient_id for slide in slides.slides})
    splits = {name: {"4": "val", "5": "test"}.get(name.split("_")[1], "train") for name in names}
    job = job_of(slides, tmp_path / "run")
    learn_cohort(diagnosis_of(slides, splits), job)
    scored = {row.patient_id for row in read_scores(job.run / "scores.csv")}
    assert scored == {name for name, split in splits.items() if split == "train"}


def test_of_several_learners_folds_choose_and_the_final_model_is_the_one_most_of_them_took(
    slides: SlideSet, tmp_path: Path
) -> None:
    config, training = replace(CONFIG, learning_rate=1e-12, warmup_from=0.0), replace(QUICK, seed=13, epochs=1)
    idle = Learner("idle", "mean_pool", config, training)
    job = job_of(slides, tmp_path / "run", learners=(idle, LEARNER))
    learn_cohort(diagnosis_of(slides), job)
    chosen = [read_json(note)["chosen"] for note in sorted(job.run.glob("folds/*/*/fold.json"))]
    best = max(("idle", "short"), key=chosen.count)
    assert load_slide_method(job.run).config == {"idle": idle, "short": LEARNER}[best].config
    assert best == "short"


def test_too_few_patients_are_found_before_anything_is_encoded(slides: SlideSet, tmp_path: Path) -> None:
    with pytest.raises(
        SplitError,
        match=r"7 folds need 7 patients .* 6 normal ones and 6 tumour ones can be used. To go on, pass --folds 6 or add",
    ):
        learn_cohort(diagnosis_of(slides), job_of(slides, tmp_path / "run", folds=FoldSettings(7)))
    splits = {name: "test" if name.split("_")[1] in "345" else "train" for name in splits_of(slides)}
    with pytest.raises(SplitError, match=r"2 folds need 4 patients .* 3 normal ones .* pass --folds 3 or add"):
        learn_cohort(diagnosis_of(slides, splits), job_of(slides, tmp_path / "run"))
    splits = {name: "train" if name.split("_")[1] == "0" else "test" for name in splits_of(slides)}
    with pytest.raises(SplitError, match="validate on need 2 patients"):
        learn_cohort(diagnosis_of(slides, splits), job_of(slides, tmp_path / "run", folds=None))
    assert not (tmp_path / "run").exists()


def test_too_few_usable_patients_are_refused_with_the_reasons_and_what_helps(slides: SlideSet, tmp_path: Path) -> None:
    moved = tmp_path / "encoded"
    moved.mkdir()
    lost = {"patient_0_1", "patient_1_1", "patient_2_1"}
    for slide in slides.slides:
        if slide.patient_id not in lost:
            (moved / slide.slide_id).symlink_to(slide.folder)
    job = job_of(slides, tmp_path / "run", encoder=EncoderChoice(name="planted", encoded=moved))
    with pytest.raises(SplitError) as caught:
        learn_cohort(diagnosis_of(slides), job)
    message = str(caught.value)
    assert "2 folds need 4 patients with slides of each class; 6 of 6 normal ones and 3 of 6 tumour ones" in message
    assert "To go on, pass --folds 3 or add patients or mend these slides:" in message
    assert [line.split(":")[0].strip() for line in message.splitlines()[1:]] == [
        slide.slide_id for slide in slides.slides if slide.patient_id in lost
    ]
    assert not job.run.exists()


def test_a_class_that_is_lost_where_the_table_validates_is_refused_before_anything_is_learned(
    slides: SlideSet, tmp_path: Path
) -> None:
    moved = tmp_path / "encoded"
    moved.mkdir()
    for slide in slides.slides:
        if slide.patient_id != "patient_3_1":  # of tumour slides the only one to validate on
            (moved / slide.slide_id).symlink_to(slide.folder)
    job = job_of(slides, tmp_path / "run", encoder=EncoderChoice(name="planted", encoded=moved), folds=None)
    with pytest.raises(InputError, match=r"No tumour slide to choose and calibrate on can be used(.|\n)*slide_13: "):
        learn_cohort(diagnosis_of(slides, splits_of(slides)), job)
    assert not job.run.exists()


def test_how_many_slides_are_set_aside_and_how_many_can_t_be_used_is_said(
    slides: SlideSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(slides, tmp_path / "run", folds=None)
    learn_cohort(diagnosis_of(slides, extra=["gone"]), job)
    said = capsys.readouterr().err
    assert (
        "Of 25 slides the final model learns from 12 (6 normal, 6 tumour), and 12 (6 normal, 6 tumour) are set" in said
    )
    assert "aside to choose and calibrate; 1 can't be used\n" in said
    assert "24 of 25 slides can be used; not these:\n  gone: " in said


def test_a_class_of_which_nothing_is_encoded_ends_it_with_the_reasons(slides: SlideSet, tmp_path: Path) -> None:
    encoder = EncoderChoice(name="planted", encoded=tmp_path)
    with pytest.raises(
        InputError, match=r"0 of 6 normal ones and 0 of 6 tumour ones can(.|\n)*slide_00: .*no features"
    ):
        learn_cohort(diagnosis_of(slides), job_of(slides, tmp_path / "run", encoder=encoder))
    encoder = EncoderChoice(name="other", encoded=slides.slides[0].folder.parent)
    with pytest.raises(InputError, match="it has those of: planted"):
        learn_cohort(diagnosis_of(slides), job_of(slides, tmp_path / "run", encoder=encoder))


def test_a_table_of_test_slides_alone_is_refused(slides: SlideSet, tmp_path: Path) -> None:
    splits = dict.fromkeys(splits_of(slides), "test")
    with pytest.raises(InputError, match="test slides alone"):
        learn_cohort(diagnosis_of(slides, splits), job_of(slides, tmp_path))


def test_several_learners_need_folds_and_names_of_their_own(slides: SlideSet, tmp_path: Path) -> None:
    other = replace(LEARNER, name="other")
    with pytest.raises(InputError, match="give --folds"):
        job_of(slides, tmp_path, learners=(LEARNER, other), folds=None)
    with pytest.raises(InputError, match="each of them once"):
        job_of(slides, tmp_path, learners=(LEARNER, LEARNER))


@pytest.mark.parametrize(
    ("name", "is_here", "expected"), [("scae", False, True), ("scae", True, False), ("planted", False, False)]
)
def test_where_slides_were_encoded_before_nobody_knows_what_an_s_cae_learned_from(
    name: str, is_here: bool, expected: bool, tmp_path: Path
) -> None:
    choice = EncoderChoice(name=name, encoded=None if is_here else tmp_path)
    assert choice.is_trained_here == is_here
    assert any("nobody can tell" in note for note in module._encoder_notes([], choice)) == expected


def test_the_report_says_that_a_shared_encoder_saw_all_folds() -> None:
    (note,) = module._encoder_notes([], EncoderChoice(is_shared=True))
    assert "all folds" in note
    assert module._encoder_notes([], EncoderChoice()) == []


def test_a_pale_slide_stays_where_it_trains_no_encoder_and_every_other_failure_leaves(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pale = Failure("pale", "NoTissueError", "it has no cell that is darker", is_defect=False)
    damaged = Failure("damaged", "DamagedSlideError", "it can't be decoded", is_defect=False)
    ours = Failure("ours", "ZeroDivisionError", "division by zero", is_defect=True)
    assert that_leave((pale, damaged, ours)) == (damaged, ours)
    assert "Too pale to train the encoder, encoded all the same: 1 slide (pale)\n" in capsys.readouterr().err
    many = tuple(replace(pale, slide_id=f"p{number}") for number in range(300))
    assert that_leave(many) == ()
    assert "300 slides (p0, p1, p2, p3, p4 and 295 more)\n" in capsys.readouterr().err


def test_a_table_that_validates_on_one_class_alone_is_told_what_to_change(slides: SlideSet, tmp_path: Path) -> None:
    splits = {
        name: "test" if split == "val" and name.endswith("_1") else split for name, split in splits_of(slides).items()
    }
    with pytest.raises(
        InputError, match=r"^No tumour slide is there to choose .* tumour slides the split val, or leave"
    ):
        learn_cohort(diagnosis_of(slides, splits), job_of(slides, tmp_path / "run", folds=None))
    assert not (tmp_path / "run").exists()
