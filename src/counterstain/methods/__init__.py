"""Methods: the published systems, one file for each paper.

METHODS names them; `load_method` opens a finished run, whichever method made it.
"""

from pathlib import Path

from counterstain.errors import InputError, UnknownNameError
from counterstain.methods.artefacts import model_digest, read_model
from counterstain.methods.base import DenseMethod, InputSpec, Method
from counterstain.methods.fusion_kd import FusionKD, FusionKDConfig
from counterstain.methods.multi_stage import MultiStage
from counterstain.methods.multi_stage_config import MultiStageConfig
from counterstain.methods.sshr import SSHR, SSHRConfig

METHODS: dict[str, type[DenseMethod]] = {"sshr": SSHR, "multi_stage": MultiStage, "fusion_kd": FusionKD}
"""Methods that learn from patches and give maps."""


def find_method(name: str) -> type[DenseMethod]:
    """A method by its name.

    Raises:
        UnknownNameError: When there is none of that name.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]


def load_method(run: Path | str) -> Method:
    """The method of a finished run.

    Args:
        run: The run folder.

    Raises:
        MissingFileError: When there is no finished run.
        WeightsError: When its tensors do not fit its description.
    """
    description, state = read_model(Path(run))
    return find_method(description["method"]).load(description, state)


def load_dense_method(run: Path | str) -> DenseMethod:
    """The method of a finished run that must be one that gives maps.

    Raises:
        MissingFileError: When there is no finished run.
        InputError: When its method gives no maps.
    """
    method = load_method(run)
    if not isinstance(method, DenseMethod):
        raise InputError(f"{run} was trained with {method.name!r}, which gives no maps. Give a run of a dense method.")
    return method


__all__ = [
    "METHODS",
    "SSHR",
    "DenseMethod",
    "FusionKD",
    "FusionKDConfig",
    "InputSpec",
    "Method",
    "MultiStage",
    "MultiStageConfig",
    "SSHRConfig",
    "find_method",
    "load_dense_method",
    "load_method",
    "model_digest",
]
