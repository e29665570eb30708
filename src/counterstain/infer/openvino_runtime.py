"""OpenVINO runs a step that was written as ONNX, on a CPU.

A network is compiled for a fixed number of images, the largest part of a batch that was met; smaller parts are filled up.
Each part is run by one thread. float32 is asked for by name, since on CPUs with bfloat16 OpenVINO would take that.

Does not know: what the step computes, where files are kept.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterstain.errors import ExportError, MissingExtraError
from counterstain.infer.onnx_runtime import Run, parts_of

_ONE_EACH = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}


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
    return _Compiled(openvino, path, num_threads).run


class _Compiled:
    """A network, compiled anew when a larger part comes.

    Args:
        openvino: The library.
        path: The ONNX file.
        num_threads: Of the CPU.
    """

    def __init__(self, openvino: Any, path: Path, num_threads: int) -> None:
        self._openvino, self._threads, self._batch = openvino, num_threads, 0
        self._workers = ThreadPoolExecutor(num_threads, "network")
        try:
            self._model = openvino.Core().read_model(path)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO can't read it: {_last_line(error)}") from error

    def run(self, images_BCHW: Tensor) -> Tensor:
        """The step's values."""
        parts = parts_of(images_BCHW, self._threads)
        try:
            if len(parts[0]) > self._batch:
                self._compile(parts[0])
            return torch.cat(list(self._workers.map(self._part, parts)))
        except RuntimeError as error:
            raise ExportError(f"OpenVINO can't run it: {_last_line(error)}") from error

    def _compile(self, images_BCHW: Tensor) -> None:
        self._model.reshape(list(images_BCHW.shape))
        threads = {"INFERENCE_NUM_THREADS": self._threads, "NUM_STREAMS": self._threads}
        self._compiled = self._openvino.Core().compile_model(self._model, "CPU", {**_ONE_EACH, **threads})
        self._own, self._batch = threading.local(), len(images_BCHW)

    def _part(self, images_BCHW: Tensor) -> Tensor:
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        num, filled = len(images_BCHW), images_BCHW.contiguous().numpy()
        if num < self._batch:
            filled = np.concatenate([filled, np.repeat(filled[:1], self._batch - num, 0)])
        return torch.from_numpy(np.array(self._own.request.infer({0: filled}, share_inputs=True)[0][:num]))


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1][:300]
