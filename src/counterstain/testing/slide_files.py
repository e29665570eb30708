"""Writes small slide files of known pixels, for tests of readers.

Tiled TIFF in three dialects (generic, Aperio, OME with its levels in SubIFDs) with levels of any ratio, and DICOM. The
levels are area averages of level 0, so what a reader gives can be worked out from level 0 alone.

Does not know: readers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from counterstain.geometry import Box, Size
from counterstain.slides import Pixels
from counterstain.testing.slide_pixels import area_twin

APERIO_FIELDS = "AppMag = 20|StripeWidth = 2040|ScanScope ID = TEST|Filename = fake"


@dataclass(frozen=True)
class TiffDialect:
    """How `write_tiff` stores a pyramid.

    Args:
        kind: "generic", "aperio" or "ome".
        factors: Level 0 over each further level. A whole factor drops what is left over, as scanners do; a fraction is
            rounded to whole pixels.
        tile_px: The side of a tile, a multiple of 16.
        compression: As tifffile names it, or None.
        predictor: Whether rows hold differences.
        extra: More for tifffile's `write`, as `photometric`.
    """

    kind: str = "generic"
    factors: tuple[float, ...] = (2, 4)
    tile_px: int = 64
    compression: str | None = "deflate"
    predictor: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def write_tiff(path: Path, pixels: Pixels, mpp: float | None, dialect: TiffDialect | None = None) -> Path:
    """Writes a pyramid; 8 bit RGB unless the dialect's `extra` says otherwise."""
    import tifffile

    dialect = dialect or TiffDialect()
    levels = [pixels, *(_reduced(pixels, factor) for factor in dialect.factors)]
    shared = {
        "photometric": "rgb",
        "tile": (dialect.tile_px, dialect.tile_px),
        "compression": dialect.compression,
        "predictor": dialect.predictor,
        **dialect.extra,
    }
    in_sub_pages = dialect.kind == "ome"
    with tifffile.TiffWriter(path, ome=in_sub_pages) as tiff:
        for number, level in enumerate(levels):
            own: dict[str, Any] = {"metadata": None}
            if number == 0:
                own |= _first_page(dialect, pixels, mpp, len(levels) - 1)
            elif dialect.kind == "aperio":
                own |= {"description": f"Aperio fake\r\nlevel {number}"}
            else:
                own |= {"subfiletype": 1}
            tiff.write(level, **shared, **own)
            if number == 0 and dialect.kind == "aperio":
                tiff.write(_reduced(pixels, 3), photometric="rgb", metadata=None, description="Aperio fake\r\nthumb")
    return path


def _first_page(dialect: TiffDialect, pixels: Pixels, mpp: float | None, num_below: int) -> dict[str, Any]:
    if dialect.kind == "aperio":
        said = "" if mpp is None else f"|MPP = {mpp:.4f}"
        return {"description": f"Aperio Image Library fake\r\n{Size.of(pixels)}|{APERIO_FIELDS}{said}"}
    if dialect.kind == "ome":
        units = {} if mpp is None else {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
        return {"subifds": num_below, "metadata": {"axes": "YXS"[: pixels.ndim], **units}}
    return {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}


def _reduced(pixels: Pixels, factor: float) -> Pixels:
    to_whole = int if factor == int(factor) else round
    size = Size(*(max(1, to_whole(side / factor)) for side in (pixels.shape[1], pixels.shape[0])))
    whole = Box(0, 0, size.width * factor, size.height * factor) if to_whole is int else Box.whole(Size.of(pixels))
    if pixels.ndim == 2:
        return area_twin(np.repeat(pixels[:, :, None], 3, axis=2), whole, size)[:, :, 0]
    parts = [pixels[:, :, :3], pixels[:, :, -3:]]  # also of four samples
    first, last = (area_twin(part, whole, size) for part in parts)
    return np.concatenate([first, last[:, :, 6 - pixels.shape[2] :]], axis=2)


def write_raw_tiles(path: Path, size: Size, tile_px: int, tiles: Sequence[bytes], **tags: Any) -> Path:
    """Writes a one-level TIFF whose tiles are bytes that were coded elsewhere, row by row."""
    import tifffile

    def as_given() -> Iterator[bytes]:
        yield from tiles

    with tifffile.TiffWriter(path) as tiff:
        shape = (*size.shape, 3)
        tiff.write(as_given(), shape=shape, dtype=np.uint8, tile=(tile_px, tile_px), metadata=None, **tags)
    return path


def tiles_of(pixels: Pixels, tile_px: int) -> list[Pixels]:
    """The tiles of an image row by row, those that overhang filled up with their last pixels."""
    rows, columns = (-(-side // tile_px) for side in pixels.shape[:2])
    pad = ((0, rows * tile_px - pixels.shape[0]), (0, columns * tile_px - pixels.shape[1]), (0, 0))
    whole = np.pad(pixels, pad, mode="edge")
    starts = ((row * tile_px, column * tile_px) for row in range(rows) for column in range(columns))
    return [np.ascontiguousarray(whole[y : y + tile_px, x : x + tile_px]) for y, x in starts]


def write_dicom(
    folder: Path,
    pixels: Pixels,
    mpp: float | None,
    *,
    syntax: str = "raw",
    tile_px: int = 64,
    factors: Sequence[int] = (),
) -> Path:
    """Writes a DICOM series, a file for each level; gives the file of level 0.

    Args:
        folder: Made if need be.
        pixels: Level 0, RGB.
        mpp: Its resolution; None writes none, against the standard.
        syntax: "raw", or "jpegls", which OpenSlide does not know.
        tile_px: The side of a tile.
        factors: Level 0 over each further level.
    """
    from pydicom.uid import generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    series = tuple(generate_uid() for _ in range(4))
    for number, factor in enumerate((1, *factors)):
        level = pixels if factor == 1 else _reduced(pixels, factor)
        kind = "NONE" if factor == 1 else "RESAMPLED"
        data = _dicom_level(level, None if mpp is None else mpp * factor, tile_px, kind, series)
        _add_frames(data, tiles_of(level, tile_px), syntax)
        data.InstanceNumber = number + 1
        data.save_as(folder / f"level{number}.dcm", enforce_file_format=True)
    return folder / "level0.dcm"


def _dicom_level(pixels: Pixels, mpp: float | None, tile_px: int, kind: str, series: tuple[str, ...]) -> Any:
    """Everything but the pixels, as the standard's VL Whole Slide Microscopy module asks for it."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import VLWholeSlideMicroscopyImageStorage, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID, dimensions = series
    data.Modality, data.ImageType = "SM", ["ORIGINAL", "PRIMARY", "VOLUME", kind]
    data.PatientName, data.PatientID, data.AcquisitionDateTime = "Fake^Slide", "0", "20200101000000"
    data.ContainerIdentifier, data.FocusMethod, data.ExtendedDepthOfField = "0", "AUTO", "NO"
    data.SpecimenLabelInImage, data.BurnedInAnnotation, data.LossyImageCompression = "NO", "NO", "00"
    data.DimensionOrganizationType, data.TotalPixelMatrixFocalPlanes, data.NumberOfOpticalPaths = "TILED_FULL", 1, 1
    data.Rows = data.Columns = tile_px
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = pixels.shape[:2]
    data.ImagedVolumeDepth, data.ImageOrientationSlide = 0.001, [0, -1, 0, -1, 0, 0]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.DimensionOrganizationSequence = [_with(DimensionOrganizationUID=dimensions)]
    data.TotalPixelMatrixOriginSequence = [_with(XOffsetInSlideCoordinateSystem=0, YOffsetInSlideCoordinateSystem=0)]
    data.OpticalPathSequence = [_with(OpticalPathIdentifier="0")]
    shared = _with(WholeSlideMicroscopyImageFrameTypeSequence=[_with(FrameType=data.ImageType)])
    if mpp is not None:
        data.ImagedVolumeHeight, data.ImagedVolumeWidth = (side * mpp / 1000 for side in pixels.shape[:2])
        spacing = f"{mpp / 1000:.8f}"
        measures = _with(PixelSpacing=[spacing, spacing], SliceThickness="0.001", SpacingBetweenSlices="0.001")
        shared.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    return data


def _with(**elements: Any) -> Any:
    from pydicom.dataset import Dataset

    data = Dataset()
    for name, value in elements.items():
        setattr(data, name, value)
    return data


def _add_frames(data: Any, tiles: Sequence[Pixels], syntax: str) -> None:
    import imagecodecs
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

    data.NumberOfFrames = len(tiles)
    if syntax == "raw":
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.PixelData = b"".join(tile.tobytes() for tile in tiles)
        data["PixelData"].VR = "OB"
        return
    data.file_meta.TransferSyntaxUID = JPEGLSLossless
    data.PixelData = encapsulate([imagecodecs.jpegls_encode(tile) for tile in tiles])
    data["PixelData"].VR = "OB"


def abbreviated_jpeg(pixels: Pixels, *, is_rgb: bool) -> tuple[bytes, bytes]:
    """A JPEG image as TIFF stores tiles of it: the tables for themselves, the rest without marks of its colour space.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        is_rgb: Whether the samples stay RGB, as Aperio has them; else they become YCbCr.

    Returns:
        (tables, tile), each a JPEG stream of its own.
    """
    import imagecodecs

    whole = imagecodecs.jpeg8_encode(
        pixels, level=95, colorspace="RGB", outcolorspace="RGB" if is_rgb else "YCBCR", subsampling="444"
    )
    tables, rest, place = b"", b"", 2
    while whole[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(whole[place + 2 : place + 4], "big")
        if whole[place + 1] in (0xDB, 0xC4):  # quantisation and Huffman tables
            tables += whole[place:end]
        elif whole[place + 1] not in (0xE0, 0xEE):  # JFIF and Adobe marks
            rest += whole[place:end]
        place = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + whole[place:]
