"""The judge of a run: what held-out images say of a network, and whether a student takes its teacher's place.

One judge looks at every network with the same images, the same verifier and the same witness. The selector decides which
evidence there is; whether tumour areas have drifted is asked first, whichever it is.

Does not know: how networks learn, rounds, files of weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from counterstain.methods.fusion_kd.config import FusionKDConfig
from counterstain.methods.fusion_kd.drift import agreement, area_drift
from counterstain.methods.fusion_kd.finish import WithoutGlass
from counterstain.methods.fusion_kd.pixel_val import Counted, PixelRules, PixelTruth, pixel_verdict
from counterstain.methods.fusion_kd.proxy import ProxyMargins, ProxyScores, proxy_scores, proxy_verdict
from counterstain.methods.fusion_kd.seen import HeldOut, Seen, look
from counterstain.methods.fusion_kd.selectors import Verdict, drift_verdict, scheduled
from counterstain.methods.fusion_kd.verifier import Cells
from counterstain.metrics.segmentation import plain

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Evidence:
    """What is known of a network.

    Args:
        seen: Its maps of the held-out images.
        proxy: Scores from image labels; None with another selector.
        counted: Pixels on the validation split's masks; None with a selector that reads none.
        ranked_by: Which score of those masks orders candidates.
    """

    seen: Seen
    proxy: ProxyScores | None = None
    counted: Counted | None = None
    ranked_by: str = "f1_pos"

    @property
    def scores(self) -> dict[str, float | None]:
        """Plain values by name."""
        found: dict[str, float] = {}
        for part in (self.proxy, self.counted):
            found |= part.scores if part is not None else {}
        return {name: plain(value) for name, value in found.items()}

    @property
    def rank(self) -> float:
        """By which a round's candidates are ordered: what the selector compares; all alike without evidence."""
        if self.counted is not None:
            return self.counted.scores[self.ranked_by]
        return self.proxy.total() if self.proxy is not None else 0.0


@dataclass(frozen=True)
class Judge:
    """How networks are compared.

    Args:
        config: Selector, margins, band of areas.
        held: The held-out images, without masks.
        cells: What the verifier says of them; None with another selector than "proxy".
        witness_Nhw: The witness's maps of them; None without one.
        truth: Masks of the validation split; None with a selector that reads none.
        ignores_glass: Whether losses left glass out, so that no network has learned what it is.
    """

    config: FusionKDConfig
    held: HeldOut
    cells: Cells | None = None
    witness_Nhw: "npt.NDArray[np.float16] | None" = None
    truth: PixelTruth | None = None
    ignores_glass: bool = False
    _known: dict[str, Evidence] = field(default_factory=dict)

    def evidence(self, network: nn.Module) -> Evidence:
        """What the held-out images say of a network."""
        network = WithoutGlass(network) if self.ignores_glass else network
        seen = look(network, self.held, with_views=self.cells is not None)
        proxy = counted = None
        if self.cells is not None:
            proxy = proxy_scores(seen, self.held, self.cells.tumour_Ngg, self.cells.is_tissue_Ngg, self.witness_Nhw)
        if self.truth is not None:
            counted = self.truth.count(network)
        # as released, a schedule keeps the best of positives and negatives alike
        return Evidence(seen, proxy, counted, "f1_mix" if self.config.selector == "schedule" else "f1_pos")

    def evidence_of(self, name: str, network: Callable[[], nn.Module]) -> Evidence:
        """Likewise, looked at once for each name.

        Args:
            name: Of the network in the run.
            network: Makes it, where it is not known yet.
        """
        if name not in self._known:
            self._known[name] = self.evidence(network())
        return self._known[name]

    def know(self, name: str, evidence: Evidence) -> None:
        """Keeps what was found under a name."""
        self._known[name] = evidence

    def forget_but(self, *names: str) -> None:
        """Frees what was found of networks that no round asks for again."""
        for name in set(self._known) - set(names):
            del self._known[name]

    def verdict(self, student: Evidence, teacher: Evidence) -> tuple[Verdict, bool]:
        """Whether a student takes its teacher's place, and whether it has drifted too far to be considered."""
        config = self.config
        if config.area_band is not None:
            drift = area_drift(student.seen.maps_Nhw, teacher.seen.maps_Nhw, self.held.is_positive_N)
            drifted = drift_verdict(drift, config.area_band)
            if drifted is not None:
                return drifted, True
        if config.selector == "proxy":
            assert student.proxy is not None
            assert teacher.proxy is not None
            return proxy_verdict(student.proxy, teacher.proxy, ProxyMargins()), False
        if config.selector == "pixel_val":
            assert student.counted is not None
            assert teacher.counted is not None
            rules = PixelRules(margin=config.margin, confidence=config.confidence)
            return pixel_verdict(student.counted, teacher.counted, self.held.patients, rules), False
        return scheduled(), False

    def compared(self, student: Evidence, teacher: Evidence) -> dict[str, Any]:
        """Areas and agreement of both, as a row of the ledger has them."""
        is_positive_N = self.held.is_positive_N
        drift = area_drift(student.seen.maps_Nhw, teacher.seen.maps_Nhw, is_positive_N)
        areas = {
            "student": drift.student_area,
            "teacher": drift.teacher_area,
            "median_ratio": drift.median_ratio,
            "share_large": drift.share_large,
        }
        return {"areas": areas, "agreement": agreement(student.seen.maps_Nhw, teacher.seen.maps_Nhw, is_positive_N)}
