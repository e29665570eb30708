"""Features that other tools made, as encoded slides: files of TRIDENT, CLAM and STAMP.

    file -> features and corners (its dialect) -> a grid of cells -> EncodedSlide, with a thumbnail where a slide is given

A file holds a row of numbers for each patch and the patch's corner, in level-0 pixels or in um. The patches must lie on one
grid without overlap; where they do not, the file is refused, or each patch is moved to the nearest cell if that was asked
for. What a file does not say (CLAM's say next to nothing) is asked for, never guessed.

Shapes: N patches, C channels.
Does not know: cohorts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from counterstain import log
from counterstain.data.encoded import EncodedSlide
from counterstain.data.encoded_files import FeatureHeader, write_encoded
from counterstain.data.thumbnail import read_thumbnail
from counterstain.errors import InputError
from counterstain.files import existing, settings_hash
from counterstain.geometry import Frame, Mpp, Point, Size
from counterstain.results import EncoderSpec

if TYPE_CHECKING:
    from counterstain.slides.base import Slide

_OFF_GRID_PX = 1.0  # level-0 pixels: corners were rounded to whole ones
_SAME_MPP = 0.02  # of a resolution: readers round it
_OFF_SLIDE = 1.0  # cells: a patch may reach beyond the slide, but not lie outside it


@dataclass(frozen=True, eq=False)
class Patches:
    """What a file of another tool holds.

    Args:
        path: The file.
        dialect: "trident", "clam" or "stamp".
        features_NC: float16 or float32.
        corners_N2: (N, 2) float64: x and y of each patch's left upper corner.
        side: Width and height of a patch, in the unit of the corners; None where the file does not say.
        mpp: um/px of level 0; None where the file does not say.
        is_in_um: Whether corners and side are in um; else in level-0 pixels.
        overlap: What neighbours have in common, as the file says.
        encoder: What the file says of its encoder: name, digest, licence; each None where it does not.
        size: Of the slide's level 0; None where the file does not say.
    """

    path: Path
    dialect: str
    features_NC: npt.NDArray[np.floating[Any]]
    corners_N2: npt.NDArray[np.float64]
    side: tuple[float, float] | None
    mpp: Mpp | None
    is_in_um: bool
    overlap: float
    encoder: tuple[str | None, str | None, str | None]
    size: Size | None = None


@dataclass(frozen=True)
class ImportSettings:
    """What a file does not say of itself, and how strictly its patches must lie.

    Args:
        encoder: What made the features; overrides the file's word.
        mpp: um/px of level 0; where neither file nor slide says it.
        patch_px: Width and height of a patch in level-0 pixels; where the file does not say.
        snap: Whether patches that overlap or lie off the grid are moved to the nearest cell, by half a cell at most, and
            the nearest one kept where several share a cell; else they are refused.
        overwrite: Whether results of other inputs are replaced instead of refused.
    """

    encoder: str | None = None
    mpp: float | None = None
    patch_px: float | None = None
    snap: bool = False
    overwrite: bool = False


DEFAULT = ImportSettings()


def import_features(
    path: Path | str, folder: Path, slide: "Slide | None" = None, settings: ImportSettings = DEFAULT
) -> FeatureHeader:
    """Makes an encoded slide's folder out of a file of features.

    Args:
        path: The file.
        folder: Of the slide.
        slide: Gives the resolution, and the thumbnail on exactly the imported grid; without it there is none.
        settings: What the file does not say.

    Raises:
        MissingFileError: When the file is not there.
        InputError: When it is of no known dialect or damaged, lacks what nobody gives, belongs to another slide, or its
            patches overlap or lie on no common grid.
        StaleResultError: When the folder holds results of other inputs and `settings.overwrite` is not set.
        DamagedSlideError: When the slide's pixels can't be decoded.
    """
    found = read_features(path)
    mpp = _resolution(found, slide, settings)
    spec = _encoder(found, settings)
    encoded, cell_um = to_encoded(found, mpp, settings)
    record = None
    if slide is not None:
        _refuse_other_slide(found, encoded.frame, slide)
        record = slide.record()
        thumbnail_HWC = read_thumbnail(slide, encoded.frame)
        encoded = EncodedSlide(encoded.features_NC, encoded.cells_N2, encoded.frame, thumbnail_HWC)
    return write_encoded(folder, encoded, spec, cell_um, record, overwrite=settings.overwrite)


def read_features(path: Path | str) -> Patches:
    """Reads a file of TRIDENT's, CLAM's or STAMP's dialect, told by what it holds.

    Raises:
        MissingFileError: When it is not there.
        InputError: When it is none of these, is damaged, or rows and corners differ in number.
    """
    import h5py

    path = existing(path, "a file of features (HDF5)")
    try:
        with h5py.File(path, "r") as file:
            found = READERS[_dialect_of(path, file)](path, file)
    except OSError as error:
        raise InputError(f"{path} is no HDF5 file, or is damaged: {error}. Copy it again from its source.") from error
    rows, corners = found.features_NC.shape, found.corners_N2.shape
    if len(rows) != 2 or corners != (rows[0], 2) or rows[0] == 0:
        raise InputError(
            f"{path} holds features of shape {rows} and corners of shape {corners}; one row for each patch and (x, y) of "
            "its corner were expected. Features of whole slides can't be imported."
        )
    if not (np.isfinite(found.features_NC).all() and np.isfinite(found.corners_N2).all()):
        raise InputError(f"{path} holds values that are no numbers. Extract its features again.")
    return found


def _dialect_of(path: Path, file: Any) -> str:
    if "feats" in file and "coords" in file:
        return "stamp"
    if "features" in file and "coords" in file:
        return "trident" if "patch_size_level0" in file["coords"].attrs else "clam"
    raise InputError(
        f"{path} holds {', '.join(file) or 'nothing'}; 'features' and 'coords' (TRIDENT, CLAM) or 'feats' and 'coords' "
        "(STAMP) were expected."
    )


def _read_trident(path: Path, file: Any) -> Patches:
    coords, features = file["coords"].attrs, file["features"].attrs
    own_mpp, cell_um = coords.get("mpp"), file.attrs.get("cell_um")
    mpp = None if own_mpp is None else Mpp(*(float(value) for value in np.broadcast_to(own_mpp, 2)))
    side = (float(coords["patch_size_level0"]),) * 2
    if cell_um is not None and mpp is not None:  # of our own files: a patch is seldom whole level-0 pixels
        side = (float(cell_um) / mpp.x, float(cell_um) / mpp.y)
    has_size = "level0_width" in coords and "level0_height" in coords
    named = tuple(None if (word := features.get(name)) is None else str(word) for name in _TRIDENT_ENCODER)
    return Patches(
        path=path,
        dialect="trident",
        features_NC=_floats(file["features"]),
        corners_N2=file["coords"][...].astype(np.float64),
        side=side,
        mpp=mpp,
        is_in_um=False,
        overlap=float(coords.get("overlap", 0)),
        encoder=(named[0], named[1], named[2]),
        size=Size(int(coords["level0_width"]), int(coords["level0_height"])) if has_size else None,
    )


_TRIDENT_ENCODER = ("encoder", "encoder_digest", "encoder_licence")


def _read_clam(path: Path, file: Any) -> Patches:
    coords = file["coords"].attrs
    side = None
    if "patch_size" in coords and "downsample" in coords:
        downsample = np.broadcast_to(coords["downsample"], 2)
        side = (float(coords["patch_size"] * downsample[0]), float(coords["patch_size"] * downsample[1]))
    return Patches(
        path=path,
        dialect="clam",
        features_NC=_floats(file["features"]),
        corners_N2=file["coords"][...].astype(np.float64),
        side=side,
        mpp=None,
        is_in_um=False,
        overlap=0.0,
        encoder=(None, None, None),
    )


def _read_stamp(path: Path, file: Any) -> Patches:
    said = file.attrs
    if said.get("unit") != "um" or said.get("feat_type", "tile") != "tile":
        raise InputError(
            f"{path} holds STAMP's features of kind {said.get('feat_type')!r} with coordinates in {said.get('unit')!r}; "
            "features of tiles in 'um' were expected, as STAMP 2 writes them. Extract them again."
        )
    digest = said.get("code_hash")
    return Patches(
        path=path,
        dialect="stamp",
        features_NC=_floats(file["feats"]),
        corners_N2=file["coords"][...].astype(np.float64),
        side=(float(said["tile_size_um"]),) * 2 if "tile_size_um" in said else None,
        mpp=None,
        is_in_um=True,
        overlap=0.0,
        encoder=(
            str(said["extractor"]) if "extractor" in said else None,
            None if digest is None else str(digest),
            None,
        ),
    )


READERS: dict[str, Callable[[Path, Any], Patches]] = {
    "trident": _read_trident,
    "clam": _read_clam,
    "stamp": _read_stamp,
}


def _floats(dataset: Any) -> npt.NDArray[np.floating[Any]]:
    return np.asarray(dataset[...]) if dataset.dtype == np.float16 else np.asarray(dataset.astype(np.float32)[...])


def _resolution(found: Patches, slide: "Slide | None", settings: ImportSettings) -> Mpp:
    if slide is not None:
        if found.mpp is not None and abs(math.log(found.mpp.mean / slide.mpp.mean)) > _SAME_MPP:
            raise InputError(
                f"{found.path} was made of a slide of {found.mpp.mean:.4g} um/px, but '{slide.path}' has "
                f"{slide.mpp.mean:.4g}. Give the slide that it was made of, or --mpp with the resolution it was cut with."
            )
        return slide.mpp
    if settings.mpp is not None:
        return Mpp.square(settings.mpp)
    if found.mpp is None:
        raise InputError(
            f"{found.path} does not say its slide's resolution, and a magnification is none. Give the slide, or pass --mpp."
        )
    return found.mpp


def _encoder(found: Patches, settings: ImportSettings) -> EncoderSpec:
    name, digest, licence = found.encoder
    name = settings.encoder or name
    if name is None:
        raise InputError(f"{found.path} does not say what made its features. Pass the encoder's name as --encoder.")
    channels = found.features_NC.shape[1]
    known_by = digest or settings_hash("imported", found.dialect, name, channels)
    return EncoderSpec(name, channels, known_by, None, licence or "unknown")


def to_encoded(found: Patches, mpp: Mpp, settings: ImportSettings = DEFAULT) -> tuple[EncodedSlide, float]:
    """Lays patches on a grid.

    Args:
        found: The patches.
        mpp: Of level 0.
        settings: Their size where the file does not say, and whether they are moved.

    Returns:
        The encoded slide without a thumbnail, and the width of a cell in um.

    Raises:
        InputError: When nobody says how large a patch is; when patches overlap or lie on no common grid, and `snap` is not
            set.
    """
    scale = np.array((1 / mpp.x, 1 / mpp.y)) if found.is_in_um else np.ones(2)
    corners_N2, side = found.corners_N2 * scale, _side_px(found, scale, settings)
    origin = corners_N2.min(0)
    places_N2 = (corners_N2 - origin) / side
    cells_N2 = np.rint(places_N2).astype(np.int64)
    away_N = np.abs((places_N2 - cells_N2) * side).max(1)
    if not settings.snap:
        _refuse_no_grid(found, corners_N2, cells_N2, away_N, side)
    # Row by row, the nearest of several patches of one cell first.
    order = np.lexsort((away_N, cells_N2[:, 0], cells_N2[:, 1]))
    cells_N2 = cells_N2[order][:, ::-1]
    is_first = np.concatenate([[True], (np.diff(cells_N2, axis=0) != 0).any(1)])
    if settings.snap and (away_N > _OFF_GRID_PX).any():
        log.say(
            f"{found.path}: {np.count_nonzero(away_N > _OFF_GRID_PX)} of {len(away_N)} patches were moved to the nearest "
            f"cell, by {away_N.max():.0f} px of level 0 at most; {np.count_nonzero(~is_first)} left out for a nearer one"
        )
    cells_N2 = cells_N2[is_first].astype(np.int32)
    height, width = (cells_N2.max(0) + 1).tolist()
    frame = Frame(Point(*origin.tolist()), float(side[0]), float(side[1]), Size(width, height))
    cell_um = round(mpp.mean * math.sqrt(frame.downsample_x * frame.downsample_y), 6)
    return EncodedSlide(found.features_NC[order][is_first], cells_N2, frame, None), cell_um


def _side_px(found: Patches, scale: npt.NDArray[np.float64], settings: ImportSettings) -> npt.NDArray[np.float64]:
    """Width and height of a patch in level-0 pixels; `scale` turns the file's unit into them."""
    given = np.full(2, settings.patch_px or 0.0)
    side = given if found.side is None else np.array(found.side, np.float64) * scale
    if not (side > 0).all():
        raise InputError(
            f"{found.path} does not say how large its patches are. Pass their width in level-0 pixels as --patch-px: 512 "
            "for patches of 256 px cut from a level of downsample 2."
        )
    return side


def _refuse_no_grid(
    found: Patches,
    corners_N2: npt.NDArray[np.float64],
    cells_N2: npt.NDArray[np.int64],
    away_N: npt.NDArray[np.float64],
    side: npt.NDArray[np.float64],
) -> None:
    remedy = "Extract them without overlap, or pass --snap to move each to the nearest cell of one grid."
    order = np.lexsort((corners_N2[:, 0], corners_N2[:, 1]))
    steps = np.diff(corners_N2[order], axis=0)
    is_near = (np.abs(steps[:, 1]) <= _OFF_GRID_PX) & (steps[:, 0] < side[0] - _OFF_GRID_PX)
    if found.overlap or is_near.any() or len(np.unique(cells_N2, axis=0)) < len(cells_N2):
        said = f" by {found.overlap:g} px, as the file says" if found.overlap else ""
        raise InputError(f"The patches of {found.path}, {side[0]:.6g} px of level 0 wide, overlap{said}. {remedy}")
    num_off = np.count_nonzero(away_N > _OFF_GRID_PX)
    if num_off:
        raise InputError(
            f"{num_off} of {len(away_N)} patches of {found.path} lie off the grid of {side[0]:.6g} px of level 0 that the "
            f"first one starts: CLAM lays a grid of its own over each piece of tissue. {remedy}"
        )


def _refuse_other_slide(found: Patches, frame: Frame, slide: "Slide") -> None:
    if found.size is not None and found.size != slide.size:
        raise InputError(
            f"{found.path} was made of a slide of {found.size.width} x {found.size.height} px, but '{slide.path}' has "
            f"{slide.size.width} x {slide.size.height}. Give the slide that it was made of."
        )
    box, by_x, by_y = frame.box, _OFF_SLIDE * frame.downsample_x, _OFF_SLIDE * frame.downsample_y
    if (
        min(box.x, box.y) < -max(by_x, by_y)
        or box.right > slide.size.width + by_x
        or box.bottom > slide.size.height + by_y
    ):
        raise InputError(
            f"The patches of {found.path} reach to ({box.right:.0f}, {box.bottom:.0f}) px of level 0, beyond "
            f"'{slide.path}' with {slide.size.width} x {slide.size.height}. Give the slide that they were cut from, with "
            "its resolution."
        )
