"""Anomaly scores: how unlike that of normal records a record's reconstruction is; rows in, scores out, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.networks import Autoencoder, rows_times

TILE = 256
"""Rows that go through the network at once: always as many, so that a record's bits do not depend on its batch."""

LEAST_DEVIATION = 0.01
LEAST_INDICATOR_DEVIATION = 0.25
"""Smallest deviations of the evidence: below them, being off is rounding, and one rare flag would outweigh all else."""


def in_tiles(compute: Callable[[Tensor], Tensor], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """`compute` over the rows (n, d) in padded tiles of `TILE` rows; the result (n, ...).

    The same row gives the same bits alone and in any batch, because the computation always has the same shape and
    always runs on one thread: several cut it up in other ways. A tile is too small to gain by a second one.
    """
    n, width = matrix.shape
    source = torch.from_numpy(np.ascontiguousarray(matrix))
    tile = torch.zeros(TILE, width)  # of its own: where in memory a matrix begins can change its product's last bits
    parts = []
    with _one_thread(), torch.inference_mode():
        for start in range(0, max(n, 1), TILE):
            rows = source[start : start + TILE]
            tile[: len(rows)] = rows
            tile[len(rows) :] = 0.0
            parts.append(compute(tile).numpy())
    computed: NDArray[np.float32] = np.concatenate(parts)[:n]
    return computed


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread for a while; costs nothing in a process that sets it so at its start, as the worker does."""
    before = torch.get_num_threads()
    if before != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before != 1:
            torch.set_num_threads(before)


class Scorer:
    """The reconstructor: an autoencoder with what its evidence looks like on normal records.

    The evidence of a record is its residual (d) and its code (k) together; the score is its mean squared Mahalanobis
    length: about 1 on normal records (less where code and residual repeat each other), higher is stranger. A residual
    alone misses records that lie on the learned surface far from all others.

    Source: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of
        Multivariate Analysis 88, 2004 (the shrinkage of the covariance).
    """

    def __init__(self, network: Autoencoder, centre: Tensor, deviation: Tensor, whitening: Tensor) -> None:
        self.network = network.eval()
        # Copies of one memory layout: that of a tensor can change its product's last bits.
        self.centre, self.deviation, self.whitening = (
            part.clone(memory_format=torch.contiguous_format) for part in (centre, deviation, whitening)
        )  # (d + k,), (d + k,), (d + k, d + k)

    @classmethod
    def fit(cls, network: Autoencoder, matrix: NDArray[np.float32], indicators: NDArray[np.bool_]) -> Scorer:
        """Learn what the evidence of normal records looks like.

        Args:
            network: The trained autoencoder.
            matrix: Encoded normal records, (n, d), of every hour and day that there will be; best not only those that
                the network was fitted on.
            indicators: Which columns are indicators, (d,).
        """
        network.eval()
        evidence = in_tiles(lambda rows: _evidence(network, rows), matrix).astype(np.float64)
        floor = np.full(evidence.shape[1], LEAST_DEVIATION)
        floor[: len(indicators)][indicators] = LEAST_INDICATOR_DEVIATION
        centre = evidence.mean(axis=0)
        deviation = np.maximum(evidence.std(axis=0), floor)
        covariance = shrunk_covariance((evidence - centre) / deviation)
        whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
        return cls(network, *(torch.from_numpy(part.astype(np.float32)) for part in (centre, deviation, whitening)))

    def encode(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Codes (n, k) of encoded records (n, d)."""
        return in_tiles(self.network.encode, matrix)

    def decode(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstructions (n, d) from codes (n, k)."""
        return in_tiles(self.network.decode, codes)

    def reconstruct(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstructions (n, d) of encoded records (n, d)."""
        return in_tiles(self.network, matrix)

    def score(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Anomaly scores (n,) of encoded records (n, d), in squared standard deviations; higher is stranger."""
        scores: NDArray[np.float64] = in_tiles(self._score_tile, matrix).astype(np.float64)
        return scores

    def _score_tile(self, rows: Tensor) -> Tensor:
        standard = (_evidence(self.network, rows) - self.centre) / self.deviation  # (TILE, d + k)
        return rows_times(standard, self.whitening).square().mean(dim=1)

    def score_features(self, matrix: NDArray[np.float32], features: Sequence[slice]) -> NDArray[np.float64]:
        """How badly each feature was rebuilt: its mean squared residual in squared standard deviations.

        Each feature is looked at by itself: 1 or less on normal records. The score of a record is more than their mean,
        as it knows how residuals go together, and the code.

        Args:
            matrix: Encoded records (n, d).
            features: Columns of each feature, f in all.

        Returns:
            Scores (n, f); higher is stranger.
        """
        squares = self._score_columns(matrix).astype(np.float64)
        return np.stack([squares[:, columns].mean(axis=1) for columns in features], axis=1)

    def _score_columns(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared residual of each column in squared standard deviations of normal records, (n, d)."""
        width = self.network.width

        def columns(rows: Tensor) -> Tensor:
            standard = (_evidence(self.network, rows) - self.centre) / self.deviation
            return standard[:, :width].square()

        return in_tiles(columns, matrix)


def _evidence(network: Autoencoder, rows: Tensor) -> Tensor:
    """Residual and code side by side, (n, d + k)."""
    codes = network.encode(rows)
    return torch.cat([rows - network.decode(codes), codes], dim=1)


def shrunk_covariance(standard: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance of columns of at most unit variance, shrunk towards the identity as far as the sample is small.

    Columns with less than unit variance (their deviation was raised to a floor) count as having it.

    Args:
        standard: Centred evidence in units of its deviation, (n, m).

    Source: Ledoit and Wolf 2004, as cited above, with the identity itself as the target.
    """
    n, m = standard.shape
    sample = standard.T @ standard / n
    distance = np.square(sample - np.eye(m)).sum()
    # Mean squared distance of one record's outer product from the sample covariance, without forming any.
    spread = np.square(np.square(standard).sum(axis=1)).sum() / n**2 - np.square(sample).sum() / n
    shrinkage = float(np.clip(spread / distance, 1e-6, 1.0)) if distance > 0 else 1.0
    covariance: NDArray[np.float64] = (1 - shrinkage) * sample
    np.fill_diagonal(covariance, 1.0)
    return covariance
