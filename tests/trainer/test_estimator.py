"""Fitting from Python, from every form of data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray
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
    with pytest.raises(AttributeError, match="call fit first"):
        OffbeatDetector().predict(plane(3))


def test_the_estimator_needs_no_scikit_learn() -> None:
    code = "import sys, trainer.estimator; print('sklearn' in sys.modules)"
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=120
    )

    assert done.stdout.strip() == "False"


ADBENCH = Path(__file__).parents[3] / "shared" / "data" / "adbench"


@pytest.mark.skipif(not ADBENCH.is_dir(), reason=f"the ADBench matrices are not at {ADBENCH}")
def test_an_adbench_matrix_is_ranked_well() -> None:
    data = np.load(ADBENCH / "28_pendigits.npz")
    matrix, odd = data["X"], data["y"] == 1
    normal = np.flatnonzero(~odd)
    train, test = normal[::2], np.concatenate([normal[1::2], np.flatnonzero(odd)])

    scores = offbeat.fit(matrix[train]).score(matrix[test])

    assert auroc(scores, odd[test]) > 0.9
