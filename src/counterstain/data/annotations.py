"""Areas of tumour that somebody drew on a slide, from ASAP's XML, painted tile by tile.

    <ASAP_Annotations><Annotations>
      <Annotation Type="Polygon" PartOfGroup="_0"><Coordinates><Coordinate Order="0" X="12.5" Y="7"/>...

Polygons of tumour groups are tumour, those of hole groups are taken out of it, whatever order they stand in. Nothing is
ever painted larger than the frame that was asked for, so that a slide's size does not matter.

Does not know: slides, which cohort the file is from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np
import shapely
from shapely import Polygon, STRtree
from shapely.geometry.base import BaseGeometry

from counterstain.errors import InputError, UnknownNameError
from counterstain.files import existing
from counterstain.geometry import Box, Frame
from counterstain.tissue.polygons import Mask, Ring, paint

AREA_TYPES = ("Polygon", "Spline", "Rectangle")
"""ASAP's annotations that enclose something; points and measurements do not."""


@dataclass(frozen=True)
class Groups:
    """What the groups of an annotation file stand for.

    Args:
        tumour: Groups of polygons around tumour.
        holes: Groups of polygons around what is no tumour inside it.

    Raises:
        InputError: When there is no tumour group, or a group stands for both.
    """

    tumour: tuple[str, ...] = ("_0", "_1", "Tumor", "metastases")
    holes: tuple[str, ...] = ("_2", "Exclusion", "normal")

    def __post_init__(self) -> None:
        both = sorted(set(self.tumour) & set(self.holes))
        if not self.tumour or both:
            raise InputError(
                f"Groups {list(self.tumour)} were given as tumour and {list(self.holes)} as holes; at least one group of "
                "tumour, and none that stands for both, was expected."
            )

    def of(self, name: str) -> Literal["tumour", "hole"]:
        """What a group stands for.

        Raises:
            UnknownNameError: When nobody said.
        """
        if name in self.tumour:
            return "tumour"
        if name in self.holes:
            return "hole"
        raise UnknownNameError("annotation group", name, (*self.tumour, *self.holes))


GROUPS = Groups()
"""The groups that are known without being named. ASAP's "None", an area that nobody put into a group, is none of them."""

CAMELYON_GROUPS = Groups(holes=(*GROUPS.holes, "None"))
"""The groups in the files of Camelyon16 ("_0", "_1" and "_2"; "Tumor", "Exclusion" and "None" in some) and of Camelyon17.

Source: the conversion example on the challenge's data page for the numbered groups and Camelyon17's; public readers of both
sets agree on the others.
"""


@dataclass(frozen=True, eq=False)
class TumourAreas:
    """The tumour of a slide.

    Args:
        tumour: Valid polygons, level-0 pixels.
        holes: Valid polygons whose insides are no tumour.
        num_empty: Annotations without an area (clicks, lines), which cover no pixel and were left out.
    """

    tumour: tuple[Polygon, ...]
    holes: tuple[Polygon, ...] = ()
    num_empty: int = 0

    def mask(self, frame: Frame) -> Mask:
        """The tumour in a frame: pixels whose centres lie in a tumour polygon and in no hole.

        Returns:
            (H, W) bool.
        """
        square = _square(frame.box)
        inside, outside = _near(self._tumour_tree, square), _near(self._hole_tree, square)
        if not inside:
            return np.zeros(frame.size.shape, bool)
        if not outside and shapely.contains(inside, square).any():
            return np.ones(frame.size.shape, bool)  # most of a large metastasis, without a look at its outline
        return paint(map(_rings, inside), frame) & ~paint(map(_rings, outside), frame)

    def touches(self, box: Box) -> bool:
        """Whether a tumour polygon reaches into a level-0 box, or up to its edge."""
        return bool(_near(self._tumour_tree, _square(box)))

    @property
    def is_blank(self) -> bool:
        """Whether no area of any kind was drawn."""
        return not self.tumour and not self.holes

    @cached_property
    def _tumour_tree(self) -> STRtree:
        return _tree(self.tumour)

    @cached_property
    def _hole_tree(self) -> STRtree:
        return _tree(self.holes)


def read_asap(path: Path, groups: Groups = GROUPS) -> TumourAreas:
    """Reads an annotation file of ASAP.

    Args:
        path: XML; coordinates in level-0 pixels, decimal points or commas.
        groups: What its groups stand for.

    Returns:
        The areas; without any tumour where the file has none.

    Raises:
        MissingFileError: When it is not there.
        InputError: When it is no such file, holds no annotation at all, or one without a group or that encloses nothing by
            its type, or a coordinate that is no number.
        UnknownNameError: When an annotation is of a group that `groups` does not know: nobody but you can say whether it
            is tumour.
    """
    path = existing(path, "an annotation file")
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' is no whole XML file: {error}. Export the annotations from ASAP again.") from error
    annotations = list(root.iter("Annotation"))
    if not annotations:
        raise InputError(
            f"'{path}' holds no annotation. Export it from ASAP again, or take it away if nothing was drawn."
        )
    parts: dict[str, list[Polygon]] = {"tumour": [], "hole": []}
    num_empty = 0
    for number, element in enumerate(annotations, 1):
        polygons = _valid(_ring(element, f"annotation {number} of '{path}'"))
        num_empty += not polygons
        parts[_kind(element, groups, path)] += polygons
    return TumourAreas(tuple(parts["tumour"]), tuple(parts["hole"]), num_empty)


def _kind(element: ElementTree.Element, groups: Groups, path: Path) -> str:
    name = element.get("PartOfGroup")
    if name is None:
        raise InputError(f"'{path}' has an annotation that doesn't say its group. Export it from ASAP again.")
    try:
        return groups.of(name)
    except UnknownNameError as error:
        raise InputError(
            f"'{path}': {error} Say what it stands for with --tumour-groups or --hole-groups, which replace the known ones."
        ) from error


def _ring(element: ElementTree.Element, what: str) -> Ring:
    """(N, 2) points of an annotation in their order, (x, y) level-0 pixels."""
    kind = element.get("Type", "Polygon")
    if kind not in AREA_TYPES:
        raise InputError(f"{what} is a {kind!r}, which encloses nothing; {', '.join(AREA_TYPES)} were expected.")
    points = list(element.iter("Coordinate"))
    orders = [point.get("Order") for point in points]
    if all(order is not None for order in orders):
        points = [
            point for _, point in sorted(zip(orders, points, strict=True), key=lambda pair: _number(pair[0], what))
        ]
    values = [(_number(point.get("X"), what), _number(point.get("Y"), what)) for point in points]
    return np.array(values, np.float64).reshape(-1, 2)


def _number(text: str | None, what: str) -> float:
    try:
        value = float((text or "").replace(",", "."))  # ASAP writes decimals as the machine's locale has them
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{what} has the coordinate {text!r}; a number was expected. Export it from ASAP again.")
    return value


def _valid(ring: Ring) -> list[Polygon]:
    """The valid polygons that a ring encloses by the even-odd rule; none of a ring without an area."""
    if len(ring) < 3:
        return []
    return [part for part in _polygons(shapely.make_valid(Polygon(ring))) if part.area > 0]


def _polygons(shape: BaseGeometry) -> list[Polygon]:
    if isinstance(shape, Polygon):
        return [shape]
    return [polygon for part in getattr(shape, "geoms", ()) for polygon in _polygons(part)]


def _tree(polygons: Sequence[Polygon]) -> STRtree:
    shapely.prepare(polygons)  # outlines of 50,000 points are asked about thousands of squares
    return STRtree(polygons)


def _near(tree: STRtree, square: Polygon) -> list[Polygon]:
    """The polygons of a tree that meet a square, in their order."""
    found: list[Polygon] = [tree.geometries[index] for index in np.sort(tree.query(square))]
    return [polygon for polygon in found if polygon.intersects(square)]


def _rings(polygon: Polygon) -> list[Ring]:
    return [np.asarray(ring.coords)[:-1] for ring in (polygon.exterior, *polygon.interiors)]


def _square(box: Box) -> Polygon:
    return shapely.box(box.x, box.y, box.right, box.bottom)
