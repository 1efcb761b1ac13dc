"""The detector: stream definition, encoder, network, scorer and threshold as one unit with one version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.decode import Decoder, Echo, Reject
from detector.encode import Encoder, Notes
from detector.explain import Explanation, explain
from detector.records import MessageBatch, Records
from detector.scoring import Scorer
from detector.stream import NumberFeature, StreamDefinition
from detector.tables import as_table, decode_table, records_of_matrix
from detector.threshold import Threshold


@dataclass(frozen=True)
class Verdicts:
    """What a detector says of records.

    Attributes:
        scores: Anomaly scores, (n,); higher is stranger.
        threshold: `score > threshold` is an anomaly.
        anomalies: Rows that are anomalous, ascending, (a,).
        explanations: Why, one for each anomaly, where they were asked for.
        unscorable: Rows whose score is not finite, (u,): neither normal nor anomalous.
        missing: Records without a value, by feature.
        unseen: Records with a category that no normal record had, by feature.
    """

    scores: NDArray[np.float64]
    threshold: float
    anomalies: NDArray[np.int64]
    explanations: tuple[Explanation, ...]
    unscorable: NDArray[np.int64]
    missing: dict[str, int] = field(default_factory=dict)
    unseen: dict[str, int] = field(default_factory=dict)

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Scores in units of the threshold, (n,): 1.0 is always the boundary."""
        return self.scores / self.threshold


class Detector:
    """Judges records of one stream. Made by the trainer, read back from an artifact; never changed.

    Attributes:
        stream: What a record is.
        encoder: Records to matrix.
        scorer: Matrix to scores.
        threshold: The boundary, and what it promises.
        facts: What the artifact's manifest tells people: when and on what it was trained, metrics, library versions.
        version: Version of the artifact that it was read from, None before.
        sha256: Hash of that artifact's manifest, None before.
    """

    def __init__(
        self,
        stream: StreamDefinition,
        encoder: Encoder,
        scorer: Scorer,
        threshold: Threshold,
        *,
        facts: Mapping[str, Any] | None = None,
        version: str | None = None,
        sha256: str | None = None,
    ) -> None:
        self.stream, self.encoder, self.scorer, self.threshold = stream, encoder, scorer, threshold
        self.facts: dict[str, Any] = dict(facts or {})
        self.version, self.sha256 = version, sha256
        self._decoder = Decoder(stream)
        self._echo = Echo(stream)

    def __repr__(self) -> str:
        version = "" if self.version is None else f", version={self.version!r}"
        return f"<Detector {self.name!r} of {', '.join(self.features)}; threshold={self.threshold.value:.4g}{version}>"

    @property
    def name(self) -> str:
        """Name of the detector: that of its stream."""
        return self.stream.name

    @property
    def features(self) -> list[str]:
        """Names of the features that are scored."""
        return self.encoder.names

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
        return self._echo(value)

    def judge(self, records: Records, state: None = None, *, explanations: bool = True) -> tuple[Verdicts, None]:
        """Score records, and say of each whether it is anomalous and of the anomalous ones why.

        Pure: the same records and state give the same verdicts, bit for bit, in whatever batches they come.

        Args:
            records: Decoded records of this stream.
            state: What earlier records left behind. This detector keeps none.
            explanations: Whether to say why; without them `Verdicts.explanations` is empty.

        Returns:
            The verdicts, and the changes to the state (none).
        """
        notes = Notes()
        scores = self.scorer.score(self.encoder.encode(records, notes))
        finite = np.isfinite(scores)
        anomalies = np.flatnonzero(finite & (scores > self.threshold.value))
        verdicts = Verdicts(
            scores=scores,
            threshold=self.threshold.value,
            anomalies=anomalies,
            explanations=self.explain(records.take(anomalies)) if explanations else (),
            unscorable=np.flatnonzero(~finite),
            missing={name: int(mask.sum()) for name, mask in notes.missing.items()},
            unseen={name: int(mask.sum()) for name, mask in notes.unseen.items()},
        )
        return verdicts, state

    def explain(self, records: Records) -> tuple[Explanation, ...]:
        """Why each of a few records scores as it does, sensitive values left out."""
        return explain(self.encoder, self.scorer, records, is_sensitive=self.stream.is_sensitive)

    def records(self, data: Any) -> Records:
        """Data of any accepted form as records.

        Args:
            data: Records, a mapping of columns, a pandas or pyarrow table, or a float matrix (n, d).

        Raises:
            ValueError: A row is not a record of this stream; says which and why.
        """
        if isinstance(data, Records):
            return data
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
        """Anomaly scores (n,), higher is stranger; accepts what `records` accepts."""
        return self.scorer.score(self.encoder.encode(self.records(data)))

    def score_features(self, data: Any) -> NDArray[np.float64]:
        """How badly each feature was rebuilt, (n, f) in the order of `features`; accepts what `records` accepts.

        Mean squared residuals in squared standard deviations: 1 or less on normal records, higher is stranger. For the
        reasons of a score, which knows how features go together, see `explain`.
        """
        return self.scorer.score_features(self.encoder.encode(self.records(data)), self.encoder.slices)

    def encode(self, data: Any) -> NDArray[np.float32]:
        """Codes (n, k): the nonlinear dimension reduction of records; accepts what `records` accepts."""
        return self.scorer.encode(self.encoder.encode(self.records(data)))

    def save(self, directory: Path | str) -> Path:
        """Write the detector as an artifact: a new directory, complete or not there at all.

        Raises:
            FileExistsError: The directory exists; artifacts are never changed.
        """
        from detector.artifact import write_artifact

        return write_artifact(self, Path(directory))

    @classmethod
    def load(cls, directory: Path | str) -> Detector:
        """Read a detector from an artifact, after verifying hashes and golden scores.

        Raises:
            ArtifactError: The artifact is refused; says why.
        """
        from detector.artifact import read_artifact

        return read_artifact(Path(directory))


def _is_number_feature(stream: StreamDefinition) -> list[bool]:
    return [isinstance(feature, NumberFeature) for feature in stream.feature]
