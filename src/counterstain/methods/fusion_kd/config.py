"""The settings of fusion knowledge distillation, and its presets.

"paper" is what the paper's text says, "legacy" what the released code does, "robust" what we recommend, "small" the same on
a network that learns from scratch on two cores. docs/methods/fusion_kd.md compares them line by line.

Does not know: how any setting is used.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from counterstain.data.augment import AugmentSettings
from counterstain.errors import InputError, UnknownNameError
from counterstain.losses import DICES, AgreementSettings
from counterstain.methods.fusion_kd.drift import ANY_AREA, AREA_BAND
from counterstain.methods.optimise import OptimiserSettings
from counterstain.models.mil import MIL_NETWORKS

SelectorName = Literal["pixel_val", "proxy", "schedule"]

_POSITIVE = ("scale", "gm_power", "learning_rate", "head_factor", "cache_mb")
_FROM_ZERO = (
    "area_weight",
    "wce_weight",
    "ignore_band",
    "anchor_weight",
    "stain_sigma",
    "weight_decay",
    "warmup_epochs",
    "max_rounds",
    "patience",
    "margin",
    "smooth_px",
    "snap_px",
)
_EPOCHS = ("teacher_epochs", "round_epochs")


@dataclass(frozen=True)
class FusionKDConfig:
    """Settings of fusion knowledge distillation.

    Args:
        teacher: The first teacher, a name in MIL_NETWORKS.
        student: The first student, likewise; any pair will do.
        teacher_options: Of the teacher's backbone.
        student_options: Of the student's backbone.
        weights: Pretrained weights of the teacher's backbone; None starts at random.
        student_weights: Likewise of the student's; None takes `weights` where both networks and options are the same.
        teacher_run: A finished run of this method with the same teacher, whose network and witness are taken instead of
            training them.
        scale: Images are enlarged by this before both networks, for those too small for their strides.
        positive: The name of the tumour class; None takes the one that is not the background.
        mil_loss: Of the teacher: "constant_dice" (the image's label at every pixel, as in the paper) or "gm_bce" (the
            generalised mean of pixels against the label, as in DWS-MIL).
        gm_power: Of the generalised mean, here and in the anchor.
        area_weight: Of the area constraint beside the MIL loss; 0 is none.
        area_fraction: The part of a positive image that tumour covers as a rule: what the area constraint pulls to, and
            what the warning on `neg_pos_ratio` is judged by.
        neg_pos_ratio: Negatives for each positive in an epoch; None takes images as they come.
        distill: "fusion": every student output learns from the teacher's fused map. "block": each from its counterpart.
        dice: Overlap loss against the teacher's soft maps: "soft" (as published; it dilates), "dml" or "squared".
        wce: Cross-entropy on the student's fused map: "agreement" (on logits, hard targets, weighed by agreement), "legacy"
            (as released: in effect a background prior) or "off".
        wce_weight: Of it, for each image.
        threshold: Of the teacher's fused map, above which a pixel is tumour to "agreement".
        ignore_band: Pixels so close to the threshold have no target there.
        per_class: Whether agreement weights have mean 1 within tumour and within background, instead of over both.
        anchor_weight: Of the generalised-mean loss on the student's fused map: the true label never leaves the loss.
        tta: Views of an image whose teacher maps are averaged: "none", "hv3" or "d4".
        cross_fit: Whether the first round's maps come from two teachers that learned on the other half of the patients.
        cache_mb: The most disk that a round's teacher maps take; coarser maps are kept where finer ones don't fit.
        batch_sum: Whether losses are summed over a batch, as released, instead of averaged.
        ignore_glass: Whether glass is left out of losses; None takes what the data says of white areas.
        teacher_epochs: Of the first teacher; None takes the training settings'.
        round_epochs: Of a student in its round; likewise.
        max_rounds: At most so many students; 0 trains the teacher alone.
        selector: What decides whether roles change: "pixel_val", "proxy" or "schedule"; docs say what each may claim.
        schedule_keeps: With "schedule", which model is kept and teaches: the "last", or the "best_f1" on the validation
            split's masks, as released (there on the test split).
        student_init: What the next student starts from: "swap" (the old teacher's weights), "fresh" or "copy_best".
        reset_optimizer: Whether the optimiser forgets its moments at a change of roles.
        warmup_epochs: Over which each student's learning rate rises.
        candidates: How many checkpoints of a round are judged, evenly spaced; the last always is.
        keep_candidates: Whether they stay on disk after their round, to study selectors.
        margin: In F1, by which a student must be better with "pixel_val".
        confidence: Share of resamples in which it must be.
        area_band: Median ratio of a student's tumour area to its teacher's, outside which the round is rolled back; None
            becomes a band that nothing leaves.
        patience: Rounds in a row without a better student after which it stops, beyond the first.
        most_agreement: Overlap of student and teacher on held-out images above which a round taught nothing new.
        ema: Of the student's weights, averaged over steps; the average is judged and kept. 0 is none.
        optimizer: "adam" as released, or "adamw".
        learning_rate: Of every parameter.
        head_factor: Side heads learn this much faster.
        weight_decay: Of every parameter.
        poly_power: The rate falls to 0 as (1 - step / steps) to this power; 0 keeps it.
        augment_teacher: Whether the teacher's training images are varied too.
        flip: Whether a student's training images are mirrored.
        turn: Whether they are turned.
        stain_sigma: Strength of their stain jitter.
        smooth_px: Sigma of a Gaussian over the fused map before it is shown, px of the image; 0 is none.
        snap_px: Radius of a guided filter that draws the map's borders to the tissue's; 0 is none.

    Raises:
        UnknownNameError: When there is no such network or Dice.
        InputError: When a number is outside its range, or settings contradict each other.
    """

    teacher: str = "vgg_mil"
    student: str = "vgg_mil"
    teacher_options: dict[str, Any] = field(default_factory=dict)
    student_options: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    student_weights: Path | None = None
    teacher_run: Path | None = None
    scale: float = 1.0
    positive: str | None = None
    mil_loss: Literal["constant_dice", "gm_bce"] = "constant_dice"
    gm_power: float = 4.0
    area_weight: float = 0.0
    area_fraction: float | None = None
    neg_pos_ratio: float | None = None
    distill: Literal["fusion", "block"] = "fusion"
    dice: str = "soft"
    wce: Literal["agreement", "legacy", "off"] = "agreement"
    wce_weight: float = 1.0
    threshold: float = 0.5
    ignore_band: float = 0.1
    per_class: bool = False
    anchor_weight: float = 0.0
    tta: Literal["none", "hv3", "d4"] = "none"
    cross_fit: bool = False
    cache_mb: float = 4096.0
    batch_sum: bool = False
    ignore_glass: bool | None = None
    teacher_epochs: int | None = None
    round_epochs: int | None = None
    max_rounds: int = 6
    selector: SelectorName = "pixel_val"
    schedule_keeps: Literal["last", "best_f1"] = "last"
    student_init: Literal["swap", "fresh", "copy_best"] = "swap"
    reset_optimizer: bool = True
    warmup_epochs: int = 1
    candidates: int = 1
    keep_candidates: bool = False
    margin: float = 0.005
    confidence: float = 0.9
    area_band: tuple[float, float] | None = AREA_BAND
    patience: int = 1
    most_agreement: float = 0.98
    ema: float = 0.0
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 5e-5
    head_factor: float = 1.0
    weight_decay: float = 5e-5
    poly_power: float = 0.0
    augment_teacher: bool = False
    flip: bool = False
    turn: bool = False
    stain_sigma: float = 0.0
    smooth_px: float = 0.0
    snap_px: int = 0

    def __post_init__(self) -> None:
        for name in (self.teacher, self.student):
            if name not in MIL_NETWORKS:
                raise UnknownNameError("MIL network", name, MIL_NETWORKS)
        if self.dice not in DICES:
            raise UnknownNameError("Dice", self.dice, DICES)
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise InputError(f"Setting {name!r} was given as {getattr(self, name)}; it must be above 0.")
        for name in _FROM_ZERO:
            if getattr(self, name) < 0:
                raise InputError(f"Setting {name!r} was given as {getattr(self, name)}; it must be 0 or more.")
        for name in (*_EPOCHS, "candidates"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"Setting {name!r} was given as {getattr(self, name)}; it must be at least 1.")
        for name in ("threshold", "confidence", "most_agreement"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"Setting {name!r} was given as {getattr(self, name)}; it must be above 0, at most 1.")
        if not 0 <= self.ema < 1:
            raise InputError(f"Setting 'ema' was given as {self.ema}; from 0 to below 1 was expected.")
        if self.area_fraction is not None and not 0 < self.area_fraction <= 1:
            raise InputError(f"Setting 'area_fraction' was given as {self.area_fraction}; above 0 and at most 1 fits.")
        for name, known in _literals().items():
            if getattr(self, name) not in known:
                raise UnknownNameError(name, str(getattr(self, name)), known)
        if self.gm_power < 1:
            raise InputError(f"Setting 'gm_power' was given as {self.gm_power}; it must be at least 1, a plain mean.")
        _ = self.agreement  # refuses a threshold or a band that leaves a class without pixels
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        if self.neg_pos_ratio is not None and self.neg_pos_ratio <= 0:
            raise InputError(f"Setting 'neg_pos_ratio' was given as {self.neg_pos_ratio}; it must be above 0.")
        if self.area_weight and self.area_fraction is None:
            raise InputError("An area constraint was asked for without an area. Pass --area-fraction.")
        if self.area_band is None:  # TOML has no word for it, and would bring the default back
            object.__setattr__(self, "area_band", ANY_AREA)
        elif not 0 < self.area_band[0] < 1 < self.area_band[1]:
            raise InputError(f"Setting 'area_band' was given as {self.area_band}; one end below 1 and one above fit.")
        if not self.reset_optimizer and self._networks_differ:
            raise InputError(
                "The optimiser's moments were to be kept at a change of roles, but teacher and student differ. "
                "Leave reset_optimizer on, or give both the same network."
            )

    @property
    def watches_areas(self) -> bool:
        """Whether a round can be rolled back for its areas."""
        assert self.area_band is not None
        return self.area_band[0] > ANY_AREA[0] or self.area_band[1] < ANY_AREA[1]

    @property
    def reads_masks(self) -> bool:
        """Whether masks of the validation split decide anything."""
        keeps_best = self.selector == "schedule" and self.schedule_keeps == "best_f1"
        return self.max_rounds > 0 and (self.selector == "pixel_val" or keeps_best)

    @property
    def _networks_differ(self) -> bool:
        return (self.teacher, self.teacher_options) != (self.student, self.student_options)

    @property
    def weights_of_student(self) -> Path | None:
        """Pretrained weights of the student's backbone."""
        return self.student_weights or (None if self._networks_differ else self.weights)

    @property
    def augment(self) -> AugmentSettings:
        """Of a student's images."""
        return AugmentSettings(self.flip, self.turn, self.stain_sigma)

    @property
    def agreement(self) -> AgreementSettings:
        """Of the repaired cross-entropy."""
        return AgreementSettings(self.threshold, self.ignore_band, self.per_class)

    def optimiser(self, warmup_steps: int) -> OptimiserSettings:
        """Of a teacher or student."""
        return OptimiserSettings(
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            scratch_factor=self.head_factor,
            momentum=0.0,
            weight_decay=self.weight_decay,
            poly_power=self.poly_power,
            warmup_steps=warmup_steps,
            gradient_clip=0.0,
        )


@cache
def _literals() -> dict[str, tuple[str, ...]]:
    """The settings that are one of a few words, and these words."""
    kinds = get_type_hints(FusionKDConfig)
    return {name: get_args(kind) for name, kind in kinds.items() if get_origin(kind) is Literal}


_PAPER = FusionKDConfig(ignore_glass=False)
# 31 epochs of the teacher and 16 x 30 of students are 511; the released 500 end within the last round
_LEGACY = FusionKDConfig(
    ignore_glass=False,
    wce="legacy",
    wce_weight=2.0,
    batch_sum=True,
    teacher_epochs=31,
    round_epochs=30,
    max_rounds=16,
    selector="schedule",
    schedule_keeps="best_f1",
    reset_optimizer=False,
    warmup_epochs=0,
    area_band=ANY_AREA,
    patience=15,
    candidates=30,
    most_agreement=1.0,
    smooth_px=3.0,
)
# As measured in docs/results.md, under "Tumour masks from image labels".
_ROBUST = FusionKDConfig(
    neg_pos_ratio=2.0,
    dice="squared",
    tta="d4",
    max_rounds=3,
    candidates=2,
    selector="proxy",
    ema=0.97,
    augment_teacher=True,
    flip=True,
    turn=True,
    stain_sigma=0.05,
)
_SMALL = replace(
    _ROBUST,
    teacher="tiny_mil",
    student="tiny_mil",
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=1e-2,
    poly_power=0.9,
    ema=0.0,
)

PRESETS = {"paper": _PAPER, "legacy": _LEGACY, "robust": _ROBUST, "small": _SMALL}
