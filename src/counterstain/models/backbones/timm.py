"""Any network of timm that gives feature maps, as a backbone: `timm:NAME`.

timm and torchvision, which it imports, come with an extra and are imported when such a backbone is built. No weights are
ever fetched: a file of weights is loaded as for every backbone. timm joins names of tapped stages with an underscore where
files have a dot; the file's names are matched with both taken for the same.

Shapes: B images, C channels, H rows, W columns.
Does not know: heads, classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from counterstain.errors import InputError, MissingExtraError
from counterstain.models.backbones.base import Backbone, Taps

_PURPOSE = "A backbone 'timm:NAME'"


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "timm", _PURPOSE) from error
    except RuntimeError as error:
        # torchvision built for another torch fails on import with "operator torchvision::nms does not exist"
        raise MissingExtraError("a torchvision that matches this torch", "timm", _PURPOSE) from error
    return timm


class Timm(Backbone):
    """A network of timm, tapped at four of its stages.

    Args:
        model: timm's name, without a download tag's weights: "convnext_tiny".
        taps: Which of its stages give the four taps, as timm's `out_indices`; the last four when not given.
        output_stride: 8, 16 or 32, for networks that can; when not given, what the network has.

    Raises:
        MissingExtraError: When timm can't be imported.
        InputError: When it does not know the network, or the network has not the stages asked for.
    """

    # what a tapped network leaves out differs from one to the next: the audit lists it
    spare_weights = ("",)

    def __init__(self, model: str, taps: Sequence[int] | None = None, output_stride: int | None = None) -> None:
        timm = _timm()
        given = {"out_indices": None if taps is None else tuple(taps), "output_stride": output_stride}
        options = {name: value for name, value in given.items() if value is not None}
        try:
            network = timm.create_model(model, pretrained=False, features_only=True, **options)
        except (RuntimeError, TypeError, AssertionError, IndexError) as error:
            raise InputError(
                f"timm can't build {model!r} with {options or 'its own stages'}: {error}. timm.list_models() has the names."
            ) from error
        channels, strides = network.feature_info.channels(), network.feature_info.reduction()
        if len(channels) < 4:
            raise InputError(f"{model!r} gives {len(channels)} feature maps; four were expected. Name four as `taps`.")
        settings = network.default_cfg
        super().__init__(tuple(settings["mean"]), tuple(settings["std"]))
        self.model = network
        # said by timm: a map whose height happens to equal its channels doesn't show it
        self._is_channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        first, second, third, deep = channels[-4:]
        self.channels = (first, second, third, deep)
        first, second, third, deep = strides[-4:]
        self.strides = (first, second, third, deep)

    def taps(self, inputs_BCHW: Tensor) -> Taps:
        maps = self.model(inputs_BCHW)[-4:]
        if self._is_channels_last:
            maps = [found.permute(0, 3, 1, 2) for found in maps]
        first, second, third, deep = maps
        return first, second, third, deep

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {name.removeprefix("model.").replace(".", "_"): name for name in self.state_dict()}
        return {own.get(name.replace(".", "_"), name): tensor for name, tensor in state.items()}
