"""Published SSHR checkpoints as runs of ours, to predict and to be scored with like any other.

    checkpoint -> adopt_published -> our names -> published_config: how it was built -> load_published -> write_published

Settings that no checkpoint holds (how CAMs are fused and gated) are the paper preset's; presence thresholds are the
released code's for the dataset, or as given. The run says that it was not trained here, and what each tensor was taken for.

Does not know: what tells one tensor from another.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from counterstain.errors import InputError, WeightsError
from counterstain.files import whole_hash
from counterstain.layouts import PatchLayout
from counterstain.methods.artefacts import refuse_filled, write_untrained
from counterstain.methods.base import InputSpec
from counterstain.methods.sshr import SSHR, SSHRConfig, halo_px
from counterstain.models.published import Adopted, Decision, adopt_published
from counterstain.models.weights import load_state, read_state

RELEASED_THRESHOLDS = {"luad_histoseg": 0.2, "bcss_wsss": 0.8}
"""Above which a class is judged present, by dataset.

Source: the released code as of June 2026; for BCSS it had 0.5 before and one for each class after. The paper has none.
"""

_PATCH_PX = 224  # of the released training, for datasets whose patches vary
_DEPTHS = {"b2": 3, "b3": 3, "b4": 6, "b5": 3}
_BLOCK = re.compile(r"backbone\.(b[2-5])(?:_\d+)?\.bn_branch2a\.weight")


@dataclass(frozen=True)
class Published:
    """A method with published weights.

    Args:
        method: Ready to predict.
        adopted: What each tensor of the checkpoint was taken for.
        provenance: Plain values for the run's description.
    """

    method: SSHR
    adopted: Adopted
    provenance: dict[str, Any]


def load_published(
    path: Path | str,
    layout: PatchLayout,
    thresholds: Sequence[float] | None = None,
    renames: Mapping[str, str] | None = None,
) -> Published:
    """A method with the weights of a published SSHR checkpoint.

    Args:
        path: The checkpoint, of a kind that `read_state` knows.
        layout: Of the dataset it was trained on: classes, resolution, what white is.
        thresholds: Above which a class is judged present, one for all or one for each; None takes the released code's.
        renames: As `adopt_published` takes them.

    Raises:
        InputError: When the dataset has another number of classes, or thresholds are needed or don't fit.
        UnknownNameError: When a rename is from no name of the checkpoint, or to none of ours.
        WeightsError: When the checkpoint can't be read, or its tensors can't be told.
    """
    path = Path(path)
    adopted = adopt_published(read_state(path), renames)
    num_classes = adopted.state["deep_head.weight"].shape[0]
    if num_classes != len(layout.classes):
        raise InputError(
            f"{path} has {num_classes} classes, and {layout.name} has {len(layout.classes)}. Name the dataset that it was "
            "trained on."
        )
    config = replace(published_config(adopted.state), presence_thresholds=_thresholds(layout, thresholds))
    tile_px = layout.patch_px or _PATCH_PX
    spec = InputSpec(tile_px, halo_px(config, tile_px), layout.mpp, layout.white_is_background)
    method = SSHR(config, layout.classes, spec)
    load_state(method.network, adopted.state, source=str(path))
    provenance = {
        "trained_here": False,
        "imported_from": path.name,
        "sha256": whole_hash(path),
        "data": {"layout": layout.name},
        "thresholds": "of the released code, June 2026" if thresholds is None else "as given",
        "tensors": {one.ours: {"given": one.given, "why": one.why} for one in adopted.decisions},
    }
    return Published(method, adopted, provenance)


def published_config(state: Mapping[str, Tensor]) -> SSHRConfig:
    """The paper's settings, with what the shapes of a checkpoint say: branches, kernels, hidden units, backbone's size.

    Args:
        state: As `adopt_published` gives it.

    Raises:
        WeightsError: When no reduction of deep channels gives the modules' hidden units.
    """
    config: SSHRConfig = SSHR.presets["paper"]
    squeeze, smooth = state.get("hfrm.0.squeeze.weight"), state.get("hfrm.0.smooth.weight")
    config = replace(config, semantic=squeeze is not None, context=smooth is not None)
    if squeeze is not None:
        config = replace(config, reduction=_reduction([state[f"hfrm.{level}.squeeze.weight"] for level in range(3)]))
    if smooth is not None:
        first, second, third = (state[f"hfrm.{level}.smooth.weight"].shape[2] for level in range(3))
        config = replace(config, kernels=(first, second, third))
    width = state["backbone.conv1a.weight"].shape[0] / 64
    depths = Counter(match[1] for name in state if (match := _BLOCK.fullmatch(name)))
    options: dict[str, Any] = {} if width == 1 else {"width": width}
    if depths != _DEPTHS:
        options["depths"] = tuple(depths[stage] for stage in _DEPTHS)
    return replace(config, backbone_options=options)


def _reduction(squeezes: Sequence[Tensor]) -> int:
    """Deep channels for each hidden unit, from the first matrices (hidden units, deep channels) of the three modules."""
    hidden, deep = [squeeze.shape[0] for squeeze in squeezes], squeezes[0].shape[1]
    reduction = max(1, deep // hidden[0])
    if set(hidden) != {deep // reduction}:
        raise WeightsError(
            f"The checkpoint's channel weighing has {', '.join(map(str, hidden))} hidden units for {deep} deep channels; "
            "equal numbers, the channels divided by a whole number, were expected. Give a checkpoint of SSHR as it was "
            "published."
        )
    return reduction


def _thresholds(layout: PatchLayout, given: Sequence[float] | None) -> tuple[float, ...]:
    if given is None:
        if layout.name not in RELEASED_THRESHOLDS:
            raise InputError(
                f"The released code has no presence threshold for {layout.name}. Pass one for all its classes or one for "
                "each: --thresholds 0.5."
            )
        given = (RELEASED_THRESHOLDS[layout.name],)
    return tuple(given) * len(layout.classes) if len(given) == 1 else tuple(given)


def write_published(published: Published, run: Path) -> None:
    """Writes a finished run folder.

    Raises:
        ExistingOutputError: When something is there.
    """
    write_untrained(run, published.method, published.provenance, "imported", published.provenance["sha256"])


__all__ = [
    "RELEASED_THRESHOLDS",
    "Adopted",
    "Decision",
    "Published",
    "adopt_published",
    "load_published",
    "published_config",
    "refuse_filled",
    "write_published",
]
