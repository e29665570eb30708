"""Writes a small fake Camelyon16 in its real folder layout: slides, ASAP's XML, the reference of the test set.

Slides are white glass with a pink square of tissue, violet where tumour was drawn; one drawn hole is pink again. Patches of
a fake are 64 px.

Does not know: how slides are cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from counterstain.testing.slide_files import TiffDialect, write_tiff

Points = Sequence[tuple[float, float]]

PATCH_PX = 64
SIDE_PX = 640
TISSUE = (64, 64, 576, 576)
"""Left, top, right and bottom of the tissue: whole patches."""

PINK, VIOLET = (240, 50, 130), (60, 60, 170)

DRAWN: tuple[tuple[str, Points], ...] = (
    ("_0", ((100.3, 90.1), (420.7, 110.2), (400.4, 400.8), (90.6, 380.9))),
    ("_1", ((450.2, 450.1), (560.9, 455.3), (540.1, 560.7))),
    ("_2", ((200.2, 200.4), (300.9, 210.3), (280.1, 310.6))),
)
"""A large area of tumour with a hole in it, and a small one."""


@dataclass(frozen=True)
class FakeCamelyon16:
    """What was written.

    Args:
        folder: Its root.
        slides: Files by name.
    """

    folder: Path
    slides: Mapping[str, Path]


def write_asap(path: Path, drawn: Sequence[tuple[str, Points]]) -> Path:
    """Writes polygons, each with its group, as ASAP does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    annotations = []
    for number, (group, points) in enumerate(drawn):
        coordinates = "".join(
            f'<Coordinate Order="{order}" X="{x:.4f}" Y="{y:.4f}" />' for order, (x, y) in enumerate(points)
        )
        annotations.append(
            f'<Annotation Name="Annotation {number}" Type="Polygon" PartOfGroup={quoteattr(group)} Color="#F4FA58">'
            f"<Coordinates>{coordinates}</Coordinates></Annotation>"
        )
    body = "\n".join(annotations)
    path.write_text(
        f'<?xml version="1.0"?>\n<ASAP_Annotations>\n<Annotations>\n{body}\n</Annotations>\n'
        "<AnnotationGroups></AnnotationGroups>\n</ASAP_Annotations>\n"
    )
    return path


def draw_slide(drawn: Sequence[tuple[str, Points]], seed: int) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a slide, with a little noise so that no two are alike."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    pen.rectangle((TISSUE[0], TISSUE[1], TISSUE[2] - 1, TISSUE[3] - 1), PINK)
    for group, points in sorted(drawn, key=lambda one: one[0] == "_2"):
        pen.polygon(list(points), PINK if group == "_2" else VIOLET)
    noise = np.random.default_rng(seed).integers(-12, 13, (SIDE_PX, SIDE_PX, 3))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def write_camelyon16(
    folder: Path, num_tumour: int = 2, num_normal: int = 2, num_test: int = 2, mpp: float | None = 1.0
) -> FakeCamelyon16:
    """Writes the cohort; of the test slides, those of even number hold tumour.

    Args:
        folder: Made if need be.
        num_tumour: Slides tumor_001 and on.
        num_normal: Likewise.
        num_test: Likewise.
        mpp: um/px of all slides.
    """
    kinds = {
        **{f"tumor_{number:03}": "training/tumor" for number in range(1, num_tumour + 1)},
        **{f"normal_{number:03}": "training/normal" for number in range(1, num_normal + 1)},
        **{f"test_{number:03}": "testing/images" for number in range(1, num_test + 1)},
    }
    slides, reference = {}, []
    for seed, (name, place) in enumerate(kinds.items()):
        is_tumour = name.startswith("tumor") or (name.startswith("test") and int(name[-3:]) % 2 == 0)
        drawn = DRAWN if is_tumour else ()
        slides[name] = folder / place / f"{name}.tif"
        slides[name].parent.mkdir(parents=True, exist_ok=True)
        write_tiff(slides[name], draw_slide(drawn, seed), mpp, TiffDialect(factors=(4,)))
        if is_tumour:
            write_asap(folder / place.split("/")[0] / "lesion_annotations" / f"{name}.xml", drawn)
        if name.startswith("test"):
            reference.append(f"{name},{'Tumor,IDC,Macro' if is_tumour else 'Normal,None,None'}")
    if reference:
        (folder / "testing" / "reference.csv").write_text("\n".join(reference) + "\n")
    return FakeCamelyon16(folder, slides)
