"""A function of batches of images, run on a device: on a GPU, copies, computing and the host's own work overlap.

    images on the host -> pinned memory -> the device        one stream
                          computed: a CUDA graph, replayed   a stream of its own
                          the device -> pinned memory        one stream, and an event that the host waits for

The host gives out a result when the next `AHEAD` batches are under way, so that the device has something to do while it
reads, stitches and stores. Results come in order, and a failure at its own batch, with what came before it delivered. On a
CPU a batch is a plain call; or two are under way, where a library computes that lets threads share it: while one is in the
network, the other is made floats or pooled, which would leave all cores but one idle.

A graph is captured for each quarter of a full batch, when the first batch of that size comes. Shorter batches are filled up
with whatever lies in the buffer, and what becomes of it is dropped: which kernels run follows from a batch's length alone,
and a resumed prediction computes the same. Captured, and not compiled: that takes a moment, needs no compiler, and runs the
kernels that eager torch runs. What can't be captured, since it copies to or from the host or decides by what it computed,
runs eagerly, and one line says so.

    B  images    H  height    W  width

Does not know: what is computed, where batches come from.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from counterstain import log
from counterstain.errors import ExportError

Images = npt.NDArray[np.uint8]
Compute = Callable[[Tensor], Tensor]
"""(B, H, W, 3) uint8 on a device to (B, ...) there; an image's values don't hang on the other images."""

T = TypeVar("T")

AHEAD = 2
"""Batches under way beside the one whose result is waited for: one is computed, one lies ready when that is done."""

_PARTS = 4  # sizes of captured graphs: at most a quarter of a batch is filled up
_WARM = 2  # runs before a capture, in which libraries choose kernels and take what memory they keep

_aten = torch.ops.aten
_WAITS = {_aten.item, _aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten.is_nonzero}
_FROM_HOST = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy}


def place(network: nn.Module, device: torch.device) -> None:
    """Moves a network to a device, in evaluation mode; on a GPU its convolutions keep channels last, as its units want."""
    network.to(device).eval()
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Pipeline:
    """Runs a function of batches of images on a device.

    Args:
        compute: The function, called without gradients. It must not keep the images.
        device: Where it computes.
        full: Images of a full batch, all batches being of one height and width; None where they differ: each is then
            computed by itself.
        is_shared: Whether, on a CPU, two threads call the function at once.
    """

    def __init__(self, compute: Compute, device: torch.device, full: int | None, *, is_shared: bool = False) -> None:
        self._compute, self._device, self._is_shared = compute, device, is_shared
        self._lane = _Lane(compute, device, full) if device.type == "cuda" and full is not None else None

    def map(
        self, batches: Iterable[T], images_of: Callable[[T], Images]
    ) -> Generator[tuple[T, npt.NDArray[Any]], None, None]:
        """Each batch with its result, in order. Not to be called while another such generator is in use.

        Args:
            batches: Asked for on the way, some ahead of what is given out.
            images_of: A batch's (B, H, W, 3) uint8, B from 1 to `full`.
        """
        lane = self._lane
        if lane is not None:
            begun = ((batch, lane.begin(images_of(batch))) for batch in batches)
            for batch, arrived in looked_ahead(begun, AHEAD):
                yield batch, arrived()
        elif self._is_shared:
            with ThreadPoolExecutor(2, thread_name_prefix="compute") as pool:
                called = ((batch, pool.submit(self._once, images_of(batch))) for batch in batches)
                for batch, call in looked_ahead(called, 1):
                    yield batch, call.result()
        else:
            for batch in batches:
                yield batch, self._once(images_of(batch))

    def one(self, images_BHWC: Images) -> npt.NDArray[Any]:
        """The result of a single batch."""
        return next(self.map([images_BHWC], lambda images: images))[1]

    @torch.inference_mode()
    def _once(self, images_BHWC: Images) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self._compute(torch.from_numpy(images_BHWC).to(self._device)).cpu().numpy()
        return values


def looked_ahead(items: Iterable[T], num: int) -> Iterator[T]:
    """The same items in order, each once the next `num` have been asked for.

    An error that asking raises comes in its place: after all items that came before it. An interrupt does not wait.
    """
    held: deque[T] = deque()
    try:
        for item in items:
            held.append(item)
            if len(held) > num:
                yield held.popleft()
    except (GeneratorExit, KeyboardInterrupt, SystemExit):
        held.clear()  # nobody waits for the rest
        raise
    finally:
        while held:
            yield held.popleft()


def filled_size(num: int, full: int) -> int:
    """How many images a batch is filled up to: the next quarter of a full one."""
    part = -(-full // _PARTS)
    return min(full, -(-num // part) * part)


def _stream(device: torch.device) -> "torch.cuda.Stream":
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@dataclass
class _Slot:
    """The buffers of one batch under way. It is used again once its result was copied out."""

    pinned_BHWC: Tensor
    images_BHWC: Tensor
    done: "torch.cuda.Event"
    values: Tensor | None = None
    result: Tensor | None = None


@dataclass(frozen=True)
class _Graph:
    """A captured function: what was given when it was captured is read, and its values are written, at each replay."""

    graph: "torch.cuda.CUDAGraph"
    values: Tensor


class _Lane:
    """Three streams of a GPU and the buffers between them.

    Args:
        compute: The function.
        device: The GPU.
        full: Images of a full batch.
    """

    def __init__(self, compute: Compute, device: torch.device, full: int) -> None:
        self._compute, self._device, self._full = compute, device, full
        self._inward, self._own, self._outward = (_stream(device) for _ in range(3))
        self._slots: deque[_Slot] = deque()
        self._given_BHWC = torch.empty(0)  # of one batch, for graphs: made with the slots
        self._graphs: dict[int, _Graph] | None = {}
        self._pool: Any = None

    @torch.inference_mode()
    def begin(self, images_BHWC: Images) -> Callable[[], npt.NDArray[Any]]:
        """Sets a batch going; what is given back waits for its result."""
        num = len(images_BHWC)
        assert 1 <= num <= self._full, "a batch is at most a full one"
        slot = self._next_slot(images_BHWC.shape[1:])
        slot.done.synchronize()  # at once, but where a run was broken off before its result came
        slot.pinned_BHWC[:num].copy_(torch.from_numpy(images_BHWC))
        with torch.cuda.stream(self._inward):
            slot.images_BHWC[:num].copy_(slot.pinned_BHWC[:num], non_blocking=True)
        # weights may have been moved on the caller's stream
        self._own.wait_stream(torch.cuda.current_stream(self._device))
        self._own.wait_stream(self._inward)
        with torch.cuda.stream(self._own):
            values = self._values(slot.images_BHWC, num)
            if slot.values is None or slot.result is None:
                shape = (self._full, *values.shape[1:])
                slot.values = torch.empty(shape, dtype=values.dtype, device=self._device)
                slot.result = torch.empty(shape, dtype=values.dtype, pin_memory=True)
            # a graph's values are overwritten by the next batch, before they may have left
            slot.values[:num].copy_(values)
        self._outward.wait_stream(self._own)
        with torch.cuda.stream(self._outward):
            slot.result[:num].copy_(slot.values[:num], non_blocking=True)
            slot.done.record()
        result = slot.result

        def arrived() -> npt.NDArray[Any]:
            slot.done.synchronize()
            copied: npt.NDArray[Any] = result[:num].numpy().copy()
            return copied

        return arrived

    def _next_slot(self, shape_HW3: tuple[int, ...]) -> _Slot:
        if not self._slots:
            shape = (self._full, *shape_HW3)
            for _ in range(AHEAD + 1):
                pinned = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
                there = torch.zeros(shape, dtype=torch.uint8, device=self._device)
                # waiting for it sleeps: the readers want the core
                self._slots.append(_Slot(pinned, there, torch.cuda.Event(blocking=True)))  # type: ignore[no-untyped-call]
            self._given_BHWC = torch.zeros(shape, dtype=torch.uint8, device=self._device)
            self._inward.wait_stream(torch.cuda.current_stream(self._device))
        assert tuple(shape_HW3) == tuple(self._given_BHWC.shape[1:]), "all images have one size"
        self._slots.rotate(-1)
        return self._slots[-1]

    def _values(self, images_BHWC: Tensor, num: int) -> Tensor:
        """The function's values of the first `num` images, computed on the current stream."""
        size = filled_size(num, self._full)
        if self._graphs is not None and size not in self._graphs:
            self._capture(size)
        if self._graphs is None:
            return self._compute(images_BHWC[:num])
        self._given_BHWC[:num].copy_(images_BHWC[:num])
        captured = self._graphs[size]
        captured.graph.replay()
        return captured.values[:num]

    def _capture(self, size: int) -> None:
        assert self._graphs is not None, "it could be captured so far"
        given_BHWC = self._given_BHWC[:size]
        for _ in range(_WARM):
            self._compute(given_BHWC)
        try:
            with aloof():
                self._compute(given_BHWC)
            graph = torch.cuda.CUDAGraph()
            # of this thread alone: others may take pinned memory meanwhile
            with torch.cuda.graph(graph, self._pool, self._own, "thread_local"):
                values = self._compute(given_BHWC)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.say(f"The network runs without a CUDA graph: {reason}")
            self._graphs = None
            return
        self._graphs[size] = _Graph(graph, values)
        self._pool = graph.pool()  # one after the other, they can share memory


@contextmanager
def aloof() -> Iterator[None]:
    """Within it, what copies between host and device, or waits for a value that was computed, is an error.

    Raises:
        ExportError: At such a step. torch tells of some waits itself, by a RuntimeError.
    """
    before = torch.cuda.get_sync_debug_mode() if torch.cuda.is_available() else 0
    try:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error")
        with _NoNumbers(), _NoCopies():  # type: ignore[no-untyped-call]
            yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode(before)


class _NoNumbers(TorchFunctionMode):
    """Sees every function of torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FROM_HOST:
            raise ExportError(f"torch.{func.__name__} brings the host's numbers.")
        return func(*args, **(kwargs or {}))


class _NoCopies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator. A copy that is not waited for would pass a capture, and read freed memory at each replay."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _WAITS:
            raise ExportError(f"{func} waits for a value that was computed.")
        found = func(*args, **(kwargs or {}))
        seen = [part for part in tree_leaves((args, kwargs, found)) if isinstance(part, Tensor)]
        # a number in a tensor without dimensions goes along with a kernel's arguments
        if len({part.device.type for part in seen if part.ndim or part is found}) > 1:
            raise ExportError(f"{func} copies between host and device.")
        return found
