"""Maps of slides written for other tools.

A writer takes a finished map and a path. Each is a file here and a line in WRITERS; `counterstain.testing.writers` is the
exam it inherits. `QUPATH_SCRIPT` imports the GeoJSON of a whole run into a QuPath project. What reads which file, and where
its coordinates start, stands in docs/exports.md.

Does not know: how maps are made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from counterstain.errors import UnknownNameError
from counterstain.export.geojson import GeoJSONSettings, write_geojson
from counterstain.export.ome_tiff import ClassMap, read_class_map, write_class_map, write_probability_map
from counterstain.export.overlay import OverlaySettings, write_overlay
from counterstain.export.regions import RegionSettings, regions
from counterstain.export.shapes import Shape, polygons_by_class, read_geojson
from counterstain.export.summary import ClassSummary, Summary, summarise, write_summary
from counterstain.export.tiles import TileSettings, write_tiles
from counterstain.results import SlideMap
from counterstain.slides import Slide

QUPATH_SCRIPT = Path(__file__).with_name("qupath_import.groovy")
"""A script for QuPath's script editor or its command line."""


@dataclass(frozen=True)
class Writer:
    """One format.

    Args:
        function: Writes a map with its default settings; takes `overwrite`, and `slide` where `takes_slide`.
        file_name: What the file is called in the folder of a slide.
        description: What it is and who opens it, in a line.
        takes_slide: Whether it looks at the slide's pixels.
    """

    function: Callable[..., None]
    file_name: str
    description: str
    takes_slide: bool = False

    def write(self, slide_map: SlideMap, path: Path, *, slide: Slide | None = None, overwrite: bool = False) -> None:
        """Writes a map.

        Args:
            slide_map: A finished map.
            path: The file.
            slide: What the map was made from, for a writer that looks at it; None to open it where it lay then.
            overwrite: Replace a file that is there.

        Raises:
            ExistingOutputError: When the file is there and may not be replaced.
            InputError: When the file's name does not suit the format, or the map can't be written in it.
        """
        if self.takes_slide:
            self.function(slide_map, path, slide=slide, overwrite=overwrite)
        else:
            self.function(slide_map, path, overwrite=overwrite)


WRITERS: dict[str, Writer] = {
    "geojson": Writer(write_geojson, "regions.geojson", "regions as annotations, for QuPath"),
    "geojson_tiles": Writer(write_tiles, "tiles.geojson", "a grid of tiles with probabilities, for QuPath's maps"),
    "ome_tiff": Writer(write_class_map, "map.ome.tiff", "the class map in its colours, for QuPath and other viewers"),
    "ome_tiff_probability": Writer(
        write_probability_map, "probability.ome.tiff", "a channel of probabilities for each class, for QuPath and Fiji"
    ),
    "overlay": Writer(write_overlay, "overlay.png", "a picture of slide and map with legend", takes_slide=True),
    "summary": Writer(write_summary, "summary.json", "areas, shares and probabilities, for scripts"),
}
"""The writers by name."""


def find_writer(name: str) -> Writer:
    """A writer by its name.

    Raises:
        UnknownNameError: When there is none of that name.
    """
    if name not in WRITERS:
        raise UnknownNameError("export", name, WRITERS)
    return WRITERS[name]


def write(
    name: str, slide_map: SlideMap, path: Path | None = None, *, slide: Slide | None = None, overwrite: bool = False
) -> Path:
    """Writes a map in one format.

    Args:
        name: Of the writer.
        slide_map: A finished map.
        path: The file; None for the format's own name beside the map.
        slide: As `Writer.write` takes it.
        overwrite: Replace a file that is there.

    Returns:
        Where it was written.

    Raises:
        UnknownNameError: When there is no writer of that name.
        ExistingOutputError: When the file is there and may not be replaced.
        InputError: When the file's name does not suit the format, or the map can't be written in it.
    """
    writer = find_writer(name)
    path = slide_map.path.parent / writer.file_name if path is None else Path(path)
    writer.write(slide_map, path, slide=slide, overwrite=overwrite)
    return path


__all__ = [
    "QUPATH_SCRIPT",
    "WRITERS",
    "Writer",
    "find_writer",
    "write",
    "ClassMap",
    "ClassSummary",
    "GeoJSONSettings",
    "OverlaySettings",
    "RegionSettings",
    "Shape",
    "Summary",
    "TileSettings",
    "polygons_by_class",
    "read_class_map",
    "read_geojson",
    "regions",
    "summarise",
    "write_class_map",
    "write_geojson",
    "write_overlay",
    "write_probability_map",
    "write_summary",
    "write_tiles",
]
