"""An honest estimate of a slide method: every slide is scored once a repeat, by a model that saw none of its patient.

    OUT/repeat_0/fold_0/<learner>/    a run as `fit` makes it: trained on most of the other folds' patients
    OUT/repeat_0/fold_0/scores.csv    what it says of the fold's slides

Of the patients outside a fold, some are set aside: they choose the epoch, temperature, threshold, the prediction sets
and, where several learners are given, which of them it is. The fold itself is opened once, when all of that is settled.

Does not know: how a network learns, where slides come from, figures.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from counterstain import log
from counterstain.data.encoded import SlideSet
from counterstain.data.folds import inner_split, patient_folds
from counterstain.errors import InputError
from counterstain.files import read_json, settings_hash, write_json
from counterstain.methods import SlideMethod, find_slide_method, load_slide_method
from counterstain.metrics.ranking import auroc
from counterstain.report.diagnosis import read_scores, write_scores
from counterstain.results import ScoredSlide
from counterstain.training import TrainSettings

_NOTE = "fold.json"

Encode = Callable[[SlideSet, Path], SlideSet]
"""Encodes all of a set's slides anew, given those that an encoder may learn from and a folder to do it in."""


@dataclass(frozen=True)
class Learner:
    """A slide method with its settings.

    Args:
        name: As tables and folders show it.
        method: Its name in SLIDE_METHODS.
        config: Of the method's `config_type`.
        training: How long and on what; folds add their number to its seed.
    """

    name: str
    method: str
    config: Any
    training: TrainSettings

    @property
    def folder(self) -> str:
        """Its name as a folder."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name.lower()).strip("_")


@dataclass(frozen=True)
class FoldSettings:
    """How slides are dealt out.

    Args:
        folds: Parts of the patients, each of which is scored by a model that was trained on the others.
        repeats: How often it is all done, with other folds.
        val: The part of a fold's training patients that is set aside to choose and calibrate.
        seed: Of the dealing.

    Raises:
        InputError: When a number is out of its range.
    """

    folds: int = 5
    repeats: int = 1
    val: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 2 or self.repeats < 1:
            raise InputError(
                f"{self.repeats} x {self.folds} folds were asked for; give two folds or more, once or more."
            )
        if not 0 < self.val <= 0.5:
            raise InputError(f"A part of {self.val} was to be set aside to validate on; give above 0 and at most 0.5.")


@dataclass(frozen=True)
class FoldSets:
    """One fold of one repeat.

    Args:
        repeat: From 0.
        number: From 0.
        train: Slides that networks learn from.
        val: Slides that choose and calibrate.
        test: Slides that are scored.
    """

    repeat: int
    number: int
    train: SlideSet
    val: SlideSet
    test: SlideSet

    @property
    def name(self) -> str:
        """What scores call it: numbered as its folder is, and nothing that a spreadsheet takes for a number."""
        return f"r{self.repeat}f{self.number}"

    def folder(self, out: Path) -> Path:
        """Where its runs are."""
        return _folder(out, self.repeat, self.number)


def _folder(out: Path, repeat: int, number: int) -> Path:
    return out / f"repeat_{repeat}" / f"fold_{number}"


def folds_of(slides: SlideSet, settings: FoldSettings) -> Iterator[FoldSets]:
    """The folds of a set, the same for every method.

    Raises:
        SplitError: When a class has too few patients.
    """
    for fold in patient_folds(slides.slides, settings.folds, settings.seed, settings.repeats):
        rest = slides.of(fold.train)
        train, val = inner_split(rest.slides, settings.val, settings.seed)
        yield FoldSets(fold.repeat, fold.number, rest.of(train), rest.of(val), slides.of(fold.test))


def cross_validate(
    slides: SlideSet, learners: Sequence[Learner], out: Path, settings: FoldSettings, encode: Encode | None = None
) -> tuple[ScoredSlide, ...]:
    """Scores of slides by models that never saw their patients.

    Killed and called again, it goes on where it was.

    Args:
        slides: With labels.
        learners: One, or several of which every fold takes the one with the best AUROC on the slides it set aside.
        out: The folder of all runs.
        settings: How slides are dealt out.
        encode: Where the encoder itself is to be learned on each fold's training slides.

    Raises:
        SplitError: When a class has too few patients.
        StaleResultError: When the folder holds runs of other slides or settings.
    """
    assert learners, "somebody has to learn"
    scored: list[ScoredSlide] = []
    for fold in tuple(
        folds_of(slides, settings)
    ):  # all of them first: too few patients are found before hours are spent
        scored += _fold_scores(fold, learners, fold.folder(out), encode)
    return tuple(scored)


def _fold_scores(
    fold: FoldSets, learners: Sequence[Learner], folder: Path, encode: Encode | None
) -> tuple[ScoredSlide, ...]:
    note, table = folder / _NOTE, folder / "scores.csv"
    digest = settings_hash(
        [[*find_slide_method(one.method).known_as(), one.config, one.training] for one in learners],
        fold.train.digest(),
        fold.val.digest(),
        fold.test.digest(),
        encode is not None,
    )
    if note.exists() and table.exists() and read_json(note)["digest"] == digest:
        return read_scores(table)
    if encode is not None:
        encoded = encode(fold.train, folder / "encoder")
        wanted = {one.slide_id for part in (fold.train, fold.val, fold.test) for one in part.slides}
        assert wanted <= {one.slide_id for one in encoded.slides}, "what was encoded once can be encoded again"
        fold = replace(
            fold,
            train=encoded.of(one.slide_id for one in fold.train.slides),
            val=encoded.of(one.slide_id for one in fold.val.slides),
            test=encoded.of(one.slide_id for one in fold.test.slides),
        )
    runs = [_trained(learner, fold, folder) for learner in learners]
    chosen, on_val = _best(runs, fold.val)
    method = load_slide_method(runs[chosen])
    rows = score_slides(method, fold.test, fold.name)
    write_scores(table, rows)
    names = {"chosen": learners[chosen].name, "validation_auroc": on_val, "run": runs[chosen].name}
    write_json(
        note, {"digest": digest, **names, "slides": [len(one.slides) for one in (fold.train, fold.val, fold.test)]}
    )
    return rows


def _trained(learner: Learner, fold: FoldSets, folder: Path) -> Path:
    run = folder / learner.folder
    training = replace(learner.training, seed=learner.training.seed + 100 * fold.repeat + fold.number)
    log.say(f"{learner.name}: repeat {fold.repeat + 1}, fold {fold.number + 1}, {len(fold.train.slides)} slides")
    find_slide_method(learner.method).create(learner.config, fold.train, training.seed).fit(
        fold.train, fold.val, run, training
    )
    return run


def _best(runs: Sequence[Path], val: SlideSet) -> tuple[int, list[float]]:
    """Which run has the best AUROC on the slides set aside, the first of equal ones; and all of them."""
    labels = np.array([slide.label for slide in val.slides])
    found = [float(auroc(load_slide_method(run).margins(val), labels)) for run in runs]
    return int(np.argmax(found)), found


def most_chosen(learners: Sequence[Learner], out: Path, settings: FoldSettings) -> Learner:
    """The learner that most folds of a finished cross-validation took; the first of equal ones.

    Args:
        learners: As they were given to it.
        out: The folder of its runs.
        settings: As they were given to it: folds of an earlier one may lie there, too.
    """
    places = product(range(settings.repeats), range(settings.folds))
    taken = [read_json(_folder(out, *place) / _NOTE)["chosen"] for place in places]
    return max(learners, key=lambda learner: taken.count(learner.name))


def score_slides(method: SlideMethod, slides: SlideSet, fold: str) -> tuple[ScoredSlide, ...]:
    """What a model says of slides that it was not fitted on.

    Args:
        method: The model.
        slides: With labels.
        fold: What the rows call the model.
    """
    margins = method.margins(slides)
    shares = method.local_shares(slides)
    rows = []
    for slide, margin, share in zip(slides.slides, margins.tolist(), shares, strict=True):
        assert slide.label is not None, "slides without a label were left out"
        said = method.judge(slide.slide_id, margin)
        rows.append(
            ScoredSlide(
                slide_id=slide.slide_id,
                patient_id=slide.patient_id,
                label=slide.label,
                fold=fold,
                logit=margin,
                probability=said.probability,
                threshold=method.decision.threshold,
                decision=said.decision,
                prediction_set=said.prediction_set if method.decision.error is not None else None,
                site=slide.site,
                scanner=slide.scanner,
                local_share=share,
            )
        )
    return tuple(rows)
