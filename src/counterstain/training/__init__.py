"""Training: our defaults around Lightning's Trainer."""

from counterstain.training.fit import Resumed, TrainSettings, fit
from counterstain.training.loaders import SeededShuffle, train_loader

__all__ = ["Resumed", "SeededShuffle", "TrainSettings", "fit", "train_loader"]
