"""The sender: numbered records at a steady rate, each sent until the broker has it. Disturbs nothing by itself."""

from __future__ import annotations

import threading
import time

from benchmarks.chaos.recording import key_of, value_of
from transport import KafkaPublisher, KafkaSettings, OutgoingMessage, PublisherSettings, TransportError

_EVERY_S = 0.2
_MOST_AT_ONCE = 2000
_RETRY_S = 0.3
_GIVE_UP_S = 120.0


class Producer:
    """Sends records on a thread of its own, until `close`. An open loop: what an outage held up follows at once.

    A record that was not acknowledged is sent again, and may then stand in the topic twice; both count as records.

    Attributes:
        sent: Records that are acknowledged: all numbers below it.
        rate: Records a second; may be changed.
        malformed: Whether every second message is malformed bytes, from now on; may be changed.
    """

    def __init__(self, kafka: KafkaSettings, topic: str, rate: float) -> None:
        self.sent = 0
        self.rate = rate
        self.malformed = False
        self._topic = topic
        self._due = 0.0
        self._publisher = KafkaPublisher(kafka, PublisherSettings(publish_timeout_s=5.0, linger_s=0.005))
        self._closing = threading.Event()
        self._may_send = threading.Event()
        self._may_send.set()
        self._idle = threading.Lock()  # held while a chunk is on its way
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Send nothing from now on; returns when nothing is on its way."""
        self._may_send.clear()
        with self._idle:
            pass

    @property
    def is_sending(self) -> bool:
        """Whether it is not paused."""
        return self._may_send.is_set()

    def resume(self) -> None:
        """Go on at the rate; what was not sent meanwhile was never due."""
        self._may_send.set()

    def hurry(self, count: int) -> None:
        """Let so many records be due at once, while nothing is sent."""
        self._due += count

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._failure is not None:
            raise RuntimeError("the producer of the harness has failed") from self._failure

    def close(self) -> None:
        """Stop when what is on its way is acknowledged, and let go of the connection."""
        self._closing.set()
        self._may_send.set()
        self._thread.join()
        self._publisher.close()

    def _run(self) -> None:
        try:
            last_s = time.monotonic()
            while not self._closing.wait(_EVERY_S):
                if not self._may_send.is_set():
                    self._may_send.wait()
                    last_s = time.monotonic()
                    continue
                now_s = time.monotonic()
                self._due += (now_s - last_s) * self.rate
                last_s = now_s
                with self._idle:
                    if self._may_send.is_set():
                        self._send(min(int(self._due), _MOST_AT_ONCE))
        except BaseException as error:  # noqa: BLE001 - told to whoever asks by `check`
            self._failure = error

    def _send(self, count: int) -> None:
        malformed = self.malformed
        messages = [
            OutgoingMessage(
                self._topic, key_of(number), value_of(number, malformed=malformed), (("number", str(number).encode()),)
            )
            for number in range(self.sent, self.sent + count)
        ]
        until_s = time.monotonic() + _GIVE_UP_S
        while messages:
            try:
                self._publisher.publish(messages)
            except TransportError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(_RETRY_S)
            else:
                break
        self.sent += count
        self._due -= count
