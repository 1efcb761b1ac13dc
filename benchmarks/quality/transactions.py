"""Card payments as features: the weeks of the Fraud Detection Handbook, with and without features from late labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.covariance import LedoitWolf

from benchmarks.quality import anchors
from benchmarks.quality.anchors import Matrix
from benchmarks.quality.problems import Entry, Part, Problem, Sample, Scores
from trainer.evaluation import auroc, average_precision, entity_precision

LABEL_FREE = (
    "log_amt", "amt", "lratio", "z_rob", "c_z7", "c_z30", "c_amt_sum1", "c_amt_sum7",
    "tod_dev", "weekend",
    "c_n1", "c_n7", "c_n30", "c_dt",
    "log_mrob", "cv_rob", "c_lr1", "c_lr7", "c_lr30", "c_hot3", "c_hot14",
    "t_n1", "t_n7", "t_n30", "t_dt", "t_lr30", "t_hot30", "pair_n",
)  # fmt: skip
"""Features of a payment, of its customer's and its terminal's past; none of them knows a label."""

LATE_LABELS = (
    "hb_t_risk1", "hb_t_risk7", "hb_t_risk30", "dl_t_last", "dl_t_share3", "dl_t_share8", "dl_t_plain21",
)  # fmt: skip
"""Features of a terminal from labels that are at least seven days old."""

EVENT = ("amt", "log_amt", "lratio", "z_rob", "c_z7", "c_z30", "c_amt_sum1", *LATE_LABELS)
"""Features whose own tails the reference adds: a payment's, and those from labels."""

META = ("day", "customer_id", "fraud", "scenario")
SETS = {"label-free": LABEL_FREE, "late labels": LABEL_FREE + LATE_LABELS}
WEEKS = {"validation": 101, "test": 115}
"""First day of the week to fit on, counted from 1 April 2018."""

_WEEK = 7


def find(folder: Path) -> list[Problem]:
    """Each week with each set of features, where files below the folder hold their columns."""
    wanted = {*META, *LABEL_FREE, *LATE_LABELS}
    files = tuple(file for file in sorted(folder.rglob("*.parquet")) if wanted <= set(pq.read_schema(file).names))
    if not files:
        return []
    return [Problem(f"{week} week, {features}", files, (week, features)) for week in WEEKS for features in SETS]


def load(problem: Problem, seed: int) -> Sample:  # noqa: ARG001 - weeks are weeks
    """The normal payments of a week to fit on, and those of the week after next, without cards known by then."""
    week, features = problem.options
    columns = SETS[features]
    table = _read(problem.files)
    day, card, fraud, scenario = (table[name].to_numpy() for name in META)
    train, test = weeks(day, card, fraud, WEEKS[week])
    matrix = np.stack([table[name].to_numpy() for name in columns], axis=1).astype(np.float64)
    odd, kind = fraud[test] == 1, scenario[test]
    visible = ~odd | (kind == 1) | (kind == 3)

    def judge(scores: Scores) -> dict[str, float]:
        finite = np.nan_to_num(scores.astype(np.float64), nan=-1e300, posinf=1e300, neginf=-1e300)
        cards = entity_precision(finite, odd, card[test].astype(object), day[test].astype(np.int64))
        return {
            "visible_auroc": auroc(finite[visible], odd[visible]),
            "visible_ap": average_precision(finite[visible], odd[visible]),
            "auroc": auroc(finite, odd),
            "ap": average_precision(finite, odd),
            "cp100": cards.mean,
        }

    return Sample(matrix[train[fraud[train] == 0]], matrix[test], odd, judge, columns)


@lru_cache(maxsize=1)
def _read(files: tuple[Path, ...]) -> pa.Table:
    columns = [*META, *LABEL_FREE, *LATE_LABELS]
    return pa.concat_tables([pq.read_table(file, columns=columns) for file in files])


def weeks(
    day: NDArray[Any], card: NDArray[Any], fraud: NDArray[Any], start: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the week from day `start` on, and of the week after next.

    A card that is known, seven days late, to be compromised is not in the test any more.

    Source: Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection", 2022, its train and test
        sets.
    """
    train = np.flatnonzero((day >= start) & (day < start + _WEEK))
    known = set(card[train[fraud[train] == 1]].tolist())
    kept = []
    for today in range(start + 2 * _WEEK, start + 3 * _WEEK):
        known |= set(card[(day == today - _WEEK - 1) & (fraud == 1)].tolist())
        rows = np.flatnonzero(day == today)
        kept.append(rows[~np.isin(card[rows], list(known))])
    return train, np.concatenate(kept)


class Inputs:
    """Columns through the normal quantiles of their ranks, going on in a straight line beyond the ends.

    A column that has one value in most rows is only scaled: by ranks nobody would see how far out the others are.
    """

    KNOTS = 1_000
    LIMIT = 30.0

    def __init__(self, rows: Matrix) -> None:
        shares = (np.arange(self.KNOTS) + 0.5) / self.KNOTS
        self._deviation = rows.std(axis=0) + 1e-6
        self._curves: list[tuple[NDArray[np.float64], NDArray[np.float64]] | None] = []
        for column in rows.T:
            if (column == np.median(column)).mean() > 0.5:
                self._curves.append(None)
                continue
            knots, place = np.unique(np.quantile(column, shares), return_inverse=True)
            heights = np.bincount(place, norm.ppf(shares)) / np.bincount(place)  # equal knots share one height
            self._curves.append((knots, heights))
        bent = self._bent(rows)
        self._centre, self._scale = bent.mean(axis=0), bent.std(axis=0) + 1e-6

    def _bent(self, rows: Matrix) -> NDArray[np.float64]:
        bent = rows.astype(np.float64)
        for column, curve in enumerate(self._curves):
            if curve is not None:
                knots, heights = curve
                values = rows[:, column]
                beyond = (values - values.clip(knots[0], knots[-1])) / self._deviation[column]
                bent[:, column] = np.interp(values, knots, heights) + beyond
        return bent

    def __call__(self, rows: Matrix) -> NDArray[np.float64]:
        """The columns, of zero mean and unit deviation on the rows that were fitted on."""
        scaled: NDArray[np.float64] = (self._bent(rows) - self._centre) / self._scale
        return scaled.clip(-self.LIMIT, self.LIMIT)


def rarity(known: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus the logarithm to base 10 of the share of known values above each value, (n,).

    Counted below the 99% point; beyond it, by a generalised Pareto tail fitted with probability-weighted moments.
    """
    ordered = np.sort(known)
    n = len(ordered)
    counted: NDArray[np.float64] = -np.log10(
        (1 - (np.searchsorted(ordered, values, side="right") - 0.5) / n).clip(0.5 / n, 1.0)
    )
    high = ordered[int(0.99 * n)]
    excess = ordered[ordered > high] - high
    if len(excess) <= 20:
        return counted
    weighted = float((np.arange(len(excess))[::-1] / (len(excess) - 1) * excess).mean())
    mean = float(excess.mean())
    shape = float(np.clip(2 - mean / (mean - 2 * weighted + 1e-12), 1e-6, 0.9))
    scale = max((1 - shape) * mean, 1e-9)
    over = (values - high).clip(0.0)
    beyond = np.log1p(shape * over / scale) / shape / np.log(10) - np.log10(len(excess) / n)
    counted[values > high] = beyond[values > high]
    return counted


class MahalanobisAndTails:
    """The reference without a network: a Mahalanobis distance, plus the largest tail of the single event features.

    Both are rarities on a quarter of the rows that nothing else is fitted on.
    """

    def __init__(self, seed: int, columns: Sequence[str]) -> None:
        self._seed = seed
        self._event = [position for position, name in enumerate(columns) if name in EVENT]

    def fit(self, rows: Matrix) -> Self:
        """Fit on three quarters, and calibrate on the last."""
        order = np.random.default_rng(self._seed).permutation(len(rows))
        held_out, fitted = rows[order[: len(rows) // 4]], rows[order[len(rows) // 4 :]]
        self._inputs = Inputs(fitted)
        self._model = LedoitWolf().fit(self._inputs(fitted))
        self._known = self._inputs(held_out)
        self._distances = self._model.mahalanobis(self._known)
        self._largest = self._largest_tail(self._known)
        return self

    def _largest_tail(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        tails = [rarity(self._known[:, column], inputs[:, column]) for column in self._event]
        largest: NDArray[np.float64] = np.max(tails, axis=0)
        return largest

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """The sum of both rarities, in decades."""
        inputs = self._inputs(rows)
        distances: NDArray[np.float64] = self._model.mahalanobis(inputs)
        return rarity(self._distances, distances) + rarity(self._largest, self._largest_tail(inputs))


class Prepared:
    """Another method on `Inputs`."""

    def __init__(self, method: anchors.Method) -> None:
        self._method = method

    def fit(self, rows: Matrix) -> Self:
        """Fit the inputs, and the method on them."""
        self._inputs = Inputs(rows)
        self._method.fit(self._inputs(rows))
        return self

    def score(self, rows: Matrix) -> NDArray[np.floating[Any]]:
        """The method's score."""
        return self._method.score(self._inputs(rows))


ENTRIES = {
    "offbeat": Entry("**offbeat**", lambda seed, _: anchors.Ours(seed)),
    "offbeat-pca": Entry("offbeat, PCA for the network", lambda seed, _: anchors.Ours(seed, "pca")),
    "mahalanobis-tails": Entry(
        "Mahalanobis and tails, no network", lambda seed, sample: MahalanobisAndTails(seed, sample.columns)
    ),
    "mahalanobis": Entry(
        "Mahalanobis, Ledoit-Wolf", lambda *_: Prepared(anchors.Mahalanobis()), is_random=False
    ),
    "autoencoder": Entry(
        "plain autoencoder, squared error", lambda seed, _: Prepared(anchors.PlainAutoencoder(seed))
    ),
    "iforest": Entry("isolation forest", lambda seed, _: Prepared(anchors.Forest(seed))),
}  # fmt: skip

PART = Part(
    find,
    load,
    ENTRIES,
    {
        "visible_auroc": "AUROC, frauds to be seen", "visible_ap": "AP, frauds to be seen",
        "auroc": "AUROC, all", "ap": "AP, all", "cp100": "CP@100, all",
    },
)  # fmt: skip
