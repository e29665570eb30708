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
    "Box": "counterstain.geometry",
    "Mpp": "counterstain.geometry",
    "Size": "counterstain.geometry",
    "CounterstainError": "counterstain.errors",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from counterstain.data import open_patches as open_patches
    from counterstain.errors import CounterstainError as CounterstainError
    from counterstain.geometry import Box as Box
    from counterstain.geometry import Mpp as Mpp
    from counterstain.geometry import Size as Size
    from counterstain.infer import predict_slide as predict_slide
    from counterstain.methods import METHODS as METHODS
    from counterstain.methods import load_method as load_method
    from counterstain.slides import Slide as Slide
    from counterstain.slides import open_slide as open_slide
    from counterstain.tiles import grid as grid
    from counterstain.tissue import find_tissue as find_tissue


def __getattr__(name: str) -> Any:
    """Gives a public name from its room."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'counterstain' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
