"""Networks in 8-bit integers: a tensor step and tiles to calibrate on, a quantised ONNX file out.

    step -> ONNX -> norms folded -> ranges of features, seen on tiles -> int8 where it is convolved, float32 elsewhere

Static: each tensor's range is fixed by what the calibration tiles show, so these must be of the training data, never of
what is to be judged. What gates, maps and thresholds are computed from stays in float32. What is lost is for the caller to
measure: nothing here says that it is little.

    B  images    H  height    W  width

Does not know: methods, where tiles come from.
"""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from counterstain.errors import InputError, MissingExtraError
from counterstain.files import atomic, whole_hash
from counterstain.infer.dense import DenseModel
from counterstain.infer.exported import Step
from counterstain.infer.onnx_runtime import INPUT, open_onnx, write_onnx
from counterstain.infer.runtime import network_threads
from counterstain.models.encoders import PatchEncoder

Tiles = npt.NDArray[np.uint8]

LEAST_TILES = 16
"""Fewer show too little of the ranges that features take."""

_INTEGER = ("Conv", "Add", "MaxPool", "LeakyRelu", "Relu", "Gemm")
_DECIDES = frozenset(
    {"Resize", "Sigmoid", "ReduceMin", "ReduceMax", "ReduceSum", "ArgMax", "Softmax", "Greater", "Erf"}
)
"""What follows one of these weighs, thresholds or shows: it is not rounded to 256 steps."""

_AT_ONCE = 4


def write_int8(step: Step, tiles_BHWC: Tiles, path: Path) -> None:
    """Writes a step whose convolutions are computed in 8-bit integers, with scales for each channel of their weights.

    Args:
        step: On the CPU, in evaluation mode.
        tiles_BHWC: uint8 RGB, of the training data and of the size that the step will be shown.
        path: The ONNX file.

    Raises:
        InputError: When tiles are too few, or no RGB.
        ExportError: When the step can't be exported.
        MissingExtraError: When ONNX Runtime is not installed.
    """
    if tiles_BHWC.ndim != 4 or tiles_BHWC.shape[3] != 3 or len(tiles_BHWC) < LEAST_TILES:
        raise InputError(
            f"Tiles of shape {tiles_BHWC.shape} were given to calibrate on; {LEAST_TILES} or more of (height, width, 3) "
            "uint8 were expected. Give more tiles of the training data."
        )
    try:
        import onnx
        import onnxruntime
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingExtraError(str(error.name), "onnx", "A network in int8") from error
    height, width = tiles_BHWC.shape[1:3]
    with tempfile.TemporaryDirectory() as folder, atomic(path) as temporary:
        plain, folded = Path(folder) / "plain.onnx", Path(folder) / "folded.onnx"
        write_onnx(step, (height, width), plain)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath, options.log_severity_level = str(folded), 3
        onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
        logging.getLogger().disabled, before = True, logging.getLogger().disabled  # it recommends what was just done
        temporary.unlink()
        try:
            quantization.quantize_static(
                str(folded),
                str(temporary),
                _reader(quantization, tiles_BHWC),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_INTEGER),
                nodes_to_exclude=_kept_exact(onnx.load(folded)),
                per_channel=True,
                reduce_range=not _has_wide_sums(),
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"CalibMovingAverage": True, "CalibTensorRangeSymmetric": False},
            )
        finally:
            logging.getLogger().disabled = before


def _reader(quantization: Any, tiles_BHWC: Tiles) -> Any:
    batches: Iterator[dict[str, Any]] = (
        {INPUT: tiles_BHWC[start : start + _AT_ONCE].transpose(0, 3, 1, 2).astype(np.float32) / 255}
        for start in range(0, len(tiles_BHWC), _AT_ONCE)
    )

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Hands out batches until there are none left."""

        def get_next(self) -> dict[str, Any] | None:
            return next(batches, None)

    return Reader()


def _kept_exact(model: Any) -> list[str]:
    """Names of nodes that follow, near or far, from what decides."""
    touched: set[str] = set()
    names = []
    for node in model.graph.node:
        if node.op_type in _DECIDES or touched & set(node.input):
            touched |= set(node.output)
            names.append(node.name)
    return names


def _has_wide_sums() -> bool:
    """Whether this CPU sums products of 8-bit integers without overflow (VNNI); others want weights of 7 bits."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags or "asimddp" in flags


class Int8Model:
    """A model whose maps are computed in 8-bit integers, from images of one size.

    Args:
        model: Whose classes and input it has.
        path: What `write_int8` wrote of its maps.
        num_threads: As `network_threads` has it.

    Raises:
        ExportError: When the file can't be run.
        MissingExtraError: When ONNX Runtime is not installed.
    """

    def __init__(self, model: DenseModel, path: Path, num_threads: int | None = None) -> None:
        self.classes, self.input, self.network = model.classes, model.input, nn.Identity()
        self._run = open_onnx(path, network_threads(num_threads))

    @property
    def runs(self) -> dict[str, str]:
        """What results tell of it."""
        return {"precision": "int8", "runtime": "onnx"}

    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        """(B, classes, tile_px, tile_px) probabilities of float32 RGB images in [0, 1].

        Raises:
            InputError: When the images are of another size than it was calibrated for.
        """
        side = self.input.tile_px
        if tuple(images_BCHW.shape[2:]) != (side, side):
            raise InputError(
                f"Images of {images_BCHW.shape[3]} x {images_BCHW.shape[2]} px were given to a network in int8, which "
                f"takes {side} x {side}. Leave --tile-px out, or predict in float32."
            )
        return self._run(images_BCHW.cpu())


class Int8Encoder(PatchEncoder):
    """An encoder whose embeddings are computed in 8-bit integers, known as the one that it was made of.

    Args:
        encoder: Whose embeddings.
        path: What `write_int8` wrote of them.
        num_threads: As `network_threads` has it.

    Raises:
        ExportError: When the file can't be run.
        MissingExtraError: When ONNX Runtime is not installed.
    """

    def __init__(self, encoder: PatchEncoder, path: Path, num_threads: int | None = None) -> None:
        super().__init__()
        self.spec = encoder.spec
        self.label = f"int8 onnx {whole_hash(path)}"
        """What features are known by that it made, as `Runtime.label` is of others: ranges are a part of it."""
        self._run = open_onnx(path, network_threads(num_threads))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self._run(images_BCHW.cpu())
