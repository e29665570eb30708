"""`counterstain export`: a finished map in, files for other tools out; or a run in, its network as ONNX out.

Does not know: formats.
"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from counterstain import log
from counterstain.cli import OK
from counterstain.errors import InputError


def export(
    maps: list[Path] | None = None,
    /,
    *,
    formats: Annotated[tuple[str, ...], Parameter(name=["--format", "-f"], consume_multiple=True)] = ("geojson",),
    out: Path | None = None,
    calibrate: Path | None = None,
    overwrite: bool = False,
    list_formats: Annotated[bool, Parameter(name="--list", negative="")] = False,
    json: bool = False,
) -> int:
    """Write finished maps for other tools: QuPath, OME-TIFF viewers, reports. `--list` shows the formats.

    `--format onnx` writes the network of a trained run instead, images in and maps out.

    Args:
        maps: Slides' folders as `predict` wrote them, or their map.zarr; a trained run for ONNX.
        formats: What to write, by name; see --list.
        out: The file, where one map is written in one format; beside the map by default.
        calibrate: For ONNX in 8-bit integers, which `predict --int8` and `encode --int8` take: patches of which the
            training split shows what ranges features have; for an encoder, the folder `cells` of its run. What is lost is
            for you to measure on a validation split.
        overwrite: Replace files that are there.
        list_formats: List the formats and what opens them.
        json: Answer as JSON.
    """
    from counterstain.export import WRITERS, find_writer, write

    if list_formats:
        rows = [[name, writer.file_name, writer.description] for name, writer in WRITERS.items()]
        if json:
            log.emit_json([dict(zip(("name", "file_name", "description"), row, strict=True)) for row in rows])
        else:
            log.emit_table("Formats", ["name", "file", "what it is"], rows)
        return OK
    if not maps:
        raise InputError("No map was given. Name folders of slides as `counterstain predict` wrote them.")
    if out is not None and (len(maps) != 1 or len(formats) != 1):
        raise InputError(f"--out was given for {len(maps)} maps in {len(formats)} formats; it names one file.")
    if formats == ("onnx",):
        written = [str(_network(maps, out, calibrate, overwrite=overwrite))]
        return _told(written, as_json=json)
    if calibrate is not None:
        raise InputError("--calibrate was given, and only a network has that. Pass --format onnx, or leave it out.")
    for name in formats:
        find_writer(name)
    from counterstain.results import SlideMap

    for path in maps:
        if (path / "model.json").is_file():
            raise InputError(
                f"{path} is a trained run, and {', '.join(formats)} shows maps. Write its network with --format onnx, or "
                "name slides' folders as `counterstain predict` wrote them."
            )
    opened = [SlideMap.open(path if path.suffix == ".zarr" else path / "map.zarr") for path in maps]
    written = [str(write(name, one, out, overwrite=overwrite)) for one in opened for name in formats]
    return _told(written, as_json=json)


def _network(runs: list[Path], out: Path | None, calibrate: Path | None, *, overwrite: bool) -> Path:
    from counterstain.data import open_patches
    from counterstain.jobs.onnx import export_encoder, export_onnx
    from counterstain.methods import load_dense_method
    from counterstain.methods.artefacts import read_model
    from counterstain.methods.scae import NAME, scae_encoder

    if len(runs) != 1:
        raise InputError(f"{len(runs)} runs were given; --format onnx writes the network of one.")
    if read_model(runs[0])[0]["method"] == NAME:
        return export_encoder(scae_encoder(runs[0]), runs[0], out, calibrate, overwrite=overwrite)
    data = None if calibrate is None else open_patches(calibrate)
    return export_onnx(load_dense_method(runs[0]), runs[0], out, data, overwrite=overwrite)


def _told(written: list[str], *, as_json: bool) -> int:
    if as_json:
        log.emit_json({"written": written})
    else:
        for path in written:
            log.emit(path)
    return OK
