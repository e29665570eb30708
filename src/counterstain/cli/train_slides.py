"""`counterstain train --method dsnet` and its like: a cohort of labelled slides in, a diagnosis with its estimate out.

The flags are those of the slide method that the arguments name. Preset, file and flags are merged in this order.

Does not know: how a method learns, how slides are encoded.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.cli.flags import given, merged, optional_twin
from counterstain.errors import InputError, UnknownNameError, counted

if TYPE_CHECKING:
    from counterstain.data.diagnosis import Diagnosis
    from counterstain.methods import SlideMethod
    from counterstain.report.crossval import Learner
    from counterstain.report.learn_cohort import CohortRun, EncoderChoice

RECORD = "cohort.json"
"""In a run folder: what was said of its cohort."""

DEFAULT_PRESET = "short"

_ENTRIES: dict[str, type | tuple[type, ...]] = {
    "method": str,
    "preset": str,
    "settings": dict,
    "training": dict,
    "cohort": dict,
}


@dataclass(frozen=True)
class CohortFlags:
    """What is said of the cohort, its encoder and its folds.

    Args:
        cohort: The cohort's table, or a folder of slides whose names say what they are.
        labels: Where labels come from: the table's words, or names as in Camelyon16 or TCGA.
        root: The folder that the table's paths are relative to; the table's own by default.
        positive: The table's words for the positive class, where they leave a doubt.
        negative: Likewise for the negative class.
        patient_is_slide: Each slide is a patient of its own, where the table has no patients.
        include: Slides that are taken although the cohort's exclusions name them.
        encoder: What turns cells into embeddings: scae trains one here; or the folder of a trained one, a backbone's name,
            or with --encoded the name that its files have.
        encoder_weights: A file of pretrained weights, for a backbone.
        encoder_untrained: Whether a backbone may have random weights: a baseline that shows what noise is worth.
        encoder_preset: How an encoder learns that is trained here: paper or small.
        encoder_cells: What it learns from in all, dealt out over the slides; the preset's by default.
        share_encoder: Whether folds share one encoder, trained on the tissue of all of them.
        encoded: A folder of slides that were encoded before; nothing is encoded then.
        folds: Parts of the patients, each scored by a model trained on the others; 0 makes no estimate. By default 5 where
            the table has no test slides, else 0.
        repeats: How often slides are dealt out into folds.
        val: The part of training patients that is set aside to choose and calibrate, where the table names none.
        candidates: Presets of which the folds choose one, each on the patients it set aside.
        mpp: Microns per pixel of the slides' level 0, where files say it wrongly or not at all.
        assume_mpp: Likewise, only for slides that say nothing; recorded as assumed.
    """

    cohort: Path | None = None
    labels: Literal["table", "camelyon16", "tcga"] = "table"
    root: Path | None = None
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    patient_is_slide: bool = False
    include: tuple[str, ...] = ()
    encoder: str = "scae"
    encoder_weights: Path | None = None
    encoder_untrained: bool = False
    encoder_preset: Literal["paper", "small"] = "small"
    encoder_cells: int | None = None
    share_encoder: bool = False
    encoded: Path | None = None
    folds: int | None = None
    repeats: int = 1
    val: float = 0.25
    candidates: tuple[str, ...] = ()
    mpp: float | None = None
    assume_mpp: float | None = None


def slide_verb(method_name: str) -> Any:
    """The verb with the flags of a slide method."""
    from counterstain.methods import find_slide_method
    from counterstain.training import TrainSettings

    method_type = find_slide_method(method_name)
    method_flags = optional_twin(method_type.config_type, shown=method_type.presets[DEFAULT_PRESET])
    train_flags = optional_twin(TrainSettings, shown=method_type.training[DEFAULT_PRESET])

    def train(
        run: Path,
        /,
        *,
        config: Path | None = None,
        preset: str | None = None,
        method: str = method_name,
        cohort: Any = None,
        settings: Any = None,
        training: Any = None,
        json: bool = False,
    ) -> int:
        """Learn a diagnosis from slides with labels: encode them, estimate how good it will be, train the final model.

        Interrupted or killed and called again, it goes on where it was. A slide that can't be read, or whose file is not
        there, is listed with its reason and the others go on (exit code 3). Test slides of the table are left to
        `counterstain evaluate`.

        Args:
            run: The run folder to write, or to go on with.
            config: A TOML file (method, preset, and tables settings, training, cohort), or a recipe. Flags win over it.
            preset: Settings by name: paper, or short, which is the default and whose values are told below; `counterstain
                models list` has all.
            method: Which method learns: dsnet, or what it is compared with: abmil, clam, transmil, mean_pool, thumbnail or
                nic.
            cohort: The slides, their encoder, the folds.
            settings: Of the method.
            training: How long and on what.
            json: Answer as JSON.
        """
        from counterstain.recipes import find_config
        from counterstain.settings import build, check_entries, read_toml

        tree = {} if config is None else read_toml(find_config(config))
        check_entries(tree, _ENTRIES, str(config))
        flags = build(CohortFlags, merged(tree.get("cohort", {}), given(cohort)))
        name = preset or tree.get("preset", DEFAULT_PRESET)
        own = merged(tree.get("settings", {}), given(settings))
        how_long = merged(tree.get("training", {}), given(training))
        if preset is not None and flags.candidates:
            raise InputError(
                "--preset and --candidates were given; the folds choose the preset. Leave out one of them."
            )
        learners = tuple(_learner(method, one, own, how_long) for one in (flags.candidates or (name,)))
        return _train(run, flags, learners, json)

    train.__annotations__["cohort"] = Annotated[optional_twin(CohortFlags) | None, Parameter(name="*", group="Cohort")]
    train.__annotations__["settings"] = Annotated[method_flags | None, Parameter(name="*", group="Method")]
    train.__annotations__["training"] = Annotated[train_flags | None, Parameter(name="*", group="Training")]
    return train


def _learner(method: str, preset: str, settings: dict[str, Any], training: dict[str, Any]) -> "Learner":
    from counterstain.methods import find_slide_method
    from counterstain.report.crossval import Learner
    from counterstain.settings import build, to_tree
    from counterstain.training import TrainSettings

    method_type: type[SlideMethod] = find_slide_method(method)
    if preset not in method_type.presets:
        raise UnknownNameError("preset", preset, method_type.presets)
    config = build(method_type.config_type, merged(to_tree(method_type.presets[preset]), settings))
    how_long = build(TrainSettings, merged(to_tree(method_type.training[preset]), training))
    return Learner(preset, method, config, how_long)


def _train(run: Path, flags: CohortFlags, learners: "tuple[Learner, ...]", json: bool) -> int:
    from counterstain.cli.inputs import check_resolution
    from counterstain.data.leaks import USUAL_FOLDS
    from counterstain.files import write_json
    from counterstain.report.crossval import FoldSettings
    from counterstain.report.learn_cohort import CohortJob, learn_cohort
    from counterstain.settings import to_tree

    check_resolution("--mpp", flags.mpp)
    check_resolution("--assume-mpp", flags.assume_mpp)
    diagnosis = labelled(flags)
    has_test = any(row.split == "test" for row in diagnosis.rows)
    folds = flags.folds if flags.folds is not None else (0 if has_test else USUAL_FOLDS)
    job = CohortJob(
        run=run,
        learners=learners,
        encoder=_encoder(flags, learners[0].training.seed),
        folds=FoldSettings(folds, flags.repeats, flags.val, learners[0].training.seed) if folds else None,
        val=flags.val,
        slide_mpp=flags.mpp,
        assume_mpp=flags.assume_mpp,
    )
    _say(diagnosis)
    done = learn_cohort(diagnosis, job)
    write_json(run / RECORD, to_tree(_placed(flags)))
    failed = [{"slide": one.slide_id, "kind": one.kind, "reason": one.reason} for one in done.failures]
    if json:
        left_out = [asdict(one) for one in diagnosis.dropped]
        tree = {"run": str(run), "estimate": done.estimate, "failed": failed, "left_out": left_out}
        log.emit_json({**tree, "notes": list(done.notes)})
    else:
        _show(done, has_test)
    is_short = failed or any(one.kind == "unusable" for one in diagnosis.dropped)
    return SOME_FAILED if is_short else OK


def _say(diagnosis: "Diagnosis") -> None:
    labels = [row.label for row in diagnosis.rows]
    counts = ", ".join(f"{labels.count(index)} {name}" for index, name in enumerate(diagnosis.classes.names))
    log.say(f"{diagnosis.source}: {counts}, of {len(diagnosis.patients)} patients")
    say_left_out(diagnosis)


def say_left_out(diagnosis: "Diagnosis") -> None:
    """Says which rows and slides of a cohort have no part in a diagnosis, by reason; nothing where all have one."""
    from counterstain.data.cohorts import told_by_reason

    if diagnosis.dropped:
        what = "slide" if diagnosis.source.is_dir() else "row"
        log.say(f"{diagnosis.source}: {counted(len(diagnosis.dropped), what)} not taken:")
    for line in told_by_reason(diagnosis.dropped):
        log.say(f"  {line}")


def _placed(flags: CohortFlags) -> CohortFlags:
    """The same with whole paths: other verbs read them from other folders."""
    names = ("cohort", "root", "encoder_weights", "encoded")
    paths = {name: value.resolve() for name in names if (value := getattr(flags, name)) is not None}
    encoder = str(Path(flags.encoder).resolve()) if Path(flags.encoder).is_dir() else flags.encoder
    return replace(flags, **paths, encoder=encoder)


def recorded(run: Path, cohort: Path | None) -> CohortFlags:
    """What was said of a cohort when a run was trained, for another verb to go by.

    Args:
        run: The run.
        cohort: What the verb was given; None for the run's own cohort. Of another one, nothing but the words for the
            classes is taken over.
    """
    from counterstain.files import read_json
    from counterstain.settings import build

    note = run / RECORD
    flags = build(CohortFlags, read_json(note)) if note.exists() else CohortFlags()
    if cohort is None or cohort.resolve() == flags.cohort:
        return flags
    return CohortFlags(cohort=cohort, positive=flags.positive, negative=flags.negative)


def labelled(flags: CohortFlags) -> "Diagnosis":
    """The labelled slides of a cohort.

    Raises:
        InputError: When no cohort was given, or labels leave a doubt.
    """
    from counterstain.data.cohorts import open_cohort
    from counterstain.data.diagnosis import DiagnosisSettings, diagnose

    if flags.cohort is None:
        raise InputError("No cohort was given. Pass --cohort TABLE.csv; `counterstain check TABLE.csv` looks it over.")
    settings = DiagnosisSettings(
        cohort=flags.labels,
        positive=flags.positive or None,
        negative=flags.negative or None,
        patient_is_slide=flags.patient_is_slide,
        include=flags.include,
    )
    return diagnose(open_cohort(flags.cohort, flags.root), settings)


def _encoder(flags: CohortFlags, seed: int) -> "EncoderChoice":
    from counterstain.jobs.train_encoder import EncoderTraining
    from counterstain.report.learn_cohort import EncoderChoice

    training = EncoderTraining.preset(flags.encoder_preset, seed)
    if flags.encoder_cells is not None:
        training = replace(training, num_cells=flags.encoder_cells)
    choice = EncoderChoice(
        name=flags.encoder,
        weights=flags.encoder_weights,
        is_untrained=flags.encoder_untrained,
        training=training,
        is_shared=flags.share_encoder,
        encoded=flags.encoded,
    )
    _refuse_idle(flags, choice)
    return choice


def _refuse_idle(flags: CohortFlags, choice: "EncoderChoice") -> None:
    """Refuses flags that the chosen encoder has no use for, and a backbone that nobody gave weights."""
    is_backbone = not choice.is_trained_here and choice.trained_run is None and choice.encoded is None
    idle = [] if choice.is_trained_here else ["encoder_preset", "encoder_cells", "share_encoder"]
    idle += [] if is_backbone else ["encoder_weights", "encoder_untrained"]
    given_idle = [f"--{name.replace('_', '-')}" for name in idle if getattr(flags, name) != getattr(CohortFlags, name)]
    if given_idle:
        what = (
            f"slides in {choice.encoded} are encoded already" if choice.encoded else f"the encoder is {choice.name!r}"
        )
        raise InputError(f"{', '.join(given_idle)} was given, and {what}. Leave it out.")
    has_weights = flags.encoder_weights is not None or flags.encoder_untrained or choice.name.startswith("timm:")
    if is_backbone and "/" not in choice.name and not has_weights:
        raise InputError(
            f"Encoder {choice.name!r} was given without weights. Pass their file as --encoder-weights, or "
            "--encoder-untrained for random ones, or as --encoder the folder of an S-CAE's run."
        )


def _show(done: "CohortRun", has_test: bool) -> None:
    from counterstain.report.diagnosis_table import HEADS, summary_rows

    if done.estimate is not None:
        log.emit_table(
            "Slides scored by models that never saw their patients", list(HEADS), summary_rows(done.estimate)
        )
        log.say(f"Figures: {done.run / 'figures'}. Every slide's score: {done.run / 'scores.csv'}")
    for note in (*(done.estimate or {"warnings": ()})["warnings"], *done.notes):
        log.say(f"Note: {note}")
    if done.failures:
        log.say(f"{len(done.failures)} slides were not done:")
        for failure in done.failures:
            log.say(f"  {failure.slide_id}: {failure.reason}")
    following = f"counterstain evaluate {done.run} --cohort TABLE.csv" if has_test else ""
    log.say(f"Next: {following or f'counterstain predict {done.run} SLIDES --out OUT'}")
