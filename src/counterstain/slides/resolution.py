"""Microns per pixel from what files say about themselves, and when not to believe them.

A resolution is read, never guessed: an objective's power is none (20x was seen at 0.23 and at 0.55 um/px), and neither is
the 72 or 300 dpi that image programs write into every TIFF.

Does not know: how files are opened; readers pass in the text and numbers they found.
"""

import math
from collections.abc import Mapping
from xml.etree import ElementTree

from counterstain.geometry import Mpp, Size
from counterstain.slides.header import Resolution

# No microscope camera resolves less than 0.05 um/px; above 100 even an overview shows no tissue structure.
_METADATA_UM = (0.05, 100.0)
# Print resolutions reach 2400 dpi, which is 10.6 um/px: a coarser tag may as well be a printer's.
_TAG_UM = (0.05, 10.0)

_UM_PER_UNIT = {  # OME's names of units of length, in um
    "µm": 1.0,
    "μm": 1.0,  # the Greek letter instead of the micro sign
    "um": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "Å": 1e-4,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25400.0,
}
_UM_PER_TIFF_UNIT = {2: 25400.0, 3: 10000.0}  # ResolutionUnit: inch, centimetre; 1 is no unit at all


def from_metadata(x: float, y: float) -> Resolution | None:
    """What the format's own metadata says; None when it can't be a slide's."""
    return _plausible(x, y, _METADATA_UM, "reader")


def from_tags_mpp(x: float, y: float) -> Resolution | None:
    """A resolution that somebody else worked out from the general TIFF tags; None when it can't be a slide's."""
    return _plausible(x, y, _TAG_UM, "tiff tags")


def from_tags(per_unit_x: tuple[int, int], per_unit_y: tuple[int, int], unit: int) -> Resolution | None:
    """The TIFF tags XResolution and YResolution, as fractions of pixels a unit, and ResolutionUnit.

    Returns:
        None without a unit of length, or when the resolution is a printer's.
    """
    if unit not in _UM_PER_TIFF_UNIT or not all((*per_unit_x, *per_unit_y)):
        return None
    um = _UM_PER_TIFF_UNIT[unit]
    return from_tags_mpp(um * per_unit_x[1] / per_unit_x[0], um * per_unit_y[1] / per_unit_y[0])


def from_aperio(properties: Mapping[str, str]) -> Resolution | None:
    """The field MPP of an Aperio description; never its AppMag."""
    mpp = _number(properties.get("MPP"))
    return None if mpp is None else from_metadata(mpp, mpp)


def from_ome(xml: str, size: Size) -> Resolution | None:
    """PhysicalSizeX and -Y of the image of a given size in an OME-XML text."""
    try:
        root = ElementTree.fromstring(xml.strip())
    except ElementTree.ParseError:
        return None
    for pixels in root.findall(".//{*}Pixels"):
        if (pixels.get("SizeX"), pixels.get("SizeY")) != (str(size.width), str(size.height)):
            continue
        x, y = (_length(pixels, axis) for axis in "XY")
        if x is not None and y is not None:
            return from_metadata(x, y)
    return None


def _length(pixels: "ElementTree.Element", axis: str) -> float | None:
    value = _number(pixels.get(f"PhysicalSize{axis}"))
    um = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    return None if value is None or um is None else value * um


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _plausible(x: float, y: float, limits: tuple[float, float], source: str) -> Resolution | None:
    low, high = limits
    if all(math.isfinite(value) and low <= value <= high for value in (x, y)):
        return Resolution(Mpp(x, y), source)
    return None
