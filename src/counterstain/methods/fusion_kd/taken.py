"""What a run takes over of a finished one: its first teacher, its witness, its halves; and which runs are refused.

    teacher_run/teacher, witness, half_a, half_b    weights, of which those that are there are taken
    teacher_run/model.json                          whether they fit: method, network, loss, data, seed

Does not know: how any of them was trained, rounds.
"""

from pathlib import Path
from typing import Any

from counterstain.errors import InputError, MissingFileError
from counterstain.files import read_json, settings_hash
from counterstain.methods.fusion_kd.config import FusionKDConfig

_SAME = ("teacher", "teacher_options", "scale", "mil_loss")
"""Settings of the first teacher that both runs must share; its student, its rounds and its selector may be others."""


def weights_taken(config: FusionKDConfig, name: str) -> Path | None:
    """The file of weights that another run has for a training; None where it has none, or no run is named.

    Args:
        config: Which names the run.
        name: Of the training: "teacher", "witness" and so on.
    """
    if config.teacher_run is None:
        return None
    path = Path(config.teacher_run) / name / "weights.safetensors"
    return path if path.exists() else None


def check_taken(config: FusionKDConfig, method: str, data_digest: str, seed: int) -> dict[str, Any]:
    """Refuses to take over what does not fit, and says what has to be remembered of it.

    Args:
        config: Which names the run, or none.
        method: Its name.
        data_digest: Of the data that this run learns from.
        seed: Of this run; halves of patients are drawn from it.

    Returns:
        What the other run remembers of pixel truth that its weights have seen.

    Raises:
        MissingFileError: When the run is not finished, or holds no first teacher.
        InputError: When it is of another method, teacher or set, or its halves are of another seed.
    """
    if config.teacher_run is None:
        return {}
    run = Path(config.teacher_run)
    if not (run / "model.json").is_file() or weights_taken(config, "teacher") is None:
        raise MissingFileError(
            f"{run} was given as --teacher-run, but it is no finished run with a teacher: model.json or "
            "teacher/weights.safetensors is not there. Train it to the end first."
        )
    description = read_json(run / "model.json")
    theirs, known = description["config"], description["provenance"]
    if description["method"] != method:
        raise InputError(
            f"{run} was given as --teacher-run; it is of {description['method']!r}, {method!r} was expected."
        )
    other = [name for name in _SAME if settings_hash(theirs.get(name)) != settings_hash(getattr(config, name))]
    if other:
        told = ", ".join(f"{name} {theirs.get(name)!r} for {getattr(config, name)!r}" for name in other)
        raise InputError(f"{run} was given as --teacher-run, but its teacher has {told}. Give both runs the same.")
    if known.get("data", {}).get("digest") != data_digest:
        raise InputError(
            f"{run} was given as --teacher-run, but it learned from other data: what is held out here may have trained it. "
            "Train a teacher on this set."
        )
    if config.cross_fit and weights_taken(config, "half_a") is not None and known["training"]["seed"] != seed:
        raise InputError(
            f"{run} was given as --teacher-run with seed {known['training']['seed']}, and this run has {seed}: its halves "
            f"of the patients are others. Pass --seed {known['training']['seed']}, or leave cross_fit out."
        )
    return {name: value for name, value in known.items() if name.endswith("_saw_pixel_truth")}
