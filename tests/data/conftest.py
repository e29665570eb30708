"""Small datasets that several tests of this room start from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.data import PatchRecord


def save_noise(path: Path, seed: int = 0, size: tuple[int, int] = (8, 6)) -> None:
    """A noise image of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes `labels.csv` of the given lines, and every image that the first column names."""

    def write(*lines: str, classes: str | None = None) -> Path:
        for number, line in enumerate(lines[1:]):
            name = line.split(",")[0]
            if name:
                save_noise(tmp_path / name, number)
        (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if classes is not None:
            (tmp_path / "classes.toml").write_text(classes, encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def records() -> Callable[..., tuple[PatchRecord, ...]]:
    """Records without files: `per_patient` of each of `patients`."""

    def make(patients: int, per_patient: int = 2) -> tuple[PatchRecord, ...]:
        return tuple(
            PatchRecord(Path(f"{patient}-{number}.png"), (1, 0), f"P{patient:03d}")
            for patient in range(patients)
            for number in range(per_patient)
        )

    return make
