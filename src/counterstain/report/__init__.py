"""Reports: how good a model is, with its baselines and intervals."""

from counterstain.report.evaluation import EvaluateSettings, Evaluation, evaluate, refuse_other_classes
from counterstain.report.opened import open_test_split
from counterstain.report.slides import SlideScores, score_slide

__all__ = [
    "EvaluateSettings",
    "Evaluation",
    "SlideScores",
    "evaluate",
    "open_test_split",
    "refuse_other_classes",
    "score_slide",
]
