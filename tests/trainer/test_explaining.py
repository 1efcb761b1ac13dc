"""`offbeat explain` says of a record what the worker would decide, and of what is no record why."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from detector import Detector, ModelDirectory
from offbeat import app
from tests.fakes import FakeCluster
from tests.payments import (
    HISTORY_STREAM,
    decoded,
    fitted_detector,
    message,
    odd_message,
    payment,
    remembering_detector,
)
from trainer.commands import mount
from trainer.errors import DataFileError
from trainer.explaining import MOST_RECORDS, explain_given, from_text, from_topic
from transport import BrokerUnavailable, KafkaSettings, Partition, RangeReader, bounds

KAFKA = KafkaSettings()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One detector of payments, in production."""
    folder = tmp_path_factory.mktemp("models")
    ModelDirectory(folder / "payments").publish(fitted_detector())
    return folder


def offbeat(*arguments: object, stdin: bytes | None = None) -> Result:
    app = typer.Typer()
    mount(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def facts_of(value: bytes, detector: Detector | None = None) -> Any:
    (facts,) = explain_given(detector or fitted_detector(), from_text("x", value))
    return facts


# --- what is said ---


def test_a_record_is_judged_as_the_worker_judges_it() -> None:
    values = [message(1), odd_message(2), message(3, shop__kind="casino")]
    detector = fitted_detector()
    verdicts, _ = detector.judge(decoded(values))

    found = explain_given(detector, from_text("x", b"\n".join(values)))

    assert [facts.score for facts in found] == verdicts.scores.tolist()
    assert [number for number, facts in enumerate(found) if facts.outcome == "alert"] == verdicts.anomalies.tolist()
    assert {facts.threshold for facts in found} == set(verdicts.thresholds.tolist())
    assert [facts.tail_probability for facts in found if facts.outcome == "alert"] == verdicts.probabilities.tolist()
    for facts, explanation in zip((found[1], found[2]), verdicts.explanations, strict=True):
        shown = [(each.name, each.share, each.actual, each.expected, each.direction) for each in facts.features]
        assert shown == [(c.feature, c.share, c.actual, c.expected, c.direction) for c in explanation.contributions]
        assert explanation.counterfactual is not None
        assert (facts.changes, facts.counterfactual_score) == (
            explanation.counterfactual.changes,
            explanation.counterfactual.score,
        )


def test_every_feature_is_there_with_its_columns_and_what_was_noticed() -> None:
    facts = facts_of(message(2, amount=None, shop__kind="casino", card__limit=9e9))

    by_name = {each.name: each for each in facts.features}
    assert set(by_name) == set(fitted_detector().feature_names)
    assert sum(each.share for each in facts.features) == pytest.approx(1)
    assert by_name["amount"].notes == ["missing"]
    assert by_name["shop.kind"].notes == ["unseen"]
    assert by_name["card.limit"].notes == ["out_of_range"]
    encoded = fitted_detector().encoder.encode(decoded([message(2, amount=None, shop__kind="casino")]))[0]
    position = fitted_detector().feature_names.index("shop.kind")
    columns = fitted_detector().encoder.slices[position]
    assert by_name["shop.kind"].encoded == pytest.approx(encoded[columns].tolist(), abs=1e-5)


def test_a_record_that_does_not_alert_is_explained_as_well_and_has_no_counterfactual() -> None:
    facts = facts_of(message(1))

    assert (facts.outcome, facts.severity, facts.changes) == ("normal", None, None)
    assert facts.score_ratio is not None
    assert facts.score_ratio <= 1
    assert len(facts.features) == len(fitted_detector().feature_names)


def test_nothing_of_a_sensitive_field_is_said(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd.json"
    file.write_bytes(message(7, card__limit=987654321.0))

    for more in ([], ["--json"]):
        said = offbeat("explain", file, "--models", models, *more)
        assert said.exit_code == 0
        assert "card.limit" in said.output
        assert "987654321" not in said.output.replace(",", "")
    limit = {each.name: each for each in facts_of(message(7, card__limit=9e9)).features}["card.limit"]
    assert (limit.actual, limit.expected, limit.direction, limit.encoded, limit.sensitive) == (*[None] * 4, True)


@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"not json", "not_json"), (b"[1]", "not_an_object"), (message(1, at="never"), "bad_time")],
)
def test_what_is_no_record_says_the_reason_of_its_dead_letter(value: bytes, reason: str) -> None:
    facts = facts_of(value)

    assert (facts.outcome, facts.reason, facts.score) == ("dead_letter", reason, None)
    assert facts.message


def test_rejects_stand_where_they_stood_among_the_records() -> None:
    found = explain_given(fitted_detector(), from_text("x.jsonl", b"\n".join([message(1), b"oops", b"", message(2)])))

    assert [(facts.origin, facts.outcome) for facts in found] == [
        ("x.jsonl:1", "normal"), ("x.jsonl:2", "dead_letter"), ("x.jsonl:4", "normal"),
    ]  # fmt: skip


def test_an_object_over_several_lines_is_one_record() -> None:
    given = from_text("x", json.dumps(payment(1), indent=2).encode())

    assert len(given.values.values) == 1
    assert explain_given(fitted_detector(), given)[0].identity == {
        "payment_id": "1", "card.number": "card-1", "at": "2026-03-01T08:01:00Z",
    }  # fmt: skip


def test_nothing_and_too_much_are_refused() -> None:
    with pytest.raises(DataFileError, match="holds nothing"):
        from_text("x", b" \n")
    with pytest.raises(DataFileError, match=r"offbeat score"):
        from_text("x", b"{}\n" * (MOST_RECORDS + 1))


# --- histories ---


def test_histories_are_those_that_earlier_records_left(tmp_path: Path) -> None:
    detector = remembering_detector()
    earlier = tmp_path / "earlier.jsonl"
    earlier.write_bytes(b"\n".join(message(number) for number in range(300)))
    whole, _ = detector.judge(decoded([message(number) for number in range(303)], HISTORY_STREAM))

    found = explain_given(
        detector, from_text("x", b"\n".join(message(number) for number in range(300, 303))), earlier=[earlier]
    )

    assert [facts.score for facts in found] == whole.scores[300:].tolist()
    assert [facts.score for facts in found] != [
        facts.score
        for facts in explain_given(detector, from_text("x", b"\n".join(message(number) for number in range(300, 303))))
    ]


def test_earlier_records_are_refused_where_nothing_is_made_of_them(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no features from history"):
        explain_given(fitted_detector(), from_text("x", message(1)), earlier=[tmp_path / "a.jsonl"])


# --- a topic ---


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster()
    cluster.create("payments", 2)
    for value in (message(1), odd_message(2), None):
        cluster.append("payments", value, partition=1)
    return cluster


def read(cluster: FakeCluster, offset: int, number: int = 1) -> Any:
    options: dict[str, Any] = {"clock": cluster.clock, "connect": cluster.consumer}
    given = from_topic(
        KAFKA, Partition("payments", number), offset,
        look_up=partial(bounds, **options), reader=partial(RangeReader, **options),
    )  # fmt: skip
    (facts,) = explain_given(fitted_detector(), given)
    return facts


def test_a_message_of_a_topic_is_found_by_partition_and_offset(cluster: FakeCluster) -> None:
    facts = read(cluster, 1)

    assert (facts.origin, facts.outcome) == ("payments[1] offset 1", "alert")
    assert facts.identity["payment_id"] == "2"
    assert cluster.commits("offbeat") == {}


def test_a_tombstone_is_suppressed(cluster: FakeCluster) -> None:
    facts = read(cluster, 2)

    assert (facts.outcome, facts.reason) == ("suppressed", "tombstone")


@pytest.mark.parametrize(("number", "message_of"), [(1, "its offsets are 0 to 2"), (0, "it is empty")])
def test_an_offset_that_is_not_there_is_refused_with_those_that_are(
    cluster: FakeCluster, number: int, message_of: str
) -> None:
    with pytest.raises(DataFileError, match=rf"payments\[{number}\] has no message at offset 9: {message_of}"):
        read(cluster, 9, number)


def test_an_offset_that_is_a_hole_is_refused(cluster: FakeCluster) -> None:
    cluster.skip_offsets("payments", 1, 2)
    cluster.append("payments", message(5), partition=1)

    with pytest.raises(DataFileError, match=r"gave no message at offset 3 .*compaction or an aborted transaction"):
        read(cluster, 3)


# --- the command ---


def test_the_command_says_it_for_people(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd.json"
    file.write_bytes(odd_message(2))

    said = offbeat("explain", file, "--models", models)

    assert said.exit_code == 0, said.output
    assert "odd.json:1 alert" in said.output
    assert "the threshold in force" in said.output
    assert "out of range" in said.output
    assert "with amount at most" in said.output
    assert "this would not alert" in said.output


def test_the_command_says_it_for_machines_and_reads_standard_input(models: Path) -> None:
    said = offbeat("explain", "-", "--models", models, "--json", stdin=b"\n".join([odd_message(2), b"oops"]))

    assert said.exit_code == 0, said.output
    alert, reject = json.loads(said.output)
    assert alert["outcome"] == "alert"
    assert alert["features"][0]["name"] == "amount"
    assert alert["changes"][0]["feature"] == "amount"
    assert alert["in_words"].startswith("with amount at most ")
    assert (reject["outcome"], reject["reason"], reject["in_words"]) == ("dead_letter", "not_json", None)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere.json"], "nowhere.json: no such file"),
        (["kafka:payments"], "say which message of payments"),
        (["-", "--offset", "3"], "belongs to a topic"),
        (["-", "--with-state"], "no features from history"),
    ],
)
def test_the_command_refuses_what_it_cannot_explain(models: Path, words: list[str], complaint: str) -> None:
    said = offbeat("explain", *words, "--models", models, stdin=message(1))

    assert said.exit_code == 2
    assert complaint in " ".join(said.output.replace("│", " ").split())


def test_a_broker_that_is_away_is_said(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise BrokerUnavailable("could not look up where logs begin and end: nobody answers")

    monkeypatch.setattr("trainer.explaining.from_topic", away)

    said = CliRunner().invoke(app, ["explain", "kafka:payments", "--offset", "0", "--models", str(models)])

    assert said.exit_code == 1
    assert "offbeat: could not look up where logs begin and end" in said.output
