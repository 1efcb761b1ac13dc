"""Detectors that ours has to be compared with, each in its usual form; they know nothing of data sets and figures."""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM
from torch import nn

from offbeat import OffbeatDetector

Matrix = NDArray[np.floating[Any]]


class Method(Protocol):
    """What is compared: it learns from normal rows (n, d), and says how strange others are."""

    def fit(self, rows: Matrix) -> Self:
        """Learn from normal rows, (n, d)."""

    def score(self, rows: Matrix) -> NDArray[np.floating[Any]]:
        """Scores (m,) of rows (m, d); higher is stranger."""


class Ours:
    """The detector of this project through its public estimator, with nothing set but the network and the seed."""

    def __init__(self, seed: int, network: str = "denoising") -> None:
        self._estimator = OffbeatDetector(seed=seed, network=network)  # type: ignore[arg-type]

    def fit(self, rows: Matrix) -> Self:
        """Fit encoder, network, scorer and threshold."""
        self._estimator.fit(rows)
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """The anomaly score."""
        return self._estimator.anomaly_score(rows)


class Neighbours:
    """Distance to the nearest normal rows: the mean of the k nearest, or that of the k-th."""

    def __init__(self, k: int, *, mean: bool = False) -> None:
        self._k, self._mean = k, mean

    def fit(self, rows: Matrix) -> Self:
        """Keep the rows."""
        self._index = NearestNeighbors(n_neighbors=min(self._k, len(rows))).fit(rows)
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """Distance in the units of the rows."""
        distances: NDArray[np.float64] = self._index.kneighbors(rows)[0]
        return distances.mean(axis=1) if self._mean else distances[:, -1]


class OutlierFactor:
    """LOF: the density around a row beside that around its 20 neighbours."""

    def fit(self, rows: Matrix) -> Self:
        """Learn the densities."""
        self._model = LocalOutlierFactor(n_neighbors=min(20, len(rows) - 1), novelty=True).fit(rows)
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """The factor."""
        factors: NDArray[np.float64] = -self._model.score_samples(rows)
        return factors


class Forest:
    """Isolation forest of 100 trees: how few random cuts set a row apart."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, rows: Matrix) -> Self:
        """Grow the trees."""
        self._model = IsolationForest(n_estimators=100, random_state=self._seed).fit(rows)
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """How short the paths are."""
        scores: NDArray[np.float64] = -self._model.score_samples(rows)
        return scores


class SupportVectors:
    """One-class SVM with a Gaussian kernel, on at most 3,000 rows: its cost grows with their square."""

    CAP = 3_000

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, rows: Matrix) -> Self:
        """Find the support of the rows."""
        if len(rows) > self.CAP:
            rows = rows[np.random.RandomState(self._seed).permutation(len(rows))[: self.CAP]]
        self._model = OneClassSVM(kernel="rbf", gamma="auto", nu=0.5).fit(rows)
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """Distance outside of it."""
        scores: NDArray[np.float64] = -self._model.decision_function(rows)
        return scores


class Mahalanobis:
    """Squared distance from the mean in units of a covariance that is shrunk after Ledoit and Wolf."""

    def fit(self, rows: Matrix) -> Self:
        """Estimate mean and covariance."""
        self._model = LedoitWolf().fit(rows)
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """The squared distance."""
        distances: NDArray[np.float64] = self._model.mahalanobis(rows)
        return distances


class LinearResidual:
    """The linear autoencoder: squared residual outside the components that hold a share of the variance."""

    def __init__(self, share: float = 0.9) -> None:
        self._share = share

    def fit(self, rows: Matrix) -> Self:
        """Find the components; at least one, and never all."""
        width = rows.shape[1]
        self._mean = rows.mean(axis=0)
        variances, vectors = np.linalg.eigh(np.atleast_2d(np.cov(rows - self._mean, rowvar=False)))
        explained = np.cumsum(variances[::-1].clip(0.0)) / variances.clip(1e-300).sum()
        count = max(1, min(int(np.searchsorted(explained, self._share)) + 1, width - 1))
        self._components = vectors[:, ::-1][:, :count]
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """The squared residual."""
        centred = rows - self._mean
        residual = centred - centred @ self._components @ self._components.T
        errors: NDArray[np.float64] = np.square(residual).sum(axis=1)
        return errors


class PlainAutoencoder:
    """The textbook's autoencoder d-64-32-64-d, trained on and scored by the mean squared error."""

    def __init__(self, seed: int, steps: int = 1_000) -> None:
        self._seed, self._steps = seed, steps

    def fit(self, rows: Matrix) -> Self:
        """Train by AdamW with a one-cycle schedule, batches of 256."""
        width = rows.shape[1]
        draw = torch.Generator().manual_seed(self._seed)
        matrix = torch.from_numpy(rows.astype(np.float32))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self._network = nn.Sequential(
                nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU(),
                nn.Linear(64, width),
            )  # fmt: skip
        optimiser = torch.optim.AdamW(self._network.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, self._steps)
        for _ in range(self._steps):
            batch = matrix[torch.randint(len(matrix), (256,), generator=draw)]
            loss = (self._network(batch) - batch).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        return self

    def score(self, rows: Matrix) -> NDArray[np.float32]:
        """Mean squared error of the reconstruction."""
        with torch.inference_mode():
            matrix = torch.from_numpy(rows.astype(np.float32))
            errors: NDArray[np.float32] = (self._network(matrix) - matrix).square().mean(dim=1).numpy()
        return errors


class Histograms:
    """HBOS: sum over the features of minus the logarithm of a histogram's density, ten bins each.

    Source: Goldstein and Dengel, "Histogram-based Outlier Score (HBOS)", KI 2012.
    """

    BINS = 10

    def fit(self, rows: Matrix) -> Self:
        """Count."""
        made = [np.histogram(column, self.BINS) for column in rows.T]
        # A row more in every bin: an empty one is rare, not impossible.
        self._surprise = [np.log((counts + 1).max()) - np.log(counts + 1) for counts, _ in made]
        self._edges = [edges for _, edges in made]
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """The sum; what is outside of the range counts like an empty bin."""
        total = np.zeros(len(rows))
        for column, edges, surprise in zip(rows.T, self._edges, self._surprise, strict=True):
            outside = float(surprise.max(initial=0.0))
            padded = np.concatenate([[outside], surprise, [outside]])
            total += padded[np.where(column == edges[-1], self.BINS, np.searchsorted(edges, column, side="right"))]
        return total


class EmpiricalTails:
    """ECOD: sum over the features of minus the logarithm of tail probabilities; the largest of left, right and by skew.

    Probabilities are those of the rows fitted on, and not of those scored as well, as they are in PyOD.

    Source: Li et al., "ECOD: Unsupervised Outlier Detection Using Empirical Cumulative Distribution Functions", 2022.
    """

    def fit(self, rows: Matrix) -> Self:
        """Sort each feature, and see to which side it is skewed."""
        self._sorted = np.sort(rows, axis=0)
        centred = rows - rows.mean(axis=0)
        self._left_skewed = (centred**3).mean(axis=0) < 0
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """The largest of the three sums."""
        n = len(self._sorted)
        left, right = np.empty(rows.shape), np.empty(rows.shape)
        for column, known in enumerate(self._sorted.T):
            left[:, column] = (np.searchsorted(known, rows[:, column], side="right") + 1) / (n + 1)
            right[:, column] = (n - np.searchsorted(known, rows[:, column], side="left") + 1) / (n + 1)
        left, right = -np.log(left), -np.log(right)
        skewed = np.where(self._left_skewed, left, right)
        largest: NDArray[np.float64] = np.stack([left.sum(1), right.sum(1), skewed.sum(1)]).max(axis=0)
        return largest


class PyodAutoencoder:
    """PyOD's autoencoder as it comes, where PyOD is installed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, rows: Matrix) -> Self:
        """Train."""
        from pyod.models.auto_encoder import AutoEncoder

        self._model = AutoEncoder(random_state=self._seed, verbose=0).fit(rows)
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """Its `decision_function`: higher is stranger."""
        scores: NDArray[np.float64] = self._model.decision_function(rows)
        return scores
