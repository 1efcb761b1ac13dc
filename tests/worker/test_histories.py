"""Histories of entities in the worker: restored, carried on, taken back, written away, on a fake cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka import errors as kafka_errors

from detector import Detector, History, ModelDirectory, history_blocks, pack_state
from tests.payments import HISTORY_STREAM, decoded, message, remembering_detector
from tests.worker.bench import GROUP, Bench
from tests.worker.lives import EVICTED, FAULTS, STATE, RememberingBench, live_through, remembering_bench
from worker.models import Models


@pytest.fixture
def root(tmp_path: Path) -> Path:
    ModelDirectory(tmp_path / "models" / "remembering").publish(remembering_detector())
    return tmp_path / "models"


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Iterator[None]:
    """Blocks of sixteen cards: fifty of them then have several, written at different offsets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_blocks, "_BLOCK_BYTES", 1)
        yield


def messages(count: int, start: int = 0) -> list[bytes | None]:
    """Payments of fifty cards, the same card every fifty."""
    return [message(number) for number in range(start, start + count)]


def scores(bench: Bench) -> dict[int, float]:
    """Every score on the score topic by record; a repeat has to be equal."""
    found: dict[int, float] = {}
    for each in bench.cluster.messages("payments.scores"):
        content = json.loads(each.value or b"")
        assert found.setdefault(int(content["record_id"]), content["score"]) == content["score"]
    return found


def versions(bench: Bench) -> int:
    """How many versions gave scores."""
    return len({json.loads(each.value or b"")["model_version"] for each in bench.cluster.messages("payments.scores")})


def promote_while_it_runs(bench: RememberingBench, root: Path, detector: Detector, turns: int) -> str:
    """Run a worker, and make another version production at its fourth poll; that version."""
    models = Models(root, None, clock=bench.clock, metrics=bench.metrics)
    models.refresh()
    models.swap()
    worker = bench.worker(turns=turns, models=models)
    poll = bench.source.poll
    polls: list[None] = []
    promoted: list[str] = []

    def poll_while_somebody_promotes(**_: Any) -> Any:
        polls.append(None)
        if len(polls) == 4:
            promoted.append(ModelDirectory(root / "remembering").publish(detector, promote=True))
            models.refresh()
            bench.reads = len(bench.cluster.consumers) - 1
        return poll()

    bench.source.poll = poll_while_somebody_promotes  # type: ignore[method-assign]
    worker.run()
    bench.source.close()
    bench.reads = len(bench.cluster.consumers) - 1 - bench.reads
    return promoted[0]


def offline(values: list[bytes | None], detector: Detector | None = None) -> dict[int, float]:
    """The scores of the same records in one go."""
    detector = detector or remembering_detector()
    return dict(enumerate(detector.score(decoded(values, HISTORY_STREAM)).tolist()))


def test_scores_with_history_equal_those_of_one_go_to_the_last_bit(root: Path) -> None:
    bench = remembering_bench(root, max_batch_records=7)
    bench.produce(*messages(200))

    bench.drain(turns=60)

    assert scores(bench) == offline(messages(200))
    assert bench.committed == 200


def test_a_worker_carries_on_with_what_the_one_before_wrote_away(root: Path) -> None:
    bench = remembering_bench(root)
    for start in range(0, 300, 100):
        bench.produce(*messages(100, start=start))
        bench.drain()
    bench.cluster.trim("payments", 0, before=250)  # of the first records nothing is left but what was written away
    bench.produce(*messages(200, start=300))

    bench.drain()

    assert scores(bench) == offline(messages(500))


def test_what_was_written_before_the_last_commits_is_replayed_from_the_input(root: Path) -> None:
    bench = remembering_bench(root, max_batch_records=10)
    bench.produce(*messages(100))
    bench.drain(turns=15)
    written = len(bench.cluster.messages(STATE))
    bench.settings = bench.settings.model_copy(
        update={"state": bench.settings.state.model_copy(update={"rotation_s": 1e9})}
    )
    bench.produce(*messages(150, start=100))
    bench.drain(turns=30)
    bench.produce(*messages(50, start=250))

    bench.drain(turns=30)

    assert written > 0
    assert scores(bench) == offline(messages(300))


def test_without_a_topic_for_histories_a_restart_replays_the_input(root: Path) -> None:
    bench = remembering_bench(root)
    bench.state_topic = None
    bench.produce(*messages(120))
    bench.drain()
    bench.produce(*messages(80, start=120))

    bench.drain()

    assert scores(bench) == offline(messages(200))


def test_a_replay_publishes_counts_and_commits_nothing(root: Path) -> None:
    bench = remembering_bench(root)
    bench.state_topic = None
    bench.produce(*messages(120))
    bench.drain()
    before = {
        name: len(bench.cluster.messages(name)) for name in ("payments.alerts", "payments.scores", "payments.dlq")
    }
    consumed = bench.count("records_consumed_total", topic="payments")

    bench.drain()

    assert {name: len(bench.cluster.messages(name)) for name in before} == before
    assert bench.count("records_consumed_total", topic="payments") == consumed == 120
    assert bench.count("entities") == 50
    assert bench.committed == 120


def test_a_topic_whose_messages_are_old_is_replayed_all_the_same(root: Path) -> None:
    bench = remembering_bench(root)
    bench.state_topic = None
    bench.cluster.clock.advance(400 * 86_400)
    bench.produce(*messages(120))
    bench.drain()
    bench.produce(*messages(80, start=120))

    bench.drain()

    assert scores(bench) == offline(messages(200))


def test_records_of_an_entity_with_a_very_long_key_count_once_after_a_restart(root: Path) -> None:
    bench = remembering_bench(root, commit_interval_s=1000, max_batch_records=10)
    values: list[bytes | None] = [message(number, card__number="c" * 500) for number in range(90)]
    bench.produce(*values[:60])
    bench.drain()
    bench.produce(*values[60:])
    bench.cluster.set_commit(GROUP, "payments", 0, 60)

    bench.drain()

    assert scores(bench) == offline(values)


def test_blocks_that_are_too_large_for_a_message_are_told_and_replaced_by_the_input(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = remembering_bench(root, max_message_bytes=16_384)
    values: list[bytes | None] = [message(number, card__number=f"{number % 50}" + "c" * 1000) for number in range(200)]
    bench.cluster.create(STATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_blocks, "_LEAST_ENTITIES", 4096)
        bench.produce(*values[:120])
        bench.drain()
        written = bench.cluster.messages(STATE)
        bench.produce(*values[120:])
        bench.drain()

    assert written == []
    assert "larger than max_message_bytes" in caplog.text
    assert scores(bench) == offline(values)


def test_a_cold_start_is_to_be_had(root: Path) -> None:
    bench = remembering_bench(root, state={"warm_up": "0"})
    bench.state_topic = None
    bench.produce(*messages(120))
    bench.drain()
    bench.produce(*messages(80, start=120))

    bench.drain()

    found = scores(bench)
    assert {n: found[n] for n in range(120)} == {n: offline(messages(200))[n] for n in range(120)}
    assert [found[n] for n in range(120, 200)] == list(offline(messages(80, start=120)).values())


def test_a_batch_that_is_given_back_leaves_no_trace_in_the_histories(root: Path) -> None:
    bench = remembering_bench(root, max_batch_records=10)
    bench.produce(*messages(100))
    bench.cluster.fail("ack", None, kafka_errors.KafkaTimeoutError(), *[None] * 30, kafka_errors.KafkaTimeoutError())

    bench.drain(turns=60)

    assert bench.count("publish_failures_total") == 2
    assert scores(bench) == offline(messages(100))


def test_held_batches_that_are_given_back_are_taken_back_from_the_histories(root: Path) -> None:
    bench = remembering_bench(root, max_batch_records=5, poison={"max_consecutive": 10, "max_ratio": 1})
    good, bad = messages(40), [b"poison"] * 4
    # A batch that ends in a long run of dead letters is held: here its first record is good, and so remembered.
    bench.produce(*good[:5], good[5], *bad, good[6], *good[7:])
    worker = bench.worker(turns=40)
    bench.cluster.fail("ack", *[None] * 14, kafka_errors.KafkaTimeoutError())
    worker.run()
    bench.source.close()

    assert bench.count("publish_failures_total") == 1
    assert scores(bench) == offline(messages(40))


def test_a_partition_that_was_lost_and_came_back_is_restored_anew(root: Path) -> None:
    bench = remembering_bench(root, max_batch_records=10)
    bench.produce(*messages(60))
    worker = bench.worker(turns=5)
    worker.run()
    bench.cluster.evict(GROUP)
    bench.produce(*messages(60, start=60))
    bench.stop.turns = 40
    worker.run()
    bench.source.close()

    assert bench.count("rebalances_total", type="lost") == 1
    assert scores(bench) == offline(messages(120))


def test_blocks_of_a_topic_that_was_created_anew_are_not_used(root: Path) -> None:
    bench = remembering_bench(root)
    bench.produce(*messages(120))
    bench.drain()
    state = bench.cluster.messages(STATE)
    anew = remembering_bench(root)
    for each in state:
        anew.cluster.append(STATE, each.value, key=each.key, partition=0, headers=each.headers)
    anew.cluster.set_commit(GROUP, "payments", 0, 0)
    anew.produce(*messages(80))

    anew.drain()

    assert state
    assert scores(anew) == offline(messages(80))


def test_a_block_beyond_the_committed_offset_is_not_used(root: Path) -> None:
    bench = remembering_bench(root)
    bench.produce(*messages(120))
    bench.drain()
    bench.cluster.set_commit(GROUP, "payments", 0, 60)

    bench.drain()

    assert scores(bench) == offline(messages(120))


def test_a_damaged_block_is_replaced_by_the_input(root: Path) -> None:
    bench = remembering_bench(root)
    bench.produce(*messages(120))
    bench.drain()
    last = bench.cluster.messages(STATE)[-1]
    bench.cluster.append(STATE, (last.value or b"")[:-9], key=last.key, partition=0, headers=last.headers)
    bench.produce(*messages(80, start=120))

    bench.drain()

    assert scores(bench) == offline(messages(200))


def test_a_state_that_cannot_be_written_stops_nothing_and_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = remembering_bench(root)
    bench.state_topic = "not.there"
    bench.produce(*messages(60))

    bench.drain()

    assert scores(bench) == offline(messages(60))
    assert bench.count("state_write_failures_total") >= 1
    assert "histories could not be written" in caplog.text


def test_an_entity_on_two_partitions_is_counted_and_told_with_advice(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = remembering_bench(root, partitions=2)
    bench.produce(*messages(10), partition=0)
    bench.produce(*messages(3), partition=1)

    bench.drain()

    assert bench.count("entities_moved_total") == 3
    assert "message key" in caplog.text


def test_a_version_that_remembers_the_same_carries_on_with_the_histories(root: Path) -> None:
    bench = remembering_bench(root, max_batch_records=10)
    bench.produce(*messages(100))
    same = remembering_detector()
    again = Detector(
        same.stream, same.encoder, same.scorer, same.threshold, same.normal_scores, history=same.history,
        facts=same.facts | {"fitted_at": "2026-03-14T09:26:53+00:00"},
    )  # fmt: skip

    second = promote_while_it_runs(bench, root, again, turns=30)

    assert bench.status.model["version"] == second
    assert versions(bench) == 2
    assert bench.reads == 0  # it had nothing to read for itself
    assert scores(bench) == offline(messages(100))


def test_a_version_that_remembers_otherwise_catches_up_before_it_takes_over(root: Path) -> None:
    bench = remembering_bench(root, max_batch_records=10)
    bench.produce(*messages(100))
    same = remembering_detector()
    assert same.history is not None
    priors = {path: type(prior)(prior.mean * 2, prior.deviation) for path, prior in same.history.priors.items()}
    other = Detector(
        same.stream, same.encoder, same.scorer, same.threshold, same.normal_scores,
        history=History(same.stream, priors),
        facts=same.facts | {"fitted_at": "2026-03-14T09:26:53+00:00"},
    )  # fmt: skip

    second = promote_while_it_runs(bench, root, other, turns=30)

    assert bench.reads > 0  # it caught up by itself

    by_version: dict[str, dict[int, float]] = {}
    for each in bench.cluster.messages("payments.scores"):
        content = json.loads(each.value or b"")
        by_version.setdefault(content["model_version"], {})[int(content["record_id"])] = content["score"]
    assert bench.status.model["version"] == second
    assert len(by_version) == 2
    assert sum(len(found) for found in by_version.values()) == 100
    for version, detector in zip(by_version, (same, other), strict=True):
        wanted = offline(messages(100), detector)
        assert by_version[version] == {number: wanted[number] for number in by_version[version]}


def test_a_worker_begins_with_the_histories_of_training_and_counts_none_of_their_records_twice(tmp_path: Path) -> None:
    detector = remembering_detector()
    assert detector.history is not None
    state = detector.history.new_state()
    ends: dict[str, list[str]] = {}
    trained = decoded(messages(150), HISTORY_STREAM)
    state.apply(detector.history.fold(state, trained)[1])
    assert trained.keys is not None
    assert trained.ids is not None
    for key, number in zip(trained.keys.tolist(), trained.ids.tolist(), strict=True):
        ends[key] = [number]
    files = pack_state(detector.history, state, ends)
    ModelDirectory(tmp_path / "models" / "remembering").publish(detector, state=files)
    bench = remembering_bench(tmp_path / "models", max_batch_records=20)
    bench.produce(*messages(200, start=100))  # fifty of them were in training already

    bench.drain(turns=30)

    found = scores(bench)
    wanted = offline(messages(300))
    assert {number: found[number] for number in range(150, 300)} == {n: wanted[n] for n in range(150, 300)}


def test_readiness_says_how_far_restoring_is(root: Path) -> None:
    bench = remembering_bench(root)
    bench.state_topic = None
    bench.produce(*messages(120))
    bench.drain()
    worker = bench.worker(turns=1)
    bench.cluster.fail("beginning_offsets", kafka_errors.KafkaTimeoutError())
    worker.run()

    reasons = bench.status.why_not_ready()
    assert any("wait for their histories" in reason for reason in reasons)
    assert bench.count("restoring_partitions") == 1


def test_records_of_the_future_become_dead_letters_and_enter_no_history(root: Path) -> None:
    bench = remembering_bench(root)
    bench.produce(message(0, at="2099-01-01T00:00:00"), *messages(60, start=1))

    bench.drain()

    assert bench.count("dead_letters_total", stage="validate", reason="future_time") == 1
    assert len(scores(bench)) == 60


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The models of a worker that has loaded them, so that not every example has to."""
    root = tmp_path_factory.mktemp("loaded")
    ModelDirectory(root / "remembering").publish(remembering_detector())
    bench = Bench(root)
    ready = Models(root, None, clock=bench.clock, metrics=bench.metrics)
    ready.refresh()
    assert ready.swap()
    return ready


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lives=st.lists(
        st.tuples(st.lists(st.sampled_from([None, EVICTED, *FAULTS]), max_size=6), st.integers(1, 25)), max_size=4
    ),
    batch_records=st.integers(2, 9),
    commit_interval_s=st.sampled_from([0.0, 1.0, 1000.0]),
    rotation_s=st.sampled_from([0.5, 4.0, 1000.0]),
    has_topic=st.booleans(),
)
def test_no_fault_and_no_crash_changes_a_bit_of_a_score_with_history(
    loaded: Models, lives: list[tuple[list[str | None], int]], batch_records: int,
    commit_interval_s: float, rotation_s: float, has_topic: bool,
) -> None:  # fmt: skip
    bench = remembering_bench(
        loaded._root, max_batch_records=batch_records, commit_interval_s=commit_interval_s,
        state={"rotation_s": rotation_s},
    )  # fmt: skip
    bench.state_topic = STATE if has_topic else None
    coming = iter(messages(150))
    live_through(bench, loaded, coming, lives, turns=150)

    assert scores(bench) == offline(messages(150))
    assert bench.committed == 150
