"""Masks reach the judge and nothing that is trained."""

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.data import PatchDataset
from counterstain.errors import CounterstainError
from counterstain.files import read_json
from counterstain.methods import FusionKD, fusion_kd

Distilled = Callable[..., FusionKD]


def trapped(data: PatchDataset, folder: Path) -> PatchDataset:
    """The same images and labels, every mask one that can't be read."""
    trap = folder / "trap.png"
    trap.write_bytes(b"no image: whoever reads it fails")
    train, val = (tuple(replace(record, mask=trap) for record in data.split(name)) for name in ("train", "val"))
    return replace(data, train=train, val=val)


@pytest.mark.parametrize(
    "settings",
    [
        {"selector": "proxy", "cross_fit": True},
        {"selector": "schedule", "schedule_keeps": "last"},
    ],
    ids=["proxy", "schedule"],
)
def test_selectors_that_claim_no_truth_read_no_mask(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled, settings: dict[str, object]
) -> None:
    distilled(trapped(blobs, tmp_path), tmp_path / "run", max_rounds=1, **settings)
    assert len(read_json(tmp_path / "run" / "ledger.json")["rows"]) == 1
    scores = read_json(tmp_path / "run" / "ledger.json")["rows"][0]["scores"]
    assert not [name for name in scores if name.startswith(("f1", "fp"))]


@pytest.mark.parametrize(
    "settings",
    [{"selector": "pixel_val"}, {"selector": "schedule", "schedule_keeps": "best_f1"}],
    ids=["pixel_val", "schedule"],
)
def test_selectors_that_claim_truth_read_it(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled, settings: dict[str, object]
) -> None:
    """And the trap is one."""
    with pytest.raises(CounterstainError, match=r"trap\.png"):
        distilled(trapped(blobs, tmp_path), tmp_path / "run", max_rounds=1, **settings)


def test_other_masks_change_what_is_decided_and_nothing_that_is_trained(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    val = []
    for record in blobs.val:
        inverted = tmp_path / f"inverted_{record.image.name}"
        assert record.mask is not None
        Image.fromarray((1 - np.array(Image.open(record.mask))).astype(np.uint8)).save(inverted)
        val.append(replace(record, mask=inverted if record.label == (0, 1) else record.mask))
    settings = {"selector": "pixel_val", "max_rounds": 1}
    distilled(blobs, tmp_path / "true", **settings)
    distilled(replace(blobs, val=tuple(val)), tmp_path / "inverted", **settings)
    for name in ("teacher", "rounds/1"):
        true, inverted = ((tmp_path / run / name / "weights.safetensors").read_bytes() for run in ("true", "inverted"))
        assert true == inverted
    true, inverted = (read_json(tmp_path / run / "ledger.json")["rows"][0]["scores"] for run in ("true", "inverted"))
    assert true["f1_pos"] != inverted["f1_pos"]


FILES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in Path(fusion_kd.__path__[0]).glob("*.py")}


def names_in(tree: ast.AST) -> set[str]:
    """Every name, attribute and import below a node."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found | {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_pixel_truth_alone_reads_masks() -> None:
    readers = {"read_mask", "read_binary_mask", "mask"}
    assert {name for name, tree in FILES.items() if names_in(tree) & readers} == {"pixel_val"}


def test_the_judge_alone_is_handed_pixel_truth() -> None:
    assert {name for name, tree in FILES.items() if "PixelTruth" in names_in(tree)} == {"judging", "distil"}
    functions = [node for node in ast.walk(FILES["distil"]) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if "PixelTruth" in names_in(node)] == ["_truth"]
    assert {node.name for node in functions if "_truth" in names_in(node)} == {"_refuse", "judge"}
    # what trains is called without the judge
    handed = {node.name for node in functions if {"judge", "Judge", "_truth"} & names_in(node)}
    assert not handed & {"_learn_labels", "_learn_maps", "_teach", "_maps", "_loader"}
