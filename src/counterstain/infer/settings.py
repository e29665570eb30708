"""How a model is laid over a slide: tile sizes, blending, what of the slide is left out, and what it runs on.

Fields that change results are part of the hash by which stale results are known; those that change only the speed
(`SPEED`) are not.

Does not know: slides, models' insides.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from counterstain.errors import InputError
from counterstain.infer.dense import TileInput
from counterstain.tissue import TissueSettings

SPEED = frozenset({"batch_size", "num_workers", "num_threads", "device", "runtime", "overwrite"})
"""Fields that leave results as they are, but for the last bits of a float. Which runtime was taken is noted beside them."""

RuntimeName = Literal["auto", "torch", "onnx", "openvino"]
"""What runs a network: torch, or another library on what torch exported."""


@dataclass(frozen=True)
class PredictSettings:
    """Settings of a prediction.

    Args:
        model_mpp: um/px at which the model looks; None takes what it was trained at.
        tile_px: Width and height of a tile; None takes what the model was trained on.
        halo_px: Margin of a tile that is looked at and thrown away; None takes the model's own.
        overlap: Share of a tile's core (the tile without its halo) along each axis that it has in common with the next,
            0 to 0.9. Time grows with 1 / (1 - overlap) squared.
        map_stride: The map has one pixel for so many of the model's, along each axis.
        tta: Views averaged for each tile: "none", "hv3" (as is, flipped each way) or "d4" (all eight flips and turns).
        clip_to_tissue: Whether pixels outside the tissue mask stay uncovered, so that areas are areas of tissue.
        white_background: Whether glass inside the tissue becomes background: the class of that role where there is one,
            else uncovered. None does on slides as the model's training data has it, and does not on single images.
        tissue: How tissue is found where none is given.
        chunk_px: Width and height of a chunk of the stored map.
        batch_size: Tiles predicted at once.
        num_workers: Threads that read tiles; 0 reads between predictions, None takes what suits the machine.
        num_threads: Threads of a network on a CPU; None takes what suits the machine.
        device: "auto" takes a GPU where there is one; else a name as torch knows it: "cpu", "cuda:1".
        precision: "auto" takes bf16 where a GPU has it, fp16 on other GPUs, fp32 on CPUs.
        runtime: "auto" takes ONNX Runtime on a CPU for slides, or OpenVINO where that alone is installed, else torch; for
            single images torch. The environment variable COUNTERSTAIN_RUNTIME says otherwise.
        overwrite: Whether results of other inputs or settings are replaced instead of refused.

    Raises:
        InputError: When a number is out of its range.
    """

    model_mpp: float | None = None
    tile_px: int | None = None
    halo_px: int | None = None
    overlap: float = 0.25
    map_stride: int = 4
    tta: Literal["none", "hv3", "d4"] = "none"
    clip_to_tissue: bool = True
    white_background: bool | None = None
    tissue: TissueSettings = field(default_factory=TissueSettings)
    chunk_px: int = 512
    batch_size: int = 16
    num_workers: int | None = None
    num_threads: int | None = None
    device: str = "auto"
    precision: Literal["auto", "32", "16", "bf16"] = "auto"
    runtime: RuntimeName = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("model_mpp", "tile_px", "map_stride", "chunk_px", "batch_size", "num_threads"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"Setting {name!r} was given as {value}; it must be above 0.")
        for name in ("halo_px", "num_workers"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"Setting {name!r} was given as {value}; it must be 0 or more.")
        if not 0 <= self.overlap <= 0.9:
            raise InputError(f"Setting 'overlap' was given as {self.overlap}; it must lie between 0 and 0.9.")

    def that_matter(self) -> dict[str, Any]:
        """Plain values of every field that changes results."""
        return {name: value for name, value in asdict(self).items() if name not in SPEED}

    def target_mpp(self, trained: TileInput) -> float:
        """The resolution at which a model looks, um/px.

        Raises:
            InputError: When neither the model nor the settings know one.
        """
        mpp = self.model_mpp if self.model_mpp is not None else trained.mpp
        if mpp is None:
            raise InputError(
                "The model was trained on images of unknown resolution, so how large a slide should look to it is not "
                "known either. Pass the um/px of its training images as --model-mpp."
            )
        return mpp


@dataclass(frozen=True)
class TileSizes:
    """A tile and the steps between tiles, in pixels of the model's resolution.

    Args:
        tile_px: Width and height, halo included.
        halo_px: Margin that is thrown away.
        stride_px: From one tile to the next.
    """

    tile_px: int
    halo_px: int
    stride_px: int

    @property
    def core_px(self) -> int:
        """What of a tile is kept."""
        return self.tile_px - 2 * self.halo_px

    @property
    def overlap_px(self) -> int:
        """What two neighbouring cores have in common."""
        return self.core_px - self.stride_px


def tile_sizes(trained: TileInput, settings: PredictSettings, map_stride: int) -> TileSizes:
    """Sizes that fall on whole map pixels: the halo is rounded up to them and the stride down.

    Args:
        trained: The images the model was trained on.
        settings: May override them.
        map_stride: Pixels of the model for one of the map.

    Raises:
        InputError: When the tile is no multiple of `map_stride`, or its halo leaves nothing of it.
    """
    tile = settings.tile_px if settings.tile_px is not None else trained.tile_px
    wanted = settings.halo_px if settings.halo_px is not None else trained.halo_px
    if tile % map_stride:
        raise InputError(
            f"Tiles of {tile} px were given with a map stride of {map_stride}; the tile must be a multiple of the stride. "
            f"Pass --map-stride 1, or a tile of {tile // map_stride * map_stride or map_stride} px."
        )
    halo = -(-wanted // map_stride) * map_stride
    core = tile - 2 * halo
    if core <= 0:
        raise InputError(
            f"A halo of {halo} px on each side leaves nothing of a tile of {tile} px. Pass a smaller --halo-px or a larger "
            "--tile-px."
        )
    stride = max(map_stride, int(core * (1 - settings.overlap)) // map_stride * map_stride)
    return TileSizes(tile, halo, stride)
