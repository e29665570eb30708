"""An image classifier whose class activation maps become pseudo-masks: the first stage of multi-stage baselines.

A backbone, one linear head on its deepest tap. The mean of the head's map over its cells is the logit of the class for the
image. Progressive Dropout Attention (Han et al., arXiv 2110.08048) hides, in training, where the head is surest. Grad-CAM
asks, at any tap, which channels the logits hang on.

Shapes: B images, K classes, C channels, H x W cells of a map (h x w where two sizes meet).
Does not know: losses, thresholds, masks.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.models.backbones import Backbone
from counterstain.models.groups import ParameterGroups, groups_around

_DEEPEST = 3


def progressive_dropout_attention(features_BCHW: Tensor, head_weight_KC: Tensor, gamma: float) -> Tensor:
    """Features weighed by how active the classes are in each cell, the most active cells left out.

    The head's maps are rectified; in every map, values above gamma times the map's largest become 0; the mean of the
    maps over classes is the attention, by which all channels of a cell are multiplied. Gradients flow through it.

    Args:
        features_BCHW: float.
        head_weight_KC: Of a linear head without bias, float.
        gamma: Above 0, at most 1. At 1 nothing is left out, and the attention still weighs.

    Returns:
        (B, C, H, W), as the features.

    Raises:
        InputError: When gamma is outside its range.

    Source: arXiv 2110.08048, Progressive Dropout Attention; the released code divides by 4, its number of classes.
    """
    if not 0 < gamma <= 1:
        raise InputError(f"A gamma of {gamma} was given for the attention; one above 0 and at most 1 was expected.")
    cams_BKHW = F.relu(F.conv2d(features_BCHW, head_weight_KC[:, :, None, None]))
    largest_BK11 = cams_BKHW.detach().amax((2, 3), keepdim=True)
    attention_BKHW = cams_BKHW.masked_fill(cams_BKHW > gamma * largest_BK11, 0.0)
    return features_BCHW * attention_BKHW.mean(1, keepdim=True)


class CamClassifier(nn.Module):
    """Logits of images from a linear head on the deepest tap of a backbone.

    Args:
        backbone: Kept, not copied.
        num_classes: K.
        dropout: Share of deep channels dropped before the head, in training.
        head_gain: Factor on the head's first weights; small ones start every class near a probability of a half.

    Raises:
        InputError: When there is no class.

    Source: arXiv 2110.08048; head, dropout and first weights as in the released code.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float = 0.5, head_gain: float = 1.0) -> None:
        super().__init__()
        if num_classes < 1:
            raise InputError(f"{num_classes} classes were given; one or more were expected.")
        self.backbone, self.num_classes = backbone, num_classes
        self.deep_head = nn.Conv2d(backbone.channels[_DEEPEST], num_classes, 1, bias=False)
        nn.init.xavier_uniform_(self.deep_head.weight, head_gain)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, images_BCHW: Tensor, attention_gamma: float | None = None) -> Tensor:
        """Logits of images.

        Args:
            images_BCHW: (B, 3, H, W) float, RGB in [0, 1], of any height and width.
            attention_gamma: Of the Progressive Dropout Attention on the deep features; None leaves it out, as the
                published method does until its fourth epoch and at inference.

        Returns:
            (B, K) float.

        Raises:
            InputError: When gamma is outside its range.
        """
        features_BCHW = self.backbone(images_BCHW)[_DEEPEST]
        if attention_gamma is not None:
            features_BCHW = progressive_dropout_attention(features_BCHW, self._head_weight_KC(), attention_gamma)
        # the mean and the head are both linear: the mean first saves the map
        logits_BK11: Tensor = self.deep_head(self.dropout(features_BCHW).mean((2, 3), keepdim=True))
        return logits_BK11[:, :, 0, 0]

    def cams(self, images_BCHW: Tensor) -> Tensor:
        """Raw class activation maps: nothing dropped, no ReLU, no resizing.

        Args:
            images_BCHW: As for `forward`.

        Returns:
            (B, K, h, w) float; its mean over cells is the logit.
        """
        cams_BKhw: Tensor = self.deep_head(self.backbone(images_BCHW)[_DEEPEST])
        return cams_BKhw

    def grad_cams(self, images_BCHW: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """Grad-CAM without its ReLU: features weighed by the spatial mean of the logits' gradient at them.

        One pass forward and K back, each for the sum of a class's logits over the batch: in eval mode no image has an
        influence on another's logits. At the deepest tap the weights are known, head weights / (h w), and no pass back
        is made. No parameter's gradient is touched, and none needs to be trainable.

        The features are those that the deepest are computed from (`Backbone.trunk`): where a tap is a rectified copy,
        they are what was copied, as in the published method.

        Args:
            images_BCHW: As for `forward`.
            taps: 0 to 3, shallow to deep, in any order.

        Returns:
            For each tap as ordered (B, K, h, w) float, of that tap's size, without a graph.

        Raises:
            InputError: When it is in training mode, a tap is another number, or no way leads from a tap to the logits.

        Source: arXiv 1610.02391, Eq. 1 and 2 without the ReLU, as arXiv 2110.08048's released code has it.
        """
        if self.training:
            raise InputError(
                "Grad-CAM was asked for in training mode, where dropout is at work. Call eval() before it."
            )
        if not set(taps) <= {0, 1, 2, _DEEPEST}:
            raise InputError(f"Taps {tuple(taps)} were given; numbers from 0 to {_DEEPEST} were expected.")
        shallow = sorted(set(taps) - {_DEEPEST})
        with torch.inference_mode(False), torch.set_grad_enabled(bool(shallow)):
            # with images that ask for gradients there is a graph even where every parameter is frozen
            inputs_BCHW = images_BCHW.clone().detach().requires_grad_(bool(shallow))
            features = self.backbone.trunk(self.backbone.normalise(inputs_BCHW))
            deep_BKhw = self.deep_head(features[_DEEPEST])
            weights = _channel_weights(deep_BKhw.mean((2, 3)), {tap: features[tap] for tap in shallow})
        found = {_DEEPEST: deep_BKhw.detach() / deep_BKhw[0, 0].numel()}
        for tap, weights_BKC in weights.items():
            found[tap] = torch.einsum("bkc,bchw->bkhw", weights_BKC, features[tap].detach())
        return [found[tap] for tap in taps]

    def parameter_groups(self) -> ParameterGroups:
        """All parameters by how they are to be trained."""
        return groups_around(self, self.backbone)

    def _head_weight_KC(self) -> Tensor:  # noqa: N802
        return self.deep_head.weight[:, :, 0, 0]


def _channel_weights(logits_BK: Tensor, features: dict[int, Tensor]) -> dict[int, Tensor]:
    """For each tap (B, K, C): the spatial mean of each logit's gradient at its features."""
    found: dict[int, list[Tensor]] = {tap: [] for tap in features}
    for logits_B in logits_BK.unbind(1) if features else ():
        gradients = torch.autograd.grad(logits_B.sum(), list(features.values()), retain_graph=True, allow_unused=True)
        for tap, gradient_BCHW in zip(features, gradients, strict=True):
            if gradient_BCHW is None:
                raise InputError(
                    f"Grad-CAM was asked for at tap {tap}, from which no way leads to the logits: this backbone gives "
                    "a copy there. Ask for other taps."
                )
            found[tap].append(gradient_BCHW.mean((2, 3)))
    return {tap: torch.stack(weights, dim=1) for tap, weights in found.items()}
