"""Inference: models over slides and images, in bounded memory, resumable."""

from counterstain.infer.areas import areas_mm2
from counterstain.infer.dense import DenseModel, TileInput
from counterstain.infer.image import predict_image
from counterstain.infer.predict import predict_slide
from counterstain.infer.runtime import Runtime, choose_runtime, runtime_of_images
from counterstain.infer.settings import PredictSettings
from counterstain.infer.tta import AveragedViews

__all__ = [
    "AveragedViews",
    "DenseModel",
    "PredictSettings",
    "Runtime",
    "TileInput",
    "areas_mm2",
    "choose_runtime",
    "predict_image",
    "predict_slide",
    "runtime_of_images",
]
