"""Cross-validation of slide methods: who is scored by whom, what is chosen on which slides, that nothing is done twice."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counterstain.data.encoded import SlideSet
from counterstain.errors import InputError, SplitError, StaleResultError
from counterstain.files import read_json, write_json
from counterstain.methods import MeanPool, load_slide_method
from counterstain.methods.slide_baselines import MeanPoolConfig
from counterstain.methods.slide_method import patients_of
from counterstain.metrics.ranking import auroc
from counterstain.report.crossval import (
    FoldSettings,
    Learner,
    cross_validate,
    folds_of,
    most_chosen,
    score_slides,
)
from counterstain.results import ScoredSlide
from counterstain.testing.encoded_slides import EncodedSlides, write_encoded_slides
from counterstain.training import TrainSettings

CONFIG = MeanPoolConfig(
    pool="max", learning_rate=0.05, warmup_epochs=0, schedule="cosine", select="last", turn=False, crop_cells=0
)
LEARNS = Learner("It learns", "mean_pool", CONFIG, TrainSettings(epochs=12, batch_size=8, seed=3))
IDLES = Learner(
    "It idles",
    "mean_pool",
    replace(CONFIG, learning_rate=1e-12, warmup_from=0.0),
    TrainSettings(epochs=1, batch_size=8, seed=13),
)
TWO = FoldSettings(folds=2, repeats=1, val=0.5, seed=1)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> SlideSet:
    return write_encoded_slides(tmp_path_factory.mktemp("encoded"), EncodedSlides(num_slides=16, in_features=5.0))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cv")


@pytest.fixture(scope="module")
def scores(slides: SlideSet, out: Path) -> tuple[ScoredSlide, ...]:
    return cross_validate(slides, [LEARNS], out, TWO)


def patients(slides: SlideSet) -> set[str]:
    return {slide.patient_id for slide in slides.slides}


def test_no_patient_is_on_two_sides_and_every_slide_is_scored_once_a_repeat(slides: SlideSet) -> None:
    folds = list(folds_of(slides, replace(TWO, repeats=3)))
    assert [fold.name for fold in folds] == ["r0f0", "r0f1", "r1f0", "r1f1", "r2f0", "r2f1"]
    for fold in folds:
        sides = [patients(one) for one in (fold.train, fold.val, fold.test)]
        assert sum(map(len, sides)) == len(set().union(*sides)) == len(patients(slides))
        for one in (fold.train, fold.val, fold.test):
            assert {slide.label for slide in one.slides} == {0, 1}
    for repeat in range(3):
        tested = Counter(slide.slide_id for fold in folds if fold.repeat == repeat for slide in fold.test.slides)
        assert tested == Counter(slide.slide_id for slide in slides.slides)


def test_every_slide_is_scored_by_a_model_that_saw_nothing_of_its_patient(
    slides: SlideSet, scores: tuple[ScoredSlide, ...], out: Path
) -> None:
    assert Counter(row.slide_id for row in scores) == Counter(slide.slide_id for slide in slides.slides)
    for row in scores:
        repeat, number = row.fold.removeprefix("r").split("f")
        run = out / f"repeat_{repeat}" / f"fold_{number}" / "it_learns"
        seen = patients_of(run)
        assert row.patient_id not in seen["train"] | seen["val"]
        assert not seen["train"] & seen["val"]


def test_a_row_holds_what_the_model_says_of_the_slide(
    slides: SlideSet, scores: tuple[ScoredSlide, ...], out: Path
) -> None:
    fold = next(iter(folds_of(slides, TWO)))
    method = load_slide_method(fold.folder(out) / "it_learns")
    margins = method.margins(fold.test)
    rows = [row for row in scores if row.fold == "r0f0"]
    assert [row.slide_id for row in rows] == [slide.slide_id for slide in fold.test.slides]
    for row, slide, margin in zip(rows, fold.test.slides, margins, strict=True):
        said = method.judge(slide.slide_id, float(margin))
        assert (row.logit, row.probability, row.decision) == (said.logit, said.probability, said.decision)
        assert row.prediction_set == said.prediction_set
        assert row.threshold == method.decision.threshold
        assert (row.label, row.patient_id, row.site) == (slide.label, slide.patient_id, slide.site)
        assert row.local_share is None
    method.decision = replace(method.decision, error=None)
    unpromised = score_slides(method, fold.test, "x")[0]
    assert (unpromised.prediction_set, unpromised.fold) == (None, "x")
    assert unpromised.decision is not None


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_what_is_scored_is_neither_trained_nor_scored_again(
    slides: SlideSet, scores: tuple[ScoredSlide, ...], out: Path
) -> None:
    before = times(out)
    assert len(before) == 2
    table = out / "repeat_0" / "fold_1" / "scores.csv"
    table.unlink()  # as a kill between training and scoring leaves it
    again = cross_validate(slides, [LEARNS], out, TWO)
    assert table.exists()
    assert [row.slide_id for row in again] == [row.slide_id for row in scores]
    assert [row.logit for row in again] == pytest.approx([row.logit for row in scores])
    assert times(out) == before


def test_other_settings_and_other_slides_are_refused(
    slides: SlideSet, scores: tuple[ScoredSlide, ...], out: Path
) -> None:
    with pytest.raises(StaleResultError, match="other settings or data"):
        cross_validate(slides, [replace(LEARNS, config=replace(CONFIG, learning_rate=0.01))], out, TWO)
    relabelled = replace(slides, inputs={name: f"{value} again" for name, value in slides.inputs.items()})
    with pytest.raises(StaleResultError):
        cross_validate(relabelled, [LEARNS], out, TWO)
    with pytest.raises(SplitError, match="Take fewer folds"):
        cross_validate(slides, [LEARNS], out / "many", replace(TWO, folds=5))


def test_scores_of_a_method_that_learned_otherwise_under_the_same_settings_are_not_taken_up(
    slides: SlideSet, scores: tuple[ScoredSlide, ...], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MeanPool, "revision", 2)
    with pytest.raises(StaleResultError, match="revision was not given and is 2"):
        cross_validate(slides, [LEARNS], out, TWO)


def test_the_choice_is_made_on_the_slides_set_aside_and_never_looks_at_the_fold(
    slides: SlideSet, tmp_path: Path
) -> None:
    """The labels of every fold's own slides are turned round: who chose by them would take the learner that idles."""
    folds = {frozenset(patients(fold.train)): fold for fold in folds_of(slides, TWO)}
    asked: list[tuple[set[str], Path]] = []

    def encode(train: SlideSet, folder: Path) -> SlideSet:
        fold = folds[frozenset(patients(train))]
        asked.append(({slide.slide_id for slide in train.slides}, folder))
        tested = {slide.slide_id for slide in fold.test.slides}
        turned = [replace(one, label=1 - (one.label or 0)) if one.slide_id in tested else one for one in slides.slides]
        return replace(slides, slides=tuple(turned))

    scores = cross_validate(slides, [IDLES, LEARNS], tmp_path, TWO, encode)
    assert [ids for ids, _ in asked] == [{one.slide_id for one in fold.train.slides} for fold in folds.values()]
    assert len({folder for _, folder in asked}) == 2, "each fold has an encoder of its own"
    for number, fold in enumerate(folds.values()):
        note = read_json(tmp_path / "repeat_0" / f"fold_{number}" / "fold.json")
        labels = np.array([slide.label for slide in fold.val.slides])
        runs = [fold.folder(tmp_path) / one.folder for one in (IDLES, LEARNS)]
        found = [auroc(load_slide_method(run).margins(fold.val), labels) for run in runs]
        assert note["validation_auroc"] == pytest.approx(found)
        assert found[1] > found[0]
        assert (note["chosen"], note["run"]) == ("It learns", "it_learns")
        rows = [row for row in scores if row.fold == fold.name]
        assert auroc([row.logit for row in rows], [row.label for row in rows]) < 0.5
    assert most_chosen([IDLES, LEARNS], tmp_path, TWO) == LEARNS
    cross_validate(slides, [IDLES, LEARNS], tmp_path, TWO, encode)
    assert len(asked) == 2, "what is done is not encoded again"


@pytest.mark.parametrize(
    ("taken", "expected"),
    [(["It learns", "It learns"], LEARNS), (["It idles", "It learns"], IDLES), (["It learns", "It idles"], IDLES)],
)
def test_the_learner_of_most_folds_is_taken_and_the_first_of_equal_ones(
    taken: Sequence[str], expected: Learner, tmp_path: Path
) -> None:
    # a third fold is left of an earlier cross-validation, and has no say
    for number, name in enumerate([*taken, "It idles" if expected is LEARNS else "It learns"]):
        write_json(tmp_path / "repeat_0" / f"fold_{number}" / "fold.json", {"chosen": name})
    write_json(tmp_path / "repeat_1" / "fold_0" / "fold.json", {"chosen": "It learns"})
    assert most_chosen([IDLES, LEARNS], tmp_path, TWO) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, "two folds or more"),
        ({"repeats": 0}, "once or more"),
        ({"val": 0.0}, "0.0"),
        ({"val": 0.6}, "0.6"),
    ],
)
def test_folds_that_can_t_be_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FoldSettings(**settings)  # type: ignore[arg-type]
