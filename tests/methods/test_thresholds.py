import torch

from counterstain.methods.thresholds import ValidationScores, choose_thresholds, mean_iou


def validation() -> ValidationScores:
    """Two classes; class 1 scores highest everywhere, though it is only in windows whose presence says 0.7 or more."""
    scores = torch.tensor([0.4, 0.6]).view(1, 2, 1, 1).expand(4, 2, 2, 2)
    presence = torch.tensor([[0.9, 0.3], [0.9, 0.55], [0.9, 0.7], [0.9, 0.8]])
    truth = torch.stack([torch.full((2, 2), value) for value in (0, 0, 1, 1)]).to(torch.uint8)
    return ValidationScores(scores, presence, truth)


def test_thresholds_separate_what_presence_separates() -> None:
    thresholds = choose_thresholds(validation())
    assert 0.55 <= thresholds[1] < 0.7
    assert mean_iou(validation(), list(thresholds)) == 1.0
    assert mean_iou(validation(), [0.5, 0.5]) < 0.7


def test_pixels_without_truth_do_not_count() -> None:
    found = validation()
    truth = found.truth_Nhw.clone()
    truth[0] = 255
    ignoring = ValidationScores(found.scores_NChw, found.presence_NC, truth)
    # Of windows 1 to 3 with the middle thresholds, one is wrong: class 0 is never predicted, class 1 has 2 of 3.
    assert mean_iou(ignoring, [0.5, 0.5]) == (0 + 2 / 3) / 2
