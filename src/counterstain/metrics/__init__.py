"""Metrics: overlap, boundaries, presence, intervals over patients, and what no model would score."""

from counterstain.metrics.baselines import Baseline, majority_baseline, majority_class, one_class, one_class_scores
from counterstain.metrics.boundary import (
    BoundaryScores,
    BoundarySettings,
    boundary_counts,
    boundary_iou,
    mean_boundary_iou,
)
from counterstain.metrics.intervals import BootstrapSettings, Interval, bootstrap, bootstrap_difference, per_patient
from counterstain.metrics.presence import PresenceScores, classes_in, presence_scores
from counterstain.metrics.segmentation import (
    PROTOCOLS,
    Protocol,
    SegmentationScores,
    class_dice,
    class_iou,
    confusion,
    dice_bound,
    frequency_weighted_iou,
    mean_dice,
    mean_iou,
    pixel_accuracy,
)

__all__ = [
    "Baseline",
    "BootstrapSettings",
    "BoundaryScores",
    "BoundarySettings",
    "Interval",
    "PROTOCOLS",
    "PresenceScores",
    "Protocol",
    "SegmentationScores",
    "bootstrap",
    "bootstrap_difference",
    "boundary_counts",
    "boundary_iou",
    "class_dice",
    "class_iou",
    "classes_in",
    "confusion",
    "dice_bound",
    "frequency_weighted_iou",
    "majority_baseline",
    "majority_class",
    "mean_boundary_iou",
    "mean_dice",
    "mean_iou",
    "one_class",
    "one_class_scores",
    "per_patient",
    "pixel_accuracy",
    "presence_scores",
]
