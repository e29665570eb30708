"""`counterstain train --method scae`: slides in, an encoder of their cells out. No label is looked at.

Does not know: how an encoder learns.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.cli.flags import given, merged, optional_twin


def encoder_verb() -> Any:
    """The verb with the flags of an S-CAE."""
    from counterstain.methods.scae import SCAEConfig
    from counterstain.training import TrainSettings

    def train(
        run: Path,
        /,
        *,
        slides: Annotated[list[Path], Parameter(consume_multiple=True, negative_iterable="")],
        split: str | None = None,
        method: str = "scae",
        preset: Literal["paper", "small"] = "small",
        num_cells: int | None = None,
        mpp: float | None = None,
        assume_mpp: float | None = None,
        settings: Any = None,
        training: Any = None,
        json: bool = False,
    ) -> int:
        """Train an S-CAE on cells of slides, without labels: the encoder that DSNet looks through.

        Give it slides that nothing will be scored on: what an encoder has seen, it encodes better. A slide that can't be
        read is listed with its reason and the others go on (exit code 3). Interrupted and called again, it goes on where it
        was.

        Args:
            run: The run folder to write, or to go on with.
            slides: Slide files, folders of them, or cohort tables (.csv).
            split: Only slides that the table gives this split.
            method: scae.
            preset: paper, or small, which a CPU trains in minutes.
            num_cells: To learn from in all, dealt out over the slides; the preset's by default.
            mpp: Microns per pixel of the slides' level 0, where files say it wrongly or not at all.
            assume_mpp: Likewise, only for slides that say nothing.
            settings: Of the S-CAE.
            training: How long and on what.
            json: Answer as JSON.
        """
        from dataclasses import replace

        from counterstain.cli.inputs import check_resolution, slides_of
        from counterstain.errors import InputError
        from counterstain.jobs.train_encoder import EncoderTraining, train_encoder
        from counterstain.settings import build, to_tree

        check_resolution("--mpp", mpp)
        check_resolution("--assume-mpp", assume_mpp)
        batch = slides_of(slides)
        entries = [entry for entry in batch.slides if split is None or entry.split == split]
        if not entries:
            raise InputError(f"No slide has the split {split!r}. Correct --split, or leave it out.")
        known = EncoderTraining.preset(preset)
        how = EncoderTraining(
            config=build(SCAEConfig, merged(to_tree(known.config), given(settings))),
            training=build(TrainSettings, merged(to_tree(known.training), given(training))),
            num_cells=known.num_cells if num_cells is None else num_cells,
            slide_mpp=mpp,
            assume_mpp=assume_mpp,
        )
        how = replace(how, draw=replace(how.draw, seed=how.training.seed))
        failures = train_encoder(entries, run, how)
        failed = [{"slide": one.slide_id, "kind": one.kind, "reason": one.reason} for one in failures]
        failed += [{"slide": one.what, "kind": "Dropped", "reason": one.reason} for one in batch.dropped]
        if json:
            log.emit_json({"run": str(run), "slides": len(entries) - len(failures), "failed": failed})
        else:
            for one in failed:
                log.say(f"  {one['slide']}: {one['reason']}")
            log.say(f"Next: counterstain encode SLIDES --out ENCODED --encoder {run}")
        return SOME_FAILED if failed else OK

    train.__annotations__["settings"] = Annotated[optional_twin(SCAEConfig) | None, Parameter(name="*", group="Method")]
    train.__annotations__["training"] = Annotated[
        optional_twin(TrainSettings) | None, Parameter(name="*", group="Training")
    ]
    return train
