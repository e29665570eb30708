"""Studies: one TOML file for each comparison that this project reports or that a paper's table has.

`counterstain compare --study NAME` takes them; `study_file(name)` gives a file's path.
"""

from pathlib import Path

from counterstain.errors import UnknownNameError

STUDIES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


def study_file(name: str) -> Path:
    """The file of a study: a path to one's own, or one of STUDIES by its name.

    Raises:
        UnknownNameError: When there is no such file and none of that name.
    """
    if Path(name).is_file():
        return Path(name)
    if name not in STUDIES:
        raise UnknownNameError("study", name, STUDIES)
    return STUDIES[name]
