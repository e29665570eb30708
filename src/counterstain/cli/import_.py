"""`counterstain import`: features that other tools made in, encoded slides out.

Does not know: dialects, how files and slides are matched.
"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from counterstain import log


def import_(
    features: Path,
    /,
    *,
    out: Path,
    slides: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = (),
    encoder: str | None = None,
    mpp: float | None = None,
    assume_mpp: float | None = None,
    patch_px: float | None = None,
    snap: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Turn features that TRIDENT, CLAM or STAMP extracted into encoded slides.

    Every slide gets a folder under OUT, as `counterstain encode` makes it. With the slides at hand there are thumbnails and
    evidence can be laid over them; without, methods that look at embeddings alone can still learn. A file that can't be
    used is listed with its reason and the others go on (exit code 3).

    Args:
        features: A file of features (HDF5), or a folder below which there are some: of one encoder.
        out: Where results go.
        slides: Slide files, folders of them, or cohort tables (.csv); matched with the files by name.
        encoder: What made the features, where files don't say.
        mpp: Microns per pixel of the slides' level 0, where neither files nor slides say it.
        assume_mpp: Likewise, only for slides that say nothing; recorded as assumed in everything made from them.
        patch_px: Width of a patch in level-0 pixels, where files don't say.
        snap: Move patches that overlap or lie off one grid to the nearest cell, instead of refusing.
        overwrite: Replace results of other inputs instead of refusing.
        json: Answer as JSON.
    """
    from counterstain.cli.encoded import answer
    from counterstain.cli.inputs import check_resolution, slides_of
    from counterstain.data.features import ImportSettings
    from counterstain.jobs.import_features import ImportJob, import_cohort, match_files

    check_resolution("--mpp", mpp)
    check_resolution("--assume-mpp", assume_mpp)
    check_resolution("--patch-px", patch_px)
    batch = slides_of(slides) if slides else None
    matches = match_files(features, () if batch is None else batch.slides)
    if matches.unused:
        log.say(
            f"{len(matches.unused)} files are of none of the slides and were passed over: {matches.unused[0].name}, ..."
        )
    dropped = matches.dropped if batch is None else (*matches.dropped, *batch.dropped)
    settings = ImportSettings(encoder, mpp, patch_px, snap, overwrite)
    outcomes = import_cohort(matches, ImportJob(out, settings, slide_mpp=mpp, assume_mpp=assume_mpp))
    return answer(outcomes, dropped, out, as_json=json)
