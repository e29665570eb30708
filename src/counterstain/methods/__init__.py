"""Methods: the published systems, one file for each paper.

METHODS names them; `load_method` opens a finished run, whichever method made it.
"""

from pathlib import Path

from counterstain.errors import InputError, UnknownNameError
from counterstain.methods.artefacts import model_digest, read_model
from counterstain.methods.base import DenseMethod, InputSpec, Method
from counterstain.methods.dsnet import DSNet, DSNetConfig
from counterstain.methods.fusion_kd import FusionKD, FusionKDConfig
from counterstain.methods.multi_stage import MultiStage
from counterstain.methods.multi_stage_config import MultiStageConfig
from counterstain.methods.slide_baselines import ABMIL, CLAM, Compressed, MeanPool, Thumbnail, TransMIL
from counterstain.methods.slide_config import SlideConfig
from counterstain.methods.slide_method import SlideMethod
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


SLIDE_METHODS: dict[str, type[SlideMethod]] = {
    "dsnet": DSNet,
    "mean_pool": MeanPool,
    "abmil": ABMIL,
    "clam": CLAM,
    "transmil": TransMIL,
    "thumbnail": Thumbnail,
    "nic": Compressed,
}
"""Methods that learn from labelled slides and score them."""


def find_slide_method(name: str) -> type[SlideMethod]:
    """A slide method by its name.

    Raises:
        UnknownNameError: When there is none of that name.
    """
    if name not in SLIDE_METHODS:
        raise UnknownNameError("slide method", name, SLIDE_METHODS)
    return SLIDE_METHODS[name]


def load_method(run: Path | str) -> Method:
    """The method of a finished run.

    Args:
        run: The run folder.

    Raises:
        MissingFileError: When there is no finished run.
        WeightsError: When its tensors do not fit its description.
    """
    description, state = read_model(Path(run))
    name = description["method"]
    method = find_slide_method(name) if name in SLIDE_METHODS else find_method(name)
    return method.load(description, state)


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


def load_slide_method(run: Path | str) -> SlideMethod:
    """The method of a finished run that must be one that scores slides.

    Raises:
        MissingFileError: When there is no finished run.
        InputError: When its method scores no slides.
    """
    method = load_method(run)
    if not isinstance(method, SlideMethod):
        raise InputError(
            f"{run} was trained with {method.name!r}, which scores no slides. Give a run of a slide method: "
            f"{', '.join(SLIDE_METHODS)}."
        )
    return method


__all__ = [
    "SLIDE_METHODS",
    "ABMIL",
    "CLAM",
    "Compressed",
    "DSNet",
    "DSNetConfig",
    "MeanPool",
    "SlideConfig",
    "SlideMethod",
    "Thumbnail",
    "TransMIL",
    "find_slide_method",
    "load_slide_method",
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
