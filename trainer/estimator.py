"""Fitting from Python: tables and matrices in, a detector out; and the same in the shape of scikit-learn."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from detector import Detector, Records, StreamDefinition, as_table, decode_table, records_of_matrix, stream_of_matrix
from trainer.columns import table_columns
from trainer.fitting import FitSettings, fit_detector
from trainer.proposal import propose


def fit(
    records: Any, stream: StreamDefinition | Path | str | None = None, *, seed: int = 0, allow_leakage: bool = False
) -> Detector:
    """Fit a detector on normal records.

    Rows of a table that are not records of the stream are left out with a warning; those that the stream's label
    marks anomalous are left out of fitting.

    Args:
        records: A mapping of columns, a pandas or pyarrow table, or a float matrix (n, d) in which NaN is missing.
        stream: What a record is: a definition, or the path of a stream.toml. Without one, the columns of a matrix
            are numbers named x0, x1, ..., and a definition is proposed for a table as `offbeat init` does.
        seed: The same data and seed give the same detector.
        allow_leakage: Whether a feature may by itself tell the labelled anomalies from normal records.

    Raises:
        TrainingDataError: The data cannot train or calibrate a detector; says what is missing.
        StreamDefinitionError: The definition is wrong, or names fields that the data does not have.
        ValueError: A matrix has the wrong shape, or holds an infinity.
    """
    definition, decoded = to_records(records, stream)
    return fit_detector(decoded, definition, FitSettings(seed=seed, allow_leakage=allow_leakage))[0]


def to_records(data: Any, stream: StreamDefinition | Path | str | None) -> tuple[StreamDefinition, Records]:
    """Data of any accepted form as records, with the definition given, read, generated or proposed."""
    if isinstance(stream, (str, Path)):
        stream = StreamDefinition.load(stream)
    if isinstance(data, Records):
        if stream is None:
            raise TypeError("decoded records are of some stream: give its definition")
        return stream, data
    if isinstance(data, (np.ndarray, list)):
        matrix = np.asarray(data)
        if stream is None:
            stream = stream_of_matrix(matrix.shape[1] if matrix.ndim == 2 else 1)
        return stream, records_of_matrix(stream, matrix)
    table = as_table(data)
    if stream is None:
        stream = propose(*table_columns(table)).stream
    records, rejects = decode_table(stream, table)
    if rejects:
        warnings.warn(
            f"{len(rejects)} of {table.num_rows} rows are not records of stream {stream.name!r} and are left out; "
            f"the first is row {rejects[0].row}: {rejects[0].message}",
            stacklevel=3,
        )
    return stream, records


class OffbeatDetector:
    """A detector in the shape of scikit-learn's outlier detectors; scikit-learn itself is not needed.

    As there, `predict` gives -1 for anomalies and 1 for normal records, and `score_samples` and `decision_function`
    are lower the stranger a record is: the anomaly score with its sign turned, and its distance below the threshold.
    Fit it on normal records.

    Args:
        false_alarm_rate: Share of normal records that may be called anomalous, in (0, 1); 0.001 (or the lowest that
            the data can resolve) where it is None and the stream states none.
        stream: As for `fit`.
        network: `denoising`, or `pca` for the linear special case.
        seed: The same data and seed give the same detector.

    Attributes:
        detector_: The fitted `Detector`.
        threshold_: Anomaly score above which a record is anomalous.
        offset_: What `decision_function` subtracts from `score_samples`: minus the threshold.
        n_features_in_: Columns that were seen in `fit`.
    """

    _estimator_type = "outlier_detector"
    _parameters = ("false_alarm_rate", "stream", "network", "seed")

    def __init__(
        self,
        *,
        false_alarm_rate: float | None = None,
        stream: StreamDefinition | Path | str | None = None,
        network: Literal["denoising", "pca"] = "denoising",
        seed: int = 0,
    ) -> None:
        self.false_alarm_rate = false_alarm_rate
        self.stream = stream
        self.network = network
        self.seed = seed

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002 - scikit-learn's signature
        """The parameters by name."""
        return {name: getattr(self, name) for name in self._parameters}

    def set_params(self, **parameters: Any) -> Self:
        """Change parameters; they count from the next `fit` on.

        Raises:
            ValueError: There is no such parameter.
        """
        for name, value in parameters.items():
            if name not in self._parameters:
                raise ValueError(f"{name!r} is no parameter: choose from {', '.join(self._parameters)}")
            setattr(self, name, value)
        return self

    def fit(self, X: Any, y: object = None) -> Self:  # noqa: ARG002, N803 - scikit-learn's signature
        """Fit on normal records `X`, in any form that `offbeat.fit` takes; `y` is ignored.

        Raises:
            TrainingDataError: The data cannot train or calibrate a detector.
        """
        stream, records = to_records(X, self.stream)
        if self.false_alarm_rate is not None:
            threshold = type(stream.threshold).model_validate({"false_alarm_rate": self.false_alarm_rate})
            stream = stream.model_copy(update={"threshold": threshold})
        settings = FitSettings(seed=self.seed, network=self.network)
        self.detector_ = fit_detector(records, stream, settings)[0]
        self.threshold_ = self.detector_.threshold.value
        self.offset_ = -self.threshold_
        self.n_features_in_ = len(stream.feature)
        return self

    def score_samples(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Minus the anomaly score, shape (n,): lower is stranger."""
        return -self._fitted().score(X)

    def decision_function(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Distance below the threshold, shape (n,): negative is anomalous."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """-1 for anomalies, 1 for normal records, shape (n,)."""
        return np.where(self._fitted().score(X) > self.threshold_, -1, 1)

    def fit_predict(self, X: Any, y: object = None) -> NDArray[np.int64]:  # noqa: N803
        """Fit on `X`, then judge it."""
        return self.fit(X, y).predict(X)

    def transform(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Codes (n, k): the nonlinear dimension reduction of the records."""
        return self._fitted().encode(X)

    def _fitted(self) -> Detector:
        detector: Detector | None = getattr(self, "detector_", None)
        if detector is None:
            raise AttributeError("this OffbeatDetector is not fitted yet: call fit first")
        return detector

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "detector_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type="outlier_detector",
            target_tags=TargetTags(required=False),
            input_tags=InputTags(allow_nan=True),
        )

    def __repr__(self) -> str:
        return f"OffbeatDetector({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"
