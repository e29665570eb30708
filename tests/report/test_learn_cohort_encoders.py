"""Which slides an encoder learns from when a cohort is learned, and that a run folder holds the encoder it needs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterstain.cli.predict_slides import encoder_of
from counterstain.data.cohorts import CohortSlide
from counterstain.data.diagnosis import Diagnosis, DiagnosisSlide
from counterstain.errors import InputError, MissingFileError, SplitError, StaleResultError
from counterstain.files import read_json
from counterstain.jobs.train_encoder import EncoderTraining
from counterstain.methods import load_slide_method
from counterstain.methods.scae import SCAEConfig
from counterstain.methods.slide_baselines import MeanPoolConfig
from counterstain.methods.slide_method import patients_of
from counterstain.report.crossval import FoldSettings, Learner
from counterstain.report.diagnosis import read_scores
from counterstain.report.learn_cohort import CohortJob, CohortRun, EncoderChoice, learn_cohort
from counterstain.testing.encoding import CELL_UM, CELLS, CPU, damage, write_tissue
from counterstain.testing.evidence import DIAGNOSIS
from counterstain.training import TrainSettings

TRAINING = EncoderTraining(
    config=SCAEConfig(decoder="tiny", rho=90.0), training=TrainSettings(epochs=1, batch_size=4, seed=2), num_cells=12
)
TRAINING = replace(TRAINING, draw=replace(TRAINING.draw, cell_um=CELL_UM, input_px=16))
LEARNER = Learner(
    "short", "mean_pool", MeanPoolConfig(warmup_epochs=0, crop_cells=0), TrainSettings(epochs=1, batch_size=4, seed=1)
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    """Eight slides of eight patients, a damaged one, and two that are kept for the end."""
    folder = tmp_path_factory.mktemp("slides")
    rows = []
    for number in range(11):
        name = f"s{number:02}"
        path = write_tissue(folder / f"{name}.tiff", number)
        if number == 8:
            damage(path)
        split = "test" if number > 8 else None
        rows.append(DiagnosisSlide(CohortSlide(name, path), number % 2, f"P{number}", split))
    return Diagnosis(folder / "cohort.csv", DIAGNOSIS, tuple(rows), (), ())


def job_of(run: Path, encoder: EncoderChoice, **changes: Any) -> CohortJob:
    job = CohortJob(run, (LEARNER,), encoder, FoldSettings(2, val=0.5), val=0.5, cells=CELLS, encode=CPU)
    return replace(job, **changes)


@pytest.fixture(scope="module")
def learned(cohort: Diagnosis, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CohortRun]:
    run = tmp_path_factory.mktemp("by_fold") / "run"
    return run, learn_cohort(cohort, job_of(run, EncoderChoice(training=TRAINING)))


def cautions_of(run: Path) -> tuple[str, ...]:
    """What the slides set aside say against a run's scores: of four slides, what they will."""
    method = load_slide_method(run)
    return method.decision.cautions(method.classes)


def seen_by(encoder: Path) -> set[str]:
    """The patients whose slides an encoder was trained on."""
    names = read_json(encoder / "model.json")["provenance"]["data"]["names"]
    return {f"P{int(name[1:3])}" for name in names}


def test_every_fold_has_an_encoder_that_learned_from_its_training_slides_alone(learned: tuple[Path, CohortRun]) -> None:
    run, done = learned
    for fold in sorted(run.glob("folds/repeat_0/fold_*")):
        seen = seen_by(fold / "encoder" / "encoder")
        assert seen == patients_of(fold / "short")["train"]
        tested = {row.patient_id for row in read_scores(fold / "scores.csv")}
        assert not seen & tested
    assert done.notes == cautions_of(run)


def test_the_final_encoder_has_not_seen_the_slides_that_calibrate(learned: tuple[Path, CohortRun]) -> None:
    run, _ = learned
    sides = patients_of(run)
    assert seen_by(run / "encoder") == sides["train"]
    assert not seen_by(run / "encoder") & sides["val"]


def test_a_damaged_slide_is_listed_and_test_slides_are_not_touched(learned: tuple[Path, CohortRun]) -> None:
    run, done = learned
    assert [(one.slide_id, one.kind) for one in done.failures] == [("s08", "DamagedSlideError")]
    assert len(done.slides.slides) == 8
    assert not list(run.rglob("s09*"))
    assert not list(run.rglob("s10*"))


def test_slides_that_can_t_be_read_are_found_and_counted_before_an_encoder_is_trained(tmp_path: Path) -> None:
    rows = []
    for number in range(6):
        path = write_tissue(tmp_path / f"s{number}.tiff", number)
        if number in (1, 3):
            path.write_text("no slide")
        rows.append(DiagnosisSlide(CohortSlide(f"s{number}", path), number % 2, f"P{number}", None))
    job = job_of(tmp_path / "run", EncoderChoice(training=TRAINING), folds=None)
    few = Diagnosis(tmp_path / "cohort.csv", DIAGNOSIS, tuple(rows), (), ())
    with pytest.raises(SplitError, match=r"3 of 3 normal ones and 1 of 3 tumour ones(.|\n)*s1: (.|\n)*s3: "):
        learn_cohort(few, job)
    assert not (job.run / "encoder").exists()


@pytest.mark.slow
def test_a_finished_run_is_taken_up(cohort: Diagnosis, learned: tuple[Path, CohortRun]) -> None:
    run, done = learned
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    again = learn_cohort(cohort, job_of(run, EncoderChoice(training=TRAINING)))
    assert again.estimate == done.estimate
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_a_shared_encoder_is_trained_once_on_all_and_the_report_says_so(cohort: Diagnosis, tmp_path: Path) -> None:
    done = learn_cohort(cohort, job_of(tmp_path / "run", EncoderChoice(training=TRAINING, is_shared=True)))
    assert seen_by(tmp_path / "run" / "encoder") == {f"P{number}" for number in range(8)}
    assert not list((tmp_path / "run" / "folds").rglob("encoder"))
    assert done.estimate is not None
    assert any("tissue of all folds" in note for note in done.estimate["notes"])


def test_the_encoder_of_another_run_is_copied_so_that_the_run_is_enough(
    cohort: Diagnosis, learned: tuple[Path, CohortRun], tmp_path: Path
) -> None:
    source, run = learned[0] / "encoder", tmp_path / "run"
    job = job_of(run, EncoderChoice(name=str(source)), folds=None)
    done = learn_cohort(cohort, job)
    assert {path.name for path in (run / "encoder").iterdir()} == {
        "config.toml",
        "run.json",
        "model.safetensors",
        "model.json",
    }
    found = encoder_of(load_slide_method(run).encoder, run)
    assert found is not None
    assert found.spec == load_slide_method(run).encoder
    note, *others = done.notes
    assert tuple(others) == cautions_of(run)
    assert f"named as {len(seen_by(source))} of these 9" in note
    assert learn_cohort(cohort, job).notes == done.notes
    more = EncoderChoice(training=replace(TRAINING, num_cells=30))
    with pytest.raises(StaleResultError, match="other settings or data"):  # trained here, where another one lies
        learn_cohort(cohort, job_of(run, more, folds=None))
    with pytest.raises(StaleResultError, match="another encoder"):
        fold = sorted(learned[0].glob("folds/repeat_0/fold_*/encoder/encoder"))[0]
        learn_cohort(cohort, job_of(run, EncoderChoice(name=str(fold)), folds=None))


def test_a_call_that_is_refused_binds_the_run_to_no_encoder(
    cohort: Diagnosis, learned: tuple[Path, CohortRun], tmp_path: Path
) -> None:
    rows = tuple(
        row for row in cohort.rows if row.slide_id != "s06" and row.split is None
    )  # of s08 nothing can be read
    job = job_of(tmp_path, EncoderChoice(name=str(learned[0] / "encoder")), folds=FoldSettings(4, val=0.5))
    with pytest.raises(SplitError, match=r"3 of 4 normal ones(.|\n)*s08: "):
        learn_cohort(replace(cohort, rows=rows), job)
    assert not (tmp_path / "encoder").exists()


def test_an_untrained_backbone_needs_no_file_to_be_found_again(cohort: Diagnosis, tmp_path: Path) -> None:
    learn_cohort(cohort, job_of(tmp_path, EncoderChoice(name="tiny", is_untrained=True), folds=None))
    spec = load_slide_method(tmp_path).encoder
    found = encoder_of(spec, tmp_path)
    assert found is not None
    assert found.spec == spec


def test_what_is_no_encoder_s_run_is_refused_and_not_copied(
    cohort: Diagnosis, learned: tuple[Path, CohortRun], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="'mean_pool'"):
        learn_cohort(cohort, job_of(tmp_path / "run", EncoderChoice(name=str(learned[0])), folds=None))
    with pytest.raises(MissingFileError, match="trained encoder's run"):
        learn_cohort(cohort, job_of(tmp_path / "run", EncoderChoice(name=f"{tmp_path}/gone"), folds=None))
    with pytest.raises(InputError, match="without weights"):
        learn_cohort(cohort, job_of(tmp_path / "run", EncoderChoice(name="tiny"), folds=None))
    assert not (tmp_path / "run").exists()
