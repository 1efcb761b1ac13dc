"""Anomaly scores: how unlike that of normal records a record's reconstruction is; rows in, scores out, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.networks import Autoencoder

TILE = 256
"""Rows that go through the network at once: always as many, so that a record's bits do not depend on its batch."""

LEAST_DEVIATION = 0.01
LEAST_INDICATOR_DEVIATION = 0.25
"""Smallest deviations of the evidence: below them, being off is rounding, and one rare flag would outweigh all else."""

LEAST_EXCEEDANCES = 20
"""Fewer values than this fit no tail: a small sample lends it values below its last hundredth."""

SHAPES = (0.02, 0.9)
"""Least and greatest shape of a tail: never a hard end, never without a mean, and always growing like a logarithm."""

LEAST_COLUMN_SPREAD = 0.1
LEAST_STATISTIC_SPREAD = 1e-3
"""Smallest scales of a tail, in deviations of a column and in units of a statistic, where a sample has hardly any."""

DOUBTED_RECORDS = 1_000
"""Tails that so many normal records taught count half."""

_DECADE = 1 / math.log(10)


def in_tiles(compute: Callable[[Tensor], Tensor], matrix: NDArray[np.float32], height: int = TILE) -> NDArray[Any]:
    """`compute` over the rows (n, d) in padded tiles of `height` rows, a multiple of 16; the result (n, ...).

    The same row gives the same bits alone and in any batch, because the computation always has the same shape and
    always runs on one thread: several cut it up in other ways. A tile is too small to gain by a second one.
    """
    n, width = matrix.shape
    source = torch.from_numpy(np.ascontiguousarray(matrix))
    tile = torch.zeros(height, width)  # of its own: where in memory a matrix begins can change its product's last bits
    parts = []
    with _one_thread(), torch.inference_mode():
        for start in range(0, max(n, 1), height):
            rows = source[start : start + height]
            tile[: len(rows)] = rows
            tile[len(rows) :] = 0.0
            parts.append(compute(tile).numpy())
    computed: NDArray[Any] = np.concatenate(parts)[:n]
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

    Four statistics of a record, each on the scale of how rare it is among normal records, give the score:

    - length: the mean squared Mahalanobis length of its evidence, which is its residual (d) and its code (k) together.
      A residual alone misses records that lie on the learned surface far from all others.
    - peak: the largest tail of its number columns, whitened. One odd number among many is lost in a length.
    - surprise: the largest tail of the residuals of all its columns, as they are and whitened: a number that is larger
      than the record lets expect, a category that does not belong to it, a value that is missing without need.
    - size: the sum of the tails of its number columns as they are. Numbers that are all large together are rare, but
      not odd to a covariance that has seen them rise together.

    The tail of a column is its upper one: numbers of events are mostly amounts, counts and spans, of which more is
    stranger than less. Small ones count in the length. The score is

        max(length, peak) + beyond(surprise) + beyond(size)

    in decades: each rarity is 1 at the 90% point of normal records, 2 at the 99% point, and minus the logarithm to base
    10 of the probability of a generalised Pareto tail from there on; what is not beyond its 90% point adds nothing. A
    score is at least 0, below 1 on most normal records, higher is stranger, without end. Where few records taught the
    tails, all but the length counts less.

    Sources: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of
        Multivariate Analysis 88, 2004 (the shrinkage of the covariance); Kessy, Lewin and Strimmer, "Optimal Whitening
        and Decorrelation", The American Statistician 72, 2018 (the symmetric one stays closest to the columns);
        Zaykin et al., "Truncated Product Method for Combining P-Values", Genetic Epidemiology 22, 2002 (only small
        probabilities count in the sum).
    """

    kind = "table"
    """Which scorer an artifact holds."""

    STATE = ("centre", "deviation", "whitening", "numbers", "number_whitening", "number_shift", "column_tails",
             "statistic_tails", "trust")  # fmt: skip
    """Names of the tensors that were fitted."""

    def __init__(
        self, network: Autoencoder, *, centre: Tensor, deviation: Tensor, whitening: Tensor, numbers: Tensor,
        number_whitening: Tensor, number_shift: Tensor, column_tails: Tensor, statistic_tails: Tensor, trust: Tensor,
    ) -> None:  # fmt: skip
        self.network = network.eval()
        # Copies of one memory layout: that of a tensor can change its product's last bits.
        self.centre, self.deviation, self.whitening = (
            _copy(part) for part in (centre, deviation, whitening)
        )  # (d + k,), (d + k,), (d + k, d + k)
        self.numbers = _copy(numbers)  # (c,): positions of the number columns
        self.number_whitening, self.number_shift = _copy(number_whitening), _copy(number_shift)  # (d, c), (c,)
        self.column_tails = _copy(column_tails)  # (5, 2 c + 2 d): of `_columns`
        self.statistic_tails = _copy(statistic_tails)  # (5, 4): of `_statistics`
        self.trust = _copy(trust)  # (): the weight of what single columns say

    @classmethod
    def fit(cls, network: Autoencoder, matrix: NDArray[np.float32], indicators: NDArray[np.bool_]) -> Scorer:
        """Learn what the evidence of normal records looks like.

        Args:
            network: The trained autoencoder.
            matrix: Encoded normal records, (n, d), of every hour and day that there will be; best not only those that
                the network was fitted on.
            indicators: Which columns are indicators, (d,); the others are numbers.
        """
        network.eval()
        n, width = matrix.shape
        evidence = in_tiles(lambda rows: _evidence(network, rows), matrix).astype(np.float64)
        floor = np.full(evidence.shape[1], LEAST_DEVIATION)
        floor[: len(indicators)][indicators] = LEAST_INDICATOR_DEVIATION
        centre, deviation, whitening = _whitening(evidence, floor)
        record_centre, record_deviation, record_whitening = _whitening(matrix.astype(np.float64), floor[:width])
        numbers = np.flatnonzero(~indicators)
        number_whitening = (record_whitening / record_deviation[:, None])[:, numbers]
        scorer = cls(
            network,
            centre=torch.from_numpy(centre.astype(np.float32)),
            deviation=torch.from_numpy(deviation.astype(np.float32)),
            whitening=torch.from_numpy(whitening.astype(np.float32)),
            numbers=torch.from_numpy(numbers),
            number_whitening=torch.from_numpy(number_whitening.astype(np.float32)),
            number_shift=torch.from_numpy((record_centre @ number_whitening).astype(np.float32)),
            column_tails=torch.zeros(5, 2 * (len(numbers) + width)),
            statistic_tails=torch.zeros(5, 4, dtype=torch.float64),
            trust=torch.tensor(n / (n + DOUBTED_RECORDS), dtype=torch.float64),
        )
        columns = in_tiles(lambda rows: scorer._columns(rows)[1].T, matrix)
        scorer.column_tails = _copy(torch.from_numpy(fit_tails(columns, LEAST_COLUMN_SPREAD).astype(np.float32)))
        statistics = in_tiles(lambda rows: scorer._statistics(rows).T, matrix)
        scorer.statistic_tails = _copy(torch.from_numpy(fit_tails(statistics, LEAST_STATISTIC_SPREAD)))
        return scorer

    def state(self) -> dict[str, Tensor]:
        """All that was fitted beside the network: tensors by the names of `STATE`, as the constructor takes them."""
        return {name: getattr(self, name) for name in self.STATE}

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
        """Anomaly scores (n,) of encoded records (n, d), in decades of rarity; at least 0, higher is stranger."""
        scores: NDArray[np.float64] = in_tiles(self._score_tile, matrix)
        return scores

    def _score_tile(self, rows: Tensor) -> Tensor:
        statistics = self._statistics(rows)
        further = beyond(statistics, self.statistic_tails)  # (4, TILE)
        inside = statistics[:2] / self.statistic_tails[0, :2, None].clamp_min(LEAST_STATISTIC_SPREAD)
        length, peak = inside.clamp(0.0, 1.0) + further[:2]
        return torch.maximum(length, self.trust * peak) + self.trust * (further[2] + further[3])

    def _statistics(self, rows: Tensor) -> Tensor:
        """Length, peak, surprise and size of rows (TILE, d): (4, TILE), in double precision."""
        whitened, columns = self._columns(rows)
        tails = beyond(columns, self.column_tails)
        c = len(self.numbers)
        length, size = whitened.square().mean(dim=0), tails[:c].sum(dim=0)
        return torch.stack([length, _largest(tails[c : 2 * c]), _largest(tails[2 * c :]), size]).double()

    def _columns(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The whitened evidence (d + k, TILE) of rows (TILE, d), and all columns whose tails count, (2 c + 2 d, TILE).

        Those are the c number columns as encoded, the same whitened, the residuals of all d columns, those whitened.
        Records lie side by side, as in `rows_times` and for the same reason; it is faster as well.
        """
        records = rows.T.contiguous()
        standard = (_evidence(self.network, rows).T - self.centre[:, None]) / self.deviation[:, None]
        whitened = self.whitening.T @ standard.contiguous()
        own = self.number_whitening.T @ records - self.number_shift[:, None]
        numbers = self.numbers
        width = len(records)
        return whitened, torch.cat([records[numbers], own, standard[:width], whitened[:width]])

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


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _largest(tails: Tensor) -> Tensor:
    """The largest of each record, of tails (m, n); 0 where there is no column at all."""
    return torch.nn.functional.pad(tails, (0, 0, 1, 0)).amax(dim=0)


def fit_tails(sample: NDArray[np.floating[Any]], least_spread: float) -> NDArray[np.float64]:
    """What `beyond` needs to know of columns: learned from normal records.

    Args:
        sample: Values of normal records, (n, m).
        least_spread: Smallest scale of a tail and smallest distance of the 90% point from the 99% point.

    Returns:
        Rows of an array (5, m): the 90% point, the distance to the 99% point, the 99% point, scale and shape of the
        generalised Pareto tail from there.

    Source: Hosking and Wallis, "Parameter and Quantile Estimation for the Generalized Pareto Distribution",
        Technometrics 29, 1987 (the estimate by probability-weighted moments).
    """
    n = len(sample)
    ordered = np.sort(sample, axis=0).astype(np.float64)
    count = max(1, min(max(LEAST_EXCEEDANCES, round(n * 0.01)), n // 2))
    wider = max(1, min(max(2 * LEAST_EXCEEDANCES, round(n * 0.1)), n * 2 // 3))
    start, high = ordered[max(n - wider - 1, 0)], ordered[max(n - count - 1, 0)]
    excess = ordered[n - count :] - high  # (count, m), ascending
    mean = excess.mean(axis=0)
    weights = (count - np.arange(1, count + 1)) / max(count - 1, 1)
    weighted = (excess * weights[:, None]).mean(axis=0)
    shape = np.clip(2.0 - mean / np.maximum(mean - 2.0 * weighted, 1e-12), *SHAPES)
    scale = np.maximum((1.0 - shape) * mean, least_spread)
    return np.stack([start, np.maximum(high - start, least_spread), high, scale, shape])


def beyond(values: Tensor, tails: Tensor) -> Tensor:
    """How many decades rarer than one in ten each value is, (m, n): 0 up to the 90% point of its column.

    In a straight line to 1 at the 99% point, then by the generalised Pareto tail, which has no end.

    Args:
        values: (m, n): the values of a column one after the other.
        tails: What `fit_tails` found, (5, m).
    """
    start, width, high, scale, shape = tails[:, :, None]
    rise: Tensor = ((values - start) / width).clamp(0.0, 1.0)
    further: Tensor = torch.log1p((values - high).clamp_min(0.0) / scale * shape) / shape * _DECADE
    return rise + further


def _whitening(
    sample: NDArray[np.float64], floor: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centre (m,), deviation (m,) and symmetric whitening (m, m) of standardised rows, from a sample (n, m)."""
    centre = sample.mean(axis=0)
    deviation = np.maximum(sample.std(axis=0), floor)
    values, vectors = np.linalg.eigh(shrunk_covariance((sample - centre) / deviation))
    return centre, deviation, (vectors / np.sqrt(values)) @ vectors.T


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
