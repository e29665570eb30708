"""How tissue is found, as settings that are hashed, stored and given as flags.

Does not know: how it is done.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from counterstain.errors import InputError, UnknownNameError
from counterstain.tissue.ink import INKS
from counterstain.tissue.runs import RunsSettings

METHODS = ("otsu", "bytes", "runs", "both")


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is found.

    Args:
        method: "otsu": what is stained; "bytes": the same, told from the sizes of stored tiles where these tell it, in
            cells as large as those tiles; "runs": cells rich in detail, by the run-length filter; "both": what both keep.
        mpp: um/px of the view that is searched. A slide that is coarser is searched as it is.
        max_px: The view of a large slide is made coarser until it has no more pixels than this.
        saturation: The smallest and largest threshold that Otsu's method may give.
        inks: Pen colours to leave out, of "green", "blue", "red", "black". Empty keeps everything.
        min_area_um2: Smaller specks are dropped, at most a twentieth of the view.
        max_hole_um2: Smaller holes are filled (vessels, fat cells, cracks), at most a twentieth of the view.
        margin_um: Widens the tissue by so much; never into ink.
        runs: The run-length filter's recipe.

    Raises:
        InputError: When a number is out of its range, or a name unknown.
    """

    method: Literal["otsu", "bytes", "runs", "both"] = "otsu"
    mpp: float = 8.0
    max_px: int = 2_000_000
    saturation: tuple[float, float] = (0.03, 0.04)
    inks: tuple[str, ...] = INKS
    min_area_um2: float = 10_000.0
    max_hole_um2: float = 40_000.0
    margin_um: float = 0.0
    runs: RunsSettings = field(default_factory=RunsSettings)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError("tissue method", self.method, METHODS)
        for ink in self.inks:
            if ink not in INKS:
                raise UnknownNameError("ink", ink, INKS)
        if not (math.isfinite(self.mpp) and self.mpp > 0 and self.max_px >= 1):
            raise InputError(f"A view of {self.mpp} um/px and {self.max_px} px was given; both must be above 0.")
        if not 0 <= self.saturation[0] <= self.saturation[1] <= 1:
            raise InputError(f"Saturations {self.saturation} were given; give the smaller first, both in 0 to 1.")
        for name in ("min_area_um2", "max_hole_um2", "margin_um"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} was given as {value}; give 0 or a finite number above it.")


DEFAULT = TissueSettings()
