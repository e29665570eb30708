"""The network of SSHR (arXiv 2606.20250): a backbone, a rectification module at each shallow tap, four linear heads.

Images go in, four class activation maps come out, shallow to deep, raw: no ReLU, no resizing. The mean of a map over its
cells is the logit of the class for the image; the deep one judges presence.

Shapes: B images, K classes, C channels, H x W cells of a map.
Does not know: losses, thresholds, how maps are fused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.models.backbones import Backbone
from counterstain.models.groups import ParameterGroups, groups_of
from counterstain.models.hfrm import HFRM

Cams = tuple[Tensor, Tensor, Tensor, Tensor]
SomeCams = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]


@dataclass(frozen=True)
class SSHRNetworkSettings:
    """What the network has on top of its backbone; the defaults are the published network's.

    Args:
        semantic: Whether rectification weighs channels by the deep features. Without it and `context`, what is
            left is the plain class activation map at four depths.
        context: Whether it adds the smoothed map.
        kernels: Cells along the side of each shallow tap's smoothing window; odd.
        reduction: Deep channels for each hidden unit of the channel weights.
        padding: What a smoothing window sees beyond the map.
        dropout: Share of deep channels dropped before the deep head, in training.
        tap_norms: Whether the second and third tap pass through the frozen norms of the published network. Nobody
            trained them: they do nothing, and are there so that names and counts are the published ones.
        head_gain: Factor on the heads' first weights; small ones start every class near a probability of a half.
    """

    semantic: bool = True
    context: bool = True
    kernels: tuple[int, int, int] = (15, 15, 15)
    reduction: int = 8
    padding: Literal["zeros", "replicate"] = "zeros"
    dropout: float = 0.5
    tap_norms: bool = True
    head_gain: float = 1.0


class SSHRNetwork(nn.Module):
    """Four class activation maps at four depths of a backbone.

    Args:
        backbone: Its four taps are used; it is kept, not copied.
        num_classes: K.
        settings: See there.

    Raises:
        InputError: When there is no class, not three kernels, or one that can't be used.

    Source: arXiv 2606.20250; the shallow heads have a bias and the deep one none, as released.
    """

    def __init__(self, backbone: Backbone, num_classes: int, settings: SSHRNetworkSettings | None = None) -> None:
        super().__init__()
        settings = SSHRNetworkSettings() if settings is None else settings
        if num_classes < 1 or len(settings.kernels) != 3:
            raise InputError(
                f"{num_classes} classes and kernels {tuple(settings.kernels)} were given; one class or more and a kernel "
                "for each of three shallow taps were expected."
            )
        self.backbone, self.num_classes, self.settings = backbone, num_classes, settings
        *shallow, deep = backbone.channels
        # before the modules: with and without them, one seed draws the same heads
        self.heads = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for channels in shallow)
        self.deep_head = nn.Conv2d(deep, num_classes, 1, bias=False)
        for head in (*self.heads, self.deep_head):
            nn.init.xavier_uniform_(head.weight, settings.head_gain)
        self.hfrm = nn.ModuleList(
            HFRM(channels, deep, settings.reduction, kernel, settings.padding, settings.semantic, settings.context)
            for channels, kernel in zip(shallow, settings.kernels, strict=True)
        )
        self.dropout = nn.Dropout2d(settings.dropout)
        self.bn45 = nn.BatchNorm2d(shallow[1]) if settings.tap_norms else nn.Identity()
        self.bn52 = nn.BatchNorm2d(shallow[2]) if settings.tap_norms else nn.Identity()
        self.bn45.requires_grad_(False)
        self.bn52.requires_grad_(False)
        self.train()

    def forward(self, images_BCHW: Tensor) -> Cams:
        """Raw class activation maps, shallow to deep.

        Args:
            images_BCHW: (B, 3, H, W) float, RGB in [0, 1], of any height and width.

        Returns:
            (B, K, ceil(H / stride), ceil(W / stride)) for each tap's stride. In training, the deep one is made from
            features of which some are dropped.
        """
        first_BKHW, second_BKHW, third_BKHW, deep_BKHW = self.some(images_BCHW, (True, True, True))
        assert first_BKHW is not None
        assert second_BKHW is not None
        assert third_BKHW is not None
        return first_BKHW, second_BKHW, third_BKHW, deep_BKHW

    def some(self, images_BCHW: Tensor, wanted: Sequence[bool]) -> SomeCams:
        """Likewise, without what nobody looks at.

        Args:
            images_BCHW: As `forward` takes them.
            wanted: Whether each shallow map is; the deep one always is.

        Returns:
            The four maps, None for those that are not wanted.
        """
        first_BCHW, second_BCHW, third_BCHW, deep_BCHW = self.backbone(images_BCHW)
        first_BKHW, second_BKHW, third_BKHW = (
            self._cam(tap, norm(low_BCHW), deep_BCHW) if is_wanted else None
            for tap, (low_BCHW, norm, is_wanted) in enumerate(
                (
                    (first_BCHW, nn.Identity(), wanted[0]),
                    (second_BCHW, self.bn45, wanted[1]),
                    (third_BCHW, self.bn52, wanted[2]),
                )
            )
        )
        return first_BKHW, second_BKHW, third_BKHW, self.deep_head(self.dropout(deep_BCHW))

    def _cam(self, tap: int, low_BCHW: Tensor, deep_BDhw: Tensor) -> Tensor:
        rectifier, head = self.hfrm[tap], self.heads[tap]
        assert isinstance(rectifier, HFRM)
        assert isinstance(head, nn.Conv2d)
        return rectifier.projected(low_BCHW, deep_BDhw, head)

    def parameter_groups(self) -> ParameterGroups:
        """All parameters by how they are to be trained."""
        new = ("heads.", "deep_head.", "hfrm.")
        return groups_of(self, lambda name, _: name.startswith(new))

    def train(self, mode: bool = True) -> Self:
        """Switches to training, what is frozen excepted."""
        super().train(mode)
        self.bn45.eval()
        self.bn52.eval()
        return self
