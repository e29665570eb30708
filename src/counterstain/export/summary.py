"""A slide's map in numbers: areas, shares, and how sure the model was; written as JSON.

Areas count map pixels. A region's area in the GeoJSON differs from them by its cut corners and by what of the last row
and column lies beyond the scanned part. Entropy is given as a share of the largest possible: 0 is sure, 1 knows nothing.

Does not know: regions, pictures.
"""

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain import __version__
from counterstain.export.blocks import blocks
from counterstain.files import refuse_overwrite, write_json
from counterstain.geometry import Size
from counterstain.infer.chunks import opened
from counterstain.results import UNCOVERED, SlideMap

_BLOCK_PX = 1024


@dataclass(frozen=True)
class ClassSummary:
    """One class on one slide.

    Args:
        name: Of the class.
        num_pixels: Map pixels labelled so.
        area_mm2: Their area.
        fraction: Of the covered area; None on a slide where nothing is covered.
        mean_probability: Of this class over its pixels; None where it has none.
        mean_entropy: Over its pixels, in [0, 1]; None where it has none.
    """

    name: str
    num_pixels: int
    area_mm2: float
    fraction: float | None
    mean_probability: float | None
    mean_entropy: float | None


@dataclass(frozen=True)
class Summary:
    """A slide's map in numbers.

    Args:
        classes: In their order.
        covered_mm2: Where something was predicted.
        uncovered_mm2: The rest of the map: mostly glass.
    """

    classes: tuple[ClassSummary, ...]
    covered_mm2: float
    uncovered_mm2: float


def summarise(slide_map: SlideMap) -> Summary:
    """Counts a map, block by block."""
    num_classes, size = len(slide_map.classes), slide_map.frame.size
    label, probability = opened(slide_map.label), opened(slide_map.probability)
    counts = np.zeros(num_classes, np.int64)
    sums = np.zeros((2, num_classes))
    for block in blocks(size, Size(_BLOCK_PX, _BLOCK_PX)):
        labels = label[block.slices()]
        is_covered = labels != UNCOVERED
        if not is_covered.any():
            continue
        covered = labels[is_covered]
        values = np.asarray(probability[(slice(None), *block.slices())], np.float32)[:, is_covered]
        own = np.take_along_axis(values, covered[None].astype(np.intp), axis=0)[0]
        counts += np.bincount(covered, minlength=num_classes)
        for row, numbers in enumerate((own, _entropy(values))):
            sums[row] += np.bincount(covered, weights=numbers, minlength=num_classes)
    num_covered, area = int(counts.sum()), slide_map.pixel_area_mm2
    classes = tuple(
        ClassSummary(
            name=name,
            num_pixels=int(count),
            area_mm2=float(count * area),
            fraction=float(count / num_covered) if num_covered else None,
            mean_probability=float(own / count) if count else None,
            mean_entropy=float(entropy / count) if count else None,
        )
        for name, count, own, entropy in zip(slide_map.classes.names, counts, *sums, strict=True)
    )
    return Summary(classes, num_covered * area, (size.area - num_covered) * area)


def _entropy(values_CN: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(N,) the entropy over classes as a share of the largest possible one."""
    if len(values_CN) == 1:
        return np.zeros(values_CN.shape[1], np.float32)
    # p log p goes to 0 with p; where p is 0 the logarithm is not looked at.
    logarithms = np.log(values_CN, out=np.zeros_like(values_CN), where=values_CN > 0)
    entropy: npt.NDArray[np.float32] = -(values_CN * logarithms).sum(0) / np.float32(np.log(len(values_CN)))
    return entropy


def write_summary(slide_map: SlideMap, path: Path, *, overwrite: bool = False) -> None:
    """Writes the summary of a map as JSON.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
    """
    if not overwrite:
        refuse_overwrite(path)
    write_json(Path(path), describe_summary(slide_map, summarise(slide_map)))


def describe_summary(slide_map: SlideMap, summary: Summary) -> dict[str, Any]:
    """The tree that `write_summary` writes."""
    frame, mpp = slide_map.frame, slide_map.slide.mpp
    colors = {entry["name"]: entry for entry in slide_map.classes.to_json()}
    return {
        "format": "counterstain.summary",
        "version": 1,
        "slide": slide_map.slide.to_json(),
        "inputs_hash": slide_map.inputs_hash,
        "map": {
            "mpp": {"x": frame.downsample_x * mpp.x, "y": frame.downsample_y * mpp.y},
            "frame": asdict(frame),
        },
        "covered_mm2": summary.covered_mm2,
        "uncovered_mm2": summary.uncovered_mm2,
        "classes": [colors[entry.name] | asdict(entry) for entry in summary.classes],
        "versions": {"counterstain": __version__, "python": platform.python_version(), "numpy": np.__version__},
    }
