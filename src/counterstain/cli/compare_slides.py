"""`counterstain compare` for studies of slides: encoded slides in, every variant cross-validated, a table and a plot out.

Does not know: what a variant changes, how slides are encoded.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from counterstain import log
from counterstain.cli import OK
from counterstain.cli.train_slides import CohortFlags, labelled, say_left_out
from counterstain.errors import InputError

if TYPE_CHECKING:
    from counterstain.data.encoded import SlideSet


def compare_slides(out: Path, file: Path, slides: CohortFlags, only: tuple[str, ...], json: bool) -> int:
    """Runs a study of slides.

    Slides that the cohort gives a split other than train are left out: test slides are for the end.

    Args:
        out: The folder of all runs, and of the table and the plot.
        file: The study.
        slides: Which they are, their labels, where they were encoded to, and the encoder of variants that name none.
        only: Variants to compare, beside the reference; all when empty.
        json: Answer as JSON.

    Raises:
        InputError: When cohort or embeddings are not given.
    """
    from counterstain.report.slide_study import compare_slides as run
    from counterstain.report.slide_study import read_slide_study, table_lines

    study = read_slide_study(file)
    study = study.only(only) if only else study
    rows, tree = run(study, lambda encoder: _open(slides, encoder or slides.encoder), out)
    if json:
        log.emit_json(tree)
    else:
        heads, *lines = table_lines(rows)
        log.emit_table(study.title, heads, lines)
        for note in tree["notes"]:
            log.say(f"Note: {note}")
        log.say(f"Written: {out / study.name}.json, .csv, .md and .png")
    return OK


def _open(slides: CohortFlags, encoder: str) -> "SlideSet":
    from counterstain.data.slide_sets import labelled_slides, open_slide_set

    if slides.cohort is None or slides.encoded is None:
        raise InputError(
            "A study of slides needs their table, or a folder of them, and the folder they were encoded to: "
            "--cohort TABLE.csv --encoded FOLDER (counterstain encode makes it)."
        )
    diagnosis = labelled(slides)
    say_left_out(diagnosis)
    rows = [row for row in diagnosis.rows if row.split in (None, "train")]
    return open_slide_set(diagnosis.source.stem, diagnosis.classes, labelled_slides(rows, slides.encoded), encoder)
