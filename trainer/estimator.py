"""Fitting from Python: tables, matrices and images in, a detector out; and the same in the shape of scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detector import (
    Detector,
    Records,
    StreamDefinition,
    Threshold,
    TrainingDataError,
    as_table,
    decode_table,
    is_images,
    records_of_images,
    records_of_matrix,
    stream_of_images,
    stream_of_matrix,
)
from detector import fit_threshold as detector_threshold
from detector.stream import NumberFeature, ThresholdSetting
from trainer.columns import table_columns
from trainer.errors import NotFittedError
from trainer.fitting import LEAST_NORMAL_RECORDS, FitSettings, fit_detector
from trainer.head import Loss
from trainer.proposal import propose


def fit(
    records: Any, stream: StreamDefinition | Path | str | None = None, *, seed: int = 0, allow_leakage: bool = False,
    head: Loss | None = None,
) -> Detector:  # fmt: skip
    """Fit a detector on normal records.

    Rows of a table that are not records of the stream are left out with a warning; those that the stream's label
    marks anomalous are left out of fitting.

    Args:
        records: A mapping of columns, a pandas or pyarrow table, a float matrix (n, d) in which NaN is missing, or
            images: uint8 (n, h, w) or (n, h, w, c).
        stream: What a record is: a definition, or the path of a stream.toml. Without one, the columns of a matrix
            are numbers named x0, x1, ..., images are scored at about their own size, and a definition is proposed for a
            table as `offbeat init` does.
        seed: The same data and seed give the same detector.
        allow_leakage: Whether a feature may by itself tell the labelled anomalies from normal records.
        head: Loss of a head that labelled anomalies teach: "evl", "cross-entropy" or "focal"; None for none. What it is
            worth stands in the detector's `facts["head"]`, and in a warning where it is not recommended.

    Raises:
        TrainingDataError: The data cannot train or calibrate a detector; says what is missing.
        StreamDefinitionError: The definition is wrong, or names fields that the data does not have.
        ValueError: A matrix has the wrong shape, or holds an infinity.
    """
    definition, decoded = to_records(records, stream)
    settings = FitSettings(seed=seed, allow_leakage=allow_leakage, head=head)
    detector, report = fit_detector(decoded, definition, settings)
    if report.head is not None and not report.head.recommended:
        warnings.warn(report.head.verdict, stacklevel=2)
    return detector


def fit_threshold(scores: Any, rate: float) -> Threshold:
    """The threshold that a share `rate` of normal records is expected to exceed.

    Args:
        scores: Scores of held-out normal records, (n,): of any detector, on any scale, higher is stranger.
        rate: Share of normal records that may alert, in (0, 1).

    Returns:
        The threshold: `.value`, its 95% interval `.low` to `.high`, `.method` (`empirical`, or `tail fit` where fewer
        than 20 of the scores are expected above it), and `.warning` where its promise is weaker than it looks.

    Raises:
        TrainingDataError: A score is not finite, or fewer than a tenth of a score is expected above the threshold.
        ValueError: The rate is not a share, or the scores are no vector.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not 0 < rate < 1:
        raise ValueError(
            f"scores of shape {values.shape} and a rate of {rate}: give a vector of scores and a rate between 0 and 1"
        )
    return detector_threshold(values, ThresholdSetting(false_alarm_rate=rate))


def to_records(data: Any, stream: StreamDefinition | Path | str | None) -> tuple[StreamDefinition, Records]:
    """Data of any accepted form as records, with the definition given, read, generated or proposed."""
    if isinstance(stream, (str, Path)):
        stream = StreamDefinition.load(stream)
    if isinstance(data, Records):
        if stream is None:
            raise TypeError("decoded records are of some stream: give its definition")
        return stream, data
    if is_images(data):
        stream = stream or stream_of_images(data)
        return stream, records_of_images(stream, data)
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
    Beware that PyOD's `decision_function` is higher the stranger: `anomaly_score` is what its users look for.
    Fit it on normal records. A fitted one can be pickled, with pickle's dangers: to hand a detector on, use
    `detector_.save`.

    `X` is a matrix of numbers in which NaN is missing, as array, list or pandas table; or, with `stream` or where a
    table has other columns than numbers, anything that `offbeat.fit` takes.

    Args:
        false_alarm_rate: Share of normal records that may be called anomalous, in (0, 1); 0.001 (or the lowest that
            the data can resolve) where it is None and the stream states none.
        stream: As for `fit`.
        network: `denoising`, or `pca` for the linear special case.
        seed: The same data and seed give the same detector.
        threads: Threads of torch while fitting; scores are computed on one.

    Attributes:
        detector_: The fitted `Detector`.
        threshold_: Anomaly score above which a record is anomalous.
        offset_: What `decision_function` subtracts from `score_samples`: minus the threshold.
        n_features_in_: Columns that were seen in `fit`.
        feature_names_in_: Their names, where `X` was a pandas table of numbers whose columns have strings as names.
    """

    _estimator_type = "outlier_detector"
    _parameters = ("false_alarm_rate", "stream", "network", "seed", "threads")

    def __init__(
        self,
        *,
        false_alarm_rate: float | None = None,
        stream: StreamDefinition | Path | str | None = None,
        network: Literal["denoising", "pca"] = "denoising",
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self.false_alarm_rate = false_alarm_rate
        self.stream = stream
        self.network = network
        self.seed = seed
        self.threads = threads

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
        """Fit on normal records `X`; `y` is ignored.

        Raises:
            TrainingDataError: The data cannot train or calibrate a detector.
            ValueError: `X` is no matrix of finite numbers, nor a table.
            TypeError: `X` is sparse, or a value in it is no number.
        """
        stream, names = self.stream, None
        self._fitted_on_matrix = stream is None and _is_matrix(X)
        if _is_array(X) or self._fitted_on_matrix:
            names = _names_of(X)
            X = _matrix(X)  # noqa: N806 - scikit-learn's name
            _refuse_too_small(X)
            if names is not None:
                stream = _stream_of_columns(names)
        stream, records = to_records(X, stream)
        if self.false_alarm_rate is not None:
            threshold = type(stream.threshold).model_validate({"false_alarm_rate": self.false_alarm_rate})
            stream = stream.model_copy(update={"threshold": threshold})
        settings = FitSettings(seed=self.seed, network=self.network, threads=self.threads)
        self.detector_ = fit_detector(records, stream, settings)[0]
        self.threshold_ = self.detector_.threshold.value
        self.offset_ = -self.threshold_
        self.n_features_in_ = len(stream.feature)
        self.__dict__.pop("feature_names_in_", None)  # of an earlier fit
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        return self

    def anomaly_score(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """The anomaly score, shape (n,): higher is stranger, like PyOD's `decision_function`."""
        detector = self._fitted()
        return detector.score(self._checked(X))

    def score_samples(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Minus the anomaly score, shape (n,): lower is stranger."""
        return -self.anomaly_score(X)

    def decision_function(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Distance below the threshold, shape (n,): negative is anomalous."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """-1 for anomalies, 1 for normal records, shape (n,)."""
        return np.where(self.anomaly_score(X) > self.threshold_, -1, 1)

    def fit_predict(self, X: Any, y: object = None) -> NDArray[np.int64]:  # noqa: N803
        """Fit on `X`, then judge it."""
        return self.fit(X, y).predict(X)

    def transform(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Codes (n, k): the nonlinear dimension reduction of the records."""
        detector = self._fitted()
        return detector.encode(self._checked(X))

    def fit_transform(self, X: Any, y: object = None) -> NDArray[np.float32]:  # noqa: N803
        """Fit on `X`, then give its codes."""
        return self.fit(X, y).transform(X)

    def _fitted(self) -> Detector:
        detector: Detector | None = getattr(self, "detector_", None)
        if detector is None:
            raise _not_fitted("this OffbeatDetector is not fitted yet: call fit first")
        return detector

    def _checked(self, data: Any) -> Any:
        """Data to score in the form that the detector reads, once it is seen to be what was fitted on."""
        if not (_is_array(data) or (self._fitted_on_matrix and _is_matrix(data))):
            return data
        names, known = _names_of(data), getattr(self, "feature_names_in_", None)
        if known is not None and names is not None:
            _refuse_other_names(known.tolist(), names)
        matrix = _matrix(data)
        if matrix.ndim == 2 and matrix.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {matrix.shape[1]} features, but OffbeatDetector is expecting {self.n_features_in_} features "
                "as input"
            )
        return matrix

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "detector_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="outlier_detector",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=[]),
            input_tags=InputTags(allow_nan=True),
        )

    def __repr__(self) -> str:
        return f"OffbeatDetector({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"


def _not_fitted(message: str) -> Exception:
    """scikit-learn's NotFittedError where it is installed, else one that is caught in the same places."""
    try:
        from sklearn.exceptions import NotFittedError as Unfitted
    except ImportError:
        Unfitted = NotFittedError  # noqa: N806 - a class
    error: Exception = Unfitted(message)
    return error


def _is_frame(data: Any) -> bool:
    return hasattr(data, "iloc") and hasattr(data, "columns")


def _is_sparse(data: Any) -> bool:
    return hasattr(data, "tocsr")


def _is_array(data: Any) -> bool:
    """Whether data is no table and no records, and so has to be like an array."""
    return _is_sparse(data) or not (_is_frame(data) or isinstance(data, (Records, Mapping, pa.Table)))


def _is_matrix(data: Any) -> bool:
    """Whether data is like an array, or a pandas table of numbers alone, which is as good as one."""
    return _is_array(data) or (_is_frame(data) and all(dtype.kind in "biuf" for dtype in data.dtypes))


def _names_of(data: Any) -> list[str] | None:
    """Names of the columns of a pandas table, if they are strings."""
    names = list(data.columns) if _is_frame(data) else []
    return names if names and all(isinstance(name, str) for name in names) else None


def _stream_of_columns(names: list[str]) -> StreamDefinition:
    """The definition of a stream of numbers with these names."""
    return StreamDefinition(name="matrix", feature=tuple(NumberFeature(kind="number", field=name) for name in names))


def _matrix(data: Any) -> NDArray[Any]:
    """Anything like an array as a matrix (n, d) of numbers; what has more dimensions stays as it is."""
    if _is_sparse(data):
        raise TypeError("sparse data is not supported: every column of a record is scored; give X.toarray()")
    if _is_frame(data):
        matrix: NDArray[Any] = data.to_numpy(dtype=np.float64, na_value=np.nan)
        return matrix
    matrix = np.asarray(data)
    if matrix.dtype.kind == "c":
        raise ValueError("Complex data not supported: give real and imaginary parts as columns of their own")
    if matrix.dtype.kind == "O":
        matrix = matrix.astype(np.float64)
    if matrix.ndim < 2:
        raise ValueError(
            f"Expected 2D array, got {matrix.ndim}D array instead. Reshape your data: X.reshape(1, -1) is one record, "
            "X.reshape(-1, 1) are records of one number"
        )
    return matrix


def _refuse_too_small(matrix: NDArray[Any]) -> None:
    """Say of a matrix without columns, or with hardly any rows, that it is, before anything else fails on it."""
    n, width = matrix.shape[:2]
    if width == 0:
        raise TrainingDataError(f"0 feature(s) (shape={matrix.shape}) while a minimum of 1 is required.")
    if n < LEAST_NORMAL_RECORDS:
        raise TrainingDataError(
            f"X with n_samples = {n} and n_features = {width} holds {n} normal records, and a detector needs at least "
            f"{LEAST_NORMAL_RECORDS} to learn and to calibrate: give more rows"
        )


def _refuse_other_names(known: list[str], names: list[str]) -> None:
    """The same complaint as scikit-learn's about a table whose columns are not those that were fitted on."""
    if names == known:
        return
    unseen, missing = sorted(set(names) - set(known)), sorted(set(known) - set(names))
    message = "The feature names should match those that were passed during fit.\n"
    for title, wrong in (("unseen at fit time", unseen), ("seen at fit time, yet now missing", missing)):
        if wrong:
            message += f"Feature names {title}:\n" + "".join(f"- {name}\n" for name in wrong[:5])
    if not unseen and not missing:
        message += "Feature names must be in the same order as they were in fit.\n"
    raise ValueError(message)
