"""From weak labels to pixel maps and diagnoses in computational pathology.

The public names are loaded on first use, so that `import counterstain` costs nothing and models run on machines
without the slide libraries.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "open_slide": "counterstain.slides",
    "Slide": "counterstain.slides",
    "find_tissue": "counterstain.tissue",
    "grid": "counterstain.tiles",
    "open_patches": "counterstain.data",
    "predict_slide": "counterstain.infer",
    "load_method": "counterstain.methods",
    "METHODS": "counterstain.methods",
    "open_cohort": "counterstain.data",
    "diagnose": "counterstain.data.diagnosis",
    "learn_cohort": "counterstain.report.learn_cohort",
    "CohortJob": "counterstain.report.learn_cohort",
    "EncoderChoice": "counterstain.report.learn_cohort",
    "FoldSettings": "counterstain.report.crossval",
    "Learner": "counterstain.report.crossval",
    "open_encoder": "counterstain.jobs.encode",
    "encode_slide": "counterstain.infer.encode",
    "read_encoded": "counterstain.data.encoded_files",
    "EncodedSlide": "counterstain.data.encoded",
    "load_slide_method": "counterstain.methods",
    "SLIDE_METHODS": "counterstain.methods",
    "DSNet": "counterstain.methods",
    "Box": "counterstain.geometry",
    "Mpp": "counterstain.geometry",
    "Size": "counterstain.geometry",
    "CounterstainError": "counterstain.errors",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from counterstain.data import open_cohort as open_cohort
    from counterstain.data import open_patches as open_patches
    from counterstain.data.diagnosis import diagnose as diagnose
    from counterstain.data.encoded import EncodedSlide as EncodedSlide
    from counterstain.data.encoded_files import read_encoded as read_encoded
    from counterstain.errors import CounterstainError as CounterstainError
    from counterstain.geometry import Box as Box
    from counterstain.geometry import Mpp as Mpp
    from counterstain.geometry import Size as Size
    from counterstain.infer import predict_slide as predict_slide
    from counterstain.infer.encode import encode_slide as encode_slide
    from counterstain.jobs.encode import open_encoder as open_encoder
    from counterstain.methods import METHODS as METHODS
    from counterstain.methods import SLIDE_METHODS as SLIDE_METHODS
    from counterstain.methods import DSNet as DSNet
    from counterstain.methods import load_method as load_method
    from counterstain.methods import load_slide_method as load_slide_method
    from counterstain.report.crossval import FoldSettings as FoldSettings
    from counterstain.report.crossval import Learner as Learner
    from counterstain.report.learn_cohort import CohortJob as CohortJob
    from counterstain.report.learn_cohort import EncoderChoice as EncoderChoice
    from counterstain.report.learn_cohort import learn_cohort as learn_cohort
    from counterstain.slides import Slide as Slide
    from counterstain.slides import open_slide as open_slide
    from counterstain.tiles import grid as grid
    from counterstain.tissue import find_tissue as find_tissue


def __getattr__(name: str) -> Any:
    """Gives a public name from its room."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'counterstain' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
