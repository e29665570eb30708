"""What a look at a slide file tells before anything is learned: how it is stored, its resolution, tissue and pen marks.

The header and one pixel of each file are read, and a coarse view where reading one is cheap or was asked for.

Does not know: labels, patients.
"""

from dataclasses import dataclass

from counterstain.data.cohorts import CohortSlide
from counterstain.errors import MissingResolutionError, NoTissueError
from counterstain.files import file_hash
from counterstain.geometry import Box, Size
from counterstain.slides import Slide, open_slide
from counterstain.tissue import TissueSettings, find_tissue, view_frame

_CHEAP_PX = 60_000_000  # decoded for a view: two or three seconds; a file without coarse levels would be decoded whole
_QUICK = TissueSettings(max_px=1_000_000)
_DEEP = TissueSettings()


@dataclass(frozen=True)
class Look:
    """How closely slides are looked at, and what the user knows of all of them.

    Args:
        mpp: um/px of level 0, where files and table say it wrongly or not at all.
        assume_mpp: Likewise, only for slides of unknown resolution.
        deep: Search every slide for tissue and pen marks, whatever that takes, on the view that tissue is later found on.
    """

    mpp: float | None = None
    assume_mpp: float | None = None
    deep: bool = False


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """What is known of a file.

    Args:
        reader: What opened it.
        suffix: Of its name, in lower case.
        size: Level 0.
        mpp: um/px of level 0, the mean of both axes; None where nobody says.
        mpp_source: "user", "reader", "tiff tags" or "assumed"; None with `mpp`.
        content_hash: As `files.file_hash` gives it.
        has_tissue: None where nobody looked.
        ink: The share of the scanned part under pen marks, 0 to 1; None where nobody looked, or nothing but glass was seen.
    """

    reader: str
    suffix: str
    size: Size
    mpp: float | None
    mpp_source: str | None
    content_hash: str
    has_tissue: bool | None
    ink: float | None

    @property
    def area_mm2(self) -> float | None:
        """Of level 0; None where the resolution is unknown."""
        return None if self.mpp is None else self.size.area * self.mpp**2 / 1e6


def look_at(entry: CohortSlide, look: Look) -> SlideFacts:
    """Looks at one slide.

    Raises:
        MissingFileError: When it is not there.
        SlideError: When it can't be read, or is none for light glass.
        MissingExtraError: When it takes an optional library that is not installed.
    """
    given = look.mpp if look.mpp is not None else entry.mpp
    with open_slide(entry.path, given, assume_mpp=look.assume_mpp) as slide:
        middle = Box(slide.size.width // 2, slide.size.height // 2, 1, 1)
        slide.read_resized(middle, Size(1, 1))  # tells a file that opens from one that can be read
        has_tissue, ink = _tissue_and_ink(slide, look.deep)
        known = slide.resolution
        return SlideFacts(
            reader=slide.reader,
            suffix=entry.path.suffix.lower(),
            size=slide.size,
            mpp=None if known is None else known.mpp.mean,
            mpp_source=None if known is None else known.source,
            content_hash=file_hash(entry.path),
            has_tissue=has_tissue,
            ink=ink,
        )


def _tissue_and_ink(slide: Slide, deep: bool) -> tuple[bool | None, float | None]:
    settings = _DEEP if deep else _QUICK
    try:
        if not deep and _decoded_px(slide, settings) > _CHEAP_PX:
            return None, None
        found = find_tissue(slide, settings)
    except NoTissueError:
        return False, None
    except MissingResolutionError:
        return None, None
    return True, None if found.ink is None else float(found.ink.mean())


def _decoded_px(slide: Slide, settings: TissueSettings) -> float:
    """Pixels of the file that the view of a tissue search is made of."""
    frame = view_frame(slide, settings)
    scale = min(frame.downsample_x, frame.downsample_y)
    fine = [level for level in slide.levels if max(level.downsample_x, level.downsample_y) <= scale]
    level = fine[-1] if fine else slide.levels[0]
    return slide.bounds.width / level.downsample_x * slide.bounds.height / level.downsample_y
