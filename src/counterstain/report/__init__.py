"""Reports: how good a model is, with its baselines and intervals, under which protocol, and how it bears corruption."""

from counterstain.report.corruptions import CORRUPTIONS, corrupt
from counterstain.report.curves import draw_robustness
from counterstain.report.diagnosis import describe_scores
from counterstain.report.diagnosis_figures import draw_diagnosis
from counterstain.report.evaluation import (
    EvaluateSettings,
    Evaluation,
    compare_evaluations,
    evaluate,
    refuse_other_classes,
)
from counterstain.report.gate import Gate, GatedModel, refuse_other_gate
from counterstain.report.opened import open_test_split
from counterstain.report.protocol import ScoringProtocol, refuse_other_protocol
from counterstain.report.robustness import Kept, RobustnessSettings, RobustnessTable, measure_robustness
from counterstain.report.score_table import read_scores, write_scores
from counterstain.report.seen import notes_on_choice, notes_on_patients
from counterstain.report.slides import SlideScores, score_slide

__all__ = [
    "CORRUPTIONS",
    "EvaluateSettings",
    "Evaluation",
    "Gate",
    "GatedModel",
    "Kept",
    "RobustnessSettings",
    "RobustnessTable",
    "ScoringProtocol",
    "SlideScores",
    "compare_evaluations",
    "corrupt",
    "describe_scores",
    "draw_diagnosis",
    "draw_robustness",
    "evaluate",
    "measure_robustness",
    "notes_on_choice",
    "notes_on_patients",
    "open_test_split",
    "read_scores",
    "refuse_other_classes",
    "refuse_other_gate",
    "refuse_other_protocol",
    "score_slide",
    "write_scores",
]
