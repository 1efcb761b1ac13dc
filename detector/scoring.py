"""Anomaly scores: how unlike that of normal records a record's reconstruction is; rows in, scores out, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.arrays import check_arrays, check_places
from detector.codebook import Codebook
from detector.compiled import compiled
from detector.head import Head
from detector.networks import Autoencoder, LinearAutoencoder
from detector.rescaling import Rescaling
from detector.tails import add_up, beyond, fit_tails, keep_largest, mean_squares, rarity

TILE = 256
"""Rows that go through the network at once: always as many, so that a record's bits do not depend on its batch."""

LEAST_DEVIATION = 0.01
LEAST_INDICATOR_DEVIATION = 0.25
"""Smallest deviations of the evidence: below them, being off is rounding, and one rare flag would outweigh all else."""

LEAST_COLUMN_SPREAD = 0.1
LEAST_STATISTIC_SPREAD = 1e-3
"""Smallest scales of a tail, in deviations of a column and in units of a statistic, where a sample has hardly any."""

DOUBTED_RECORDS = 1_000
"""Tails that so many normal records taught count half."""

TAILS_BESIDE, TAILS_AGAINST = 0.15, 0.18
"""What a decade of rarity counts beside the codebook's score, and against it, where tails are known."""

RECORDS_OF_HALF_KNOWN = 10_000
"""Tails that so many normal records taught are known by half."""


_RARITIES = 4
"""Statistics whose rarities a head looks at."""


def in_tiles(compute: Callable[[Tensor], Tensor], matrix: NDArray[np.float32], height: int = TILE) -> NDArray[Any]:
    """`compute` over the rows (n, d) in padded tiles of `height` rows, a multiple of 16; the result (n, ...).

    The same row gives the same bits alone and in any batch, because the computation always has the same shape and
    always runs on one thread: several cut it up in other ways. A tile is too small to gain by a second one.
    """
    n, width = matrix.shape
    tile = torch.zeros(height, width)  # of its own: where in memory a matrix begins can change its product's last bits
    inside, parts = tile.numpy(), []
    with _one_thread(), torch.inference_mode():
        for start in range(0, max(n, 1), height):
            rows = matrix[start : start + height]
            inside[: len(rows)], inside[len(rows) :] = rows, 0.0
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


_GATHERED = ((3, add_up), (1, keep_largest), (2, keep_largest), (2, keep_largest), (4, keep_largest), (4, keep_largest))
"""To which statistic each family of columns adds, and how: size, peak, surprise by the network and by PCA."""


class Scorer:
    """The reconstructors, a network and a codebook, with what their evidence looks like on normal records.

    Four statistics of a record's reconstruction by the network, each on the scale of how rare it is among normal
    records, tell what is odd in it as a whole:

    - length: the mean squared Mahalanobis length of its evidence, which is its residual (d) and its code (k) together.
      A residual alone misses records that lie on the learned surface far from all others.
    - peak: the largest tail of its number columns, whitened. One odd number among many is lost in a length.
    - surprise: the largest tail of the residuals of all its columns, as they are and whitened: a number that is larger
      than the record lets expect, a category that does not belong to it, a value that is missing without need. It is
      the mean of two: that of the network's residuals, and that of PCA's, with as wide a code.
    - size: the sum of the tails of its number columns as they are. Numbers that are all large together are rare, but
      not odd to a covariance that has seen them rise together.

    The tail of a column is its upper one: numbers of events are mostly amounts, counts and spans, of which more is
    stranger than less. Small ones count in the length. Together they are

        tails = max(length, peak) + beyond(surprise) + beyond(size)

    in decades: each rarity is 1 at the 90% point of normal records, 2 at the 99% point, and minus the logarithm to base
    10 of the probability of a generalised Pareto tail from there on; what is not beyond its 90% point adds nothing.
    Where few records taught the tails, all but the length counts less. The codebook tells how far a record is from all
    normal ones, which no network of few weights can remember. They are two views of a record, from near and from far,
    so the larger counts, and a little of the tails in any case:

        evidence = max(codebook, .18 known * tails) + .15 known * tails,    known = records / (records + 10000)

    as the tails of few records are more of what those few happened to be.

    The score is the rarity of the evidence among normal records, in decades on the same scale: 1 is a record in ten, 2
    one in a hundred, and so on without end. A `head` that labelled anomalies taught, where there is one, raises it.

    Sources: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of
        Multivariate Analysis 88, 2004 (the shrinkage of the covariance); Kessy, Lewin and Strimmer, "Optimal Whitening
        and Decorrelation", The American Statistician 72, 2018 (the symmetric one stays closest to the columns);
        Zaykin et al., "Truncated Product Method for Combining P-Values", Genetic Epidemiology 22, 2002 (only small
        probabilities count in the sum).
    """

    kind = "table"

    STATE = ("varying", "still", "centre", "deviation", "whitening", "numbers", "number_whitening", "number_shift",
             "linear", "linear_shift", "column_tails", "statistic_tails", "trust", "known",
             "evidence_tail")  # fmt: skip
    """Names of the tensors that were fitted, beside those of the codebook."""

    def __init__(
        self, network: Autoencoder, codebook: Codebook | None, *, varying: Tensor, still: Tensor, centre: Tensor,
        deviation: Tensor, whitening: Tensor, numbers: Tensor, number_whitening: Tensor, number_shift: Tensor,
        linear: Tensor, linear_shift: Tensor, column_tails: Tensor, statistic_tails: Tensor, trust: Tensor,
        known: Tensor, evidence_tail: Tensor,
    ) -> None:  # fmt: skip
        self.network, self.codebook = network.eval(), codebook
        self.varying = _copy(varying)  # (v,): positions of the columns that the network rebuilds
        self.still = _copy(still)  # (3, d - v): the other columns: positions, values, the least deviations
        self._still_positions = self.still[0].long()
        # Copies of one memory layout: that of a tensor can change its product's last bits.
        self.centre, self.deviation, self.whitening = (
            _copy(part) for part in (centre, deviation, whitening)
        )  # (v + k,), (v + k,), (v + k, v + k)
        self.numbers = _copy(numbers)  # (c,): positions of the number columns among those that vary
        self.number_whitening, self.number_shift = _copy(number_whitening), _copy(number_shift)  # (v, c), (c,)
        self.linear, self.linear_shift = _copy(linear), _copy(linear_shift)  # (v, 2 v), (2 v,): what PCA leaves
        self.column_tails = column_tails.numpy().copy()  # (5, 2 c + 3 v + d): of `_columns`
        self.statistic_tails = statistic_tails.numpy().copy()  # (5, 4): of `_statistics`
        self.trust = _copy(trust)  # (): the weight of what single columns say
        self.known = _copy(known)  # (): how well the tails are known, from 0 to 1
        self.evidence_tail = evidence_tail.numpy().copy()  # (5, 1): of what both say together
        self.head: Head | None = None

    @classmethod
    def fit(
        cls,
        network: Autoencoder,
        matrix: NDArray[np.float32],
        indicators: NDArray[np.bool_],
        codes: NDArray[np.float32] | None = None,
        *,
        varying: NDArray[np.bool_] | None = None,
        rescaling: Rescaling | None = None,
        beside: Scorer | None = None,
        seed: int = 0,
    ) -> Scorer:
        """Learn what the evidence of normal records looks like.

        Args:
            network: The trained autoencoder.
            matrix: Encoded normal records, (n, d), of every hour and day that there will be; best not only those that
                the network was fitted on.
            indicators: Which columns are indicators, (d,); the others are numbers.
            codes: Encoded normal records that become the codebook, (m, d); None for the network alone, as a baseline.
            varying: Which columns the network was trained on, (d,), all unless given. The others, of which normal
                records hold one value alone, count as surprises where they differ from it.
            rescaling: To the scale on which the codebook compares records; as they are encoded unless given.
            beside: A scorer of the same records with a code as wide: its view of the records themselves is taken over.
            seed: Of the choice of codes.
        """
        network.eval()
        n = len(matrix)
        varying = np.ones(matrix.shape[1], np.bool_) if varying is None else varying
        moving = np.ascontiguousarray(matrix[:, varying])
        least = np.where(indicators, LEAST_INDICATOR_DEVIATION, LEAST_DEVIATION)
        width = moving.shape[1]
        nothing, one = torch.zeros(width + network.code_width), torch.ones(width + network.code_width)
        evidence = in_tiles(lambda rows: _evidence(network, rows.T.contiguous(), nothing, one).T, moving)
        evidence = evidence.astype(np.float64)
        floor = np.concatenate([least[varying], np.full(evidence.shape[1] - width, LEAST_DEVIATION)])
        centre, deviation, whitening = _whitening(evidence, floor)
        numbers = np.flatnonzero(~indicators[varying])
        if beside is None:
            of_records = _of_records(moving, numbers, network.code_width, floor)
        else:
            of_records = {name: getattr(beside, name) for name in _OF_RECORDS}
        still = np.stack([np.flatnonzero(~varying), matrix[:, ~varying].mean(axis=0), least[~varying]])
        scorer = cls(
            network,
            None if codes is None else Codebook.fit(codes, seed, rescaling),
            varying=torch.from_numpy(np.flatnonzero(varying)),
            still=torch.from_numpy(still),
            centre=torch.from_numpy(centre.astype(np.float32)),
            deviation=torch.from_numpy(deviation.astype(np.float32)),
            whitening=torch.from_numpy(whitening.astype(np.float32)),
            numbers=torch.from_numpy(numbers),
            **of_records,
            column_tails=torch.zeros(5, 2 * len(numbers) + 3 * width + matrix.shape[1]),
            statistic_tails=torch.zeros(5, 4, dtype=torch.float64),
            trust=torch.tensor(n / (n + DOUBTED_RECORDS), dtype=torch.float64),
            known=torch.tensor(n / (n + RECORDS_OF_HALF_KNOWN), dtype=torch.float64),
            evidence_tail=torch.zeros(5, 1, dtype=torch.float64),
        )
        columns = in_tiles(lambda rows: torch.cat(scorer._columns(rows)[1]).T, matrix)
        scorer.column_tails = fit_tails(columns, LEAST_COLUMN_SPREAD).astype(np.float32)
        statistics = scorer._statistics(matrix)
        scorer.statistic_tails = fit_tails(statistics, LEAST_STATISTIC_SPREAD)
        together = scorer._evidence(matrix, statistics, leave_out=True)
        scorer.evidence_tail = fit_tails(together[:, None], LEAST_STATISTIC_SPREAD)
        return scorer

    def state(self) -> dict[str, Tensor]:
        """All that was fitted beside the network: tensors by name, as `restore` takes them."""
        own = {name: torch.as_tensor(getattr(self, name)) for name in self.STATE}
        arrays = {} if self.codebook is None else _under("codebook.", self.codebook.state())
        arrays |= {} if self.head is None else _under("head.", self.head.state())
        return own | {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}

    @classmethod
    def restore(cls, network: Autoencoder, state: Mapping[str, Tensor]) -> Scorer:
        """The scorer whose `state()` this is.

        Raises:
            KeyError: A part of the state is missing.
            ValueError: Its parts do not belong together.
        """
        book = None
        if any(name.startswith("codebook.") for name in state):
            book = Codebook.restore({name: state[f"codebook.{name}"].numpy() for name in Codebook.STATE})
        own = {name: state[name] for name in cls.STATE}
        _check(network, book, {name: tensor.numpy() for name, tensor in own.items()})
        scorer = cls(network, book, **own)
        if any(name.startswith("head.") for name in state):
            scorer.attach(Head.restore({name: state[f"head.{name}"].numpy() for name in Head.STATE}))
        return scorer

    def attach(self, head: Head) -> None:
        """Score with a head from now on.

        Raises:
            ValueError: The head looks at other inputs than those that this scorer has.
        """
        inputs = len(self.centre) + _RARITIES + 1
        if len(head.weights) != inputs:
            raise ValueError(
                f"a head of {len(head.weights)} inputs does not belong to a scorer that has {inputs}: it is damaged, "
                "or was taught by another one"
            )
        self.head = head

    @property
    def width(self) -> int:
        """Columns of the encoded records that it scores, d."""
        return len(self.varying) + self.still.shape[1]

    def encode(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Codes (n, k) of encoded records (n, d)."""
        return in_tiles(lambda rows: self.network.encode(rows[:, self.varying]), matrix)

    def decode(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstructions (n, d) from codes (n, k)."""
        return in_tiles(lambda rows: self._whole(self.network.decode(rows)), codes)

    def reconstruct(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstructions (n, d) of encoded records (n, d)."""
        return in_tiles(
            lambda rows: self._whole(self.network(rows.T.contiguous().index_select(0, self.varying).T)), matrix
        )

    def _whole(self, rebuilt: Tensor) -> Tensor:
        """Reconstructions (n, v) with the columns that stand still, (n, d)."""
        values = self.still[1]
        whole = torch.empty(len(self.varying) + len(values), len(rebuilt))
        whole[self.varying] = rebuilt.T
        whole[self._still_positions] = values.float()[:, None]
        return whole.T

    def score(self, matrix: NDArray[np.float32], *, leave_out: bool = False) -> NDArray[np.float64]:
        """Anomaly scores (n,) of encoded records (n, d), in decades of rarity; at least 0, higher is stranger.

        With `leave_out` a record that is a code of the codebook itself is scored as if it were none.
        """
        if self.head is not None:
            return self.head.score(self.head_inputs(matrix, leave_out=leave_out))
        return self._label_free(matrix, self._statistics(matrix), leave_out=leave_out)

    def head_inputs(self, matrix: NDArray[np.float32], *, leave_out: bool = False) -> NDArray[np.float64]:
        """What a head looks at of encoded records (n, d): (n, v + k + 5).

        Residuals (v) and codes (k) in deviations of normal records, the rarities of length, peak, surprise and size,
        and the label-free score.
        """
        statistics = self._statistics(matrix)
        standard = in_tiles(lambda rows: self._standard(rows.T[self.varying].contiguous()).T.contiguous(), matrix)
        rarities = rarity(statistics.T, self.statistic_tails).T
        scores = self._label_free(matrix, statistics, leave_out=leave_out)
        return np.concatenate([standard, rarities, scores[:, None]], axis=1, dtype=np.float64)

    def _label_free(
        self, matrix: NDArray[np.float32], statistics: NDArray[np.float64], *, leave_out: bool
    ) -> NDArray[np.float64]:
        """Scores (n,) of encoded records (n, d) with their statistics (n, 4), as they are without a head."""
        evidence = self._evidence(matrix, statistics, leave_out=leave_out)
        scores: NDArray[np.float64] = rarity(evidence[None], self.evidence_tail)[0]
        return scores

    def _evidence(
        self, matrix: NDArray[np.float32], statistics: NDArray[np.float64], *, leave_out: bool
    ) -> NDArray[np.float64]:
        """What codebook and tails say together of records (n, d) with their statistics (n, 4), (n,)."""
        tails = self._tails(statistics)
        if self.codebook is None:
            return tails
        distant = self.codebook.score(matrix, leave_out=leave_out)
        known = float(self.known)
        together: NDArray[np.float64] = (
            np.maximum(distant, TAILS_AGAINST * known * tails) + TAILS_BESIDE * known * tails
        )
        return together

    def _tails(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the statistics (n, 4) say together, (n,)."""
        length, peak = rarity(statistics.T[:2], self.statistic_tails[:, :2])
        surprise, size = beyond(statistics.T[2:], self.statistic_tails[:, 2:])
        trust = float(self.trust)
        tails: NDArray[np.float64] = np.maximum(length, trust * peak) + trust * (surprise + size)
        return tails

    def _statistics(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Length, peak, surprise and size of encoded records (n, d): (n, 4)."""

        def of_tile(rows: Tensor) -> Tensor:
            whitened, columns = self._columns(rows)
            found = np.zeros((5, len(rows)))
            mean_squares(whitened.numpy(), found[0])
            tails, end = self.column_tails, 0
            for family, (into, gather) in zip(columns, _GATHERED, strict=True):
                start, end = end, end + len(family)
                gather(family.numpy(), tails[:, start:end], found[into])
            found[2] = (found[2] + found[4]) / 2  # of the network's residuals and of PCA's
            return torch.from_numpy(found[:4].T)

        statistics: NDArray[np.float64] = in_tiles(of_tile, matrix)
        return statistics

    def _columns(self, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The whitened evidence (v + k, TILE) of rows (TILE, d), and all columns whose tails count, family by family.

        Those are the c number columns as encoded, the same whitened, the residuals of the v columns that vary, those
        whitened; the residuals of PCA, those whitened; and by how much the other columns are not what they always are:
        (2 c + 3 v + d, TILE) in all. Records lie side by side, as in `rows_times` and for the same reason; it is faster
        as well.
        """
        records = rows.T.contiguous()
        moving = records.index_select(0, self.varying)
        standard = self._standard(moving)
        whitened = self.whitening.T @ standard
        own = (self.number_whitening.T @ moving).sub_(self.number_shift[:, None])
        left = (self.linear.T @ moving).sub_(self.linear_shift[:, None])
        numbers, width = moving.index_select(0, self.numbers), len(moving)
        return whitened, [numbers, own, standard[:width], whitened[:width], left, self._stirred(records)]

    def _standard(self, moving: Tensor) -> Tensor:
        """Evidence (v + k, n) of columns that vary (v, n), in deviations of normal records."""
        return _evidence(self.network, moving, self.centre, self.deviation)

    def _stirred(self, records: Tensor) -> Tensor:
        """By how many of their least deviations columns of records (d, n) that stand still differ, (d - v, n)."""
        stirred = torch.empty(len(self._still_positions), records.shape[1])
        _stir(records.numpy(), self.still.numpy(), stirred.numpy())
        return stirred

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
        width, still = len(self.varying), self._still_positions

        def columns(rows: Tensor) -> Tensor:
            records = rows.T.contiguous()
            squares = torch.empty_like(records)
            squares[self.varying] = self._standard(records.index_select(0, self.varying))[:width].square()
            squares[still] = self._stirred(records).square()
            return squares.T

        return in_tiles(columns, matrix)


def _check(network: Autoencoder, book: Codebook | None, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse parts of a scorer that do not belong together: some of them go to compiled code.

    Raises:
        ValueError: Types, shapes or places do not fit, or a number is not finite.
    """
    v, k, c = network.width, network.code_width, arrays["numbers"].size
    d, whole = v + arrays["still"].size // 3, v + k
    single, double, place = np.float32, np.float64, np.int64
    check_arrays("the scorer", arrays, {
        "varying": (place, (v,)), "still": (double, (3, d - v)), "centre": (single, (whole,)),
        "deviation": (single, (whole,)), "whitening": (single, (whole, whole)), "numbers": (place, (c,)),
        "number_whitening": (single, (v, c)), "number_shift": (single, (c,)), "linear": (single, (v, 2 * v)),
        "linear_shift": (single, (2 * v,)), "column_tails": (single, (5, 2 * c + 3 * v + d)),
        "statistic_tails": (double, (5, 4)), "trust": (double, ()), "known": (double, ()),
        "evidence_tail": (double, (5, 1)),
    })  # fmt: skip
    check_places("the scorer", "numbers", arrays["numbers"], v)
    if sorted([*arrays["varying"].tolist(), *arrays["still"][0].tolist()]) != list(range(d)):
        raise ValueError(f"the scorer: varying and still are not each of the {d} columns once: it is damaged")
    if book is not None and len(book.grid) != d:
        raise ValueError(f"the codebook knows {len(book.grid)} columns, and the scorer {d}: it is damaged")


def _evidence(network: Autoencoder, columns: Tensor, centre: Tensor, deviation: Tensor) -> Tensor:
    """Residual and code one below the other, (v + k, n), of records side by side, (v, n), centred and scaled."""
    codes = network.encode(columns.T)
    rebuilt = network.decode(codes)
    evidence = torch.empty(len(centre), columns.shape[1])
    _standardise(
        columns.numpy(), rebuilt.T.contiguous().numpy(), codes.T.contiguous().numpy(), centre.numpy(),
        deviation.numpy(), evidence.numpy(),
    )  # fmt: skip
    return evidence


@compiled
def _standardise(
    columns: NDArray[np.float32], rebuilt: NDArray[np.float32], codes: NDArray[np.float32],
    centre: NDArray[np.float32], deviation: NDArray[np.float32], evidence: NDArray[np.float32],
) -> None:  # fmt: skip
    """What `_evidence` returns, of columns and what they were rebuilt as (v, n) and codes (k, n)."""
    width = len(columns)
    for column in range(width):
        for row in range(columns.shape[1]):
            residual = columns[column, row] - rebuilt[column, row]
            evidence[column, row] = (residual - centre[column]) / deviation[column]
    for column in range(width, len(evidence)):
        for row in range(columns.shape[1]):
            evidence[column, row] = (codes[column - width, row] - centre[column]) / deviation[column]


@compiled
def _stir(records: NDArray[np.float32], still: NDArray[np.float64], stirred: NDArray[np.float32]) -> None:
    """By how many least deviations the columns that stand still (3, s) differ in records (d, n), into `stirred`."""
    for place in range(still.shape[1]):
        column, value, least = int(still[0, place]), still[1, place], still[2, place]
        for row in range(records.shape[1]):
            stirred[place, row] = abs(records[column, row] - value) / least


_OF_RECORDS = ("number_whitening", "number_shift", "linear", "linear_shift")


def _of_records(
    matrix: NDArray[np.float32], numbers: NDArray[np.int64], code_width: int, floor: NDArray[np.float64]
) -> dict[str, Tensor]:
    """What is computed of records without the network: their whitened numbers, and what PCA leaves of them.

    Args:
        matrix: Columns of normal records that vary, (n, v).
        numbers: Which of them are numbers, (c,).
        code_width: Principal components that are kept.
        floor: Least deviations of residuals and code, (v + k,) or more.
    """
    centre, deviation, whitening = _whitening(matrix.astype(np.float64), floor[: matrix.shape[1]])
    whitening = (whitening / deviation[:, None])[:, numbers]
    found = (whitening, centre @ whitening, *_linear_residuals(matrix, code_width, floor))
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in zip(_OF_RECORDS, found, strict=True)}


def _linear_residuals(
    matrix: NDArray[np.float32], code_width: int, floor: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """PCA's residuals of the columns, standard and whitened together with its code, as one product.

    Args:
        matrix: Columns of normal records that vary, (n, v).
        code_width: Principal components that are kept.
        floor: Least deviations of residuals and code, (v + k,) or more.

    Returns:
        Factors (v, 2 v) and shifts (2 v,): the residuals of rows are `rows @ factors - shifts`.
    """
    width = matrix.shape[1]
    pca = LinearAutoencoder.fit(matrix, min(code_width, width))
    mean, components = pca.mean.double().numpy(), pca.components.double().numpy()
    maps = np.concatenate([np.eye(width) - components.T @ components, components.T], axis=1)  # (v, v + k)
    centre, deviation, whitening = _whitening((matrix - mean) @ maps, floor[: maps.shape[1]])
    standard = maps / deviation
    factors = np.concatenate([standard[:, :width], standard @ whitening[:, :width]], axis=1)
    shifts = np.concatenate([(centre / deviation)[:width], (centre / deviation) @ whitening[:, :width]])
    return factors, mean @ factors + shifts


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _whitening(
    sample: NDArray[np.float64], floor: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centre (m,), deviation (m,) and symmetric whitening (m, m) of standardised rows, from a sample (n, m).

    It whitens the covariance of `shrunk_covariance`. Where columns outnumber rows, that is a few directions beside a
    multiple of the identity, and those are found in the smaller matrix of products between rows.
    """
    centre = sample.mean(axis=0)
    deviation = np.maximum(sample.std(axis=0), floor)
    standard = (sample - centre) / deviation
    n, m = standard.shape
    lacking = np.clip(1.0 - np.square(standard).mean(axis=0), 0.0, None)
    raised = np.flatnonzero(lacking > 1e-9)
    if n + len(raised) >= m:
        values, vectors = np.linalg.eigh(shrunk_covariance(standard))
        return centre, deviation, (vectors / np.sqrt(values)) @ vectors.T
    # Columns with less than unit variance get the rest of it as a row of their own.
    rest = np.zeros((len(raised), m))
    rest[np.arange(len(raised)), raised] = np.sqrt(n * lacking[raised])
    rows = np.concatenate([standard, rest]) / np.sqrt(n)
    squares, left = np.linalg.eigh(rows @ rows.T)
    squares, left = squares[squares > 1e-12 * squares[-1]], left[:, squares > 1e-12 * squares[-1]]
    directions = rows.T @ (left / np.sqrt(squares))  # (m, r), orthonormal
    shrinkage = _shrinkage(standard)
    alone = shrinkage**-0.5
    factors = (shrinkage + (1 - shrinkage) * squares) ** -0.5 - alone
    whitening = (directions * factors) @ directions.T
    whitening[np.diag_indices(m)] += alone
    return centre, deviation, whitening


def shrunk_covariance(standard: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance of columns of at most unit variance, shrunk towards the identity as far as the sample is small.

    Columns with less than unit variance (their deviation was raised to a floor) count as having it.

    Args:
        standard: Centred evidence in units of its deviation, (n, m).

    Source: Ledoit and Wolf 2004, as cited above, with the identity itself as the target.
    """
    covariance: NDArray[np.float64] = (1 - _shrinkage(standard)) * (standard.T @ standard / len(standard))
    np.fill_diagonal(covariance, 1.0)
    return covariance


def _shrinkage(standard: NDArray[np.float64]) -> float:
    """How far the covariance of standard rows (n, m) is to be shrunk, in (0, 1]."""
    n, m = standard.shape
    products = standard.T @ standard if m <= n else standard @ standard.T
    length = np.square(products).sum() / n**2  # of the sample covariance
    distance = length - 2 * np.square(standard).sum() / n + m  # of that from the identity
    # Mean squared distance of one record's outer product from the sample covariance, without forming any.
    spread = np.square(np.square(standard).sum(axis=1)).sum() / n**2 - length / n
    return float(np.clip(spread / distance, 1e-6, 1.0)) if distance > 1e-12 * m else 1.0
