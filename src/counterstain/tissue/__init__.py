"""Where tissue lies on a slide: masks and polygons, pen marks left out.

`find_tissue` looks at a slide and gives a `Tissue`; `Tissue.save` writes it for a person to look at and mend, and
`load_tissue` takes the mended polygons back.
"""

from counterstain.tissue.find import find_tissue, find_tissue_in_image, view_frame
from counterstain.tissue.ink import INKS
from counterstain.tissue.load import load_tissue
from counterstain.tissue.mask import Tissue
from counterstain.tissue.runs import RunScores, RunsSettings, score_runs
from counterstain.tissue.settings import TissueSettings

__all__ = [
    "find_tissue",
    "find_tissue_in_image",
    "load_tissue",
    "score_runs",
    "view_frame",
    "INKS",
    "RunScores",
    "RunsSettings",
    "Tissue",
    "TissueSettings",
]
