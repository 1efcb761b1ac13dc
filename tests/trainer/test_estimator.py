"""Fitting from Python, from every form of data."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.base import clone, is_outlier_detector
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

import offbeat
from detector import StreamDefinition, TrainingDataError
from trainer.estimator import OffbeatDetector, fit, to_records
from trainer.evaluation import auroc

STREAM = StreamDefinition.from_toml("""
name = "pairs"
[label]
field = "odd"
[[feature]]
kind = "number"
field = "a"
[[feature]]
kind = "number"
field = "b"
[[feature]]
kind = "category"
field = "c"
""")


def plane(n: int, seed: int = 0) -> NDArray[np.float64]:
    """Records that lie near a plane: the third column is the sum of the first two."""
    rng = np.random.default_rng(seed)
    two = rng.normal(size=(n, 2))
    return np.column_stack([two, two.sum(axis=1) + rng.normal(0, 0.05, n)])


def off_plane(n: int) -> NDArray[np.float64]:
    """The same columns one by one, without the relation."""
    return np.column_stack([plane(n, 1)[:, 0], plane(n, 2)[:, 1], plane(n, 3)[:, 2]])


def table(n: int, seed: int = 0) -> dict[str, list[object]]:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return {"a": a.tolist(), "b": (2 * a).tolist(), "c": np.where(a > 0, "up", "down").tolist(), "odd": [0] * n}


def test_a_matrix_is_enough_and_the_odd_records_score_higher() -> None:
    detector = offbeat.fit(plane(600))
    assert repr(detector).startswith("<Detector 'matrix' of x0, x1, x2; threshold=")

    normal, odd = detector.score(plane(200, seed=9)), detector.score(off_plane(200))

    assert normal.shape == (200,)
    ranked = np.concatenate([normal, odd])
    assert auroc(ranked, np.arange(400) >= 200) > 0.8


def test_the_same_seed_gives_the_same_scores_bit_for_bit() -> None:
    def scores(seed: int) -> NDArray[np.float64]:
        return OffbeatDetector(network="pca", seed=seed).fit(plane(300)).score_samples(off_plane(50))

    assert np.array_equal(scores(3), scores(3))
    assert not np.array_equal(scores(3), scores(4))


def test_a_mapping_a_pandas_and_an_arrow_table_are_the_same_records() -> None:
    columns = table(300)
    forms = [to_records(form, STREAM)[1] for form in (columns, pd.DataFrame(columns), pa.table(columns))]

    for records in forms:
        assert records.numbers["a"].tolist() == columns["a"]
        assert records.categories["c"].tolist() == columns["c"]


def test_a_table_without_a_definition_gets_the_proposed_one() -> None:
    stream, _ = to_records({name: column for name, column in table(300).items() if name != "odd"}, None)

    assert [feature.field for feature in stream.field_features] == ["a", "b", "c"]


def test_a_definition_may_be_a_path(tmp_path: Path) -> None:
    (tmp_path / "stream.toml").write_text(STREAM.to_toml())

    assert to_records(table(300), tmp_path / "stream.toml")[0] == STREAM


def test_labelled_anomalies_are_left_out_of_fitting() -> None:
    columns = table(300)
    columns["odd"] = [int(row % 10 == 0) for row in range(300)]

    counts = OffbeatDetector(network="pca", stream=STREAM).fit(columns).detector_.facts["records"]

    assert counts["left_out_labelled"] + counts["test"] >= 30
    assert counts["fit"] + counts["validate"] + counts["calibrate"] <= 270


def test_rows_that_are_no_records_are_left_out_with_a_warning() -> None:
    columns = table(300)
    columns["a"] = [float("inf"), *columns["a"][1:]]

    with pytest.warns(UserWarning, match="1 of 300 rows are not records .* row 0: a is infinite"):
        _, records = to_records(columns, STREAM)

    assert len(records) == 299


def test_too_few_records_are_refused_with_what_is_missing() -> None:
    with pytest.raises(TrainingDataError, match="5 normal records"):
        fit(plane(5))


def test_the_estimator_has_scikit_learns_signs() -> None:
    estimator = OffbeatDetector(false_alarm_rate=0.05, network="pca").fit(plane(800))
    records = np.concatenate([plane(200, seed=9), off_plane(200)])

    predicted = estimator.predict(records)

    assert set(np.unique(predicted)) == {-1, 1}
    np.testing.assert_array_equal(predicted == -1, estimator.decision_function(records) < 0)
    np.testing.assert_array_equal(
        estimator.decision_function(records), estimator.score_samples(records) - estimator.offset_
    )
    np.testing.assert_array_equal(estimator.score_samples(records), -estimator.detector_.score(records))
    np.testing.assert_array_equal(estimator.anomaly_score(records), estimator.detector_.score(records))
    assert estimator.threshold_ == estimator.detector_.threshold.value
    assert (predicted[:200] == -1).mean() < 0.12  # 5% promised; 200 draws stay below 12% almost surely
    assert (predicted[200:] == -1).mean() > 0.5


def test_the_estimator_can_be_cloned_and_takes_parameters() -> None:
    estimator = OffbeatDetector(false_alarm_rate=0.02, seed=5)

    copy = clone(estimator).set_params(seed=6)

    assert copy.get_params() == {**estimator.get_params(), "seed": 6}
    assert is_outlier_detector(estimator)
    with pytest.raises(ValueError, match="'sed' is no parameter"):
        estimator.set_params(sed=1)


def test_the_estimator_works_at_the_end_of_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), OffbeatDetector(network="pca"))

    assert pipeline.fit(plane(300)).predict(plane(20)).shape == (20,)


def test_an_unfitted_estimator_says_so() -> None:
    with pytest.raises(NotFittedError):
        check_is_fitted(OffbeatDetector())
    for method in ("predict", "decision_function", "score_samples", "anomaly_score", "transform"):
        with pytest.raises(NotFittedError, match="call fit first"):
            getattr(OffbeatDetector(), method)(plane(3))


WITHOUT_SCIKIT_LEARN = """
import sys
sys.modules["sklearn"] = None  # as if it were not installed
import numpy as np
from trainer.errors import NotFittedError
from trainer.estimator import OffbeatDetector

estimator = OffbeatDetector(network="pca")
try:
    estimator.predict(np.zeros((1, 3)))
except NotFittedError as error:
    print(isinstance(error, ValueError) and isinstance(error, AttributeError))
print(estimator.fit(np.random.default_rng(0).normal(size=(100, 3))).predict([[0.0, 0.1, 50.0]]))
"""


def test_the_estimator_needs_no_scikit_learn() -> None:
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SCIKIT_LEARN], cwd=root, capture_output=True, text=True, check=True, timeout=120
    )

    assert done.stdout.split() == ["True", "[-1]"]


def test_a_pickled_estimator_scores_the_same_to_the_last_bit() -> None:
    estimator = OffbeatDetector(network="pca", stream=STREAM).fit(table(300))

    copy = pickle.loads(pickle.dumps(estimator))

    odd = {"a": [0.1, 9.0], "b": [0.2, None], "c": ["up", "sideways"]}
    assert np.array_equal(copy.anomaly_score(odd), estimator.anomaly_score(odd))
    assert copy.detector_.threshold == estimator.detector_.threshold


def test_a_table_of_numbers_is_its_matrix_with_names() -> None:
    frame = pd.DataFrame(plane(300), columns=["left", "right", "sum"])

    estimator = OffbeatDetector(network="pca").fit(frame)

    assert estimator.feature_names_in_.tolist() == estimator.detector_.feature_names == ["left", "right", "sum"]
    odd = off_plane(20)
    assert np.array_equal(estimator.score_samples(frame.iloc[:20]), estimator.score_samples(frame.to_numpy()[:20]))
    assert np.array_equal(
        estimator.score_samples(odd), OffbeatDetector(network="pca").fit(frame.to_numpy()).score_samples(odd)
    )
    with pytest.raises(ValueError, match="must be in the same order"):
        estimator.predict(frame[["right", "left", "sum"]])


def test_names_of_an_earlier_fit_are_forgotten() -> None:
    estimator = OffbeatDetector(network="pca").fit(pd.DataFrame(plane(300), columns=["left", "right", "sum"]))

    assert not hasattr(estimator.fit(plane(300)), "feature_names_in_")


def test_a_table_with_texts_is_read_by_the_proposed_definition() -> None:
    frame = pd.DataFrame({name: column for name, column in table(300).items() if name != "odd"})

    estimator = OffbeatDetector(network="pca").fit(frame)

    assert estimator.n_features_in_ == 3
    assert estimator.anomaly_score(frame[["c", "b", "a"]]).shape == (300,)  # read by name, whatever their order


def test_missing_numbers_of_a_table_are_missing_values_of_the_matrix() -> None:
    matrix = plane(300)
    matrix[::7, 1] = np.nan
    frame = pd.DataFrame(matrix, columns=["left", "right", "sum"]).astype({"right": "Float64"})

    estimator = OffbeatDetector(network="pca").fit(frame)

    assert np.array_equal(estimator.score_samples(frame), estimator.score_samples(matrix))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(30), "Expected 2D array, got 1D array"),
        (np.zeros((30, 0)), "0 feature"),
        (np.zeros((7, 2)), "n_samples = 7"),
        (np.full((30, 2), 1j), "Complex data not supported"),
        (np.full((30, 2), np.inf), "infinite"),
        (np.full((30, 2), "a"), "shape .n, d. and numbers"),
    ],
)
def test_a_matrix_that_is_none_is_refused(X: NDArray[np.generic], message: str) -> None:  # noqa: N803
    with pytest.raises(ValueError, match=message):
        OffbeatDetector().fit(X)


def test_sparse_data_is_refused() -> None:
    with pytest.raises(TypeError, match="sparse data is not supported"):
        OffbeatDetector().fit(csr_array(plane(30)))


def test_records_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="X has 2 features, but OffbeatDetector is expecting 3 features"):
        OffbeatDetector(network="pca").fit(plane(300)).predict(plane(5)[:, :2])


ADBENCH = Path(__file__).parents[3] / "shared" / "data" / "adbench"


@pytest.mark.skipif(not ADBENCH.is_dir(), reason=f"the ADBench matrices are not at {ADBENCH}")
def test_an_adbench_matrix_is_ranked_well() -> None:
    data = np.load(ADBENCH / "28_pendigits.npz")
    matrix, odd = data["X"], data["y"] == 1
    normal = np.flatnonzero(~odd)
    train, test = normal[::2], np.concatenate([normal[1::2], np.flatnonzero(odd)])

    scores = offbeat.fit(matrix[train]).score(matrix[test])

    assert auroc(scores, odd[test]) > 0.9


def test_a_threshold_is_set_on_anybodys_scores() -> None:
    scores = np.random.default_rng(0).normal(size=50_000)

    rare, common = offbeat.fit_threshold(scores, 1e-4), offbeat.fit_threshold(scores.tolist(), 0.01)

    assert rare.method == "tail fit"
    assert rare.low < rare.value < rare.high
    assert (scores > common.value).mean() == pytest.approx(0.01, rel=0.01)
    with pytest.raises(ValueError, match="a rate between 0 and 1"):
        offbeat.fit_threshold(scores, 1.5)
