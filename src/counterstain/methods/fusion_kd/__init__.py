"""Fusion knowledge distillation: MIL teachers, students, and rounds in which they change roles."""

from counterstain.methods.fusion_kd.config import FusionKDConfig
from counterstain.methods.fusion_kd.method import FusionKD

__all__ = ["FusionKD", "FusionKDConfig"]
