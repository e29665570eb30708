"""`counterstain inspect`: what a slide file holds, or why it can't be read.

Does not know: file formats.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.errors import CounterstainError, InputError

if TYPE_CHECKING:
    from counterstain.data.cohorts import CohortSlide


def inspect(
    slides: list[Path],
    /,
    *,
    mpp: float | None = None,
    thumbnail: Path | None = None,
    overwrite: bool = False,
    properties: bool = False,
    json: bool = False,
) -> int:
    """Show what slide files hold: reader, size, resolution and its source, levels, bounds.

    Args:
        slides: Slide files, folders of them, or cohort tables (.csv).
        mpp: Microns per pixel of level 0, where files and tables do not say or are wrong.
        thumbnail: Write a picture of the slide with the outline of its tissue here (PNG); one slide only.
        overwrite: Replace a picture that is there.
        properties: Show the file's own metadata too.
        json: Answer as JSON.
    """
    from counterstain.cli.inputs import check_resolution, slides_of
    from counterstain.files import refuse_overwrite

    check_resolution("--mpp", mpp)
    batch = slides_of(slides)
    if thumbnail is not None:
        if len(batch.slides) != 1:
            raise InputError(
                f"--thumbnail was given with {len(batch.slides)} slides; it shows one. Name that one alone."
            )
        if not overwrite:
            refuse_overwrite(thumbnail)
    described = [_describe(entry, mpp, properties) for entry in batch.slides]
    if thumbnail is not None and "error" not in described[0]:
        _write_thumbnail(batch.slides[0], mpp, thumbnail)
    described += [{"path": entry.place, "error": entry.reason, "kind": "Dropped"} for entry in batch.dropped]
    if json:
        log.emit_json(described)
    else:
        for entry in described:
            _show(entry)
    return SOME_FAILED if any("error" in entry for entry in described) else OK


def _describe(entry: "CohortSlide", mpp: float | None, properties: bool) -> dict[str, Any]:
    from counterstain.slides import open_slide

    path = entry.path
    try:
        with open_slide(path, _resolution(entry, mpp)) as slide:
            # One pixel from the middle tells a file that opens from one that can be read.
            _probe(slide)
            resolution = slide.resolution
            return {
                "path": str(path),
                "reader": slide.reader,
                "width": slide.size.width,
                "height": slide.size.height,
                "mpp": [resolution.mpp.x, resolution.mpp.y] if resolution else None,
                "mpp_source": resolution.source if resolution else None,
                "levels": [
                    [level.size.width, level.size.height, round(level.downsample_x, 4)] for level in slide.levels
                ],
                "bounds": [slide.bounds.x, slide.bounds.y, slide.bounds.width, slide.bounds.height],
                **({"properties": dict(slide.properties)} if properties else {}),
            }
    except CounterstainError as error:
        return {"path": str(path), "error": str(error), "kind": type(error).__name__}


def _resolution(entry: "CohortSlide", mpp: float | None) -> float | None:
    return mpp if mpp is not None else entry.mpp


def _probe(slide: Any) -> None:
    from counterstain.geometry import Box, Size

    middle_x, middle_y = slide.size.width // 2, slide.size.height // 2
    slide.read_resized(Box(middle_x, middle_y, 1, 1), Size(1, 1))


def _write_thumbnail(entry: "CohortSlide", mpp: float | None, target: Path) -> None:
    import numpy as np
    from PIL import Image, ImageDraw

    from counterstain.files import atomic
    from counterstain.geometry import Box, Size
    from counterstain.slides import open_slide
    from counterstain.tissue import find_tissue

    with open_slide(entry.path, _resolution(entry, mpp)) as slide:
        scale = max(slide.size.width, slide.size.height) / 1600
        size = Size(max(1, round(slide.size.width / scale)), max(1, round(slide.size.height / scale)))
        picture = Image.fromarray(slide.read_resized(Box.whole(slide.size), size))
        draw = ImageDraw.Draw(picture)
        for polygon in find_tissue(slide).polygons():
            for ring in (polygon.exterior, *polygon.interiors):
                draw.line([tuple(point) for point in np.asarray(ring.coords) / scale], fill=(0, 110, 220), width=3)
    with atomic(target) as temporary:
        picture.save(temporary)


def _show(entry: dict[str, Any]) -> None:
    if "error" in entry:
        log.emit(f"{entry['path']}: {entry['error']}")
        return
    mpp = entry["mpp"]
    rows = [
        ["reader", entry["reader"]],
        ["size", f"{entry['width']} x {entry['height']} px"],
        ["resolution", f"{mpp[0]:.4g} x {mpp[1]:.4g} um/px ({entry['mpp_source']})" if mpp else "unknown: pass --mpp"],
        ["levels", ", ".join(f"{width} x {height} (1:{down:g})" for width, height, down in entry["levels"])],
        ["bounds", "x {:g}, y {:g}, {:g} x {:g}".format(*entry["bounds"])],
        *([name, value] for name, value in entry.get("properties", {}).items()),
    ]
    log.emit_table(entry["path"], ["", "found"], rows)
