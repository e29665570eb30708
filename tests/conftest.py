"""What all tests share: real data where it is at hand."""

import gc
import os
from pathlib import Path

# One thread for each test process, set before torch loads: spinning threads of several slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Exporting takes seconds: what is not about other runtimes runs in torch.
os.environ["COUNTERSTAIN_RUNTIME"] = "torch"

import pytest
import torch

from counterstain.data import PatchDataset, open_patches
from counterstain.testing.blobs import write_blobs
from counterstain.testing.textures import write_textures

ROOT = Path(__file__).resolve().parents[1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        # whoever asks for these tests by their mark would take a skip for a success
        assert item.config.option.markexpr != "gpu", "the tests of a GPU were asked for, and torch sees none here"
        pytest.skip("no GPU here")


def pytest_collection_finish() -> None:
    """What is loaded by now is looked through for garbage no more: that took a quarter of a second after each slide."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is kept for later runs lies in a folder of the tests', and the user's own is left alone."""
    os.environ["COUNTERSTAIN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides and images; without it the test is skipped."""
    folder = Path(os.environ.get("COUNTERSTAIN_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        # a folder that was named and is not there is a mistake, no reason to test less
        assert "COUNTERSTAIN_DATA" not in os.environ, f"COUNTERSTAIN_DATA is {folder}, and no folder is there"
        pytest.skip(
            "real data is not at hand: set COUNTERSTAIN_DATA to the folder that holds wsi/, ebhi_seg/ and weights/"
        )
    return folder


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    """A small dataset of two textures."""
    return open_patches(write_textures(tmp_path_factory.mktemp("textures")), "table")


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    """A small dataset of tumour and no tumour."""
    return open_patches(write_blobs(tmp_path_factory.mktemp("blobs")), "table")
