"""Payments of which some cards' are odd again and again, and a detector that keeps a card quiet after an alert."""

from __future__ import annotations

from functools import cache

from detector import Detector, StreamDefinition
from tests.payments import HISTORY_STREAM, STREAM, fitted_detector, message, odd_message, remembering_detector

SUPPRESSING = '[threshold]\nfalse_alarm_rate = 0.01\nmode = "online"\nwindow = 5000\n'
COOLDOWN = '[[suppress]]\nname = "quiet_card"\nrule = "cooldown"\nperiod = "3h"\n'


@cache
def following(*, remembers: bool = True) -> Detector:
    """A detector whose threshold follows the scores in segments of a hundred offsets, with a cooldown of cards."""
    base = remembering_detector() if remembers else fitted_detector()
    text = (HISTORY_STREAM if remembers else STREAM).to_toml()
    text = text.replace("[threshold]\nfalse_alarm_rate = 0.01\n", SUPPRESSING)
    stream = StreamDefinition.from_toml(text.replace("[[feature]]", COOLDOWN + "\n[[feature]]", 1))
    return Detector(
        stream, base.encoder, base.scorer, base.threshold, base.normal_scores, history=base.history, facts=base.facts
    )


def values(count: int, start: int = 0) -> list[bytes | None]:
    """Payments of which some cards' are odd, again and again, and whose amounts grow."""
    return [
        odd_message(number)
        if number % 50 in (3, 17) or number % 83 == 5
        else message(number, amount=30.0 + number / 10 + number % 7)
        for number in range(start, start + count)
    ]
