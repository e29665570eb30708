r"""S-CAE: the patch encoder of DSNet, an autoencoder that keeps nuclei apart from what lies around them.

Shared features of a cell's picture go two ways. The foreground stays on a fine grid and is sparse: wherever its detection
score is below a threshold, all of its channels are exactly 0. The background is coarse and dense. Each is decoded to a
picture and the two pictures are summed; nothing but their difference to the input is learned from. An embedding is the
foreground's mean over active places, then the background's mean over all.

    images_BCHW in [0, 1] -> features -> f -> sigmoid(f) * M -> picture \
                                      \-> b -> sigmoid(b)    -> picture -> sum

Shapes: B cells, C channels, H W rows and columns of pixels, h w of the foreground's grid, at a quarter of the resolution.
Does not know: slides, training, how the sparsity is chosen.

Source: DSNet (IEEE TMI 2022, arXiv 2109.05788), section III-B, after the crosswise sparse autoencoder (Hou et al. 2019,
Pattern Recognition 86:188). Widths are ours: the paper gives the embedding (96 and 32), the size of a picture (112) and
2.4 million parameters, which can only be those of encoder and decoders together.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from counterstain.errors import InputError, UnknownNameError

Encoding = Literal["separated", "fg", "bg", "mixed"]
Decoder = Literal["paper", "tiny"]
MaskMode = Literal["straight_through", "hard", "head"]

NUM_FEATURES: dict[str, int] = {"separated": 128, "fg": 96, "bg": 32, "mixed": 128}
"""Length of an embedding, by encoding."""

STRIDE = 16
"""Pixels of a picture to a place of the background's grid: pictures are multiples of it wide and high."""

_FOREGROUND, _BACKGROUND, _SHARED = 96, 32, 128
_SLOPE = 0.01
_STEEPNESS = 20.0  # of the soft mask, as published by Hou et al.


@dataclass(frozen=True)
class SCAESettings:
    """What an S-CAE is; the defaults are the paper's, after ours where it is silent.

    Args:
        encoding: "separated": foreground, then background; "fg" or "bg": one of the two, of the same network; "mixed": a
            network with one dense bottleneck of as many channels, and no foreground.
        decoder: "paper", or "tiny": many times cheaper, for CPUs; the encoder is the same.
        mask: "straight_through": the mask is 0 or 1 and its gradient that of a soft one; "hard": it has no gradient, which
            is what the paper says; "head": a detection map of its own and a soft mask, as Hou et al. have it.
        rho: Per cent of all places that are masked.
        tau_momentum: How much of the threshold each training batch leaves.

    Raises:
        InputError: When a number is out of its range; `UnknownNameError` for names.

    Source: section III-B; table V for the encodings. Straight-through is ours: in a trial on planted nuclei it found more
        of them (recall 0.48 against 0.33) at a lower loss. rho and momentum are not given; these are ours.
    """

    encoding: Encoding = "separated"
    decoder: Decoder = "paper"
    mask: MaskMode = "straight_through"
    rho: float = 95.0
    tau_momentum: float = 0.9

    def __post_init__(self) -> None:
        for field, names in {"encoding": Encoding, "decoder": Decoder, "mask": MaskMode}.items():
            if getattr(self, field) not in get_args(names):
                raise UnknownNameError(field, getattr(self, field), get_args(names))
        if not 0 < self.rho < 100:
            raise InputError(f"rho was given as {self.rho}; give per cent above 0 and below 100, 95 for instance.")
        if not 0 <= self.tau_momentum < 1:
            raise InputError(f"tau_momentum was given as {self.tau_momentum}; give 0 or more and less than 1.")


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of pictures.

    Args:
        foreground_BCHW: (B, 96, h, w) in [0, 1), exactly 0 where masked; None where the encoding is mixed.
        mask_B1HW: (B, 1, h, w), 1 where active, else 0; None where the encoding is mixed.
        background_BCHW: (B, 32, h / 4, w / 4) in (0, 1); 128 channels where the encoding is mixed.
    """

    foreground_BCHW: Tensor | None
    mask_B1HW: Tensor | None
    background_BCHW: Tensor


@dataclass(frozen=True)
class Reconstruction:
    """What the decoders make of it.

    Args:
        foreground_BCHW: (B, 3, H, W); None where the encoding is mixed. How a constant is shared out between the two
            decoders is arbitrary: what the foreground adds is its difference to `SCAE.empty_foreground`.
        background_BCHW: (B, 3, H, W).
        mask_B1HW: As in `Encoded`.
    """

    foreground_BCHW: Tensor | None
    background_BCHW: Tensor
    mask_B1HW: Tensor | None

    @property
    def summed(self) -> Tensor:
        """(B, 3, H, W): the sum, RGB of about [0, 1], not clamped."""
        if self.foreground_BCHW is None:
            return self.background_BCHW
        return self.foreground_BCHW + self.background_BCHW


class SCAEEncoder(nn.Module):
    """The encoder: pictures in, embeddings out.

    Args:
        settings: See there.

    Source: DSNet (arXiv 2109.05788), section III-B and figure 2: separate encoders on shared features, sigmoid gates on
        both and one mask for all channels. Blocks and widths are ours, 381,536 parameters.
    """

    tau: Tensor
    """The running threshold of detection scores; no number before the first training batch."""

    def __init__(self, settings: SCAESettings | None = None) -> None:
        super().__init__()
        self.settings = SCAESettings() if settings is None else settings
        is_mixed = self.settings.encoding == "mixed"
        # zeros around a picture would be a black rim, which looks like nuclei to a detection score
        self.stem = _conv(3, 32, 7, 2, padding="replicate")
        self.layer1 = Bottleneck(32, 64, 16, stride=2)
        self.layer2 = nn.Sequential(Bottleneck(64, _SHARED, 32), Bottleneck(_SHARED, _SHARED, 32))
        self.background = nn.Sequential(
            _conv(_SHARED, 128, 3, 2), _conv(128, 128, 3, 2), nn.Conv2d(128, _SHARED if is_mixed else _BACKGROUND, 1)
        )
        self.foreground = None if is_mixed else nn.Sequential(_conv(_SHARED, 128, 1), nn.Conv2d(128, _FOREGROUND, 1))
        self.head = nn.Conv2d(_SHARED, 1, 1) if self.settings.mask == "head" and not is_mixed else None
        self.register_buffer("tau", torch.tensor(math.nan))

    @property
    def num_features(self) -> int:
        """Length of an embedding."""
        return NUM_FEATURES[self.settings.encoding]

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Embeddings of pictures.

        Args:
            images_BCHW: (B, 3, H, W) float RGB in [0, 1]; H and W multiples of 16.

        Returns:
            (B, C) float in [0, 1): the foreground's 96 channels, then the background's 32, or what the encoding keeps of
            them. The foreground's are 0 where no place is active.

        Raises:
            InputError: When a picture's height or width is no multiple of 16.
        """
        encoded, encoding = self.encode(images_BCHW), self.settings.encoding
        dense_BC = encoded.background_BCHW.mean((2, 3))
        if encoding in ("mixed", "bg"):
            return dense_BC
        assert encoded.foreground_BCHW is not None
        assert encoded.mask_B1HW is not None
        sparse_BC = encoded.foreground_BCHW.sum((2, 3)) / encoded.mask_B1HW.sum((2, 3)).clamp(min=1)
        return sparse_BC if encoding == "fg" else torch.cat([sparse_BC, dense_BC], 1)

    def encode(self, images_BCHW: Tensor) -> Encoded:
        """Both branches of pictures; in training the running threshold follows.

        Args:
            images_BCHW: As `forward` takes them.

        Raises:
            InputError: When a picture's height or width is no multiple of 16.
        """
        shared_BCHW = self._shared(images_BCHW)
        background_BCHW = self.background(shared_BCHW).sigmoid()
        if self.foreground is None:
            return Encoded(None, None, background_BCHW)
        logits_BCHW = self.foreground(shared_BCHW)
        scores_B1HW = self._detect(shared_BCHW, logits_BCHW)
        if self.training:
            self._follow(scores_B1HW)
        mask_B1HW = self._mask(scores_B1HW)
        # masked after the gate: the sigmoid of a masked 0 would be a half
        return Encoded(logits_BCHW.sigmoid() * mask_B1HW, mask_B1HW, background_BCHW)

    def scores(self, images_BCHW: Tensor) -> Tensor:
        """Detection scores: what the threshold is put on.

        Args:
            images_BCHW: As `forward` takes them.

        Returns:
            (B, h, w) float32: for each place, the largest logit over the foreground's channels, or the head's own.

        Raises:
            InputError: When the encoding is mixed, or a picture's height or width is no multiple of 16.
        """
        if self.foreground is None:
            raise InputError("An S-CAE of mixed encoding has no foreground and no mask. Train one that is separated.")
        shared_BCHW = self._shared(images_BCHW)
        return self._detect(shared_BCHW, self.foreground(shared_BCHW))[:, 0]

    def mask(self, images_BCHW: Tensor) -> Tensor:
        """The active places of pictures: (B, h, w) bool, whose mean is the active fraction.

        Args:
            images_BCHW: As `forward` takes them.

        Raises:
            InputError: As `scores` does, and when there is no threshold yet.
        """
        scores_Bhw = self.scores(images_BCHW)
        if self.tau.isnan():
            raise InputError("This S-CAE has seen no training batch and has no threshold. Train it, or load a run.")
        return scores_Bhw > self.tau

    def _shared(self, images_BCHW: Tensor) -> Tensor:
        height, width = images_BCHW.shape[2:]
        if height % STRIDE or width % STRIDE:
            raise InputError(
                f"Pictures of {width} x {height} px were given to an S-CAE; give a multiple of {STRIDE} px each way, 112 "
                "for instance."
            )
        features_BCHW: Tensor = self.layer2(self.layer1(self.stem(images_BCHW)))
        return features_BCHW

    def _detect(self, shared_BCHW: Tensor, logits_BCHW: Tensor) -> Tensor:
        if self.head is None:
            return logits_BCHW.amax(1, keepdim=True).float()
        scores_B1HW: Tensor = self.head(shared_BCHW).float()
        return scores_B1HW

    @torch.no_grad()
    def _follow(self, scores_B1HW: Tensor) -> None:
        found, momentum = percentile(scores_B1HW, self.settings.rho), self.settings.tau_momentum
        self.tau.copy_(torch.where(self.tau.isnan(), found, momentum * self.tau + (1 - momentum) * found))

    def _mask(self, scores_B1HW: Tensor) -> Tensor:
        mode = self.settings.mask
        soft_B1HW = (_STEEPNESS * (scores_B1HW - self.tau)).sigmoid()
        if mode == "head":
            return soft_B1HW
        # times a number: without a threshold there is no mask, and not an empty one
        hard_B1HW = (scores_B1HW > self.tau).to(scores_B1HW.dtype) + 0 * self.tau
        if mode == "hard" or not self.training:
            return hard_B1HW
        return hard_B1HW + soft_B1HW - soft_B1HW.detach()


class SCAE(nn.Module):
    """The autoencoder: an encoder and what it is trained with.

    Args:
        settings: See there.

    Source: DSNet (arXiv 2109.05788), section III-B: two decoders, summed. Upsampling before convolutions instead of
        transposed ones is ours ("upgraded decoders remove artefacts"); 2,414,278 parameters with the decoders "paper".
    """

    def __init__(self, settings: SCAESettings | None = None) -> None:
        super().__init__()
        settings = SCAESettings() if settings is None else settings
        self.settings = settings
        self.encoder = SCAEEncoder(settings)
        is_mixed = settings.encoding == "mixed"
        dense = _paper_dense if settings.decoder == "paper" else _tiny_dense
        sparse = _paper_sparse if settings.decoder == "paper" else _tiny_sparse
        self.background_decoder = dense(_SHARED if is_mixed else _BACKGROUND)
        self.foreground_decoder = None if is_mixed else sparse(_FOREGROUND)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Pictures as they are after encoding and decoding: (B, 3, H, W)."""
        return self.reconstruct(images_BCHW).summed

    def reconstruct(self, images_BCHW: Tensor) -> Reconstruction:
        """What each decoder makes of pictures.

        Args:
            images_BCHW: (B, 3, H, W) float RGB in [0, 1]; H and W multiples of 16.

        Raises:
            InputError: When a picture's height or width is no multiple of 16.
        """
        encoded: Encoded = self.encoder.encode(images_BCHW)
        background_BCHW = self.background_decoder(encoded.background_BCHW)
        if self.foreground_decoder is None:
            return Reconstruction(None, background_BCHW, None)
        foreground_BCHW = self.foreground_decoder(encoded.foreground_BCHW)
        return Reconstruction(foreground_BCHW, background_BCHW, encoded.mask_B1HW)

    def empty_foreground(self, height: int, width: int) -> Tensor:
        """What the foreground's decoder makes of a mask without an active place: (1, 3, height, width).

        Args:
            height: Pixels, a multiple of 16.
            width: Likewise.
        """
        assert self.foreground_decoder is not None, "a mixed encoding has no foreground"
        empty_1Chw = self.encoder.tau.new_zeros(1, _FOREGROUND, height // 4, width // 4)
        picture_13HW: Tensor = self.foreground_decoder(empty_1Chw)
        return picture_13HW


class Bottleneck(nn.Module):
    """A residual block: 1x1, 3x3 with the stride, 1x1, and a projected shortcut where the shape changes.

    Args:
        channels: Of its input.
        out_channels: Of its output.
        inner: Of what lies between.
        stride: Of the 3x3 and the shortcut.
    """

    def __init__(self, channels: int, out_channels: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _conv(channels, inner, 1), _conv(inner, inner, 3, stride), *_normed(inner, out_channels, 1)
        )
        is_same = stride == 1 and channels == out_channels
        self.shortcut = nn.Identity() if is_same else nn.Sequential(*_normed(channels, out_channels, 1, stride))
        self.activation = nn.LeakyReLU(_SLOPE)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """(B, out_channels, H / stride, W / stride)."""
        summed_BCHW: Tensor = self.activation(self.branch(features_BCHW) + self.shortcut(features_BCHW))
        return summed_BCHW


def percentile(values: Tensor, rho: float) -> Tensor:
    """The smallest of some values that at least `rho` per cent of them do not exceed; a scalar.

    Args:
        values: Any shape, at least one.
        rho: Above 0, below 100.
    """
    flat = values.flatten()
    return flat.kthvalue(max(1, math.ceil(rho / 100 * flat.numel()))).values


def _normed(
    channels: int, out_channels: int, kernel: int, stride: int = 1, padding: Literal["zeros", "replicate"] = "zeros"
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, bias=False, padding_mode=padding)
    return convolution, nn.BatchNorm2d(out_channels)


def _conv(
    channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    padding: Literal["zeros", "replicate"] = "zeros",
) -> nn.Sequential:
    return nn.Sequential(*_normed(channels, out_channels, kernel, stride, padding), nn.LeakyReLU(_SLOPE))


def _rgb(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, 3, 3, padding=1)


def _twice() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="nearest")


def _halfway() -> nn.Module:
    """The last doubling of tiny decoders: a picture at half the resolution costs a quarter."""
    return nn.Upsample(scale_factor=2, mode="bilinear")


def _paper_sparse(channels: int) -> nn.Sequential:
    return nn.Sequential(
        _twice(), _conv(channels, 128), _conv(128, 128), _twice(), _conv(128, 64), _conv(64, 64), _rgb(64)
    )


def _paper_dense(channels: int) -> nn.Sequential:
    widths = (channels, 512, 256, 128, 32)
    steps = [step for pair in pairwise(widths) for step in (_twice(), _conv(*pair))]
    return nn.Sequential(*steps, _rgb(widths[-1]))


def _tiny_sparse(channels: int) -> nn.Sequential:
    return nn.Sequential(_conv(channels, 32, 1), _twice(), _conv(32, 16), _rgb(16), _halfway())


def _tiny_dense(channels: int) -> nn.Sequential:
    widths = (channels, 32, 16, 16)
    steps = [step for pair in pairwise(widths) for step in (_twice(), _conv(*pair))]
    return nn.Sequential(*steps, _rgb(widths[-1]), _halfway())
