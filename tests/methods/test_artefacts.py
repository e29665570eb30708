"""What is said of a run folder that was made from something else."""

from pathlib import Path
from typing import Any

import pytest

from counterstain.errors import StaleResultError
from counterstain.methods.artefacts import open_run

TREE: dict[str, Any] = {
    "method": "mean_pool",
    "settings": {"rho": 90.0, "weights": "a.pth"},
    "training": {"epochs": 2, "num_workers": 0},
    "data": {"folder": "/here", "name": "planted", "digest": "1"},
}


def changed(table: str, **entries: object) -> dict[str, Any]:
    return {**TREE, table: {**TREE[table], **entries}}


def refusal(run: Path, tree: dict[str, Any]) -> str:
    open_run(run, "one", TREE)
    with pytest.raises(StaleResultError) as caught:
        open_run(run, "another", tree)
    return str(caught.value)


def test_where_files_lie_is_no_reason_and_what_they_hold_is(tmp_path: Path) -> None:
    moved = {**changed("data", folder="/there", digest="2"), "training": {"epochs": 2, "num_workers": 4}}
    said = refusal(tmp_path / "run", moved)
    assert "run of other settings or data: the data hold something else. Give another folder" in said


def test_of_weights_that_lie_elsewhere_it_is_told_where_nothing_else_differs(tmp_path: Path) -> None:
    weights = {"rho": 95.0, "weights": "b.pth"}
    assert "data: settings.rho was 90.0 and is 95.0. Give" in refusal(tmp_path, {**TREE, "settings": weights})
    assert "settings.weights was a.pth and is b.pth. Give" in refusal(tmp_path, changed("settings", weights="b.pth"))


def test_settings_that_can_t_be_read_are_no_reason_of_their_own(tmp_path: Path) -> None:
    open_run(tmp_path, "one", TREE)
    (tmp_path / "config.toml").write_text("no [ toml")
    with pytest.raises(StaleResultError, match=r"other settings or data\. Give another folder"):
        open_run(tmp_path, "another", changed("settings", rho=95.0))
