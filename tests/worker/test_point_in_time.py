"""Looking back: a message is judged afterwards as the worker judged it, and what cannot be known any more is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition

from detector import Detector, ModelDirectory, history_blocks, pack_state, read_state
from tests.odd_cards import following, values
from tests.payments import decoded, fitted_detector
from tests.worker.bench import Bench
from tests.worker.lives import STATE, RememberingBench, live, remembering_bench
from trainer.errors import DataFileError
from trainer.explaining import RecordFacts, explain_message
from transport import BrokerUnavailable, Partition
from worker.broker import Broker
from worker.errors import SettingsRefused
from worker.models import Models
from worker.point_in_time import PointInTime

RECORDS = 330
P0 = Partition("payments", 0)


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Iterator[None]:
    """Blocks of sixteen cards: fifty of them then have several, written at different offsets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_blocks, "_BLOCK_BYTES", 1)
        yield


@pytest.fixture(scope="module", params=[True, False], ids=["with history", "without history"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models whose threshold follows the scores, and whose cards have a cooldown."""
    root = tmp_path_factory.mktemp("following")
    detector = following(remembers=request.param)
    ModelDirectory(root / detector.name).publish(detector)
    return root


def ready(root: Path) -> Models:
    bench = Bench(root)
    models = Models(root, None, clock=bench.clock, metrics=bench.metrics)
    models.refresh()
    assert models.swap()
    return models


def detector_of(root: Path) -> Detector:
    model = ready(root).current
    assert model is not None
    return model.detector


def streamed(root: Path, lives: int = 3, count: int = RECORDS) -> RememberingBench:
    """A worker in several lives has read all records; everything that it wrote away is still there."""
    bench = remembering_bench(root, max_batch_records=20, state={"rotation_s": 4})
    coming = iter(values(count))
    for _ in range(lives - 1):
        live(bench, ready(root), coming, turns=count // (lives * 5))
    live(bench, ready(root), coming, turns=count)
    assert bench.committed == count
    return bench


def view_of(bench: RememberingBench) -> PointInTime:
    broker = Broker(
        bench.settings.kafka,
        consumer={"connect": bench.cluster.consumer, "clock": bench.cluster.clock},
        admin={"connect": bench.cluster.admin},
    )
    return PointInTime(bench.settings, broker=broker, clock=bench.clock)


def explained(
    bench: RememberingBench, detector: Detector, offset: int,
    version_of: Callable[[str], Detector | None] = lambda _: None,
) -> RecordFacts:  # fmt: skip
    client = {"connect": bench.cluster.consumer, "clock": bench.cluster.clock}
    (facts,) = explain_message(detector, view_of(bench), P0, offset, version_of=version_of, client=client)
    return facts


def told(bench: RememberingBench) -> dict[int, tuple[str, float, float]]:
    """Outcome, score and score ratio by offset, as the worker published them."""
    found = {}
    for each in bench.cluster.messages("payments.scores"):
        content = json.loads(each.value or b"")
        found[content["source"]["offset"]] = (content["verdict"], content["score"], content["score_ratio"])
    return found


def said(facts: RecordFacts) -> tuple[Any, ...]:
    return facts.outcome, facts.score, facts.score_ratio


def interesting(bench: RememberingBench) -> list[int]:
    """Offsets of the middle: of each outcome the first, one in the middle and the last."""
    by_outcome: dict[str, list[int]] = {}
    for offset, (outcome, *_) in sorted(told(bench).items()):
        by_outcome.setdefault(outcome, []).append(offset)
    assert set(by_outcome) == {"normal", "alert", "suppressed"}
    return sorted({found[at] for found in by_outcome.values() for at in (0, len(found) // 2, -1)})


def test_a_message_in_the_middle_is_judged_as_the_worker_judged_it(root: Path) -> None:
    bench, detector = streamed(root), detector_of(root)
    worker_said = told(bench)
    thresholds = {alert.source.offset: alert.threshold for alert in bench.alerts}

    found = {offset: explained(bench, detector, offset) for offset in interesting(bench)}

    assert {offset: said(facts) for offset, facts in found.items()} == {offset: worker_said[offset] for offset in found}
    assert {o: f.threshold for o, f in found.items() if f.outcome == "alert"} == {
        o: thresholds[o] for o, f in found.items() if f.outcome == "alert"
    }
    assert all(facts.is_exact for facts in found.values())
    assert {f.reason for f in found.values() if f.outcome == "suppressed"} == {"quiet_card"}
    assert len({facts.threshold for facts in found.values()}) >= 3


def test_what_compaction_left_of_the_state_topic_spares_the_input(root: Path) -> None:
    bench, detector = streamed(root), detector_of(root)
    worker_said = told(bench)
    bench.cluster.trim("payments", 0, before=200)

    facts = explained(bench, detector, 300)

    assert said(facts) == worker_said[300]
    assert facts.is_exact
    assert any("as written for offset" in remark for remark in facts.remembered)
    if detector.history is not None:
        assert "block(s) of payments.state" in facts.remembered[0]


def test_what_retention_took_between_the_state_and_the_message_makes_it_inexact_and_is_counted(root: Path) -> None:
    bench, detector = streamed(root), detector_of(root)
    bench.cluster.trim("payments", 0, before=295)

    facts = explained(bench, detector, 300)

    assert facts.is_exact is False
    assert "of the offsets in between" in facts.remembered[-1]


def test_where_the_state_topic_holds_nothing_so_old_the_input_is_judged_again_from_its_beginning(root: Path) -> None:
    bench, detector = streamed(root), detector_of(root)
    worker_said = told(bench)
    bench.cluster.compact(STATE)  # of every key the newest is left, and stands for the end of the stream

    found = {offset: explained(bench, detector, offset) for offset in (60, 153, 217)}

    assert {offset: said(facts) for offset, facts in found.items()} == {offset: worker_said[offset] for offset in found}
    assert all(facts.is_exact for facts in found.values())
    assert all("the beginning of the partition" in remark for f in found.values() for remark in f.remembered)


def test_where_the_input_is_gone_too_what_is_unknown_is_said(root: Path) -> None:
    bench, detector = streamed(root), detector_of(root)
    bench.cluster.compact(STATE)
    bench.cluster.trim("payments", 0, before=100)

    facts = explained(bench, detector, 217)

    assert facts.is_exact is False
    assert "the records from offset 100 on judged again" in facts.remembered[-1]
    assert "is unknown" in facts.remembered[-1]
    if detector.history is not None:
        assert facts.remembered[0].startswith("histories: of the records from offset 100 on")
        assert "features over all of their records show it" in facts.remembered[0]


def test_without_a_state_topic_the_input_is_judged_again(root: Path) -> None:
    bench, detector = streamed(root), detector_of(root)
    worker_said = told(bench)
    bench.cluster.delete(STATE)

    facts = explained(bench, detector, 217)

    assert (said(facts), facts.is_exact) == (worker_said[217], True)


def test_blocks_whose_alerts_were_compacted_away_give_histories_and_the_input_the_rest(tmp_path: Path) -> None:
    detector = following()
    ModelDirectory(tmp_path / detector.name).publish(detector)
    bench, detector = streamed(tmp_path), detector_of(tmp_path)
    worker_said = told(bench)
    log = bench.cluster._log(TopicPartition(STATE, 0))
    log.messages = [each for each in log.messages if not (each.key or b"").endswith(b"/alerts")]

    facts = explained(bench, detector, 300)

    assert said(facts) == worker_said[300]
    assert "block(s) of payments.state" in facts.remembered[0]
    assert "from the beginning of the partition on judged again" in facts.remembered[1]


def test_an_alert_of_the_entity_before_says_since_when_it_is_quiet(root: Path) -> None:
    bench, detector = streamed(root), detector_of(root)
    suppressed = [offset for offset, (outcome, *_) in told(bench).items() if outcome == "suppressed"]

    facts = explained(bench, detector, suppressed[-1])

    assert facts.identity is not None
    alerts = [alert for alert in bench.alerts if alert.source.offset < suppressed[-1]]
    last = [alert for alert in alerts if alert.entity == {"card.number": facts.identity["card.number"]}][-1]
    assert last.event_time is not None
    assert facts.quiet_since is not None
    assert facts.quiet_since.startswith(last.event_time.strftime("%Y-%m-%dT%H:%M:%S"))


def test_another_version_is_judged_by_itself_and_the_one_that_judged_then_is_named(tmp_path: Path) -> None:
    detector = following(remembers=False)
    directory = ModelDirectory(tmp_path / detector.name)
    first = directory.publish(detector)
    bench = streamed(tmp_path)
    later = Detector(
        detector.stream, detector.encoder, detector.scorer, detector.threshold, detector.normal_scores,
        facts=detector.facts | {"fitted_at": "2026-03-14T09:26:53+00:00"},
    )  # fmt: skip
    second = directory.publish(later, promote=True)

    known = explained(bench, directory.load(second), 217, directory.load)
    gone = explained(bench, directory.load(second), 217)
    then = explained(bench, directory.load(first), 217)

    assert f"by version {first}, which judged then: see --version {first}" in known.remembered[0]
    assert f"by version {first}, which cannot be read any more" in gone.remembered[0]
    assert (known.is_exact, gone.is_exact, then.is_exact) == (False, False, True)
    assert said(then) == told(bench)[217]


def test_looking_back_joins_no_group_publishes_nothing_and_commits_nothing(root: Path) -> None:
    bench, detector = streamed(root), detector_of(root)
    before = len(bench.cluster.arrived), dict(bench.cluster._groups["offbeat-payments"].commits)
    clients = len(bench.cluster.consumers)

    explained(bench, detector, 217)

    assert (len(bench.cluster.arrived), dict(bench.cluster._groups["offbeat-payments"].commits)) == before
    new = bench.cluster.consumers[clients:]
    assert {each.config["group_id"] for each in new} == {None}
    assert all(each.closed for each in new)


def test_a_detector_that_remembers_nothing_needs_no_look_back(tmp_path: Path) -> None:
    bench = remembering_bench(tmp_path)

    found = view_of(bench).remembered_at(fitted_detector(), P0, 5)

    assert (found.history, found.remarks, found.is_exact) == (None, (), True)
    assert bench.cluster.consumers == []


def test_a_broker_that_goes_away_ends_the_look_in_bounded_time(root: Path) -> None:
    bench, detector = streamed(root), detector_of(root)
    view = view_of(bench)
    state_topic_of = view._state_topic

    def goes_away() -> str | None:
        topic = state_topic_of()
        bench.cluster.away = True
        return topic

    view._state_topic = goes_away  # type: ignore[method-assign]
    began_s = bench.cluster.clock()

    with pytest.raises(BrokerUnavailable):
        view.remembered_at(detector, P0, 217)
    assert bench.cluster.clock() - began_s < 120


def test_a_worker_that_began_with_published_histories_is_followed_where_they_are_given(tmp_path: Path) -> None:
    detector = following()
    assert detector.history is not None
    before = detector.history.new_state()
    _, changes = detector.history.fold(before, decoded(values(120, start=900), detector.stream))
    before.apply(changes)
    directory = ModelDirectory(tmp_path / detector.name)
    version = directory.publish(detector, state=pack_state(detector.history, before, {}))
    bench = streamed(tmp_path, count=120)
    loaded = directory.load(version)
    assert loaded.history is not None
    begin = read_state(loaded.history, directory.state_path(version))
    client = {"connect": bench.cluster.consumer, "clock": bench.cluster.clock}

    (known,) = explain_message(loaded, view_of(bench), P0, 70, begin=begin, client=client)

    assert said(known) == told(bench)[70]
    bench.cluster.delete(STATE)
    (again,) = explain_message(loaded, view_of(bench), P0, 70, begin=begin, client=client)
    (unknown,) = explain_message(loaded, view_of(bench), P0, 70, client=client)
    assert said(again) == told(bench)[70]
    assert said(unknown) != told(bench)[70]


def test_an_offset_that_is_still_to_come_is_refused(root: Path) -> None:
    bench, detector = streamed(root), detector_of(root)

    with pytest.raises(DataFileError, match="no message at offset 330: its offsets are 0 to 329"):
        explained(bench, detector, RECORDS)


# --- settings ---


def test_settings_are_those_of_the_worker_from_flags_variables_and_file(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('[kafka]\nbootstrap_servers = "file:1"\nclient_id = "from-file"\n[state]\nwarm_up = "3d"\n')
    environment = {"OFFBEAT_CONFIG": str(file), "OFFBEAT_KAFKA__BOOTSTRAP_SERVERS": "environment:1"}

    found = PointInTime.of("payments", (), environment)
    flagged = PointInTime.of("payments", ("--kafka.bootstrap-servers=flag:1", "--state.warm-up=0"), environment)

    assert (found.kafka.bootstrap_servers, found.kafka.client_id) == ("environment:1", "from-file")
    assert found.warm_up_s == 3 * 86_400
    assert (flagged.kafka.bootstrap_servers, flagged.warm_up_s) == ("flag:1", 0)


def test_the_state_topic_is_that_of_the_worker_of_several_topics() -> None:
    environment = {"OFFBEAT_INPUT_TOPICS": "first,payments"}

    assert PointInTime.of("payments", (), environment)._settings.state_to == "first.state"
    assert PointInTime.of("other", (), environment)._settings.state_to == "other.state"


def test_a_misspelled_setting_is_refused() -> None:
    with pytest.raises(SettingsRefused, match="OFFBEAT_KAFKA__CLIENT_IDS"):
        PointInTime.of("payments", (), {"OFFBEAT_KAFKA__CLIENT_IDS": "me"})
