"""OpenVINO runs a step that was written as ONNX, on a CPU.

A network is compiled for a fixed size of batch, the largest met: smaller batches are filled up. float32 is asked for by
name, since on CPUs that have bfloat16 OpenVINO would take that.

Does not know: what the step computes, where files are kept.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterstain.errors import ExportError, MissingExtraError
from counterstain.infer.onnx_runtime import Run


def open_openvino(path: Path, num_threads: int) -> Run:
    """A step that was written, run by OpenVINO.

    Args:
        path: The ONNX file.
        num_threads: Of the CPU.

    Raises:
        ExportError: When the file can't be run.
        MissingExtraError: When OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino", "Runtime 'openvino'") from error
    compiled = _Compiled(openvino, path, num_threads)
    return compiled.run


class _Compiled:
    """A network, compiled anew when a larger batch comes.

    Args:
        openvino: The library.
        path: The ONNX file.
        num_threads: Of the CPU.
    """

    def __init__(self, openvino: Any, path: Path, num_threads: int) -> None:
        self._openvino, self._threads, self._batch = openvino, num_threads, 0
        self._request: Any = None
        try:
            self._model = openvino.Core().read_model(path)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO can't read it: {str(error).strip().splitlines()[-1]}") from error

    def run(self, images_BCHW: Tensor) -> Tensor:
        """The step's values."""
        num = len(images_BCHW)
        try:
            if num > self._batch:
                self._compile(num, tuple(images_BCHW.shape[1:]))
            filled = images_BCHW.contiguous().numpy()
            if num < self._batch:
                filled = np.concatenate([filled, np.repeat(filled[:1], self._batch - num, 0)])
            found = self._request.infer({0: filled}, share_inputs=True)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO can't run it: {str(error).strip().splitlines()[-1]}") from error
        return torch.from_numpy(np.array(found[0][:num]))

    def _compile(self, batch: int, shape: tuple[int, ...]) -> None:
        self._model.reshape([batch, *shape])
        settings = {
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        self._request = self._openvino.Core().compile_model(self._model, "CPU", settings).create_infer_request()
        self._batch = batch
