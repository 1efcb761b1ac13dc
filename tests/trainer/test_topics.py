"""Ranges of a topic: where they begin and end, what of them is missing, and that they are read as files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from kafka import errors as kafka_errors

from detector import Detector, RejectReason
from tests.fakes import FakeCluster
from tests.odd_cards import following, values
from tests.payments import HISTORY_STREAM, STREAM, decoded, fitted_detector, message, odd_message, remembering_detector
from trainer.datasets import Chunk
from trainer.errors import DataFileError, TrainerError
from trainer.features import feature_files
from trainer.loading import load
from trainer.scoring import score_partitions
from trainer.topics import Edge, PartitionRange, TopicRange, topic_range, warm_up_of
from transport import KafkaSettings
from worker.broker import Broker
from worker.point_in_time import PointInTime
from worker.settings import WorkerSettings

KAFKA = KafkaSettings()
HOUR_MS = 3_600_000
START_MS = 1_772_323_200_000  # 2026-03-01T00:00:00Z


def cluster_of(*partitions: list[bytes | None], topic: str = "payments") -> FakeCluster:
    """A topic with these values in its partitions, one an hour by timestamp, from 2026-03-01."""
    cluster = FakeCluster({topic: len(partitions)})
    for number, contents in enumerate(partitions):
        for place, value in enumerate(contents):
            cluster.append(topic, value, partition=number, timestamp_ms=START_MS + place * HOUR_MS)
    return cluster


def client(cluster: FakeCluster) -> dict[str, Any]:
    return {"clock": cluster.clock, "connect": cluster.consumer}


def range_of(cluster: FakeCluster, since: str | None = None, until: str | None = None, **options: Any) -> TopicRange:
    return topic_range(KAFKA, "payments", since, until, timeout_s=5.0, client=client(cluster), **options)


def offsets(found: TopicRange) -> dict[int, tuple[int, int]]:
    return {part.partition.number: (part.start, part.end) for part in found.parts}


def messages(count: int, start: int = 0) -> list[bytes | None]:
    return [message(number) for number in range(start, start + count)]


# --- ends ---


@pytest.mark.parametrize(
    ("text", "timestamp_ms"),
    [
        ("2026-03-01", START_MS),
        ("2026-03-01T02:00", START_MS + 2 * HOUR_MS),
        ("2026-03-01T02:00Z", START_MS + 2 * HOUR_MS),
        ("2026-03-01T02:00+01:00", START_MS + HOUR_MS),
    ],
)
def test_a_time_without_a_zone_is_in_utc(text: str, timestamp_ms: int) -> None:
    assert Edge.parse(text, "--from").timestamp_ms == timestamp_ms


def test_offsets_are_by_partition_or_of_the_only_one() -> None:
    assert Edge.parse("3:1200,0:7", "--to").offsets == {3: 1200, 0: 7}
    assert Edge.parse("1200", "--to").offset == 1200


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("yesterday", "--from yesterday: is neither a date"),
        ("1:2,1:3", "names a partition twice"),
        ("1969-01-01", "before 1970"),
        ("-5", "is neither"),
    ],
)
def test_what_is_no_end_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(DataFileError, match=complaint):
        Edge.parse(text, "--from")


def test_times_are_offsets_of_the_first_message_as_young_and_the_end_is_not_in_the_range() -> None:
    cluster = cluster_of(messages(10), messages(3))

    found = range_of(cluster, "2026-03-01T02:00", "2026-03-01T05:00")

    assert offsets(found) == {0: (2, 5), 1: (2, 3)}


def test_a_range_ends_where_the_topic_ended_when_it_was_made() -> None:
    cluster = cluster_of(messages(4))
    found = range_of(cluster)
    cluster.append("payments", message(99), partition=0)

    dataset = load(found.parts, STREAM)

    assert (dataset.rows_read, offsets(found)) == (4, {0: (0, 4)})


def test_the_processes_of_a_training_read_the_range_of_the_first_of_them() -> None:
    cluster = cluster_of(messages(100), messages(50))
    said: list[float] = []

    def first_says(offset: float) -> float:
        said.append(offset)
        return offset

    first = range_of(cluster, "2026-03-02", warm_up_s=3600.0, settle=first_says)
    cluster.append("payments", message(200), partition=0, timestamp_ms=START_MS + 200 * HOUR_MS)
    told = iter(said)
    second = range_of(cluster, "2026-03-02", warm_up_s=3600.0, settle=lambda _: next(told))

    assert offsets(second) == offsets(first) == {0: (24, 100), 1: (24, 50)}
    assert [part.warm_from for part in second.parts] == [23, 23]


def test_partitions_can_be_chosen_and_each_offset_is_of_its_own_partition() -> None:
    cluster = cluster_of(messages(10), messages(10), messages(10))

    assert offsets(range_of(cluster, "2", "8", partitions=[1])) == {1: (2, 8)}
    assert offsets(range_of(cluster, "0:1,2:3", partitions=[0, 2])) == {0: (1, 10), 2: (3, 10)}


@pytest.mark.parametrize(
    ("since", "until", "partitions", "complaint"),
    [
        ("2", None, [], "read in 2 partitions, and each counts its own offsets"),
        ("1:2", None, [], "says nothing of partition 0"),
        ("0:1,1:2,5:1", None, [], "partition 5 is not among those"),
        ("0:1,1:99", None, [], r"payments\[1\] ends at offset 10, and 99 is still to come"),
        (None, "0:1,1:99", [], "99 is still to come"),
        ("2026-03-02", "2026-03-01", [], "exchange them"),
        ("2027-03-02", "2027-03-01", [], "exchange them"),
        ("2026-03-01", "2026-03-01", [], "exchange them, or give a later end"),
        ("5", "2", [0], "exchange them"),
        (None, None, [7], "partitions 0 to 1: choose among them"),
        ("2027-01-01", None, [], "no message in the range from 2027-01-01.*2026-03-01T09:00:00Z"),
    ],
)
def test_a_range_that_cannot_be_meant_is_refused(
    since: str | None, until: str | None, partitions: list[int], complaint: str
) -> None:
    cluster = cluster_of(messages(10), messages(10))

    with pytest.raises(DataFileError, match=complaint):
        range_of(cluster, since, until, partitions=partitions)


def test_an_empty_topic_is_said_to_be_empty() -> None:
    with pytest.raises(DataFileError, match="payments is empty"):
        range_of(cluster_of([], []))


def test_a_topic_that_does_not_exist_is_said_in_bounded_time() -> None:
    cluster = FakeCluster()
    began_s = cluster.clock()

    with pytest.raises(TrainerError, match=r"there is no payments\[0\]"):
        topic_range(KAFKA, "payments", timeout_s=60.0, client=client(cluster))

    assert cluster.clock() - began_s <= 10


def test_a_topic_that_is_known_and_whose_leader_does_not_answer_is_waited_for_longer() -> None:
    cluster = cluster_of(messages(3))
    cluster.fail("end_offsets", kafka_errors.KafkaTimeoutError())

    assert offsets(range_of(cluster)) == {0: (0, 3)}


def test_a_broker_that_is_away_is_said_in_bounded_time() -> None:
    cluster = cluster_of(messages(3))
    found = range_of(cluster)
    cluster.away = True
    began_s = cluster.clock()

    with pytest.raises(TrainerError, match=r"payments\[0\] gave nothing from offset 0 on for 5 s"):
        load(found.parts, STREAM)
    assert cluster.clock() - began_s <= 15


def test_a_user_who_may_not_read_the_topic_is_told() -> None:
    cluster = cluster_of(messages(3))
    cluster.fail("end_offsets", kafka_errors.TopicAuthorizationFailedError())

    with pytest.raises(TrainerError, match="payments"):
        range_of(cluster)


# --- what is missing ---


def test_what_retention_removed_of_a_range_is_said_with_its_count() -> None:
    cluster = cluster_of(messages(10))
    cluster.trim("payments", 0, 4)

    by_offset, by_time = range_of(cluster, "1"), range_of(cluster, "2026-03-01")

    assert offsets(by_offset) == offsets(by_time) == {0: (4, 10)}
    assert "retention has removed 3 offsets of the range; it begins at 4" in by_offset.remarks[0]
    assert "retention has removed what lay before offset 4" in by_time.remarks[0]
    assert range_of(cluster).remarks == ()


def test_a_range_that_retention_removed_as_a_whole_is_refused() -> None:
    cluster = cluster_of(messages(10))
    cluster.trim("payments", 0, 8)

    with pytest.raises(DataFileError, match=r"no message in the range from 1 to 5: .* holds offsets 8 to 9"):
        range_of(cluster, "1", "5")


def test_what_retention_removes_between_the_question_and_the_reading_is_counted() -> None:
    cluster = cluster_of(messages(10))
    found = range_of(cluster)
    cluster.trim("payments", 0, 4)

    dataset = load(found.parts, STREAM)

    assert dataset.rows_read == 6
    assert list(found.told_after()) == ["payments: retention removed 4 offsets of the range before they were read"]


def test_holes_of_compaction_and_transactions_are_no_rows() -> None:
    cluster = FakeCluster({"payments": 1})
    for number in range(6):
        cluster.append("payments", message(number), partition=0, key=b"k" if number in (1, 3) else str(number).encode())
        cluster.skip_offsets("payments", 0, 1)
    cluster.compact("payments")

    dataset = load(range_of(cluster).parts, STREAM)

    assert dataset.records.ids is not None
    assert dataset.records.ids.tolist() == ["0", "2", "3", "4", "5"]
    assert dataset.records.offsets.tolist() == [0, 4, 6, 8, 10]
    assert dataset.rows_read == 5


def test_messages_that_are_dated_before_the_beginning_of_the_range_are_counted_and_stay_in_it() -> None:
    cluster = FakeCluster({"payments": 1})
    for number, hour in enumerate((0, 3, 1, 4)):
        cluster.append("payments", message(number), partition=0, timestamp_ms=START_MS + hour * HOUR_MS)

    found = range_of(cluster, "2026-03-01T02:00")
    dataset = load(found.parts, STREAM)

    assert dataset.rows_read == 3
    assert "1 messages of the range carry a timestamp before its beginning" in next(iter(found.told_after()))


# --- reading ---


def test_rejects_and_counts_are_those_of_a_file_and_name_partition_and_offset() -> None:
    cluster = cluster_of([message(1), b"not json", None, message(2)], [b"{}", message(3)])

    dataset = load(range_of(cluster).parts, STREAM)

    assert (dataset.rows_read, dataset.decoded) == (6, 3)
    assert dataset.rejected == {
        RejectReason.NOT_JSON: 1, RejectReason.TOMBSTONE: 1, RejectReason.MISSING_FIELD: 1,
    }  # fmt: skip
    assert [(each.origin.name, each.line) for each in dataset.examples] == [
        ("payments[0]", 1), ("payments[0]", 2), ("payments[1]", 0),
    ]  # fmt: skip
    assert dataset.read_from == "from 2 partition(s) of topic payments"


def test_reading_joins_no_group_and_commits_nothing() -> None:
    cluster = cluster_of(messages(10))

    load(range_of(cluster).parts, STREAM)

    assert {consumer.config["group_id"] for consumer in cluster.consumers} == {None}
    assert all(consumer.closed for consumer in cluster.consumers)


def test_a_message_from_the_future_is_rejected_by_the_time_of_its_message() -> None:
    cluster = cluster_of([message(1), message(2, at="2099-01-01T00:00:00Z")])

    dataset = load(range_of(cluster).parts, HISTORY_STREAM)

    assert dataset.rejected == {RejectReason.FUTURE_TIME: 1}


def test_the_records_of_a_topic_train_as_those_of_files(tmp_path: Path) -> None:
    """The same records with the same histories, in the same order, from partitions and from files."""
    even, odd = ([message(number) for number in range(300) if number % 50 % 2 == rest] for rest in (0, 1))
    cluster = cluster_of([*even], [*odd])
    files = [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]
    for file, contents in zip(files, (even, odd), strict=True):
        file.write_bytes(b"".join(content + b"\n" for content in contents))

    from_topic, from_files = load(range_of(cluster).parts, HISTORY_STREAM), load(files, HISTORY_STREAM)

    assert from_topic.records.ids is not None
    assert from_files.records.ids is not None
    assert from_topic.records.ids.tolist() == from_files.records.ids.tolist()
    for name, column in from_files.records.history.items():
        assert from_topic.records.history[name].tobytes() == column.tobytes(), name
    assert from_topic.records.labels is not None


def test_what_lies_before_a_range_is_history_alone_and_its_rejects_do_not_count() -> None:
    contents: list[bytes | None] = [*messages(100), b"poison", *messages(200, start=101)]
    cluster = cluster_of(contents)

    found = range_of(cluster, "150", warm_up_s=1e9)
    dataset = load(found.parts, HISTORY_STREAM)
    whole = load(range_of(cluster).parts, HISTORY_STREAM)

    assert [part.warm_from for part in found.parts] == [0]
    assert dataset.rejected == {}
    assert dataset.rows_read == dataset.decoded == 300
    assert min(dataset.records.offsets) >= 150
    chosen = np.isin(whole.records.offsets, dataset.records.offsets)
    for name, column in dataset.records.history.items():
        assert column.tobytes() == whole.records.history[name][chosen].tobytes(), name


def test_history_reaches_back_as_far_as_it_is_wanted_by_the_time_of_messages() -> None:
    cluster = cluster_of(messages(100))

    by_time = range_of(cluster, "2026-03-03", warm_up_s=12 * 3600)
    by_offset = range_of(cluster, "48", warm_up_s=12 * 3600)

    assert [(part.warm_from, part.start) for part in by_time.parts] == [(36, 48)]
    assert [(part.warm_from, part.start) for part in by_offset.parts] == [(35, 48)]
    assert warm_up_of(STREAM) == 0
    assert warm_up_of(HISTORY_STREAM) == 7 * 86_400


def test_a_chunk_is_bounded_whatever_the_length_of_the_range() -> None:
    cluster = cluster_of(messages(1500))
    seen: list[int] = []

    def note(chunk: Chunk) -> None:
        seen.append(len(chunk))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.topics.CHUNK_MESSAGES", 100)
        dataset = load(range_of(cluster).parts, STREAM, max_records=200, progress=note)

    assert max(seen) == 100
    assert dataset.rows_read == sum(seen) == 1500
    assert len(dataset.records) == 200


# --- scoring ---


def scored(
    cluster: FakeCluster, detector: Detector, output: Path, since: str | None = None, **options: Any
) -> list[dict[str, Any]]:
    broker = Broker(KAFKA, consumer=client(cluster), admin={"connect": cluster.admin})
    view = PointInTime(WorkerSettings(input_topics=("payments",)), broker=broker)
    found = range_of(cluster, since, **options).with_memories(
        lambda part: view.remembered_at(detector, part.partition, part.start)
    )
    summary = score_partitions(detector, found.parts, output)
    rows: list[dict[str, Any]] = pq.read_table(output).to_pylist()
    assert summary.rows == len(rows) == summary.verdicts.total()
    return rows


def test_every_message_of_a_range_has_a_row_with_its_place_and_verdict(tmp_path: Path) -> None:
    cluster = cluster_of([message(1), b"oops", odd_message(2)], [None, message(3)])

    rows = scored(cluster, fitted_detector(), tmp_path / "out.parquet")

    assert [(row["partition"], row["offset"], row["verdict"], row["reason"]) for row in rows] == [
        (0, 0, "normal", None),
        (0, 1, "reject", "not_json"),
        (0, 2, "alert", None),
        (1, 0, "suppressed", "tombstone"),
        (1, 1, "normal", None),
    ]
    assert [row["payment_id"] for row in rows] == ["1", None, "2", None, "3"]
    verdicts, _ = fitted_detector().judge(decoded([message(1), odd_message(2), message(3)]))
    assert [row["score"] for row in rows if row["score"] is not None] == verdicts.scores.tolist()


def test_scores_thresholds_and_verdicts_of_a_range_in_the_middle_are_those_of_the_whole(tmp_path: Path) -> None:
    detector = following()
    cluster = cluster_of(values(330))
    records = decoded(values(330), detector.stream)
    assert detector.history is not None
    whole, _ = detector.judge(records, [detector.history.new_state()], explanations=False)
    said = np.full(len(records), "normal", object)
    said[whole.alerts], said[whole.suppressed] = "alert", "suppressed"

    rows = scored(cluster, detector, tmp_path / "out.parquet", since="170")

    assert [row["offset"] for row in rows] == list(range(170, 330))
    assert [row["score"] for row in rows] == whole.scores[170:].tolist()
    assert [row["threshold"] for row in rows] == whole.thresholds[170:].tolist()
    assert [row["score_ratio"] for row in rows] == whole.ratios[170:].tolist()
    assert [row["verdict"] for row in rows] == said[170:].tolist()
    assert {"normal", "alert", "suppressed"} == {row["verdict"] for row in rows}
    assert {row["reason"] for row in rows if row["verdict"] == "suppressed"} == {"quiet_card"}


def test_features_of_a_range_say_of_which_message_they_are(tmp_path: Path) -> None:
    cluster = cluster_of([message(1), b"oops"], [None, message(2)])
    named = [
        feature.model_copy(update={"name": "offset"}) if feature.label == "since_last" else feature
        for feature in HISTORY_STREAM.feature
    ]
    stream = HISTORY_STREAM.model_copy(update={"feature": tuple(named)})

    feature_files(stream, None, range_of(cluster).parts, tmp_path / "out.parquet")

    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["partition"], row["offset"], row["payment_id"], row["reason"]) for row in rows] == [
        (0, 0, "1", None),
        (0, 1, None, "not_json"),
        (1, 0, None, "tombstone"),
        (1, 1, "2", None),
    ]
    assert [*rows[0]][:2] == ["partition", "offset"]
    assert "offset_feature" in rows[0]


def test_what_is_remembered_is_restored_partition_by_partition(tmp_path: Path) -> None:
    detector = remembering_detector()
    cluster = cluster_of(messages(60), messages(60))
    view = PointInTime(
        WorkerSettings(input_topics=("payments",)),
        broker=Broker(KAFKA, consumer=client(cluster), admin={"connect": cluster.admin}),
    )
    events: list[str] = []

    def recall(part: PartitionRange) -> Any:
        events.append(f"restored {part.name}")
        return view.remembered_at(detector, part.partition, part.start)

    found = range_of(cluster, "2026-03-01T20:00").with_memories(recall)
    score_partitions(detector, found.parts, tmp_path / "o.jsonl", lambda chunk: events.append(f"read {chunk.origin}"))

    assert events == ["restored payments[0]", "read payments[0]", "restored payments[1]", "read payments[1]"]


def test_histories_of_two_partitions_do_not_mix(tmp_path: Path) -> None:
    detector = remembering_detector()
    cluster = cluster_of(messages(120), messages(120))
    assert detector.history is not None
    alone, _ = detector.judge(decoded(messages(120), HISTORY_STREAM), [detector.history.new_state()])

    rows = scored(cluster, detector, tmp_path / "out.parquet")

    assert [row["score"] for row in rows] == [*alone.scores.tolist(), *alone.scores.tolist()]


def test_columns_of_the_output_keep_their_names_where_the_stream_has_fields_of_the_same(tmp_path: Path) -> None:
    cluster = cluster_of([message(1)])
    detector = fitted_detector()
    stream = detector.stream.model_copy(update={"id": "offset", "key": None})
    same = Detector(stream, detector.encoder, detector.scorer, detector.threshold, detector.normal_scores)
    cluster.append("payments", message(1)[:-1] + b', "offset": "mine"}', partition=0, timestamp_ms=START_MS)

    rows = scored(cluster, same, tmp_path / "out.parquet")

    assert (rows[1]["offset"], rows[1]["offset_field"]) == (1, "mine")
