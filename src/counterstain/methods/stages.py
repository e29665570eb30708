"""Stages that follow each other: each is learned once, and their minutes and losses are told together.

    run/stage1/weights.safetensors    what a stage ended with, there once it has ended
    run/losses.csv                    step, loss, stage; steps go on from one stage to the next
    run/training.json                 as `training.fit` writes it, with "stages": minutes of each

Does not know: what a stage learns.
"""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from counterstain.files import atomic, read_json, write_json
from counterstain.models.weights import load_state, read_state, write_state
from counterstain.training.fit import read_losses

_STAGES = {"classification": "stage1", "segmentation": "stage2"}


def learn_once(network: nn.Module, folder: Path, train: Callable[[], None]) -> None:
    """Fills a network with what its stage has learned, which is trained when it has not ended yet.

    Args:
        network: What `train` trains.
        folder: Of the stage.
        train: Goes on from the folder's last checkpoint.
    """
    kept = folder / "weights.safetensors"
    if kept.exists():
        load_state(network, read_state(kept), source=str(kept))
        return
    network.train()
    train()
    write_state(kept, network.state_dict())


def join_stages(run: Path, mask_minutes: float) -> None:
    """Writes a run's `losses.csv` and `training.json` from those of its stages.

    Args:
        run: The run folder.
        mask_minutes: Spent on pseudo masks.
    """
    trained = {name: read_json(run / folder / "training.json") for name, folder in _STAGES.items()}
    first, second = trained.values()
    minutes = {
        "classification": first["minutes"],
        "pseudo_masks": mask_minutes,
        "segmentation": second["minutes"],
    }
    write_json(
        run / "training.json",
        {
            **second,
            "minutes": sum(minutes.values()),
            "stages": minutes,
            "minutes_by_epoch": [*first["minutes_by_epoch"], *second["minutes_by_epoch"]],
            "epochs": first["epochs"] + second["epochs"],
        },
    )
    join_losses(run, {name: run / folder for name, folder in _STAGES.items()})


def join_losses(run: Path, folders: Mapping[str, Path]) -> None:
    """Writes a run's `losses.csv` from those of its stages, steps going on from one to the next.

    Args:
        run: The run folder.
        folders: By name of the stage, in order; each holds a `losses.csv`.
    """
    start = 0
    with atomic(run / "losses.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "stage"])
        for name, folder in folders.items():
            losses = read_losses(folder / "losses.csv")
            writer.writerows((start + step, repr(loss), name) for step, loss in losses)
            start += losses[-1][0]
