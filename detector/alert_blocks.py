"""What decides on the alerts of one partition as bytes, to be written away and read back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import msgspec
import numpy as np

from detector.alerting import AlertState
from detector.errors import AlertStateMismatch
from detector.online_threshold import POINTS, SEGMENTS, ScoreWindow
from detector.suppression import MOST_SUPPRESSED, Quiet

_CHECK_BYTES = 4
_LATEST_US = 2**62
_MOST_COUNTED = 2.0**40


class _Window(msgspec.Struct, frozen=True):
    points: bytes
    counts: bytes
    segment: int
    filling: bytes
    threshold: float
    stretch: float


class _State(msgspec.Struct, frozen=True):
    version: str
    window: _Window | None
    quiets: dict[str, tuple[int, int, int, int, int]]  # in the order of the mapping, which says who is evicted next


def pack_alert_state(state: AlertState, version: str) -> bytes:
    """A state that came from the scores of one version of a detector."""
    window = state.window
    packed_window = None if window is None else _Window(
        points=window.points.tobytes(), counts=window.counts.tobytes(), segment=window.segment,
        filling=window.filling.tobytes(), threshold=window.threshold, stretch=window.stretch,
    )  # fmt: skip
    quiets = {
        key: (quiet.alerted_us, quiet.latest_us, quiet.count, quiet.first_us, quiet.last_us)
        for key, quiet in state.quiets.items()
    }
    packed = msgspec.msgpack.encode(_State(version, packed_window, quiets))
    return zlib.crc32(packed).to_bytes(_CHECK_BYTES, "big") + packed


def unpack_alert_state(content: bytes) -> tuple[AlertState, str]:
    """What `pack_alert_state` got: a state, and the version of the detector that it came from.

    Raises:
        AlertStateMismatch: It is none, or a damaged one.
    """
    check, packed = content[:_CHECK_BYTES], content[_CHECK_BYTES:]
    if zlib.crc32(packed).to_bytes(_CHECK_BYTES, "big") != check:
        raise AlertStateMismatch("not the state of alerts, or a damaged one: its checksum is wrong")
    try:
        state = msgspec.msgpack.decode(packed, type=_State)
        window = None if state.window is None else _unpack_window(state.window)
        quiets = {key: Quiet(*quiet) for key, quiet in state.quiets.items()}
        _check_quiets(quiets)
    except (msgspec.MsgspecError, ValueError) as error:
        raise AlertStateMismatch(f"the state of alerts is damaged: {error}") from error
    return AlertState(window, quiets), state.version


def _check_quiets(quiets: Mapping[str, Quiet]) -> None:
    """Refuse times that no clock shows: they could not be told when they are asked for.

    Raises:
        ValueError: There is one.
    """
    for quiet in quiets.values():
        times_us = (quiet.alerted_us, quiet.latest_us, quiet.first_us, quiet.last_us)
        if not (all(abs(time_us) < _LATEST_US for time_us in times_us) and 0 <= quiet.count <= MOST_SUPPRESSED):
            raise ValueError("an entity is quiet for a time that is none")


def _unpack_window(window: _Window) -> ScoreWindow:
    read = ScoreWindow(
        points=np.frombuffer(window.points, np.float32).reshape(SEGMENTS, POINTS),
        counts=np.frombuffer(window.counts, np.int64).reshape(SEGMENTS),
        segment=window.segment,
        filling=np.frombuffer(window.filling, np.float32),
        threshold=window.threshold,
        stretch=window.stretch,
    )
    # A threshold that is no number is one that no score is above: silence would look like peace.
    numbers = np.concatenate([read.points.ravel(), read.filling, [read.threshold, read.stretch]])
    counted = (read.counts >= 0).all() and 0 < float(read.counts.sum(dtype=np.float64)) < _MOST_COUNTED
    if not (np.isfinite(numbers).all() and counted and read.stretch > 0 and -1 <= read.segment < _LATEST_US):
        raise ValueError("its window of scores holds what no scores leave")
    return read
