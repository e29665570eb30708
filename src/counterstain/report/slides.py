"""A slide's map against truth polygons: the same confusion matrix as for patches, over the map's pixels.

Pixels with truth that no tile covered count as missed. Pixels without truth are left out.

Does not know: where truth comes from.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from counterstain.errors import InputError
from counterstain.export import polygons_by_class, read_geojson
from counterstain.geometry import Box, Frame, Point, Size
from counterstain.metrics import SegmentationScores, confusion, one_class_scores
from counterstain.results import UNCOVERED, SlideMap
from counterstain.tissue.polygons import paint

_ROWS = 1024  # of the map, scored at once


@dataclass(frozen=True)
class SlideScores:
    """How well a slide's map agrees with its truth.

    Args:
        class_names: In order.
        scores: Of the map.
        best_single: Of the class that would score best if it were named everywhere, chosen on this very truth: no map
            that knows less should be below it.
        best_single_class: Which that is.
    """

    class_names: tuple[str, ...]
    scores: SegmentationScores
    best_single: SegmentationScores
    best_single_class: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "scores": self.scores.to_json(self.class_names),
            "best_single_class": self.best_single_class,
            "best_single": self.best_single.to_json(self.class_names),
        }


def score_slide(slide_map: SlideMap, truth: Path) -> SlideScores:
    """Scores a finished map.

    Args:
        slide_map: The map.
        truth: GeoJSON of polygons with classes, level-0 pixels.

    Raises:
        MissingFileError: When the truth is not there.
        InputError: When it is no GeoJSON, or holds no polygon of the map's classes.
    """
    names = slide_map.classes.names
    polygons = {name: shape for name, shape in polygons_by_class(read_geojson(truth)).items() if name in names}
    if not polygons:
        raise InputError(f"{truth} holds no polygon of the classes {', '.join(names)}. Give the truth of this slide.")
    rings = {
        name: [[np.asarray(ring.coords) for ring in (polygon.exterior, *polygon.interiors)] for polygon in multi.geoms]
        for name, multi in polygons.items()
    }
    label, frame = slide_map.label, slide_map.frame
    counts = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    for top in range(0, frame.size.height, _ROWS):
        rows = min(_ROWS, frame.size.height - top)
        strip = _strip(frame, top, rows)
        truth_HW = np.full((rows, frame.size.width), UNCOVERED, np.uint8)
        for name, shapes in rings.items():
            truth_HW[paint(shapes, strip)] = names.index(name)
        counts += confusion(np.asarray(label[top : top + rows]), truth_HW, len(names), UNCOVERED)
    singles = one_class_scores(counts)
    best = int(np.argmax([single.mean_iou for single in singles]))
    return SlideScores(names, SegmentationScores.of(counts), singles[best], names[best])


def _strip(frame: Frame, top: int, rows: int) -> Frame:
    corner = frame.to_level0(Box(0, top, 1, 1))
    return Frame(Point(corner.x, corner.y), frame.downsample_x, frame.downsample_y, Size(frame.size.width, rows))
