"""Evidence maps: how much each cell of a slide speaks for the positive class, with all that places it on its slide.

On disk a Zarr group with one array `evidence` (H, W) float32, NaN where nothing was observed, in the network's own unit and
never rescaled; its attributes say what slide, resolution, classes and inputs made it, as those of a slide's map do.

Does not know: methods, how evidence is shown.
"""

import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.files import existing, make_folder, refuse_overwrite
from counterstain.geometry import Frame, Point, Size
from counterstain.results import Classes, SlideRecord

Values = npt.NDArray[np.float32]

FORMAT, VERSION = "counterstain.evidence", 1


@dataclass(frozen=True, eq=False)
class EvidenceMap:
    """What speaks for the positive class, and where.

    Args:
        evidence_HW: float32, larger is more; NaN where nothing was observed.
        frame: A pixel of it is a cell.
        classes: Two: the background, then the positive one that the evidence speaks for.
        slide: What it was made from.
        inputs_hash: Of everything that went into it: slide, model, encoding.

    Raises:
        InputError: When evidence and frame differ in shape, a value is infinite, or there are not two classes.
    """

    evidence_HW: Values
    frame: Frame
    classes: Classes
    slide: SlideRecord
    inputs_hash: str

    def __post_init__(self) -> None:
        if self.evidence_HW.shape != self.frame.size.shape:
            raise InputError(
                f"Evidence of shape {self.evidence_HW.shape} was given for a grid of {self.frame.size.shape}; score the "
                "slide again."
            )
        if np.isinf(self.evidence_HW).any():
            raise InputError(
                "Infinite evidence was given; only numbers, and NaN where nothing was observed, can be kept."
            )
        if len(self.classes) != 2:
            raise InputError(f"Evidence was given with classes {list(self.classes.names)}; it speaks for one of two.")

    @property
    def positive(self) -> str:
        """The class that it speaks for."""
        return self.classes.names[1]

    @property
    def observed(self) -> npt.NDArray[np.bool_]:
        """(H, W) bool: where there is evidence, if only of 0."""
        return np.isfinite(self.evidence_HW)

    def limits(self) -> tuple[float, float] | None:
        """The least and the most evidence; None where nothing was observed."""
        values = self.evidence_HW[self.observed]
        return (float(values.min()), float(values.max())) if len(values) else None

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Writes the Zarr group whole or not at all.

        Raises:
            ExistingOutputError: When something is there and may not be replaced.
        """
        import zarr

        if not overwrite:
            refuse_overwrite(path)
        make_folder(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            group = zarr.create_group(Path(folder) / path.name, attributes=self._attributes(), zarr_format=3)
            group.create_array(
                "evidence", data=self.evidence_HW.astype(np.float32), fill_value=np.nan, dimension_names=("y", "x")
            )
            if path.exists():
                shutil.rmtree(path)
            (Path(folder) / path.name).replace(path)

    def _attributes(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "frame": asdict(self.frame),
            "classes": self.classes.to_json(),
            "slide": self.slide.to_json(),
            "inputs_hash": self.inputs_hash,
        }

    @classmethod
    def open(cls, path: Path | str) -> "EvidenceMap":
        """The map that `save` wrote, all of it in memory: it has a number for each cell, no more.

        Raises:
            MissingFileError: When nothing is there.
            InputError: When it is no evidence map of ours.
        """
        import zarr

        path = existing(path, "a slide's evidence (evidence.zarr)")
        try:
            group = zarr.open_group(path, mode="r")
        except (FileNotFoundError, ValueError) as error:
            raise InputError(f"{path} is no Zarr group. Give the evidence.zarr of a diagnosed slide.") from error
        tree = dict(group.attrs)
        if tree.get("format") != FORMAT or tree.get("version") != VERSION:
            raise InputError(
                f"{path} is no evidence of version {VERSION}. Give the evidence.zarr of a diagnosed slide."
            )
        frame: Any = tree["frame"]
        return cls(
            evidence_HW=np.asarray(group["evidence"], np.float32),
            frame=Frame(Point(**frame["origin"]), frame["downsample_x"], frame["downsample_y"], Size(**frame["size"])),
            classes=Classes.from_json(tree["classes"]),
            slide=SlideRecord.from_json(tree["slide"]),
            inputs_hash=tree["inputs_hash"],
        )
