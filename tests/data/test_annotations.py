from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely import Polygon

from counterstain.data.annotations import CAMELYON_GROUPS, Groups, TumourAreas, read_asap
from counterstain.data.cutting import PRESETS
from counterstain.errors import InputError, MissingFileError
from counterstain.geometry import Frame, Point, Size
from counterstain.testing.slide_cohorts import DRAWN, write_asap


def frame(x: float, y: float, side: int, down: float = 1.0) -> Frame:
    return Frame(Point(x, y), down, down, Size(side, side))


def slow_mask(drawn: tuple[tuple[str, object], ...], plane: Frame) -> np.ndarray:
    """Every pixel's centre asked of every polygon."""
    mask = np.zeros(plane.size.shape, bool)
    polygons = {group: Polygon(points) for group, points in drawn}
    for row in range(plane.size.height):
        for column in range(plane.size.width):
            centre = shapely.Point(
                plane.origin.x + (column + 0.5) * plane.downsample_x, plane.origin.y + (row + 0.5) * plane.downsample_y
            )
            is_inside = any(shape.contains(centre) for group, shape in polygons.items() if group != "_2")
            mask[row, column] = is_inside and not polygons["_2"].contains(centre)
    return mask


@pytest.mark.parametrize(
    "plane", [frame(180, 180, 64), frame(120, 120, 32), frame(260, 290, 64), frame(60, 60, 64, 8.1), frame(600, 600, 8)]
)
def test_a_mask_is_what_a_point_in_polygon_test_of_every_pixel_gives(tmp_path: Path, plane: Frame) -> None:
    areas = read_asap(write_asap(tmp_path / "a.xml", DRAWN))
    assert np.array_equal(areas.mask(plane), slow_mask(DRAWN, plane))


def test_a_hole_is_taken_out_wherever_it_stands_in_the_file(tmp_path: Path) -> None:
    first = read_asap(write_asap(tmp_path / "a.xml", (DRAWN[2], *DRAWN[:2])))
    last = read_asap(write_asap(tmp_path / "b.xml", DRAWN))
    plane = frame(180, 180, 140)
    assert np.array_equal(first.mask(plane), last.mask(plane))
    assert 0 < last.mask(plane).sum() < read_asap(write_asap(tmp_path / "c.xml", DRAWN[:2])).mask(plane).sum()


def test_a_ring_that_crosses_itself_becomes_valid(tmp_path: Path) -> None:
    bow_tie = (("_0", ((0, 0), (20, 20), (20, 0), (0, 20))),)
    areas = read_asap(write_asap(tmp_path / "a.xml", bow_tie))
    assert all(shape.is_valid for shape in areas.tumour)
    assert sum(shape.area for shape in areas.tumour) == pytest.approx(200)
    assert areas.mask(frame(0, 0, 20))[10, 2]
    assert not areas.mask(frame(0, 0, 20))[2, 10]


def test_clicks_without_an_area_are_counted_and_left_out(tmp_path: Path) -> None:
    areas = read_asap(write_asap(tmp_path / "a.xml", (*DRAWN, ("_0", ((3, 3),)), ("_0", ((1, 1), (2, 2), (3, 3))))))
    assert areas.num_empty == 2
    assert len(areas.tumour) == 2


def test_points_are_taken_in_their_order_and_with_decimal_commas(tmp_path: Path) -> None:
    points = [(2, 20, 0), (0, 0, 0), (3, 20, 10.5), (10, 0, 10.5)]
    rows = "".join(f'<Coordinate Order="{o}" X="{x}" Y="{str(y).replace(".", ",")}"/>' for o, x, y in points)
    (tmp_path / "a.xml").write_text(f'<A><Annotation PartOfGroup="Tumor">{rows}</Annotation></A>')
    (polygon,) = read_asap(tmp_path / "a.xml").tumour
    assert polygon.equals(shapely.box(0, 0, 20, 10.5))


def test_an_unknown_group_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = write_asap(tmp_path / "a.xml", (("Tumour_bed", DRAWN[0][1]),))
    with pytest.raises(InputError, match=r"a.xml.*'Tumour_bed'.*_0, _1.*--tumour-groups"):
        read_asap(path)
    assert len(read_asap(path, Groups(("Tumour_bed",), ())).tumour) == 1
    with pytest.raises(InputError, match="stands for both"):
        Groups(("a",), ("a",))


def test_an_area_of_no_group_is_a_hole_to_camelyon_alone(tmp_path: Path) -> None:
    path = write_asap(tmp_path / "a.xml", (DRAWN[0], ("None", DRAWN[1][1])))
    with pytest.raises(InputError, match=r"a.xml.*'None'.*--hole-groups"):
        read_asap(path)
    areas = read_asap(path, CAMELYON_GROUPS)
    assert (len(areas.tumour), len(areas.holes)) == (1, 1)
    assert "None" in PRESETS["camelyon16_p512"].hole_groups


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<A><Annotation><Coordinate X='1' Y='1'/></Annotation></A>", "doesn't say its group"),
        ("", "no whole XML"),
        ("<A><Annotation PartOfGroup='_0'>", "no whole XML"),
        ("<A></A>", "holds no annotation"),
        ("<A><Annotation PartOfGroup='_0' Type='Dot'/></A>", "encloses nothing"),
        ("<A><Annotation PartOfGroup='_0'><Coordinate X='1' Y='east'/></Annotation></A>", "'east'"),
        ("<A><Annotation PartOfGroup='_0'><Coordinate X='1'/></Annotation></A>", "coordinate None"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "broken.xml").write_text(text)
    with pytest.raises(InputError, match=f"broken.xml.*{says}|{says}.*broken.xml"):
        read_asap(tmp_path / "broken.xml")
    with pytest.raises(MissingFileError):
        read_asap(tmp_path / "none.xml")


def test_no_tumour_is_an_empty_mask() -> None:
    areas = TumourAreas((), (shapely.box(0, 0, 9, 9),))
    assert not areas.mask(frame(0, 0, 9)).any()
    assert not areas.touches(frame(0, 0, 9).box)
