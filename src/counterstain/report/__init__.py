"""Reports: how good a model is, with its baselines and intervals."""

from counterstain.report.evaluation import EvaluateSettings, Evaluation, evaluate
from counterstain.report.opened import open_test_split

__all__ = ["EvaluateSettings", "Evaluation", "evaluate", "open_test_split"]
