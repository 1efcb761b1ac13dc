"""One bad record of every kind: it becomes a dead letter with its reason, and the record behind it is judged."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from detector import Detector
from tests.images import disc_detector, discs, encoded
from tests.payments import fitted_detector, message, remembering_detector
from tests.worker.bench import Bench, publish_models
from worker.dead_letters import NON_FINITE_SCORE, STAGES

GOOD = message(3)
GOOD_IMAGE = encoded(discs(1, seed=3)[0])

BAD: dict[str, tuple[bytes, str, bytes]] = {
    "empty": (b" \n", "payments", GOOD),
    "too_large": (message(1, note="x" * 1_000_000), "payments", GOOD),
    "too_deep": (b'{"a":' * 100 + b"1" + b"}" * 100, "payments", GOOD),
    "not_utf8": (b'{"x": "\xff"}', "payments", GOOD),
    "not_json": (b"not json", "payments", GOOD),
    "not_an_object": (b"[1]", "payments", GOOD),
    "missing_field": (message(1, at=None), "payments", GOOD),
    "wrong_type": (message(1, amount="much"), "payments", GOOD),
    "not_finite": (message(1, amount=5).replace(b'"amount": 5', b'"amount": 1e999'), "payments", GOOD),
    "bad_time": (message(1, at="yesterday"), "payments", GOOD),
    "future_time": (message(1, at="2031-01-01T00:00:00"), "remembering", message(3, at="2025-12-31T00:00:00")),
    "bad_image": (b"no image", "discs", GOOD_IMAGE),
}
"""By reason: a bad value, the stream that it is bad for, and a good one."""


@cache
def models_of(name: str) -> Path:
    """A models directory with the detector of a stream."""
    detectors = {"payments": fitted_detector, "remembering": remembering_detector, "discs": disc_detector}
    detector: Detector = detectors[name]()
    return publish_models(Path(mkdtemp()), detector)


def test_there_is_a_record_of_every_kind() -> None:
    # That a score is not finite takes a broken model: see test_loop.py.
    assert {*BAD, NON_FINITE_SCORE} == {str(reason) for reason in STAGES}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_record_of_each_kind_is_a_dead_letter_and_the_next_one_is_judged(reason: str) -> None:
    bad, stream, good = BAD[reason]
    bench = Bench(models_of(stream))
    bench.produce(good, bad, good)

    bench.drain()

    (letter,) = bench.dead_letters
    assert dict(letter.headers)["dlq.reason"].decode() == reason
    assert letter.key == b"k1"
    assert (letter.value or b"") == bad or b"dlq.truncated" in {name.encode() for name, _ in letter.headers}
    assert bench.outcomes()["dead_letter"] == 1
    assert sum(bench.outcomes().values()) == 3
    assert bench.committed == 3
