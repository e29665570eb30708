"""A run trained on two textures, and slides of them: everything the verbs need, made once."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from counterstain.cli import run
from counterstain.testing.textures import texture, write_textures


def write_slide(path: Path, mpp: float | None = 1.0, side: int = 256) -> Path:
    """A slide of white glass with stripes on the left and dots on the right, tiled JPEG."""
    rng = np.random.default_rng(0)
    image = np.full((side, side, 3), 245, np.uint8)
    for row in range(1, side // 32 - 1):
        for column in range(1, side // 32 - 1):
            kind = int(column < side // 64)
            image[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] = texture(kind, rng)
    resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", compression="jpeg", **resolution)
    return path


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_textures(tmp_path_factory.mktemp("patches"))


@pytest.fixture(scope="session")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "quick.toml"
    path.write_text('method = "sshr"\npreset = "small"\n[settings]\nkernels = [3, 3, 3]\n[training]\nepochs = 3\n')
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, patches: Path, settings_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", str(folder), "--data", str(patches), "--config", str(settings_file), "--mpp", "1"]
    assert run([*arguments, "--batch-size", "8"]) == 0
    return folder


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """A folder with two good slides, one without a resolution, a damaged one, and one that is no slide at all."""
    folder = tmp_path / "slides"
    folder.mkdir()
    write_slide(folder / "a.tiff")
    (folder / "deeper").mkdir()
    write_slide(folder / "deeper" / "a.tiff")
    write_slide(folder / "no_mpp.tiff", mpp=None)
    damaged = bytearray(write_slide(folder / "damaged.tiff").read_bytes())
    with tifffile.TiffFile(folder / "damaged.tiff") as file:
        starts, counts = file.pages[0].dataoffsets, file.pages[0].databytecounts
    for start, count in zip(starts, counts, strict=True):
        damaged[start : start + count] = bytes(count)
    (folder / "damaged.tiff").write_bytes(damaged)
    (folder / "text.svs").write_text("no slide")
    Image.fromarray(np.full((64, 64, 3), 250, np.uint8)).save(folder / "glass.png")
    return folder
