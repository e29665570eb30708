"""How well a trained tumour method maps slides it has never seen: synthetic lymph nodes with small metastases.

    python benchmarks/metastasis_slide.py RUN OUT --seeds 0 1 2 --plot fusion_kd_slide.png > metastasis_slide.json

Each seed is a slide of 4 x 4 mm with its tumour drawn; `predict` maps it. Masks are compared pixel by pixel of the map, all
over the slide: tumour that was taken for no tissue is missed. Beside them stands what calls all tissue tumour. Slides and
finished maps are kept in OUT, so that the same command goes on where it was interrupted. Prints JSON.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from command import command_given
from counterstain import log
from counterstain.cli.predict import SlideJob, map_slide
from counterstain.data.annotations import TumourAreas
from counterstain.data.cohorts import CohortSlide
from counterstain.data.tumour import tumour_class
from counterstain.errors import InputError
from counterstain.export import RegionSettings, polygons_by_class, read_geojson, regions
from counterstain.export.overlay import blend
from counterstain.export.picture import round_length
from counterstain.export.sheet import DPI, Sheet
from counterstain.files import atomic
from counterstain.geometry import Box, Frame, Point, Size
from counterstain.infer import PredictSettings
from counterstain.methods import DenseMethod, load_dense_method, model_digest
from counterstain.metrics import confusion
from counterstain.metrics.segmentation import plain
from counterstain.metrics.tumour import pixel_counts
from counterstain.results import UNCOVERED, SlideMap
from counterstain.slides import Slide, open_slide
from counterstain.synth import metastasis_slide, write_slide

Labels = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8]

DRAWN = "tumour epithelium"
JOINED_UM = 75.0  # nests closer than this are one island, as the evaluation of Camelyon16 joins its lesions
CELL_UM2 = 225.0  # a tumour cell; what is smaller counts as no region
HIT = 0.5  # part of an island that must be called tumour

PANEL_PX, ZOOM_UM = 400, 1000.0
MARGIN, GAP, HEADER, CAPTION = 30, 18, 84, 30
INK, SOFT = "#1c2024", "#69717b"


@dataclass(frozen=True)
class Mapped:
    """A mapped slide with its truth.

    Args:
        path: The slide.
        slide_map: Of the method.
        tumour: The label that stands for it.
        drawn: The truth, level-0 pixels.
    """

    path: Path
    slide_map: SlideMap
    tumour: int
    drawn: shapely.MultiPolygon

    @property
    def px_um(self) -> float:
        """The width of a level-0 pixel."""
        return self.slide_map.slide.mpp.mean

    def truth(self, frame: Frame) -> npt.NDArray[np.bool_]:
        """The drawn tumour under the centres of a frame's pixels."""
        return TumourAreas(tuple(self.drawn.geoms)).mask(frame)

    def islands(self) -> list[shapely.MultiPolygon]:
        """The drawn tumour, nests that lie close together as one."""
        reach = JOINED_UM / 2 / self.px_um
        joined = shapely.get_parts(shapely.buffer(self.drawn, reach))
        return [
            shapely.MultiPolygon(shapely.get_parts(shapely.intersection(self.drawn, one)).tolist()) for one in joined
        ]


def mapped(seed: int, method: DenseMethod, digest: str, out: Path) -> Mapped:
    """Writes the slide of a seed and maps it, each unless it is done."""
    path = out / f"metastases_{seed}.svs"
    truth = path.with_suffix(".truth.geojson")
    if not truth.exists():
        path.unlink(missing_ok=True)
        write_slide(path, metastasis_slide(seed), truth)
    job = SlideJob(method, digest, out / "maps", ("geojson", "ome_tiff", "overlay", "summary"), PredictSettings())
    map_slide(CohortSlide(path.name, path), job)
    slide_map = SlideMap.open(out / "maps" / path.name / "map.zarr")
    drawn = polygons_by_class(read_geojson(truth, slide_map.slide.bounds)).get(DRAWN)
    if drawn is None:
        raise InputError(f"The slide of seed {seed} has no tumour. Leave that seed out.")
    return Mapped(path, slide_map, tumour_class(method.classes, getattr(method.config, "positive", None)), drawn)


def scored(seed: int, one: Mapped) -> dict[str, Any]:
    """A slide's mask and what calls all tissue tumour, against the truth."""
    label, frame = one.slide_map.label[:], one.slide_map.frame
    truth = one.truth(frame)
    to_mm2 = one.slide_map.pixel_area_mm2
    tissue_mm2 = float((label != UNCOVERED).sum() * to_mm2)
    everything = np.where(label == UNCOVERED, UNCOVERED, np.uint8(one.tumour))
    return {
        "seed": seed,
        "tissue_mm2": tissue_mm2,
        "drawn_mm2": float(truth.sum() * to_mm2),
        "mapped_mm2": float((label == one.tumour).sum() * to_mm2),
        "mask": overlap(label, truth, one.tumour),
        "all_tissue_tumour": overlap(everything, truth, one.tumour),
        "islands": island_hits(one, label == one.tumour),
        **false_regions(one, tissue_mm2),
    }


def overlap(label: Labels, truth: npt.NDArray[np.bool_], tumour: int) -> dict[str, float | None]:
    """How a mask agrees with the truth, over all pixels."""
    counts = pixel_counts(confusion(label, np.where(truth, tumour, 1 - tumour), 2), tumour)
    area_ratio = (counts.hits + counts.false) / (counts.hits + counts.missed)
    values = {"dice": counts.f1, "iou": counts.iou, "precision": counts.precision, "recall": counts.recall}
    return {name: plain(float(value)) for name, value in {**values, "area_ratio": area_ratio}.items()}


def island_hits(one: Mapped, is_tumour: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Of each island, largest first: its area, how much of it is called tumour, whether that is enough."""
    frame, found = one.slide_map.frame, []
    for island in one.islands():
        inside = TumourAreas(tuple(island.geoms)).mask(frame)
        if inside.any():
            share = float(is_tumour[inside].mean())
            found.append({"area_um2": float(island.area * one.px_um**2), "share": share, "is_hit": share >= HIT})
    return sorted(found, key=lambda entry: -entry["area_um2"])


def false_regions(one: Mapped, tissue_mm2: float) -> dict[str, float | int]:
    """Regions, as they are exported, that meet no drawn tumour."""
    name = one.slide_map.classes.names[one.tumour]
    found = list(regions(one.slide_map, RegionSettings(min_area_um2=CELL_UM2, classes=(name,))))
    shapely.prepare(one.drawn)
    false = [region for region in found if not shapely.intersects(one.drawn, region.polygon)]
    return {
        "regions": len(found),
        "false_regions": len(false),
        "false_regions_per_mm2": len(false) / tissue_mm2,
        "false_regions_mm2": sum(region.area_mm2 for region in false),
    }


def means(slides: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over slides; islands are pooled."""
    islands = [entry for slide in slides for entry in slide["islands"]]
    tissue_mm2 = sum(slide["tissue_mm2"] for slide in slides)
    return {
        **{name: _mean([slide[name] for slide in slides]) for name in ("mask", "all_tissue_tumour")},
        "islands": len(islands),
        "islands_hit": sum(entry["is_hit"] for entry in islands),
        "false_regions_per_mm2": sum(slide["false_regions"] for slide in slides) / tissue_mm2,
    }


def _mean(entries: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    columns = {name: [entry[name] for entry in entries] for name in entries[0]}
    return {
        name: None if any(value is None for value in values) else float(np.mean([value or 0 for value in values]))
        for name, values in columns.items()
    }


def draw(one: Mapped, scores: dict[str, Any], path: Path) -> None:
    """Slide, truth and map: the whole slide above, the surroundings of its largest island below."""
    bounds = one.slide_map.slide.bounds
    whole, close = Size(PANEL_PX, round(PANEL_PX * bounds.height / bounds.width)), Size(PANEL_PX, PANEL_PX)
    zoom = _around(max(one.islands(), key=lambda island: float(island.area)), ZOOM_UM / one.px_um, bounds)
    upper = HEADER + CAPTION
    lower = upper + whole.height + GAP + CAPTION
    sheet = Sheet(2 * MARGIN + 3 * PANEL_PX + 2 * GAP, lower + close.height + MARGIN)
    sheet.text((MARGIN, 44), "Metastases in a synthetic lymph node", 24, INK, bold=True)
    sheet.text((MARGIN, 70), _facts(scores), 15, SOFT)
    titles = ("Slide", f"Drawn tumour, {scores['drawn_mm2']:.2f} mm²", f"Tumour map, {scores['mapped_mm2']:.2f} mm²")
    with open_slide(one.path) as slide:
        lefts = _row(sheet, upper, titles, _panels(one, slide, bounds, whole))
        _row(sheet, lower, ("Around the largest island", "", ""), _panels(one, slide, zoom, close))
    scale = PANEL_PX / bounds.width
    for left in lefts:
        place = (left + (zoom.x - bounds.x) * scale, upper + (zoom.y - bounds.y) * scale)
        sheet.box(place, (zoom.width * scale, zoom.height * scale), fill=False, ec=INK, lw=1.2)
    for top, size, box in ((upper, whole, bounds), (lower, close, zoom)):
        _scale_bar(sheet, (MARGIN + 12, top + size.height - 12), box.width * one.px_um / size.width)
    with atomic(path) as temporary:
        sheet.figure.savefig(temporary, format="png", dpi=DPI)


def _facts(scores: dict[str, Any]) -> str:
    tissue_mm2, islands = scores["tissue_mm2"], scores["islands"]
    facts = (
        f"tumour on {scores['drawn_mm2'] / tissue_mm2:.1%} of {tissue_mm2:.1f} mm² of tissue",
        f"Dice {scores['mask']['dice']:.2f}, all tissue as tumour {scores['all_tissue_tumour']['dice']:.2f}",
        f"{sum(entry['is_hit'] for entry in islands)} of {len(islands)} islands hit",
        f"false regions on {scores['false_regions_mm2'] / tissue_mm2:.1%} of the tissue",
    )
    return "   ·   ".join(facts)


def _row(sheet: Sheet, top: int, titles: Sequence[str], panels: Sequence[Pixels]) -> list[int]:
    """Puts panels side by side under their titles; their left edges."""
    lefts = [MARGIN + number * (PANEL_PX + GAP) for number in range(len(panels))]
    for left, title, pixels in zip(lefts, titles, panels, strict=True):
        sheet.text((left, top - 10), title, 15, INK)
        sheet.picture(left, top, pixels)
    return lefts


def _around(island: shapely.MultiPolygon, side: float, bounds: Box) -> Box:
    """A square around an island's middle, inside the scanned part, of whole pixels."""
    left, top, right, bottom = island.bounds
    side = round(min(side, bounds.width, bounds.height))
    x = min(max(bounds.x, round((left + right - side) / 2)), bounds.right - side)
    y = min(max(bounds.y, round((top + bottom - side) / 2)), bounds.bottom - side)
    return Box(x, y, side, side)


def _panels(one: Mapped, slide: Slide, box: Box, size: Size) -> tuple[Pixels, Pixels, Pixels]:
    """Slide, truth and map of a level-0 box."""
    view = slide.read_resized(box, size)
    finer = Size(2 * size.width, 2 * size.height)  # as `blend` takes labels
    frame = Frame(Point(box.x, box.y), box.width / finer.width, box.height / finer.height, finer)
    truth = np.where(one.truth(frame), np.uint8(one.tumour), np.uint8(1 - one.tumour))
    labels = (truth, _labels_under(one.slide_map, frame))
    drawn, mapped_view = (blend(view, label, one.slide_map, 0.6) for label in labels)
    return view, drawn, mapped_view


def _labels_under(slide_map: SlideMap, frame: Frame) -> Labels:
    """The map's labels under the centres of a frame's pixels; `UNCOVERED` beyond the map."""
    own, label = slide_map.frame, slide_map.label[:]
    x = frame.origin.x + (np.arange(frame.size.width) + 0.5) * frame.downsample_x
    y = frame.origin.y + (np.arange(frame.size.height) + 0.5) * frame.downsample_y
    columns = np.floor((x - own.origin.x) / own.downsample_x).astype(np.intp)
    rows = np.floor((y - own.origin.y) / own.downsample_y).astype(np.intp)
    padded = np.pad(label, 1, constant_values=UNCOVERED)
    under: Labels = padded[np.ix_((rows + 1).clip(0, len(padded) - 1), (columns + 1).clip(0, padded.shape[1] - 1))]
    return under


def _scale_bar(sheet: Sheet, corner: tuple[int, int], um_per_px: float) -> None:
    um = round_length(0.3 * PANEL_PX * um_per_px)
    text = f"{um / 1e3:g} mm" if um >= 1e3 else f"{um:g} µm"
    x, bottom = corner
    sheet.rounded((x - 4, bottom - 34), (um / um_per_px + 16, 38), 5, fc="white", ec="none", alpha=0.88)
    sheet.text((x + 4, bottom - 16), text, 13, INK, bold=True)
    sheet.box((x + 4, bottom - 8), (um / um_per_px, 4), fc=INK, ec="none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one slide each")
    parser.add_argument("--plot", type=Path, help="where to draw the first seed's slide; in OUT by default")
    options = parser.parse_args()
    method, digest = load_dense_method(options.run), model_digest(options.run)
    slides = []
    for seed in options.seeds:
        one = mapped(seed, method, digest, options.out)
        slides.append(scored(seed, one))
        log.say(f"Seed {seed}: {slides[-1]['mask']}")
        if seed == options.seeds[0]:
            draw(one, slides[-1], options.plot or options.out / "slide.png")
    result = {
        "what": "tumour masks of synthetic slides with metastases, against the drawn truth; one model",
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "method": method.name,
        "model_digest": digest,
        "settings": {"joined_um": JOINED_UM, "least_region_um2": CELL_UM2, "hit_from": HIT},
        "mean": means(slides),
        "slides": slides,
    }
    print(json.dumps(result, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
