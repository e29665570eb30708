import torch

from counterstain.methods.thresholds import ValidationScores, choose_thresholds, choose_thresholds_by_labels, mean_iou


def validation(ignored: int = 0) -> ValidationScores:
    """Two classes; class 1 scores highest everywhere, though it is only in windows whose presence says 0.7 or more.

    Windows come in two batches of different sizes; the truth of the first `ignored` windows is not scored.
    """
    presence = torch.tensor([[0.9, 0.3], [0.9, 0.55], [0.9, 0.7], [0.9, 0.8]])
    parts = []
    for windows, side in ((slice(0, 2), 2), (slice(2, 4), 4)):
        scores = torch.tensor([0.4, 0.6]).view(1, 2, 1, 1).expand(2, 2, side, side)
        values = torch.tensor([0, 0, 1, 1], dtype=torch.uint8)
        values[:ignored] = 255
        truth = values[windows].view(2, 1, 1).expand(2, side, side)
        parts.append(ValidationScores.of(scores, presence[windows], truth))
    return ValidationScores.joined(parts)


def test_thresholds_separate_what_presence_separates() -> None:
    thresholds = choose_thresholds(validation())
    assert 0.55 <= thresholds[1] < 0.7
    assert mean_iou(validation(), thresholds) == 1.0
    assert mean_iou(validation(), [0.5, 0.5]) < 0.9


def test_pixels_without_truth_do_not_count() -> None:
    # Of windows 1 to 3, 4 pixels of class 0 are taken for class 1, whose 32 pixels are right.
    assert mean_iou(validation(ignored=1), [0.5, 0.5]) == (0 + 32 / 36) / 2
    assert len(validation(ignored=1).truth_P) == 4 + 32


def test_thresholds_can_be_chosen_on_labels_alone() -> None:
    presence = torch.tensor([[0.9, 0.3], [0.2, 0.55], [0.8, 0.7], [0.9, 0.8]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    one, other = choose_thresholds_by_labels(presence, labels)
    assert 0.2 <= one < 0.8
    assert 0.55 <= other < 0.7
