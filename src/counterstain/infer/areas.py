"""Areas of a slide's map, class by class, in bounded memory.

Does not know: how the map was made.
"""

import numpy as np

from counterstain.infer.chunks import opened
from counterstain.results import UNCOVERED, SlideMap

_ROWS = 2048
_COLUMNS = 2048


def areas_mm2(slide_map: SlideMap) -> dict[str, float]:
    """The area of each class in mm², by its name; uncovered pixels count for none."""
    label = opened(slide_map.label)
    counts = np.zeros(UNCOVERED + 1, np.int64)
    for y in range(0, label.shape[0], _ROWS):
        for x in range(0, label.shape[1], _COLUMNS):
            block = label[y : y + _ROWS, x : x + _COLUMNS]
            counts += np.bincount(block.ravel(), minlength=UNCOVERED + 1)
    return {name: int(counts[index]) * slide_map.pixel_area_mm2 for index, name in enumerate(slide_map.classes.names)}
