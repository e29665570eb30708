"""What rooms hand each other: classes, maps, a slide's map on disk, regions, a slide's score.

A slide's map is a Zarr group with two arrays in one `Frame`:
`probability` (C, H, W) float16 in [0, 1], NaN where no tile reached, and `label` (H, W) uint8, the class with the largest
probability, `UNCOVERED` where no tile reached. Its attributes say what slide, resolution, classes and inputs made it.

Does not know: who makes or writes them.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError, UnknownNameError
from counterstain.files import existing
from counterstain.geometry import Box, Frame, Mpp, Point, Size

if TYPE_CHECKING:
    import zarr
    from shapely import Polygon

RGB = tuple[int, int, int]

UNCOVERED = 255
"""The label of a pixel that nothing was predicted for; never a class."""


@dataclass(frozen=True)
class Classes:
    """Classes in the order of labels, channels and mask values.

    Args:
        names: One for each class, in order.
        colors: One for each class, RGB.
        background: The class that stands for "nothing of interest", if one does; exports leave it out.

    Raises:
        InputError: When names and colours differ in number, names repeat, or `background` is none of them.
    """

    names: tuple[str, ...]
    colors: tuple[RGB, ...]
    background: str | None = None

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors) or len(set(self.names)) != len(self.names) or not self.names:
            raise InputError(
                f"Classes {list(self.names)} with {len(self.colors)} colours were given; give each class one name of "
                "its own and one colour."
            )
        if len(self.names) >= UNCOVERED:
            raise InputError(f"{len(self.names)} classes were given; at most {UNCOVERED - 1} fit a mask of bytes.")
        if self.background is not None:
            self.index(self.background)

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """The position of a class.

        Raises:
            UnknownNameError: When there is none of that name.
        """
        if name not in self.names:
            raise UnknownNameError("class", name, self.names)
        return self.names.index(name)

    def to_json(self) -> list[dict[str, Any]]:
        """A list of `{name, color, background}`, as JSON and Zarr attributes hold it."""
        return [
            {"name": name, "color": list(color), "background": name == self.background}
            for name, color in zip(self.names, self.colors, strict=True)
        ]

    @classmethod
    def from_json(cls, tree: list[dict[str, Any]]) -> Self:
        """The classes that `to_json` wrote."""
        background = next((entry["name"] for entry in tree if entry.get("background")), None)
        colors = tuple((int(r), int(g), int(b)) for r, g, b in (entry["color"] for entry in tree))
        return cls(tuple(entry["name"] for entry in tree), colors, background)


@dataclass(frozen=True)
class Maps:
    """Class probabilities of one image.

    Args:
        probability_CHW: float32 in [0, 1], summing to 1 over classes; NaN where nothing was predicted.
        classes: What the channels mean.
    """

    probability_CHW: npt.NDArray[np.float32]
    classes: Classes

    def labels(self) -> npt.NDArray[np.uint8]:
        """(H, W) uint8: the most probable class, `UNCOVERED` where nothing was predicted."""
        covered = np.isfinite(self.probability_CHW[0])
        best = np.nan_to_num(self.probability_CHW, nan=-1.0).argmax(0).astype(np.uint8)
        return np.where(covered, best, np.uint8(UNCOVERED))


@dataclass(frozen=True)
class Region:
    """A polygon of one class.

    Args:
        polygon: A valid polygon with its holes, level-0 pixels.
        class_name: One of the classes.
        area_mm2: Its area, holes left out.
        mean_probability: Of its own class over its pixels; None where no probabilities stand behind it, as in truth.
    """

    polygon: "Polygon"
    class_name: str
    area_mm2: float
    mean_probability: float | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """What turns a cell of a slide into an embedding.

    Args:
        name: As flags and files call it: "scae", "mobilenet_v2", "timm:NAME", or an imported file's own word.
        num_features: Channels of an embedding.
        digest: Of its weights and settings; embeddings of two digests are never mixed.
        input_px: Width and height at which it is shown a cell; None where embeddings were imported.
        licence: Of its weights; "unknown" where nobody said.
    """

    name: str
    num_features: int
    digest: str
    input_px: int | None
    licence: str = "unknown"


@dataclass(frozen=True)
class SlideScore:
    """What a slide method says of a slide.

    Args:
        slide_id: Which.
        probability: Of the positive class, calibrated where the run is.
        logit: Of the positive class against the other, before calibration.
        decision: A class's name; None where the method abstains.
        prediction_set: The classes that can't be ruled out at the run's promised error; empty where none was promised.
    """

    slide_id: str
    probability: float
    logit: float
    decision: str | None
    prediction_set: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoredSlide:
    """A slide whose label is known, beside what a model that was not fitted on it says: a row of an honest estimate.

    Args:
        slide_id: Which.
        patient_id: Whose; slides of one patient are resampled together.
        label: 1 for the positive class, 0 for the other.
        fold: Which model scored it: the fold that left it out, or "test" for one held-out model.
        logit: Of the positive class against the other, before calibration.
        probability: Of the positive class, calibrated on slides that neither trained that model nor are scored here.
        threshold: The probability from which that model says positive, chosen likewise.
        decision: A class's name; None where the method abstains.
        prediction_set: The classes that can't be ruled out at the promised error, which may be none of them; None where no
            error was promised.
        site: Where the slide comes from; None where the cohort does not say.
        scanner: What scanned it; None where the cohort does not say.
        local_share: Weight of the local stream in [0, 1], 1 less that of the regional one; None where a method has no two.
    """

    slide_id: str
    patient_id: str
    label: int
    fold: str
    logit: float
    probability: float
    threshold: float = 0.5
    decision: str | None = None
    prediction_set: tuple[str, ...] | None = None
    site: str | None = None
    scanner: str | None = None
    local_share: float | None = None

    def __post_init__(self) -> None:
        if self.label not in (0, 1):
            raise InputError(f"Slide {self.slide_id!r} has label {self.label!r}; 0 or 1 was expected.")
        if not math.isfinite(self.logit) or not 0 <= self.probability <= 1:
            raise InputError(
                f"Slide {self.slide_id!r} has probability {self.probability} and logit {self.logit}; a probability "
                "in [0, 1] and a finite logit were expected. Leave a slide that could not be scored out of the table."
            )


@dataclass(frozen=True)
class SlideRecord:
    """What an artefact remembers of the slide it was made from.

    Args:
        path: Where it lay.
        reader: The name of the reader that opened it.
        size: Level 0.
        mpp: Level 0.
        mpp_source: Where the resolution came from: "user", "reader", "tiff tags", "assumed".
        bounds: The part of level 0 that was scanned; the whole of it when the file does not say.
        content_hash: As `files.file_hash` gives it.
    """

    path: str
    reader: str
    size: Size
    mpp: Mpp
    mpp_source: str
    bounds: Box
    content_hash: str

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        """The record that `to_json` wrote."""
        return cls(
            path=tree["path"],
            reader=tree["reader"],
            size=Size(**tree["size"]),
            mpp=Mpp(**tree["mpp"]),
            mpp_source=tree["mpp_source"],
            bounds=Box(**tree["bounds"]),
            content_hash=tree["content_hash"],
        )


@dataclass(frozen=True)
class SlideMap:
    """A finished map of a slide, on disk.

    Args:
        path: The Zarr group.
        frame: Where its pixels lie on the slide.
        classes: What channels and labels mean.
        slide: What it was made from.
        inputs_hash: Of everything that went into it: slide, model, settings.
    """

    path: Path
    frame: Frame
    classes: Classes
    slide: SlideRecord
    inputs_hash: str

    @property
    def probability(self) -> "zarr.Array[Any]":
        """(C, H, W) float16 in [0, 1]; NaN where no tile reached."""
        return self._array("probability")

    @property
    def label(self) -> "zarr.Array[Any]":
        """(H, W) uint8; `UNCOVERED` where no tile reached."""
        return self._array("label")

    def _array(self, name: str) -> Any:
        import zarr

        return zarr.open_array(self.path / name, mode="r")

    @property
    def pixel_area_mm2(self) -> float:
        """The area of one pixel of the map."""
        frame, mpp = self.frame, self.slide.mpp
        return frame.downsample_x * mpp.x * frame.downsample_y * mpp.y / 1e6

    def attributes(self) -> dict[str, Any]:
        """What the Zarr group carries beside the arrays."""
        return {
            "format": "counterstain.map",
            "version": 1,
            "frame": asdict(self.frame),
            "classes": self.classes.to_json(),
            "slide": self.slide.to_json(),
            "inputs_hash": self.inputs_hash,
        }

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Opens a map that was written whole.

        Raises:
            MissingFileError: When nothing is there.
            InputError: When it is no map of ours, or was interrupted while it was written.
        """
        import zarr

        path = existing(path, "a slide's map (map.zarr)")
        try:
            attributes = dict(zarr.open_group(path, mode="r").attrs)
        except (FileNotFoundError, ValueError) as error:
            raise InputError(f"{path} is no Zarr group. Give the map.zarr of a finished prediction.") from error
        if attributes.get("format") != "counterstain.map" or attributes.get("version") != 1:
            raise InputError(f"{path} is no slide map of version 1. Give the map.zarr of a finished prediction.")
        if not attributes.get("complete", False):
            raise InputError(
                f"{path} was interrupted while it was written. Run the same prediction again to finish it."
            )
        frame = attributes["frame"]
        return cls(
            path=path,
            frame=Frame(Point(**frame["origin"]), frame["downsample_x"], frame["downsample_y"], Size(**frame["size"])),
            classes=Classes.from_json(attributes["classes"]),
            slide=SlideRecord.from_json(attributes["slide"]),
            inputs_hash=attributes["inputs_hash"],
        )
