"""ONNX: a tensor step into a file, and ONNX Runtime to run it on a CPU.

The batch may have any size, height and width are fixed. Batch norms are folded into convolutions when a session is opened.
A batch is run in parts of a few images, whose features stay in a core's own cache, each part by one thread: threads don't
wait for each other within an image, and their number changes nothing. Waiting ones sleep: spinning threads slow a busy
machine down several times.

Does not know: what the step computes, where files are kept.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from counterstain.errors import ExportError, MissingExtraError
from counterstain.files import atomic

OPSET = 20
_AT_ONCE = 4  # images of a part: measured over 1 to 64, best for an S-CAE, indifferent for a ResNet-18
INPUT, OUTPUT = "images", "values"
_EXPORT: dict[str, Any] = {
    "dynamo": True,
    "input_names": [INPUT],
    "output_names": [OUTPUT],
    "opset_version": OPSET,
    "verbose": False,
    "optimize": False,  # onnxscript 0.7 takes an added 1e-8 for nothing, and a division becomes one by zero
}

Run = Callable[[Tensor], Tensor]
"""A step as a function: a batch of float32 images on the CPU in, float32 values out."""


def write_onnx(step: nn.Module, size: tuple[int, int], path: Path) -> None:
    """Writes a tensor step as an ONNX file.

    Args:
        step: (B, 3, height, width) float32 to (B, ...) float32, in evaluation mode, on the CPU.
        size: Height and width.
        path: The file.

    Raises:
        ExportError: When the step can't be exported.
        MissingExtraError: When a library for it is not installed.
    """
    try:
        import onnx  # noqa: F401 - the exporter says less clearly what is missing
        from onnxscript import optimizer
    except ImportError as error:
        raise MissingExtraError(str(error.name), "onnx", "Exporting a network") from error
    images_BCHW, batch = torch.zeros(2, 3, *size), torch.export.Dim("batch", min=1, max=1 << 16)
    with atomic(path) as temporary, _quiet():
        try:
            # not in one call, which would fix the batch where a step makes a number of it
            program = torch.export.export(step, (images_BCHW,), dynamic_shapes=({0: batch},))
            exported = torch.onnx.export(program, (), **_EXPORT)
            assert exported is not None, "a program was given for a file"
            # constants alone, without which ONNX Runtime does not see that norms can be folded
            optimizer.fold_constants(exported.model)
            optimizer.remove_unused_nodes(exported.model)
            _keep_blocked(exported.model)
            exported.save(temporary)
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
            raise ExportError(f"Torch can't export it: {_first_line(error)}") from error


def _keep_blocked(model: Any) -> None:
    """Puts a convolution that changes nothing before every leaky ReLU of a sum.

    ONNX Runtime keeps channels in blocks as long as it knows every operator, and a leaky ReLU it knows only behind a
    convolution: without, each residual block of an S-CAE is laid out anew, a tenth of its time.
    """
    from onnxscript import ir

    for node in list(model.graph):
        given = node.inputs[0] if node.op_type == "LeakyRelu" else None
        if given is None or given.producer() is None or given.producer().op_type != "Add" or given.shape is None:
            continue
        channels = given.shape[1]
        if len(given.shape) != 4 or not isinstance(channels, int):
            continue
        ones = ir.Value(name=f"{given.name}_ones", const_value=ir.tensor(torch.ones(channels, 1, 1, 1).numpy()))
        model.graph.initializers[ones.name] = ones
        same = ir.node("Conv", [given, ones], {"group": channels, "kernel_shape": [1, 1]})
        same.outputs[0].name = f"{given.name}_same"
        model.graph.insert_before(node, same)
        node.replace_input_with(0, same.outputs[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, the exporter does not tell of libraries that nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def open_onnx(path: Path, num_threads: int) -> Run:
    """A step that was written, run by ONNX Runtime.

    Args:
        path: The file.
        num_threads: Of the CPU.

    Raises:
        ExportError: When the file can't be run.
        MissingExtraError: When ONNX Runtime is not installed.
    """
    ort = _onnxruntime()
    errors = _errors()
    try:
        session = ort.InferenceSession(str(path), _options(), providers=["CPUExecutionProvider"])
    except errors as error:
        raise ExportError(f"ONNX Runtime can't open it: {_first_line(error)}") from error

    def part(images_BCHW: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images_BCHW.contiguous().numpy()})[0])

    workers = ThreadPoolExecutor(num_threads, "network") if num_threads > 1 else None

    def run(images_BCHW: Tensor) -> Tensor:
        parts = parts_of(images_BCHW, num_threads)
        try:
            found = [part(parts[0])] if len(parts) == 1 else list((workers.map if workers else map)(part, parts))
        except errors as error:
            raise ExportError(f"ONNX Runtime can't run it: {_first_line(error)}") from error
        return found[0] if len(found) == 1 else torch.cat(found)

    return run


def parts_of(images_BCHW: Tensor, num_threads: int) -> tuple[Tensor, ...]:
    """A batch in parts that are run one after the other or side by side: no larger than serves a core's cache.

    Args:
        images_BCHW: One image or more.
        num_threads: That are to have something to do.
    """
    return torch.split(images_BCHW, max(1, min(_AT_ONCE, -(-len(images_BCHW) // num_threads))))


def _options() -> Any:
    options = _onnxruntime().SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # threads have images of their own
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; what is wrong is raised
    return options


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx", "Runtime 'onnx'") from error
    return onnxruntime


def _errors() -> tuple[type[BaseException], ...]:
    """What ONNX Runtime raises: its exceptions have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "NoSuchFile", "InvalidProtobuf", "InvalidGraph", "NotImplemented")
    return tuple(getattr(state, name) for name in (*names, "RuntimeException", "EPFail", "NoModel"))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
