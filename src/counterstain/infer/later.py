"""Work that is done beside the caller, one piece after the other, few of them waiting.

Does not know: what the work is.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Later:
    """A thread that does what it is given, in order. Use it in a `with` block.

    An error of the work is raised at the next `do`, or at the end of the block, and nothing given after it is done. When
    the block itself fails, what was given before is still done.

    Args:
        most: How many pieces may wait beside the one under way; `do` blocks until there are fewer.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="later")
        self._pending: deque[Future[None]] = deque()
        self._has_failed = False

    def do(self, work: Callable[[], None]) -> None:
        """Gives a piece of work."""
        while self._pending and (len(self._pending) > self._most or self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._unless_failed, work))

    def _unless_failed(self, work: Callable[[], None]) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        work()
        self._has_failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            for future in self._pending:
                future.result()
            return
        for problem in filter(None, (future.exception() for future in self._pending)):
            error.add_note(f"What was given before failed too: {problem!r}")
