"""`counterstain train --method cascade`: a diagnosis's run and its slides in, a run that maps tissue out.

The flags are those of the method that learns from patches in the end: `--dense`.

Does not know: which cells are taken for what, how a method learns.
"""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.cli.flags import given, merged, optional_twin
from counterstain.errors import UnknownNameError

DEFAULT_DENSE = "sshr"


def cascade_verb(dense_name: str | None) -> Any:
    """The verb with the flags of the method that learns from patches in the end."""
    from counterstain.jobs.cascade import CascadeSettings
    from counterstain.methods import find_method
    from counterstain.training import TrainSettings

    dense_name = dense_name or DEFAULT_DENSE
    dense_type = find_method(dense_name)

    def train(
        run: Path,
        /,
        *,
        slide_run: Path,
        cohort: Path | None = None,
        encoded: Path | None = None,
        positive: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable="")] = (),
        method: str = "cascade",
        dense: str = dense_name,
        preset: str | None = None,
        mpp: float | None = None,
        assume_mpp: float | None = None,
        cells: Any = None,
        settings: Any = None,
        training: Any = None,
        json: bool = False,
    ) -> int:
        """Learn a pixel map from labels of slides alone: a diagnosis labels patches by evidence, a method learns from them.

        Patches go to RUN/patches, and none of them was labelled by a person; cells whose evidence leaves a doubt are left
        out. Interrupted and called again, it goes on where it was.

        Args:
            run: The run folder to write, or to go on with.
            slide_run: The run that diagnoses slides.
            cohort: The table of slides that it was trained with; found in its run by default.
            encoded: The folder of its encoded slides; SLIDE_RUN/encoded by default.
            positive: The table's words for the positive class, where they leave a doubt.
            method: cascade.
            dense: What learns from the patches: sshr, multi_stage or fusion_kd.
            preset: Of its settings.
            mpp: Microns per pixel of the slides' level 0, where files say it wrongly or not at all.
            assume_mpp: Likewise, only for slides that say nothing.
            cells: Which cells are taken for what.
            settings: Of the method that learns from patches.
            training: How long and on what.
            json: Answer as JSON.
        """
        from dataclasses import replace

        from counterstain.cli.inputs import check_resolution
        from counterstain.cli.train_slides import labelled, recorded
        from counterstain.data import open_patches
        from counterstain.jobs.cascade import CascadeJob, cut_by_evidence
        from counterstain.settings import build, to_tree

        check_resolution("--mpp", mpp)
        check_resolution("--assume-mpp", assume_mpp)
        if preset is not None and preset not in dense_type.presets:
            raise UnknownNameError("preset", preset, dense_type.presets)
        known = {} if preset is None else to_tree(dense_type.presets[preset])
        config = build(dense_type.config_type, merged(known, given(settings)))
        how_long = build(TrainSettings, given(training))
        flags = recorded(slide_run, cohort)
        diagnosis = labelled(replace(flags, positive=positive or flags.positive))
        chosen = build(CascadeSettings, given(cells))
        job = CascadeJob(
            run=slide_run,
            encoded=encoded or flags.encoded or slide_run / "encoded",
            out=run / "patches",
            settings=chosen,
            slide_mpp=mpp or flags.mpp,
            assume_mpp=assume_mpp or flags.assume_mpp,
        )
        made, failures = cut_by_evidence(diagnosis, job)
        counts = {kind: sum(one[kind] for one in made["slides"].values()) for kind in ("tumour", "normal")}
        log.say(
            f"Patches of {len(made['slides'])} slides: {counts['tumour']} taken for tumour, {counts['normal']} for normal"
        )
        data = open_patches(job.out, "table")
        learner = dense_type.create(config, data, tile_px=chosen.patch_px, seed=how_long.seed)
        learner.fit(data, run, how_long)
        if json:
            log.emit_json({"run": str(run), "patches": counts, "failed": [one.slide_id for one in failures]})
        else:
            for one in failures:
                log.say(f"  {one.slide_id}: {one.reason}")
            log.say(f"Next: counterstain predict {run} SLIDE --out OUT")
        return SOME_FAILED if failures else OK

    for name, twin, group in (
        ("cells", CascadeSettings, "Cells"),
        ("settings", dense_type.config_type, "Method"),
        ("training", TrainSettings, "Training"),
    ):
        without = ("seed",) if name == "cells" else ()
        train.__annotations__[name] = Annotated[optional_twin(twin, without) | None, Parameter(name="*", group=group)]
    return train
