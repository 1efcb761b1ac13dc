"""The detector: stream definition, encoder, network, scorer and threshold as one unit with one version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.alerting import Alerting, AlertState, Judgement
from detector.decode import Echo, Reject
from detector.drift import DriftCounts, DriftReference
from detector.encode import Encoder, Notes
from detector.explain import Explanation, explain, most_ablated
from detector.history import History, HistoryChanges, HistoryState
from detector.image_explain import explain_images
from detector.image_records import ImageEncoder, decoder_of, is_images, records_of_images
from detector.image_scoring import ImageScorer
from detector.normal_scores import NormalScores
from detector.records import MessageBatch, Records
from detector.scoring import Scorer
from detector.signing import PublicKeys
from detector.stream import NumberFeature, StreamDefinition
from detector.tables import as_table, decode_table, records_of_matrix
from detector.threshold import Threshold


@dataclass(frozen=True, eq=False, kw_only=True)
class Verdicts(Judgement):
    """What a detector says of records: which of them alert, as `Judgement` has it, and what that came from.

    Attributes:
        scores: Anomaly scores, (n,); higher is stranger. `score > threshold` is an anomaly.
        unscorable: Rows whose score is not finite, (u,): neither normal nor anomalous.
        missing: Records without a value, by feature.
        unseen: Records with a category that no normal record had, by feature.
        drift: The records by bin, to be compared with those of calibration; None where the detector has no reference.
    """

    scores: NDArray[np.float64]
    unscorable: NDArray[np.int64]
    missing: dict[str, int] = field(default_factory=dict)
    unseen: dict[str, int] = field(default_factory=dict)
    drift: DriftCounts | None = None

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Scores in units of the threshold, (n,): 1.0 is always the boundary."""
        return self.scores / self.thresholds


class Detector:
    """Judges records of one stream. Made by the trainer, read back from an artifact; never changed.

    Attributes:
        stream: What a record is.
        encoder: Records to matrix.
        scorer: Matrix to scores.
        threshold: The boundary, and what it promises.
        normal_scores: How often normal records score beyond a value.
        history: What is remembered of entities, None where the stream has no features from it.
        alerting: Which scores alert.
        reference: What the records that it was calibrated on were like, None where they were too few, or the artifact
            is from before there were references.
        facts: What the artifact's manifest tells people: when and on what it was trained, metrics, library versions.
        version: Version of the artifact that it was read from, None before.
        sha256: Hash of that artifact's manifest, None before.
    """

    def __init__(
        self,
        stream: StreamDefinition,
        encoder: Encoder | ImageEncoder,
        scorer: Scorer | ImageScorer,
        threshold: Threshold,
        normal_scores: NormalScores,
        *,
        history: History | None = None,
        reference: DriftReference | None = None,
        facts: Mapping[str, Any] | None = None,
        version: str | None = None,
        sha256: str | None = None,
    ) -> None:
        self.stream, self.threshold, self.normal_scores = stream, threshold, normal_scores
        # Of one kind, which the stream says; `Any`, as whoever looks inside has made them and knows it.
        self.encoder: Any = encoder
        self.scorer: Any = scorer
        self.history = history
        self.alerting = Alerting(stream, threshold, normal_scores)
        self.reference = reference
        self.facts: dict[str, Any] = dict(facts or {})
        self.version, self.sha256 = version, sha256
        self._read_messages()

    def _read_messages(self) -> None:
        """Make the compiled readers of messages."""
        self._decoder = decoder_of(self.stream)
        self._echo = Echo(self.stream)

    def __getstate__(self) -> dict[str, Any]:
        """All but the compiled readers of messages, which are made anew."""
        return {name: part for name, part in self.__dict__.items() if name not in ("_decoder", "_echo")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._read_messages()

    def __repr__(self) -> str:
        version = "" if self.version is None else f", version={self.version!r}"
        names = ", ".join(self.feature_names)
        return f"<Detector {self.name!r} of {names}; threshold={self.threshold.value:.4g}{version}>"

    @property
    def name(self) -> str:
        """Name of the detector: that of its stream."""
        return self.stream.name

    @property
    def feature_names(self) -> list[str]:
        """Names of the features that are scored."""
        names: list[str] = self.encoder.names
        return names

    @property
    def remembers(self) -> bool:
        """Whether earlier records matter to what is said of a record: to its features, or to whether it alerts."""
        return self.history is not None or self.alerting.remembers

    @property
    def trained_until(self) -> datetime | None:
        """Event time of the newest record that it was trained on, None where the stream has no time."""
        until = self.facts.get("trained_until")
        return None if until is None else datetime.fromisoformat(until)

    def decode(self, batch: MessageBatch) -> tuple[Records, list[Reject]]:
        """Message values as records; every value becomes either one record or one reject."""
        return self._decoder.decode(batch)

    def echo(self, value: bytes) -> dict[str, msgspec.Raw]:
        """The fields of one decodable message value that alerts may repeat, by path."""
        return self._echo(value) if self.stream.echo else {}

    def judge(
        self,
        records: Records,
        state: Sequence[HistoryState] | None = None,
        alert_states: Sequence[AlertState] | None = None,
        *,
        explanations: bool = True,
        listed: int | None = None,
        counterfactuals: bool = True,
    ) -> tuple[Verdicts, tuple[HistoryChanges, ...]]:
        """Score records, and say of each whether it is anomalous, whether it alerts, and of those that alert why.

        Pure: the same records and states give the same verdicts, bit for bit, in whatever batches they come. The states
        themselves are not changed. Only how an explanation was made may differ, where a batch has very many anomalies:
        see `explain`.

        Args:
            records: Decoded records of this stream.
            state: What earlier records left behind, one for each partition (`records.partition_index` says which);
                None for nothing, or where records carry their history features already.
            alert_states: The same for what decides on alerts; None for nothing.
            explanations: Whether to say why; without them `Verdicts.explanations` is empty.
            listed: How many features each explanation lists, None for all.
            counterfactuals: Whether explanations say what else would not have been anomalous.

        Returns:
            The verdicts, with what takes the place of each of `alert_states`, and the changes to each of `state`: to be
            kept and applied once the verdicts are acknowledged.
        """
        records, changes = self._remember(records, state)
        notes = Notes()
        scores = self.scorer.score(self.encoder.encode(records, notes))
        if alert_states is None:
            alert_states = [self.alerting.begin()] * _partitions(records)

        def explained(rows: NDArray[np.int64], thresholds: NDArray[np.float64]) -> tuple[Explanation, ...]:
            limits = thresholds if explanations and counterfactuals else None
            return self.explain(records.take(rows), listed=listed, threshold=limits, scores=scores[rows])

        def directed(rows: NDArray[np.int64], thresholds: NDArray[np.float64]) -> tuple[Explanation, ...]:
            """The same by one method whatever else is in the batch, as it decides what alerts."""
            most = max(most_ablated(self.encoder, self.scorer), 1)
            parts = [slice(at, at + most) for at in range(0, len(rows), most)]
            return tuple(one for part in parts for one in explained(rows[part], thresholds[part]))

        judged = self.alerting.judge(records, scores, alert_states, directed)
        told: tuple[Explanation, ...] = ()
        if explanations:
            told = judged.explanations or explained(judged.alerts, judged.thresholds[judged.alerts])
        verdicts = Verdicts(
            **vars(judged) | {"explanations": told},
            scores=scores,
            unscorable=np.flatnonzero(~np.isfinite(scores)),
            missing={name: int(mask.sum()) for name, mask in notes.missing.items()},
            unseen={name: int(mask.sum()) for name, mask in notes.unseen.items()},
            drift=None if self.reference is None else DriftCounts(self.reference, self.reference.count(notes, scores)),
        )
        return verdicts, changes

    def _remember(
        self, records: Records, state: Sequence[HistoryState] | None
    ) -> tuple[Records, tuple[HistoryChanges, ...]]:
        """Records with their history features, and what they change in each state."""
        if self.history is None or (state is None and records.history):
            return records, ()
        states = state if state is not None else self._nothing_known(records)
        return self.history.fold_all(states, records)

    def _nothing_known(self, records: Records) -> list[HistoryState]:
        assert self.history is not None  # noqa: S101 - asked by the caller
        return [self.history.new_state() for _ in range(_partitions(records))]

    def features(self, data: Any, state: HistoryState | None = None) -> dict[str, NDArray[np.float64]]:
        """The history features of records by name, each (n,), NaN where there is no history yet.

        Args:
            data: What `records` accepts, in the order of its entities' records.
            state: What earlier records left behind (`history.new_state()` for a beginning); it is carried on, so that
                the next call goes on where this one ended. Without one, history begins with these records.

        Raises:
            ValueError: This stream has no history features.
        """
        if self.history is None:
            raise ValueError(f"stream {self.name!r} has no history features: add [[feature]] of kind history")
        records = self.records(data)
        state = state if state is not None else self.history.new_state()
        found, changes = self.history.fold(state, records)
        state.apply(changes)
        return found

    def explain(
        self,
        records: Records,
        *,
        listed: int | None = None,
        threshold: float | NDArray[np.float64] | None = None,
        scores: NDArray[np.float64] | None = None,
    ) -> tuple[Explanation, ...]:
        """Why each of a few records scores as it does, sensitive values left out.

        Where ablation would take more than a few seconds, it is done for those with the highest scores and the others
        are explained by their residuals; `Explanation.explained_by` says which. Records of a stream with history
        features need to carry them, or history begins with these records.

        Args:
            records: The records, n.
            listed: How many features of each to list, None for all.
            threshold: The threshold in force, one or (n,), against which counterfactuals are sought; None for none.
            scores: Scores of the records, (n,), where they are known.
        """
        if self.stream.image is not None:
            return explain_images(self.encoder, self.scorer, records, is_sensitive=self.stream.hides_image)
        records, _ = self._remember(records, None)
        return explain(
            self.encoder, self.scorer, records,
            listed=listed, thresholds=threshold, scores=scores, is_sensitive=self.stream.is_sensitive,
        )  # fmt: skip

    def records(self, data: Any) -> Records:
        """Data of any accepted form as records.

        Args:
            data: Records, a mapping of columns, a pandas or pyarrow table, a float matrix (n, d), or of a stream of
                images uint8 (n, h, w) or (n, h, w, c).

        Raises:
            ValueError: A row is not a record of this stream; says which and why.
        """
        if isinstance(data, Records):
            return data
        if is_images(data):
            return records_of_images(self.stream, data)
        if isinstance(data, np.ndarray) or (isinstance(data, list) and all(_is_number_feature(self.stream))):
            return records_of_matrix(self.stream, np.asarray(data))
        records, rejects = decode_table(self.stream, as_table(data))
        if rejects:
            first = rejects[0]
            raise ValueError(
                f"{len(rejects)} of {len(records) + len(rejects)} rows are not records of stream {self.name!r}: "
                f"row {first.row}: {first.message} ({first.reason}); mend or remove them"
            )
        return records

    def score(self, data: Any) -> NDArray[np.float64]:
        """Anomaly scores (n,), higher is stranger; accepts what `records` accepts.

        Where the stream has history features, history begins with these records.
        """
        scores: NDArray[np.float64] = self.scorer.score(self._matrix(data))
        return scores

    def _matrix(self, data: Any) -> NDArray[np.float32]:
        records, _ = self._remember(self.records(data), None)
        matrix: NDArray[np.float32] = self.encoder.encode(records)
        return matrix

    def score_features(self, data: Any) -> NDArray[np.float64]:
        """How badly each feature was rebuilt, (n, f) in the order of `feature_names`; accepts what `records` accepts.

        Mean squared residuals in squared standard deviations: 1 or less on normal records, higher is stranger. For the
        reasons of a score, which knows how features go together, see `explain`.
        """
        scores: NDArray[np.float64] = self.scorer.score_features(self._matrix(data), self.encoder.slices)
        return scores

    def encode(self, data: Any) -> NDArray[np.float32]:
        """Codes (n, k): the nonlinear dimension reduction of records; accepts what `records` accepts."""
        codes: NDArray[np.float32] = self.scorer.encode(self._matrix(data))
        return codes

    def save(self, directory: Path | str) -> Path:
        """Write the detector as an artifact: a new directory, complete or not there at all.

        Raises:
            FileExistsError: The directory exists; artifacts are never changed.
        """
        from detector.artifact import write_artifact

        return write_artifact(self, Path(directory))

    @classmethod
    def load(cls, directory: Path | str, trusted: PublicKeys | None = None) -> Detector:
        """Read a detector from an artifact, after verifying hashes and golden scores.

        Args:
            directory: The artifact.
            trusted: Public keys of which one must have signed it; None asks for no signature.

        Raises:
            ArtifactError: The artifact is refused; says why.
        """
        from detector.artifact import read_artifact

        return read_artifact(Path(directory), trusted)


def _partitions(records: Records) -> int:
    """How many partitions the records are of, as far as their codes tell."""
    return int(records.partition_index.max(initial=0)) + 1


def _is_number_feature(stream: StreamDefinition) -> list[bool]:
    return [isinstance(feature, NumberFeature) for feature in stream.feature]
