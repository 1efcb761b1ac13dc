from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector import (
    AlertState,
    AlertStateMismatch,
    Detector,
    Messages,
    Records,
    StreamDefinition,
    StreamDefinitionError,
    SuppressedBefore,
    Verdicts,
    pack_alert_state,
    unpack_alert_state,
)
from tests.payments import DEFINITION, STREAM, fitted_detector, message

COOLDOWN = 'rule = "cooldown"\nperiod = "1h"'
EPISODE = 'rule = "episode"\ngap = "30m"\nrepeat = "2h"'


def stream_with(*rules: str, head: str = "") -> StreamDefinition:
    tables = "".join(f'\n[[suppress]]\nname = "rule_{number}"\n{rule}\n' for number, rule in enumerate(rules))
    return StreamDefinition.from_toml(DEFINITION.replace('name = "payments"', f'{head}name = "payments"') + tables)


@cache
def suppressing(*rules: str) -> Detector:
    base = fitted_detector()
    return Detector(stream_with(*rules), base.encoder, base.scorer, base.threshold, base.normal_scores)


def odd(minute: int, card: str | None = "card-1", **changes: Any) -> bytes:
    at = f"2026-03-02T{8 + minute // 60:02d}:{minute % 60:02d}:00"
    return message(minute, at=at, **{"amount": 250_000.0, "card__number": card, **changes})


def judged(
    detector: Detector, values: Sequence[bytes], states: Sequence[AlertState] | None = None
) -> tuple[Records, Verdicts]:
    records, rejects = detector.decode(Messages(list(values)))
    assert not rejects
    return records, detector.judge(records, None, states)[0]


def minutes(detector: Detector, values: Sequence[bytes]) -> list[int]:
    """Which of the records alert."""
    alerts: list[int] = judged(detector, values)[1].alerts.tolist()
    return alerts


def test_without_rules_every_anomaly_alerts() -> None:
    verdicts = judged(suppressing(), [odd(0), message(1), odd(2)])[1]

    assert verdicts.alerts.tolist() == verdicts.anomalies.tolist() == [0, 2]
    assert verdicts.suppressed.tolist() == []


def test_an_anomaly_below_a_floor_is_suppressed_and_named() -> None:
    detector = suppressing('rule = "floor"\nfield = "card.limit"\nat_least = 1200')
    low, high, absent = (odd(number, card__limit=limit) for number, limit in enumerate((1000.0, 1200.0, None)))

    verdicts = judged(detector, [low, high, absent])[1]

    assert verdicts.anomalies.tolist() == [0, 1, 2]
    assert verdicts.alerts.tolist() == [1, 2]
    assert (verdicts.suppressed.tolist(), verdicts.reasons) == ([0], ("rule_0",))
    assert len(verdicts.explanations) == len(verdicts.probabilities) == 2


def test_a_segment_that_is_off_does_not_alert_even_where_no_feature_reads_its_field() -> None:
    detector = suppressing('rule = "segment"\nfield = "channel"\nvalues = ["test", "migration"]')

    verdicts = judged(detector, [odd(0, channel="test"), odd(1, channel="web"), odd(2)])[1]

    assert verdicts.alerts.tolist() == [1, 2]


def test_only_the_harmless_direction_of_the_first_reason_is_suppressed() -> None:
    above = suppressing('rule = "direction"\nfeature = "amount"\ndirection = "above"')
    below = suppressing('rule = "direction"\nfeature = "amount"\ndirection = "below"')

    assert minutes(above, [odd(0), odd(1, amount=30.0, shop__kind="casino")]) == [1]
    assert minutes(below, [odd(0), odd(1, amount=30.0, shop__kind="casino")]) == [0, 1]


def test_after_an_alert_its_entity_is_quiet_for_the_period_and_others_are_not() -> None:
    values = [odd(0), odd(10), odd(20, card="card-2"), odd(59), odd(60), odd(119), odd(121)]

    records, verdicts = judged(suppressing(COOLDOWN), values)

    assert verdicts.alerts.tolist() == [0, 2, 4, 6]
    assert verdicts.reasons == ("rule_0",) * 3
    before = verdicts.before[2]
    assert before is not None
    assert before.count == 2
    assert records.event_times is not None
    assert (before.first, before.last) == (records.event_times[1], records.event_times[3])
    assert verdicts.before[0] is verdicts.before[1] is None


def test_an_episode_alerts_once_until_it_pauses_or_lasts_too_long() -> None:
    steady = [odd(minute) for minute in range(0, 150, 20)]

    assert minutes(suppressing(EPISODE), [odd(0), odd(29), odd(58), odd(89)]) == [0, 3]
    assert minutes(suppressing(EPISODE), steady) == [0, 6]


def test_records_without_an_entity_are_never_quiet() -> None:
    assert minutes(suppressing(COOLDOWN), [odd(0, card=None), odd(1, card=None)]) == [0, 1]


def test_what_is_suppressed_for_what_it_is_keeps_no_entity_quiet() -> None:
    detector = suppressing('rule = "floor"\nfield = "card.limit"\nat_least = 1200', COOLDOWN)

    assert minutes(detector, [odd(0, card__limit=1000.0), odd(1, card__limit=5000.0)]) == [1]


def test_a_record_that_is_late_is_as_close_as_one_that_is_early() -> None:
    assert minutes(suppressing(COOLDOWN), [odd(100), odd(50), odd(30)]) == [0, 2]


def test_entities_that_are_remembered_are_bounded_and_those_forgotten_alert_again() -> None:
    detector = suppressing(COOLDOWN + "\nmax_entities = 2")
    values = [odd(0, card="a"), odd(1, card="b"), odd(2, card="c"), odd(3, card="a"), odd(4, card="c")]

    verdicts = judged(detector, values)[1]

    assert verdicts.alerts.tolist() == [0, 1, 2, 3]
    assert len(verdicts.states[0].quiets) == 2


@settings(deadline=None, max_examples=40)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from(["a", "b", "c", None]), st.booleans()), min_size=1, max_size=30
    ),
    cuts=st.lists(st.integers(0, 30), max_size=6),
    rule=st.sampled_from([COOLDOWN, EPISODE, COOLDOWN + "\nmax_entities = 1"]),
)
def test_a_partition_gives_the_same_alerts_however_it_is_cut_into_batches(
    steps: list[tuple[int, str | None, bool]], cuts: list[int], rule: str
) -> None:
    detector = suppressing(rule)
    times = np.cumsum([step for step, _, _ in steps]).tolist()
    values = [
        odd(minute % 900, card) if is_odd else message(minute, card__number=card or "card-9")
        for minute, (_, card, is_odd) in zip(times, steps, strict=True)
    ]
    whole = judged(detector, values)[1]
    states: Sequence[AlertState] = [detector.alerting.begin()]
    alerts: list[int] = []
    before: list[SuppressedBefore | None] = []
    edges = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    for start, end in pairwise(edges):
        verdicts = judged(detector, values[start:end], states)[1]
        alerts += [start + row for row in verdicts.alerts.tolist()]
        before += verdicts.before
        state, version = unpack_alert_state(pack_alert_state(verdicts.states[0], "v1"))
        assert version == "v1"
        states = [state]

    assert alerts == whole.alerts.tolist()
    assert before == list(whole.before)
    assert list(states[0].quiets.items()) == list(whole.states[0].quiets.items())


def test_a_state_that_is_damaged_is_refused() -> None:
    packed = pack_alert_state(suppressing(COOLDOWN).alerting.begin(), "v1")

    for broken in (packed[:-1], packed[:3], b"", packed[:-1] + b"\xff"):
        with pytest.raises(AlertStateMismatch):
            unpack_alert_state(broken)


def test_another_version_keeps_entities_quiet_only_where_it_has_a_rule() -> None:
    state = judged(suppressing(COOLDOWN), [odd(0)])[1].states[0]

    assert suppressing(EPISODE).alerting.adopt(state).quiets == state.quiets
    assert suppressing().alerting.adopt(state).quiets == {}


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (['rule = "cooldwon"\nperiod = "1h"'], ["suppress[1]", "unknown rule", "cooldown"]),
        (['period = "1h"'], ["suppress[1]", "has no rule"]),
        (['rule = "cooldown"\nperiod = "soon"'], ["suppress[1].period", "'soon'", "span of time"]),
        (['rule = "cooldown"\nperoid = "1h"'], ["suppress[1].peroid", "did you mean 'period'"]),
        ([COOLDOWN, EPISODE], ["one cooldown or episode is enough"]),
        (['rule = "direction"\nfeature = "shop.kind"\ndirection = "above"'], ["rule_0", "'shop.kind'", "number"]),
        (['rule = "floor"\nfield = "at"\nat_least = 1'], ["rule_0", "'at'", "is a time"]),
        (['rule = "direction"\nfeature = "card.limit"\ndirection = "above"'], ["rule_0", "card.limit", "sensitive"]),
    ],
)
def test_a_wrong_rule_is_refused_with_its_place_and_a_remedy(rules: list[str], says: list[str]) -> None:
    with pytest.raises(StreamDefinitionError) as refusal:
        stream_with(*rules)

    assert all(part in str(refusal.value) for part in says), str(refusal.value)


def test_a_rule_about_an_entity_needs_an_entity_and_a_time() -> None:
    text = DEFINITION + f'\n[[suppress]]\nname = "quiet"\n{COOLDOWN}\n'
    with pytest.raises(StreamDefinitionError, match="about an entity in the course of time: add key"):
        StreamDefinition.from_toml(text.replace('key = "card.number"\n', ""))


@pytest.mark.parametrize("name", ["tombstone", "Two Words", ""])
def test_a_rule_is_named_as_a_metric_label_that_is_free(name: str) -> None:
    with pytest.raises(StreamDefinitionError, match="cannot name a rule"):
        StreamDefinition.from_toml(DEFINITION + f'\n[[suppress]]\nname = "{name}"\n{COOLDOWN}\n')


def test_rules_survive_being_written_as_toml() -> None:
    stream = stream_with('rule = "segment"\nfield = "channel"\nvalues = ["test"]', COOLDOWN)

    assert StreamDefinition.from_toml(stream.to_toml()) == stream
    assert stream != STREAM
