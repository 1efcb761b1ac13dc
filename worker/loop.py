"""The loop: a batch is decoded, judged, published and acknowledged before the next poll."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from detector import Detector
from transport import (
    Batch,
    BrokerUnavailable,
    CommitInDoubt,
    CommitRefused,
    OutgoingMessage,
    Partition,
    PublishFailed,
    Source,
    TransportError,
)
from worker.accounts import Accounts
from worker.clock import Clock, Stop
from worker.dead_letters import Origin
from worker.delivery import Delivery, Finished
from worker.errors import PoisonStream, WorkerError
from worker.histories import Applied, Histories
from worker.metrics import WorkerMetrics
from worker.models import Model, Models
from worker.outcomes import Outcomes, outcomes_of
from worker.poison import PoisonCount
from worker.settings import WorkerSettings
from worker.status import Status

logger = logging.getLogger(__name__)

_TICK_S = 1.0


class Worker:
    """Turns batches into alerts, and loses none.

    Between two polls nothing is in flight. Whatever fails between poll and `done` gives the batch back to the source,
    which reads it again; offsets are committed only after the broker acknowledged every message about the records
    before them. A model must have been swapped in before `run`.
    """

    def __init__(
        self,
        *,
        source: Source,
        delivery: Delivery,
        models: Models,
        histories_of: Callable[[Model, bool], Histories],
        settings: WorkerSettings,
        group_id: str,
        version: str,
        metrics: WorkerMetrics,
        status: Status,
        clock: Clock,
        stop: Stop,
    ) -> None:
        self._source = source
        self._delivery = delivery
        self._models = models
        self._settings = settings
        self._group_id = group_id
        self._version = version
        self._metrics = metrics
        self._status = status
        self._accounts = Accounts(metrics, status, settings.drift)
        self._clock = clock
        self._stop = stop
        self._histories_of = histories_of
        self._histories: Histories | None = None  # of the model in use
        self._coming: tuple[Model, Histories] | None = None  # of a model that remembers otherwise, while it catches up
        self._poison = PoisonCount()  # after all that is acknowledged
        self._poison_done = self._poison  # after all that is done: what going back goes back to
        self._poison_valid = self._poison  # after all that is valid: what going back to the last commit goes back to
        self._held: list[Finished] = []  # judged, but part of a long run of dead letters
        self._newest_ms: dict[Partition, int] = {}  # of the last batch with records of that partition
        self._rebalances = source.rebalances
        self._skipped = dict(source.skipped)
        self._commit_began_s = -math.inf
        self._commit_failed = False
        self._is_behind = False  # more records wait than the last batch had

    def run(self) -> None:
        """Score until asked to stop, then commit what is finished.

        Raises:
            PoisonStream: Most records are poison; nothing past the last good batch is committed.
            TransportError: Something that only an operator can mend.
        """
        self._status.state = "running"
        if self._models.current is not None:
            self._remembered(self._models.current)
        while not self._stop.is_set():
            try:
                self._settle()
                if self._models.swap(self._remembers_enough):
                    self._show_model()
                batch = self._poll()
                self._restore()
                if batch is not None:
                    self.process(batch)
                self.commit_if_due(idle=batch is None)
            except (BrokerUnavailable, PublishFailed) as error:
                if isinstance(error, PublishFailed) and not error.retriable:
                    raise
                self._wait_before_retry(error)
        self._status.state = "stopping"
        self._commit_the_rest()
        if self._histories is not None and not self._commit_failed:
            self._histories.leave()
        self._forget()

    def process(self, batch: Batch) -> None:
        """Finish one batch: its outcomes are acknowledged when this returns; it was given back when it raises.

        Raises:
            PoisonStream: A poison limit is crossed; nothing of the batch was published.
            PublishFailed: Some message was not acknowledged; others may be delivered, and will be again with equal ids.
        """
        began_s = self._clock.monotonic_s()
        model = self._models.current  # one model version per batch
        if model is None:
            raise RuntimeError("a batch was polled before a model was swapped in")
        histories = self._remembered(model)
        try:
            with self._timed("process"):
                with self._stage("decode"):
                    records, rejects = model.detector.decode(batch)
                with self._stage("score"):
                    verdicts, changes = model.detector.judge(
                        records,
                        histories.states(batch),
                        histories.alert_states(batch),
                        listed=self._settings.alert_contributions,
                        counterfactuals=self._settings.alert_counterfactuals,
                    )
                origin = Origin(self._group_id, self._version, model.version, self._clock.now_s())
                outcomes = outcomes_of(batch, records, rejects, verdicts, model, self._settings, origin)
                poison = self._poison.after(outcomes.dead, self._settings.poison)
                self._publish(outcomes, last=not self._must_hold(poison))
        except BaseException as error:
            self._give_back(batch, error)
            raise
        self._metrics.batch_duration.observe(self._clock.monotonic_s() - began_s)
        self._poison = poison
        self._done(batch, outcomes, histories.apply(batch, changes, verdicts.states))

    def commit_if_due(self, *, idle: bool = False, last: bool = False) -> None:
        """Commit what is done, at most every `commit_every_s`, and always when idle and at the end.

        A refusal means that the group moved on: the new owner reads the records again. No answer means later.
        """
        now_s = self._clock.monotonic_s()
        if not last and now_s < self._commit_due_s and (self._commit_failed or not idle):
            return
        offsets = self._source.committable()
        if not offsets:
            return
        self._commit_began_s = now_s
        self._commit_failed = True
        try:
            with self._timed("commit"), self._stage("commit"):
                self._delivery.commit(offsets)
        except CommitRefused as error:
            self._metrics.commits.labels("refused").inc()
            self._failed(error)
            logger.warning(
                "the group refused a commit: %s; %s. offsets=%s",
                error,
                "the new owner scores these records again, with equal ids" if error.evicted else "it is tried again",
                _offsets(offsets),
            )
        except BrokerUnavailable as error:
            self._metrics.commits.labels("unavailable").inc()
            self._failed(error)
            logger.warning(
                "no answer to a commit: %s; %s. offsets=%s",
                error,
                "whoever takes over scores these records again, with equal ids"
                if last
                else f"trying again in {self._settings.commit_every_s:.1f} s, a restart now would score these "
                "records again",
                _offsets(offsets),
            )
        except CommitInDoubt as error:
            self._metrics.commits.labels("in_doubt").inc()
            self._failed(error)
            logger.warning("%s. offsets=%s", error, _offsets(offsets))
        else:
            self._commit_failed = False
            self._metrics.commits.labels("committed").inc()
            self._metrics.last_commit.set(self._clock.now_s())
        went_back = self._settle()
        if not self._commit_failed and not went_back and self._histories is not None and not self._held:
            with self._timed("write_state"):
                self._histories.committed(offsets)

    @property
    def _commit_due_s(self) -> float:
        settings = self._settings
        return self._commit_began_s + (settings.commit_behind_every_s if self._is_behind else settings.commit_every_s)

    def _poll(self) -> Batch | None:
        # What is finished waits for its commit, and the commit not for more records.
        due_s = max(self._commit_due_s - self._clock.monotonic_s(), 0.0)
        with self._timed("poll"):
            batch = self._source.poll(within_s=due_s if self._delivery.holds else None)
        self._status.tick()
        self._status.broker_answered(self._source.last_answer_age_s)
        self._metrics.last_poll.set(self._clock.now_s())
        self._metrics.broker_silence.set(self._source.last_answer_age_s)
        self._metrics.rebalanced(self._rebalances, self._source.rebalances)
        self._rebalances = self._source.rebalances
        self._metrics.passed_over(self._skipped, self._source.skipped)
        self._skipped = dict(self._source.skipped)
        self._metrics.batch_bytes.set(0 if batch is None else batch.size_bytes)
        if batch is not None:  # before it is processed, so that a failure still shows the lag
            for index, partition in enumerate(batch.partitions):
                newest_ms = batch.timestamps_ms[batch.partition_index == index].max(initial=-1)
                self._newest_ms[partition] = int(newest_ms)
        try:
            if self._settle() and batch is not None:
                self._accounts.returned(batch)
                batch = None
        except BaseException as error:
            self._give_back(batch, error)
            raise
        self._show_position()
        size = 0 if batch is None else len(batch)
        self._is_behind = sum(self._status.lag.values()) > 2 * size > 0  # the lag counts the batch itself
        return batch

    def _publish(self, outcomes: Outcomes, *, last: bool) -> None:
        """Publish a batch, or keep it for later where what is published cannot be held back any more.

        Raises:
            PublishFailed: Some message was not acknowledged; what can be taken back of the others is.
        """
        messages = outcomes.messages
        if self._delivery.publishes_late:
            if not last:
                return
            messages = self._held_messages() + messages
        with self._stage("publish"):
            self._delivery.publish(messages)

    def _held_messages(self) -> list[OutgoingMessage]:
        return [message for each in self._held for message in each.outcomes.messages]

    def _must_hold(self, poison: PoisonCount) -> bool:
        """Whether the next batch ends in a long run of dead letters, which may be the beginning of a poison stream."""
        # Tombstones end no run: without a limit, a topic that goes on with them alone would be held for ever.
        is_full = len(self._held) >= self._settings.poison.max_consecutive
        return not is_full and poison.is_suspicious(self._settings.poison)

    def _done(self, batch: Batch, outcomes: Outcomes, applied: Applied) -> None:
        """The batch may be committed; where it ends in a long run of dead letters, after the next good record."""
        must_hold = self._must_hold(self._poison)
        self._held.append(Finished(batch, outcomes, applied))
        self._delivery.hold(batch)
        if not must_hold:
            self._finish_held()
        else:  # to finish it or give it back the places of its messages are enough
            batch.drop_contents()
            if not self._delivery.publishes_late:
                outcomes.messages.clear()
        self._metrics.held_records.set(sum(len(each.batch) for each in self._held))
        self._status.tick()
        self._status.retry_attempts, self._status.retrying_since_s = 0, None
        self._status.state = "running"
        self._show_position()

    def _finish_held(self) -> None:
        held, self._held = self._held, []
        self._poison_done = self._poison
        self._close_books(self._delivery.finish(held))

    def _close_books(self, valid: Sequence[Finished]) -> None:
        """Count batches that nothing can take back any more."""
        now_s = self._clock.now_s()
        for each in valid:
            self._accounts.finished(each.batch, each.outcomes, now_s=now_s)
        if valid and not self._delivery.holds:
            self._poison_valid = self._poison_done

    def _settle(self) -> bool:
        """Learn what became of batches that were not valid yet; True where the source went back.

        Raises:
            BrokerUnavailable: Nobody knows yet.
        """
        settlement = self._delivery.settle()
        self._close_books(settlement.valid)
        if settlement.went_back:
            self._take_back(settlement.void)
        return settlement.went_back

    def _give_back(self, batch: Batch | None, error: BaseException) -> None:
        """Let the source read again all that is not done: this batch, and those held back before it.

        Where something could not be published, also what was published since the last commit and can be taken back.
        """
        if batch is not None:
            self._accounts.returned(batch)
        if isinstance(error, TransportError):
            settlement = self._delivery.go_back()
            self._close_books(settlement.valid)
            self._take_back(settlement.void)
        else:
            self._source.go_back()
            self._take_back()
        if isinstance(error, PublishFailed):
            self._metrics.publish_failures.inc()
        if isinstance(error, PoisonStream):
            self._status.state = "poisoned"
        if isinstance(error, Exception):
            self._failed(error)

    def _take_back(self, void: Sequence[Finished] = ()) -> None:
        """Undo what batches changed that the source reads again: those held, and before them those that are void."""
        undone = [*void, *self._held]
        self._held = []
        self._metrics.held_records.set(0)
        for each in reversed(undone):
            self._accounts.returned(each.batch)
            if self._histories is not None:
                self._histories.take_back(each.applied, each.batch)
        if void:
            self._drop_coming()  # it may have caught up with what is not done any more
            self._poison_done = self._poison_valid
        self._poison = self._poison_done

    def _commit_the_rest(self) -> None:
        """Finish what can be finished, at the end; what cannot is read again by whoever takes over."""
        try:
            if self._held and self._delivery.publishes_late:
                self._delivery.publish(self._held_messages())
            self._finish_held()
            self.commit_if_due(last=True)
        except (BrokerUnavailable, PublishFailed) as error:
            self._commit_failed = True
            self._give_back(None, error)
            logger.warning("the last records are given back: %s; whoever takes over scores them again", error)

    # -- what is remembered from batch to batch ------------------------------------------------------------------------

    def _remembered(self, model: Model) -> Histories:
        """The histories of the model in use."""
        if self._histories is None:
            self._histories = self._histories_of(model, True)
            self._source.start_paused = model.detector.remembers
        return self._histories

    def _restore(self) -> None:
        """Follow the partitions that came and went, and bring those that wait for their histories nearer."""
        model = self._models.current
        if model is None:
            return
        histories = self._remembered(model)
        histories.follow(self._source)
        restoring = histories.restoring()
        if restoring.partitions:
            with self._timed("restore"):
                histories.restore(self._source)
            self._status.tick()
            restoring = histories.restoring()
        self._status.restoring = restoring
        histories.show()

    def _remembers_enough(self, model: Model) -> bool:
        """Whether a new model may take over: it remembers what the one in use does, or has caught up by itself.

        One that remembers otherwise replays the input in slices between two polls, while the one in use goes on.
        """
        current = self._histories
        if current is None:
            return True
        if self._delivery.holds:
            return False  # going back to the last commit would take back what another version has changed
        if _fingerprint(model.detector) in (None, _fingerprint(current.detector)):
            begins = model.detector.remembers and not current.detector.remembers
            # What held batches would take back is the state of alerts of the version that judged them.
            if self._held and (begins or model.detector.alerting.remembers):
                return False
            histories = self._take_over(self._histories_of(model, True))
            if begins:
                histories.begin_here(self._source)
            elif model.detector.remembers:
                histories.adopt(current)
            else:
                current.close()
                histories.run(self._source)
            return True
        if self._coming is None or self._coming[0] is not model:
            self._drop_coming()
            self._coming = (model, self._histories_of(model, False))
            logger.info("model %s remembers other things of entities: it catches up first", model.version)
        coming = self._coming[1]
        coming.follow(self._source)
        with self._timed("restore"):
            coming.restore(self._source)
        if self._held or not coming.are_at(self._source):
            return False
        self._coming = None
        self._take_over(coming)
        coming.adopt_alerts(current)
        current.close()
        coming.run(self._source)
        return True

    def _take_over(self, histories: Histories) -> Histories:
        """Let other histories be those in use."""
        self._histories = histories
        self._source.start_paused = histories.detector.remembers
        self._drop_coming()
        return histories

    def _drop_coming(self) -> None:
        if self._coming is not None:
            self._coming[1].close()
            self._coming = None

    def _forget(self) -> None:
        self._drop_coming()
        if self._histories is not None:
            self._histories.close()

    def _wait_before_retry(self, error: Exception) -> None:
        """Wait longer after each failure in a row, ticking, until the wait is over or somebody asks to stop."""
        attempt = self._status.retry_attempts = self._status.retry_attempts + 1
        if self._status.retrying_since_s is None:
            self._status.retrying_since_s = self._clock.monotonic_s()
        delay_s = min(self._settings.retry_initial_s * 2.0 ** min(attempt - 1, 30), self._settings.retry_max_s)
        self._status.state = "retrying"
        self._failed(error)
        self._metrics.retries.inc()
        logger.warning(
            "attempt %d failed: %s; reading the batch again in %.1f s, nothing of it is committed until it is "
            "acknowledged; a restart now would score it again, with equal ids. attempt=%d",
            attempt,
            error,
            delay_s,
            attempt,
        )
        with self._timed("retry"):
            while delay_s > 0 and not self._stop.wait(min(delay_s, _TICK_S)):
                delay_s -= _TICK_S
                self._status.tick()

    def _failed(self, error: BaseException) -> None:
        # Errors of ours repeat no value of a record; those of a bug might.
        ours = isinstance(error, (TransportError, WorkerError))
        self._status.last_error = f"{type(error).__name__}: {error}" if ours else type(error).__name__

    def _show_model(self) -> None:
        model = self._models.current
        if model is not None:
            self._status.model = model.describe()

    def _show_position(self) -> None:
        lag, assignment = self._source.lag(), self._source.assignment()
        self._metrics.position(lag, assignment)
        self._status.lag, self._status.assignment = lag, tuple(assignment)
        self._status.joined = self._status.joined or bool(assignment) or self._source.rebalances.assigned > 0
        oldest_s = dict.fromkeys((partition.topic for partition in self._newest_ms), 0.0)
        self._newest_ms = {partition: ms for partition, ms in self._newest_ms.items() if partition in assignment}
        for partition, newest_ms in self._newest_ms.items():
            if lag.get(partition, 0) > 0 and newest_ms >= 0:
                age_s = self._clock.now_s() - newest_ms / 1000
                oldest_s[partition.topic] = max(age_s, oldest_s[partition.topic])
        for topic, age_s in oldest_s.items():
            self._metrics.lag_seconds.labels(topic).set(age_s)

    @contextmanager
    def _timed(self, state: str) -> Iterator[None]:
        began_s = self._clock.monotonic_s()
        try:
            yield
        finally:
            self._metrics.loop_seconds.labels(state).inc(self._clock.monotonic_s() - began_s)

    @contextmanager
    def _stage(self, stage: str) -> Iterator[None]:
        began_s = self._clock.monotonic_s()
        yield
        self._metrics.stage_duration.labels(stage).observe(self._clock.monotonic_s() - began_s)


def _fingerprint(detector: Detector) -> str | None:
    return None if detector.history is None else detector.history.fingerprint


def _offsets(offsets: object) -> str:
    return (
        ",".join(f"{partition}@{offset}" for partition, offset in offsets.items()) if isinstance(offsets, dict) else ""
    )
