"""Every writer sits the same exam."""

from pathlib import Path

import numpy as np
import pytest

from counterstain.errors import ExistingOutputError, UnknownNameError
from counterstain.export import QUPATH_SCRIPT, WRITERS, find_writer, write
from counterstain.testing.writers import WriterContract, patchwork, plant_map

for name, writer in WRITERS.items():
    exam = "Test" + name.title().replace("_", "")
    globals()[exam] = type(exam, (WriterContract,), {"writer": writer, "__module__": __name__})


def test_an_unknown_export_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'geojson'"):
        find_writer("geo_json")


def test_no_two_formats_share_a_file_name() -> None:
    names = [writer.file_name for writer in WRITERS.values()]
    assert len(set(names)) == len(names)


def test_a_map_is_written_beside_itself_under_the_format_s_own_name(tmp_path: Path) -> None:
    planted = plant_map(tmp_path, patchwork(20, 20))
    assert write("summary", planted) == tmp_path / "summary.json"
    with pytest.raises(ExistingOutputError):
        write("summary", planted)
    write("summary", planted, overwrite=True)
    assert write("summary", planted, tmp_path / "other.json").is_file()


def test_the_qupath_script_reads_what_the_writers_write() -> None:
    script = QUPATH_SCRIPT.read_text(encoding="utf-8")
    assert WRITERS["geojson"].file_name in script
    assert WRITERS["geojson_tiles"].file_name in script
    for part in ("'counterstain'", "member.slide.path", "member.frame"):
        assert part in script


def test_a_slide_that_moved_is_named(tmp_path: Path) -> None:
    planted = plant_map(tmp_path, np.zeros((5, 5), np.uint8))
    Path(planted.slide.path).unlink()
    with pytest.raises(FileNotFoundError, match=r"slide\.png"):
        write("overlay", planted)
