"""Alerts and scores as readers get them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import Detector, Verdicts, severity_of
from tests.payments import fitted_detector, message, odd_message
from tests.worker.bench import START_MS, batch_of
from transport import Batch
from worker.alerts import Alert, alert_message, alerts_of
from worker.docs import ALERT_SCHEMA, schema_text
from worker.identity import Identities, alert_id, pseudonym
from worker.scores import score_messages


def like(**stream: Any) -> Detector:
    """The fitted detector with another stream definition around it."""
    fitted = fitted_detector()
    return Detector(
        fitted.stream.model_copy(update=stream),
        fitted.encoder,
        fitted.scorer,
        fitted.threshold,
        fitted.normal_scores,
        facts={"trained_until": "2026-03-31T00:00:00+00:00"},
        version="v7",
        sha256="abc",
    )


def alerts(batch: Batch, detector: Detector | None = None, *, top: int = 2) -> list[Alert]:
    detector = detector or like()
    records, _ = detector.decode(batch)
    verdicts, _ = detector.judge(records)
    return [alert for _, alert in alerts_of(batch, records, verdicts, detector, now_s=START_MS / 1000, top=top)]


def text(alert: Alert, **options: Any) -> dict[str, Any]:
    content = alert_message(alert, "a", None, options.get("max_bytes", 1_000_000)).value
    decoded: dict[str, Any] = json.loads(content or b"")
    return decoded


def test_an_alert_says_all_that_its_readers_need() -> None:
    batch = batch_of([message(1), odd_message(7)], partition=2, first_offset=40, keys=[b"card-1", b"card-7"])
    (alert,) = alerts(batch)

    said = text(alert)

    assert said["schema_version"] == 1
    assert said["alert_id"] == alert_id("payments", "payments", 2, 41, START_MS + 41_000)
    assert said["detector"] == "payments"
    assert said["event_time"] == "2026-03-01T08:07:00Z"
    assert said["detected_at"] == "2026-01-01T00:00:00Z"
    assert said["source"] == {
        "topic": "payments",
        "partition": 2,
        "offset": 41,
        "timestamp": "2026-01-01T00:00:41Z",
        "key": "card-7",
    }
    assert said["record_id"] == "7"
    assert said["entity"] == {"card.number": "card-7"}
    assert said["model"] == {
        "name": "payments",
        "version": "v7",
        "trained_until": "2026-03-31T00:00:00Z",
        "sha256": "abc",
    }
    assert said["score_ratio"] == said["score"] / said["threshold"] > 1
    assert 0 < said["tail_probability"] <= fitted_detector().threshold.rate
    assert said["severity"] == severity_of(said["tail_probability"], fitted_detector().threshold.rate)
    assert said["contributions"][0]["feature"] == "amount"
    assert said["contributions"][0]["actual"] == 250_000.0
    assert 5 < said["contributions"][0]["expected"] < 500
    assert said["out_of_range_fields"] == ["amount"]


def test_shares_of_the_named_features_and_of_the_others_sum_to_one() -> None:
    (alert,) = alerts(batch_of([odd_message(7)]), top=2)

    assert len(alert.contributions) == 2
    assert sum(contribution.contribution for contribution in alert.contributions) + alert.others == pytest.approx(1)


@pytest.mark.parametrize("listed", [None, 1])
def test_shares_sum_to_one_however_many_features_the_explanation_lists(listed: int | None) -> None:
    detector, batch = like(), batch_of([odd_message(7)])
    records, _ = detector.decode(batch)
    verdicts, _ = detector.judge(records, listed=listed)

    ((_, alert),) = alerts_of(batch, records, verdicts, detector, now_s=START_MS / 1000, top=2)

    assert sum(contribution.contribution for contribution in alert.contributions) + alert.others == pytest.approx(1)


@pytest.mark.parametrize(("work", "method"), [(1 << 40, "ablation"), (0, "residual")])
def test_an_alert_says_how_its_shares_were_found(work: int, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.explain.ABLATION_WORK", work)

    (alert,) = alerts(batch_of([odd_message(7)]))

    assert text(alert)["explained_by"] == method


def test_only_echoed_fields_are_repeated() -> None:
    (alert,) = alerts(batch_of([odd_message(7)]))

    assert text(alert)["echo"] == {"payment_id": 7, "shop.kind": json.loads(odd_message(7))["shop"]["kind"]}


def test_a_sensitive_feature_shows_its_share_and_no_value() -> None:
    (alert,) = alerts(batch_of([message(7, card__limit=9e9)]), top=9)

    shown = {contribution.feature: contribution for contribution in alert.contributions}["card.limit"]
    assert (shown.actual, shown.expected, shown.sensitive) == (None, None, True)
    assert shown.contribution > 0.1
    assert "9000000000" not in json.dumps(text(alert))


def test_a_sensitive_entity_is_a_pseudonym_and_the_inputs_key_is_left_out() -> None:
    detector = like(sensitive=("card",))
    batch = batch_of([odd_message(7)], keys=[b"card-7"])

    (alert,) = alerts(batch, detector, top=9)

    records, _ = detector.decode(batch)
    assert alert.entity == {"card.number": pseudonym("payments", "card-7")}
    assert Identities(batch, records, detector.stream).message_key(0) == pseudonym("payments", "card-7").encode()
    assert "card-7" not in json.dumps(text(alert))
    assert "key" not in text(alert)["source"]


def test_a_sensitive_id_is_a_pseudonym() -> None:
    (alert,) = alerts(batch_of([odd_message(7)]), like(sensitive=("payment_id",), echo=()))

    assert alert.record_id == pseudonym("payments", "7")


@pytest.mark.parametrize("hiding", [{"sensitive": ("card.number",), "key": None}, {"sensitive": ("payment_id",)}])
def test_an_input_key_that_may_be_a_sensitive_value_leaves_the_worker_as_a_pseudonym_or_not_at_all(
    hiding: dict[str, Any],
) -> None:
    secret = b"secret-7"
    value = message(7, amount=250_000.0, payment_id="secret-7") if "key" not in hiding else odd_message(7)
    detector = like(echo=(), **hiding)
    batch = batch_of([value], keys=[secret])
    records, _ = detector.decode(batch)
    verdicts, _ = detector.judge(records)
    messages = score_messages(batch, records, verdicts, detector, "scores")

    (alert,) = alerts(batch, detector, top=9)

    key = Identities(batch, records, detector.stream).message_key(0)
    assert key in (pseudonym("payments", "secret-7").encode(), b"card-7")
    assert "key" not in text(alert)["source"]
    assert secret not in repr((text(alert), messages)).encode()


def test_a_sensitive_event_time_is_not_told() -> None:
    (alert,) = alerts(batch_of([odd_message(7)]), like(sensitive=("at",)), top=9)

    assert alert.event_time is None
    assert "08:07" not in json.dumps(text(alert))


def test_the_message_key_is_the_entity_and_without_one_the_inputs_key() -> None:
    batch = batch_of([odd_message(7)])
    records, _ = like().decode(batch)
    nobody = like(key=None, sensitive=())
    without, _ = nobody.decode(batch)

    assert Identities(batch, records, like().stream).message_key(0) == b"card-7"
    assert Identities(batch, without, nobody.stream).message_key(0) == b"k0"


def test_a_key_that_is_not_text_is_told_as_base64() -> None:
    (alert,) = alerts(batch_of([odd_message(7)], keys=[b"\xff\xfe"]), like(sensitive=()))

    assert alert.source.key == "base64://4="


def test_a_message_without_a_timestamp_gives_null_and_not_1970() -> None:
    (alert,) = alerts(batch_of([odd_message(7)], timestamp_of=lambda _: -1), like())

    assert alert.source.timestamp is None
    assert alert.event_time == datetime(2026, 3, 1, 8, 7, tzinfo=UTC)


def test_an_echo_that_does_not_fit_is_left_out_and_the_alert_stays() -> None:
    (alert,) = alerts(batch_of([message(7, amount=250_000.0, payment_id="x" * 30_000)]))
    alert = msgspec.structs.replace(alert, record_id="x")

    said = text(alert, max_bytes=16_384)

    assert said["echo"] == {}
    assert said["echo_left_out"] is True
    assert said["alert_id"] == alert.alert_id


def test_contributions_that_do_not_fit_become_part_of_the_others() -> None:
    (alert,) = alerts(batch_of([odd_message(7)]), top=9)
    long = msgspec.structs.replace(alert.contributions[0], actual="x" * 9_000, contribution=0.2)
    alert = msgspec.structs.replace(alert, contributions=(long,) * 4, others=0.2)

    message = alert_message(alert, "a", b"k", 16_384)

    said = json.loads(message.value or b"")
    assert message.size_bytes <= 16_384
    assert len(said["contributions"]) == 1
    assert said["contributions"][0]["contribution"] + said["others"] == pytest.approx(1)


@pytest.mark.parametrize("long", ["x" * 250_000, "\u0001" * 50_000])
def test_a_record_with_a_megabyte_where_a_word_should_be_gets_an_alert_that_fits(long: str) -> None:
    value = message(7, payment_id=long, card__number=long, shop__kind=long, amount=250_000.0)
    batch = batch_of([value], keys=[long.encode()])
    detector = like()

    (alert,) = alerts(batch, detector, top=9)

    records, _ = detector.decode(batch)
    key = Identities(batch, records, detector.stream).message_key(0)
    result = alert_message(alert, "a", key, 16_384)
    assert result.size_bytes <= 16_384
    assert alert.entity == {"card.number": long[:256] + "…"}


@pytest.mark.parametrize(
    ("probability", "severity"),
    [
        (1.2e-2, "warning"),  # counted and fitted rates need not agree to the last digit
        (1e-2, "warning"),
        (1.001e-3, "warning"),
        (1e-3, "minor"),
        (1.001e-4, "minor"),
        (1e-4, "major"),
        (1e-5, "critical"),
        (5e-324, "critical"),
    ],
)
def test_the_severity_rises_with_each_decade_that_a_score_is_rarer_than_the_promised_false_alarms(
    probability: float, severity: str
) -> None:
    assert severity_of(probability, rate=1e-2) == severity


@given(
    st.tuples(st.text(), st.text(), st.integers(0, 99), st.integers(0), st.integers(-1)),
    st.tuples(st.text(), st.text(), st.integers(0, 99), st.integers(0), st.integers(-1)),
)
def test_ids_are_equal_for_the_same_message_and_different_for_others(one: Any, other: Any) -> None:
    assert UUID(alert_id(*one)).version == 5
    assert (alert_id(*one) == alert_id(*other)) == (one == other) or "\x1f" in "".join(one[:2] + other[:2])


def test_an_id_never_changes_between_releases() -> None:
    assert alert_id("payments", "payments", 0, 1, START_MS) == "7bf34805-7d90-5c01-8591-5d3d20e962ed"


def test_a_pseudonym_tells_detectors_apart() -> None:
    assert pseudonym("a", "card-7") != pseudonym("b", "card-7")
    assert pseudonym("a", "card-7").startswith("pseudonym:")


def test_scores_are_published_to_the_last_bit_with_the_verdict_of_the_alert() -> None:
    detector = like()
    batch = batch_of([message(1), odd_message(2), message(3)])
    records, _ = detector.decode(batch)
    verdicts, _ = detector.judge(records)

    said = [json.loads(m.value or b"") for m in score_messages(batch, records, verdicts, detector, "scores")]

    assert [record["score"] for record in said] == detector.score(records).tolist()
    assert [record["verdict"] for record in said] == ["normal", "alert", "normal"]
    assert [record["source"]["offset"] for record in said] == [0, 1, 2]
    assert said[1]["score_ratio"] == float(verdicts.ratios[1])
    assert np.isfinite(verdicts.scores).all()


def test_the_schema_in_the_documentation_is_current() -> None:
    assert ALERT_SCHEMA.read_text(encoding="utf-8") == schema_text(), "run python -m worker.docs"


def test_an_alert_says_what_would_not_have_alerted() -> None:
    detector = like()
    (alert,) = alerts(batch_of([odd_message(7)]), detector)

    said = text(alert)

    assert said["counterfactual_search"] == "found"
    (change,) = said["counterfactual"]["changes"]
    assert (change["feature"], change["relation"], change["sensitive"]) == ("amount", "at_most", False)
    assert said["counterfactual"]["score"] <= said["threshold"]
    records, _ = detector.decode(batch_of([message(7, amount=change["value"])]))
    assert detector.judge(records)[0].anomalies.tolist() == []
    assert said["contributions"][0]["direction"] == "above"


def test_an_alert_says_that_none_was_found_or_that_none_was_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, batch = like(), batch_of([odd_message(7)])
    records, _ = detector.decode(batch)

    def search(verdicts: Verdicts) -> tuple[Any, str]:
        ((_, alert),) = alerts_of(batch, records, verdicts, detector, now_s=START_MS / 1000, top=2)
        return text(alert)["counterfactual"], text(alert)["counterfactual_search"]

    off, _ = detector.judge(records, counterfactuals=False)
    assert search(off) == (None, "not_made")
    hopeless = replace(off, explanations=detector.explain(records, threshold=-1.0))
    assert search(hopeless) == (None, "none_found")
    monkeypatch.setattr("detector.explain.ABLATION_WORK", 0)
    assert search(detector.judge(records)[0]) == (None, "not_made")


def test_a_counterfactual_shows_nothing_of_a_sensitive_field() -> None:
    (alert,) = alerts(batch_of([message(7, card__limit=9e9)]))

    assert text(alert)["counterfactual"]["changes"] == [
        {"feature": "card.limit", "relation": None, "value": None, "sensitive": True}
    ]


def test_a_counterfactual_that_does_not_fit_is_left_out_before_contributions_are() -> None:
    (alert,) = alerts(batch_of([odd_message(7)]))
    alert = msgspec.structs.replace(alert, echo={}, echo_left_out=True)
    whole = alert_message(alert, "a", None, 1_000_000)

    said = text(alert, max_bytes=whole.size_bytes - 20)

    assert said["counterfactual"] is None
    assert said["counterfactual_search"] == "left_out"
    assert len(said["contributions"]) == 2
