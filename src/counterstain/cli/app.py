"""The tree of verbs.

Does not know: what a verb does.
"""

from cyclopts import App

from counterstain import __version__

_SUMMARY = """From weak labels to pixel maps in computational pathology.

A first run: `counterstain demo`. With your own patches and slides: `counterstain train`, then `counterstain predict`.
"""


def build_app(arguments: list[str]) -> App:
    """All verbs; the flags of `train` are those of the method that the arguments name."""
    from counterstain.cli.train import train_app

    app = App(name="counterstain", help=_SUMMARY, version=__version__, help_format="markdown")
    for verb, summary in (
        ("doctor", "Check this machine: libraries, processors, memory, slide formats."),
        ("bench", "Measure this machine: its limits, how near counterstain comes, how long a slide takes."),
        ("demo", "Train on synthetic patches and map a synthetic slide, end to end."),
        ("inspect", "Show what a slide file holds."),
        ("check", "Check a cohort of slides before training: labels, patients, leaks, what gives the class away."),
        ("prepare", "Cut patches with tumour / no tumour labels from slides on which tumour was drawn."),
        ("encode", "Turn slides into grids of embeddings and thumbnails."),
        ("predict", "Map the tissue of slides, or diagnose them, with a trained run."),
        ("evaluate", "Score a run on patches or whole images with pixel truth, or on labelled slides."),
        ("compare", "Train and score the variants of a study with several seeds: a table and a plot."),
        ("export", "Write a finished map for other tools."),
    ):
        app.command(f"counterstain.cli.{verb}:{verb}", name=verb, help=summary)
    app.command(
        "counterstain.cli.import_:import_",
        name="import",
        help="Turn features that other tools extracted into encoded slides.",
    )
    app.command(
        "counterstain.cli.synth:app", name="synth", help="Write synthetic histology: patches, tumours, slides, cohorts."
    )
    app.command("counterstain.cli.models:app", name="models", help="List, describe, import and tune models.")
    app.command(train_app(arguments))
    return app
