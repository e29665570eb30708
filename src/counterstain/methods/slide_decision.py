"""From a logit to a probability, a decision, and the classes that can't be ruled out: learned on validation slides.

Does not know: networks, slides.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from counterstain.methods.slide_config import SlideConfig
from counterstain.metrics.calibration import TEMPERATURES, calibrated, fit_temperature
from counterstain.metrics.conformal import ABSTAINED, conformal_thresholds, decide, prediction_sets
from counterstain.metrics.decisions import choose_threshold
from counterstain.results import Classes, SlideScore

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Decision:
    """How a slide's logit is read.

    Args:
        temperature: What it is divided by before the sigmoid; 1 is uncalibrated.
        threshold: The probability from which reports call a slide positive; where no error was promised, the decision, too.
        error: What part of each class the prediction sets may miss; None where nothing was promised.
        reach: For the negative and the positive class, the largest 1 - p(class) at which it is not ruled out; None rules
            nothing out, since there were too few validation slides to promise anything.
        counts: Negative and positive validation slides it was learned on.

    Source: temperature scaling, Guo et al. 2017; class-conditional split conformal prediction, Vovk 2012.
    """

    temperature: float = 1.0
    threshold: float = 0.5
    error: float | None = None
    reach: tuple[float | None, float | None] = (None, None)
    counts: tuple[int, int] = (0, 0)

    @classmethod
    def learned(cls, margins_N: Floats, labels_N: npt.NDArray[np.integer], config: SlideConfig) -> Self:
        """The decision that validation slides ask for.

        Args:
            margins_N: Logit of the positive class less that of the other, of slides that were not trained on.
            labels_N: 0 or 1, both among them.
            config: The promised error, and how the threshold is chosen.
        """
        temperature = fit_temperature(margins_N, labels_N)
        probability_N = calibrated(margins_N, temperature)
        reach = conformal_thresholds(probability_N, labels_N, config.error)
        negative, positive = (value if math.isfinite(value) else None for value in reach)
        threshold = 0.5 if config.threshold == "half" else choose_threshold(probability_N, labels_N, config.threshold)
        counts = int((labels_N == 0).sum()), int((labels_N == 1).sum())
        return cls(temperature, float(threshold), config.error, (negative, positive), counts)

    def judge(self, slide_id: str, margin: float, classes: Classes) -> SlideScore:
        """What is said of a slide.

        Where an error was promised, the decision is None unless exactly one class can't be ruled out.
        """
        p_1 = calibrated([margin], self.temperature)
        p = float(p_1[0])
        if self.error is None:
            return SlideScore(slide_id, p, margin, classes.names[int(p >= self.threshold)])
        negative, positive = (math.inf if reach is None else reach for reach in self.reach)
        sets_12 = prediction_sets(p_1, (negative, positive))
        held = tuple(name for name, is_held in zip(classes.names, sets_12[0].tolist(), strict=True) if is_held)
        decided = int(decide(sets_12)[0])
        return SlideScore(slide_id, p, margin, None if decided == ABSTAINED else classes.names[decided], held)

    def cautions(self, classes: Classes) -> tuple[str, ...]:
        """What validation slides said against it, a sentence each: that it tells nothing, or calls all slides alike."""
        notes = []
        if self.temperature >= TEMPERATURES[-1]:
            notes.append(
                f"Scores did not tell {' from '.join(classes.names)} on the {sum(self.counts)} slides that calibrated the "
                "run: every probability is about one half."
            )
        if self.threshold <= 0:
            notes.append(f"The run's threshold calls every slide {classes.names[1]}.")
        return tuple(notes)

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        """The decision that `to_json` wrote."""
        return cls(**{**tree, "reach": tuple(tree["reach"]), "counts": tuple(tree["counts"])})
