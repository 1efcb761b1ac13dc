"""Alerts as a downstream service would read them: from their topic, as they come; knows nothing of the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import Any, Self

import msgspec

from demo.tally import SeenAlert
from transport import KafkaSettings, TransportError, read_topic

_QUIET_S = 2.0


class AlertReader:
    """Reads an alert topic on a thread of its own; the thread that made it takes what has come.

    Use as a context manager; the thread ends with the block, at the latest 2 s later.
    """

    def __init__(self, kafka: KafkaSettings, topic: str, *, clock: Callable[[], float] = time.time) -> None:
        self.seen: list[SeenAlert] = []
        self._kafka, self._topic, self._clock = kafka, topic, clock
        self._came: SimpleQueue[tuple[SeenAlert, dict[str, Any]]] = SimpleQueue()
        self._places: set[tuple[int, int]] = set()
        self._closed = threading.Event()
        self._failure: TransportError | None = None
        self._thread = threading.Thread(target=self._read, name="alert-reader", daemon=True)
        self._thread.start()

    def take(self) -> list[dict[str, Any]]:
        """Return the alerts that came since the last call, without waiting; `seen` then holds them too.

        Raises:
            TransportError: The topic cannot be read any more.
        """
        taken = []
        while True:
            try:
                seen, alert = self._came.get_nowait()
            except Empty:
                break
            self.seen.append(seen)
            taken.append(alert)
        if self._failure is not None:
            raise self._failure
        return taken

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        self._thread.join(timeout=2 * _QUIET_S)

    def _read(self) -> None:
        try:
            while not self._closed.is_set():
                self._follow()
        except TransportError as error:
            self._failure = error

    def _follow(self) -> None:
        """Read until the topic has been quiet for a moment: only then is there a chance to see that we are closed."""
        for batch in read_topic(self._kafka, self._topic, timeout_s=_QUIET_S, follow=True):
            now = self._clock()
            for index, offset, value in zip(batch.partition_index, batch.offsets, batch.values, strict=True):
                place = (batch.partitions[int(index)].number, int(offset))
                if value is None or place in self._places:
                    continue  # a second look at a quiet topic begins at its start
                self._places.add(place)
                alert = msgspec.json.decode(value)
                self._came.put((_seen(alert, now), alert))
            if self._closed.is_set():
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _seen(alert: dict[str, Any], now: float) -> SeenAlert:
    sent = datetime.fromisoformat(alert["source"]["timestamp"]).timestamp()
    return SeenAlert(alert["alert_id"], alert["record_id"], now - sent)
