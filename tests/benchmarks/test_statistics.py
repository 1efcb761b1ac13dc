"""Ranks, critical differences and paired tests, against hand calculations and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, wilcoxon

from benchmarks.quality.statistics import Ranking, compare, critical_difference, holm, rank, shared_sets


def on_sets(*figures: float) -> dict[str, float]:
    return {f"set {number}": figure for number, figure in enumerate(figures)}


@pytest.mark.parametrize(
    ("methods", "sets", "expected"),
    [
        (4, 14, 2.569 * math.sqrt(4 * 5 / (6 * 14))),  # the example of Demšar 2006, 1.25
        (2, 10, 1.960 * math.sqrt(2 * 3 / (6 * 10))),  # q of his table 5a
        (10, 30, 3.164 * math.sqrt(10 * 11 / (6 * 30))),
    ],
)
def test_the_critical_difference_is_that_of_demsars_table(methods: int, sets: int, expected: float) -> None:
    assert critical_difference(methods, sets) == pytest.approx(expected, rel=5e-4)


def test_nothing_to_compare_is_never_significant() -> None:
    assert critical_difference(1, 10) == critical_difference(3, 0) == math.inf


def test_the_highest_figure_has_rank_one_and_ties_share() -> None:
    ranking = rank({"a": on_sets(0.9, 0.8, 0.7), "b": on_sets(0.8, 0.8, 0.9), "c": on_sets(0.1, 0.2, 0.3)})

    assert ranking.mean_ranks == pytest.approx({"a": (1 + 1.5 + 2) / 3, "b": (2 + 1.5 + 1) / 3, "c": 3.0})
    assert ranking.sets == 3
    expected = friedmanchisquare([0.9, 0.8, 0.7], [0.8, 0.8, 0.9], [0.1, 0.2, 0.3]).pvalue
    assert ranking.friedman_p == pytest.approx(expected)


def test_only_data_sets_of_all_methods_are_ranked() -> None:
    figures = {"a": {"x": 0.5, "y": 0.9, "z": 0.4}, "b": {"z": 0.6, "x": 0.7}}

    assert shared_sets(figures) == ["x", "z"]
    assert rank(figures).mean_ranks == {"a": 2.0, "b": 1.0}


def test_groups_are_the_largest_within_the_critical_difference() -> None:
    ranks = {"d": 4.2, "a": 1.0, "b": 1.9, "c": 2.6, "e": 6.0}

    groups = Ranking(ranks, sets=10, friedman_p=0.01, critical_difference=1.7).groups

    assert groups == [("a", "b", "c"), ("c", "d")]  # b to d is 2.3, d to e 1.8; (b, c) lies within the first


def test_a_method_apart_from_all_others_is_in_no_group() -> None:
    assert Ranking({"a": 1.0, "b": 2.0}, sets=10, friedman_p=0.01, critical_difference=0.5).groups == []


def test_wins_ties_and_losses_are_counted_where_a_digit_shows_them() -> None:
    ours = on_sets(0.90, 0.80, 0.7000, 0.60)

    (found,) = compare(ours, {"other": on_sets(0.80, 0.90, 0.7004, 0.50)})

    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.mean_difference == pytest.approx((0.1 - 0.1 - 0.0004 + 0.1) / 4)


def test_the_paired_test_is_wilcoxons() -> None:
    draw = np.random.default_rng(0)
    ours, other = draw.random(20), draw.random(20) - 0.2

    (found,) = compare(on_sets(*ours), {"other": on_sets(*other)})

    assert found.p == found.p_holm == pytest.approx(wilcoxon(ours, other).pvalue)


def test_the_same_figures_everywhere_are_no_difference() -> None:
    (found,) = compare(on_sets(0.5, 0.6), {"other": on_sets(0.5, 0.6)})

    assert (found.p, found.ties) == (1.0, 2)


def test_holm_corrects_the_smallest_most_and_keeps_the_order() -> None:
    # Ascending .01 × 4, .02 × 3, .03 × 2 = .06 (not below the one before), .9 × 1.
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
