"""Comparing methods over many data sets: ranks, critical differences, paired tests; it knows no method and no file.

Source: Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", Journal of Machine Learning Research
    7, 2006.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata, studentized_range, wilcoxon

TIE = 0.0005
"""Figures that differ by less are a tie: no digit that is shown tells them apart."""


@dataclass(frozen=True)
class Ranking:
    """Methods ranked over data sets.

    Attributes:
        mean_ranks: By method; 1 is best, and methods of equal figures share the mean of their ranks.
        sets: Data sets that every method has a figure for.
        friedman_p: Probability of ranks so far apart where all methods are equally good; NaN for fewer than three
            methods or two sets.
        critical_difference: Mean ranks that differ by more do so significantly at 5%, after Nemenyi.
    """

    mean_ranks: dict[str, float]
    sets: int
    friedman_p: float
    critical_difference: float

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """Largest groups of two or more methods that are not significantly apart, from the best rank on."""
        names = sorted(self.mean_ranks, key=self.mean_ranks.__getitem__)
        groups: list[tuple[str, ...]] = []
        reached = 0
        for start, name in enumerate(names):
            limit = self.mean_ranks[name] + self.critical_difference
            end = sum(self.mean_ranks[other] <= limit for other in names)
            if end > reached and end - start > 1:
                groups.append(tuple(names[start:end]))
                reached = end
        return groups


@dataclass(frozen=True)
class Comparison:
    """One method beside another, data set by data set.

    Attributes:
        other: The method compared with.
        wins: Data sets on which ours is better by more than `TIE`.
        ties: Data sets on which neither is.
        losses: Data sets on which the other is.
        mean_difference: Ours less the other's.
        p: Of Wilcoxon's signed-rank test, two-sided.
        p_holm: The same, after Holm's correction for the number of methods compared with.
    """

    other: str
    wins: int
    ties: int
    losses: int
    mean_difference: float
    p: float
    p_holm: float


def rank(figures: Mapping[str, Mapping[str, float]]) -> Ranking:
    """Rank methods over the data sets that all of them have; higher figures are better.

    Args:
        figures: By method, by data set.
    """
    names = list(figures)
    sets = shared_sets(figures)
    table = np.array([[figures[name][each] for name in names] for each in sets]).reshape(len(sets), len(names))
    ranks = rankdata(-table, axis=1).mean(axis=0) if sets else np.full(len(names), np.nan)
    many = len(names) > 2 and len(sets) > 1 and bool((table != table[:, :1]).any())
    return Ranking(
        mean_ranks=dict(zip(names, ranks.tolist(), strict=True)),
        sets=len(sets),
        friedman_p=float(friedmanchisquare(*table.T).pvalue) if many else float("nan"),
        critical_difference=critical_difference(len(names), len(sets)),
    )


def shared_sets(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Data sets that every method has a figure for, in the order of the first."""
    if not figures:
        return []
    first, *others = figures.values()
    return [name for name in first if all(name in other for other in others)]


def critical_difference(methods: int, sets: int, alpha: float = 0.05) -> float:
    """Difference of mean ranks that is significant, after Nemenyi; infinite where nothing can be compared."""
    if methods < 2 or sets < 1:
        return float("inf")
    quantile = float(studentized_range.ppf(1 - alpha, methods, np.inf)) / np.sqrt(2)
    return float(quantile * np.sqrt(methods * (methods + 1) / (6 * sets)))


def compare(ours: Mapping[str, float], others: Mapping[str, Mapping[str, float]]) -> list[Comparison]:
    """Compare a method with each other one, on the data sets that both have."""
    found: list[tuple[str, NDArray[np.float64], float]] = []
    for name, figures in others.items():
        difference = np.array([ours[each] - figures[each] for each in ours if each in figures])
        found.append((name, difference, signed_rank_p(difference)))
    corrected = holm([p for _, _, p in found])
    return [
        Comparison(
            other=name,
            wins=int((difference >= TIE).sum()),
            ties=int((np.abs(difference) < TIE).sum()),
            losses=int((difference <= -TIE).sum()),
            mean_difference=float(difference.mean()) if difference.size else float("nan"),
            p=p,
            p_holm=p_holm,
        )
        for (name, difference, p), p_holm in zip(found, corrected, strict=True)
    ]


def signed_rank_p(difference: NDArray[np.float64]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, 1 where nothing differs."""
    return float(wilcoxon(difference).pvalue) if np.any(difference) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Probabilities corrected for how many they are, in their order.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for step, position in enumerate(np.argsort(p_values, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p_values) - step) * p_values[position]))
        corrected[position] = highest
    return corrected
