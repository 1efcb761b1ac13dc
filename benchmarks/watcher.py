"""Looks at workers again and again while something happens to them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.kafka.worker import WorkerProcess


class Watcher(ABC):
    """Looks at each worker every so often, on a thread of its own. Use as a context manager.

    Attributes:
        workers: Which there are now; may be changed.
    """

    def __init__(self, workers: Callable[[], list[WorkerProcess]], every_s: float) -> None:
        self.workers, self._every_s = workers, every_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    @abstractmethod
    def look(self, worker: WorkerProcess) -> None:
        """Look at one worker."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._every_s):
            for worker in self.workers():
                self.look(worker)
