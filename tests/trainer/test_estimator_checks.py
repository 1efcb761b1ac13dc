"""scikit-learn's own checks of estimators."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
from sklearn.utils.estimator_checks import check_outliers_train, estimator_checks_generator

from trainer.estimator import OffbeatDetector
from trainer.fitting import LEAST_NORMAL_RECORDS

RATE = 0.25
"""A false-alarm rate that three held-out records resolve: the checks fit as few as twelve records."""

TOO_FEW = f"fits fewer than {LEAST_NORMAL_RECORDS} records, which is refused: they calibrate no threshold"
EXPECTED = {
    name: TOO_FEW
    for name, records in (("check_classifier_data_not_an_array", 12), ("check_n_features_in_after_fitting", 15))
    if records < LEAST_NORMAL_RECORDS
}

OF_THE_NETWORK = ("check_fit_idempotent", "check_methods_subset_invariance", "check_estimators_pickle")
"""Checks that a network could fail; all others are of what stands before it, and are made with the fast one alone."""


def checks(estimator: OffbeatDetector, names: Collection[str] = ()) -> Iterator[Any]:
    """Each check of an estimator, or those with the names, ready to be called."""
    with warnings.catch_warnings():  # it may not be a BaseEstimator: it works without scikit-learn
        warnings.filterwarnings("ignore", message=".*does not inherit from `sklearn.base.BaseEstimator`")
        found = list(estimator_checks_generator(estimator, expected_failed_checks=EXPECTED, mark="xfail"))
    for each in found:
        marked = hasattr(each, "marks")
        subject, check = each.values if marked else each
        if not names or check.func.__name__ in names:
            name = f"{estimator.network}-{_name(check)}"
            yield pytest.param(subject, check, id=name, marks=each.marks if marked else ())


def _name(check: Any) -> str:
    options = "-".join(f"{name}={value}" for name, value in check.keywords.items())
    return "-".join(part for part in (check.func.__name__, options) if part)


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        *checks(OffbeatDetector(network="pca", false_alarm_rate=RATE)),
        *checks(OffbeatDetector(false_alarm_rate=RATE), OF_THE_NETWORK),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
def test_the_estimator_passes_scikit_learns_check(
    estimator: OffbeatDetector, check: Callable[[OffbeatDetector], None]
) -> None:
    check(estimator)


def test_the_threshold_of_a_small_sample_may_lie_above_all_of_it() -> None:
    """Why the checks state a rate: unasked, 75 held-out records promise one false alarm in 76, and none must come."""
    with pytest.raises(AssertionError, match=r"-1"):
        check_outliers_train("OffbeatDetector", OffbeatDetector(network="pca"))
