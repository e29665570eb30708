"""A trained SSHR network finished otherwise: CAMs fused with other weights, presence thresholds chosen anew on validation.

Nothing is trained. This is for published checkpoints, whose thresholds were fixed by hand, and for trying fusions without
training again. Only the validation split's masks are read.

Does not know: how the network learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterstain.errors import InputError
from counterstain.files import read_json
from counterstain.methods.artefacts import model_digest, write_untrained
from counterstain.methods.cams import sum_min_max
from counterstain.methods.device import on_device
from counterstain.methods.gate import window_scores
from counterstain.methods.sshr import SSHR, Four
from counterstain.methods.thresholds import ValidationScores, choose_thresholds, mean_iou
from counterstain.methods.validation import truth_windows

if TYPE_CHECKING:
    from counterstain.data import PatchDataset

FUSIONS: tuple[Four, ...] = (
    (0.0, 0.6, 0.2, 0.2),  # as released
    (0.25, 0.25, 0.25, 0.25),  # uniform
    (0.2, 0.2, 0.2, 0.4),
    (0.2, 0.0, 0.4, 0.4),
    (0.0, 0.2, 0.4, 0.4),
    (0.0, 0.0, 0.0, 1.0),  # the deepest alone
)
"""What a search tries, shallow to deep."""


@dataclass(frozen=True)
class Tuned:
    """A method finished otherwise.

    Args:
        method: With the best fusion and its thresholds.
        tried: Mean IoU on validation windows by fusion, thresholds chosen for each.
    """

    method: SSHR
    tried: dict[Four, float]


def tune(method: SSHR, data: "PatchDataset", fusions: Sequence[Four]) -> Tuned:
    """The fusion, of those given, and the thresholds for it, with the best mean IoU on the validation split.

    Args:
        method: Whose network; it is left as it is.
        data: With masks for its validation split, and the method's classes.
        fusions: Weights of the four scales' CAMs, shallow to deep.

    Raises:
        InputError: When classes differ, masks are missing, or there is no fusion.

    Source: ours; the released fusion and thresholds have no derivation.
    """
    if data.classes.names != method.classes.names:
        raise InputError(
            f"The run knows {', '.join(method.classes.names)}; the dataset has {', '.join(data.classes.names)}. Tune it on "
            "a dataset of its own classes."
        )
    if not fusions or not data.val or not all(record.has_truth for record in data.val):
        raise InputError("Tuning wants a fusion to try and a validation split with a mask for every image.")
    scores = _scores_by_fusion(method, data, fusions)
    chosen = {fusion: choose_thresholds(scores[fusion]) for fusion in fusions}
    tried = {fusion: mean_iou(scores[fusion], chosen[fusion]) for fusion in fusions}
    best = max(tried, key=lambda fusion: tried[fusion])
    return Tuned(method.finished_with(best, chosen[best]), tried)


def _scores_by_fusion(method: SSHR, data: "PatchDataset", fusions: Sequence[Four]) -> dict[Four, ValidationScores]:
    """What each fusion says of the validation split's windows; the network looks at each of them once."""
    found: dict[Four, list[ValidationScores]] = {fusion: [] for fusion in fusions}
    with on_device(method.network) as device:
        for images_BCHW, truth_BHW in truth_windows(data, method.input.tile_px):
            cams, presence_BC = method.cams(images_BCHW.to(device))
            height, width = truth_BHW.shape[1:]
            for fusion, parts in found.items():
                parts.append(window_scores(sum_min_max(cams, fusion, (height, width)), presence_BC, truth_BHW))
    return {fusion: ValidationScores.joined(parts) for fusion, parts in found.items()}


def write_tuned(tuned: Tuned, source: Path, out: Path, data: "PatchDataset") -> None:
    """Writes a run folder with the network of another run.

    Args:
        tuned: What `tune` found.
        source: The run it was made from.
        out: The folder to write.
        data: What it was tuned on.

    Raises:
        ExistingOutputError: When something is there.
    """
    before: dict[str, Any] = read_json(source / "model.json")["provenance"]
    digest, seen = model_digest(source), data.provenance()
    search: dict[str, Any] = {
        "from": digest,
        "data": seen,
        "tried": [{"fusion": list(fusion), "mean_iou": score} for fusion, score in tuned.tried.items()],
    }
    if "tuned" in before:  # its fusion may stand still, and whose tissue that was chosen on is to be told
        search["before"] = before["tuned"]
    provenance = {**before, "thresholds": "chosen on a validation split", "tuned": search}
    write_untrained(out, tuned.method, provenance, "tuned", digest, seen["digest"])
