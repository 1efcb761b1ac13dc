"""A codebook of normal records: each record rebuilt from the codes nearest to it, and how unlike them it is.

It is the autoencoder without weights: its code says which normal records are nearest, decoding is their mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.arrays import check_arrays
from detector.compiled import compiled
from detector.nearest import find_cells, find_codes, rebuild, rebuild_row
from detector.rescaling import Rescaling

NEIGHBOURS = 5
"""Codes that a record is rebuilt from."""

MOST_CODES = 8_192
"""Most records that become codes, drawn at random from more."""

PROBES = 4
"""Most cells that are searched: codes further off are no neighbours of a normal record."""

_CODES_A_CELL = 64
_ROUNDS = 6
_LEAST_DEVIATION = 0.01
_ROWS_AT_ONCE = 4_096
_TYPICAL = 0.95
_MOST_TYPICAL_RECORDS = 4_096


class Codebook:
    """Normal records as codes, in cells, with how far each is from its own neighbours.

    A record is rebuilt from the codes nearest to it, the nearer the more they count. Three measures of how unlike it is
    from them are put in units of their 95% point among normal records, and the mean of log(1 + measure) is its score:

    - the length of its residual;
    - the mean of log(1 + q) over the columns, with q the squared residual in units of normal ones: oddness that is
      spread over many columns counts more than one wild column;
    - the mean distance from those codes: two on either side of a gap rebuild what lies in it.

    The search looks at the cells whose centres are nearest, at most `PROBES` of them, so that its cost does not grow
    with the codes. What is found depends on the record alone: its bits are the same in any batch.

    Sources: Linde, Buzo and Gray, "An Algorithm for Vector Quantizer Design", IEEE Transactions on Communications 28,
        1980 (codes); Sivic and Zisserman, "Video Google", ICCV 2003 (cells as an inverted file); Shepard, "A
        two-dimensional interpolation function for irregularly-spaced data", ACM 1968 (weights by inverse squared
        distance).
    """

    STATE = ("grid", "columns", "still", "values", "centres", "radii", "starts", "codes", "scale", "typical")
    """Names of the arrays that were fitted."""

    def __init__(
        self, *, grid: NDArray[Any], columns: NDArray[Any], still: NDArray[Any], values: NDArray[Any],
        centres: NDArray[Any], radii: NDArray[Any], starts: NDArray[Any],
        codes: NDArray[Any], scale: NDArray[Any], typical: NDArray[Any],
    ) -> None:  # fmt: skip
        self._rescaling = Rescaling(grid)
        self.columns, self.starts = np.array(columns, np.int64), np.array(starts, np.int64)  # (d,), (c + 1,)
        self.still, self.values = np.array(still, np.int64), np.array(values, np.float32)  # (e - d,), (e - d,)
        self.centres, self.radii = np.array(centres, np.float32), np.array(radii, np.float32)  # (c, d), (c,)
        self.codes = np.array(codes, np.float32)  # (m, d)
        self.scale, self.typical = np.array(scale, np.float32), np.array(typical, np.float64)  # (d,), (3,)
        self._check()
        # Column by column within a cell, (d * codes of the cell): all its codes are compared in one go.
        self._blocks = np.concatenate([self.codes[a:b].T.ravel() for a, b in pairwise(self.starts)])
        self._centre_block = self.centres.T.ravel()  # (d * c,)
        self._between = np.sqrt(_squared_distances(self.centres, self.centres)).astype(np.float32)  # (c, c)

    def _check(self) -> None:
        """Refuse arrays that do not belong together: compiled code looks at places without asking whether they exist.

        Raises:
            ValueError: Shapes or places do not fit.
        """
        count, width, cells = len(self.codes), len(self.columns), len(self.radii)
        shapes: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
            "grid": (self.grid, (width + len(self.still), *self.grid.shape[1:])),
            "still": (self.still, self.values.shape),
            "centres": (self.centres, (cells, width)),
            "codes": (self.codes, (count, width)),
            "starts": (self.starts, (cells + 1,)),
            "scale": (self.scale, (width,)),
            "typical": (self.typical, (3,)),
        }
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ValueError(f"the codebook's {name} have shape {array.shape}, not {shape}: it is damaged")
        starts = self.starts
        if cells == 0 or starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 0).any():
            raise ValueError(f"the codebook's {cells} cells do not hold its {count} codes: it is damaged")

    @classmethod
    def fit(cls, rows: NDArray[np.float32], seed: int = 0, rescaling: Rescaling | None = None) -> Codebook:
        """Learn codes, and what is typical, from encoded normal records (n, e), at least three.

        Columns that never vary among them are left out of the search: all codes are equally far in these.

        Args:
            rows: The records.
            seed: Of the choice of codes.
            rescaling: To the scale on which records are compared; as they are encoded unless given.
        """
        draw = np.random.default_rng(seed)
        rescaling = rescaling or Rescaling.identity(rows.shape[1])
        rows = rescaling(rows)
        varies = rows.std(axis=0) > 1e-6
        columns, still = np.flatnonzero(varies), np.flatnonzero(~varies)
        chosen = rows if len(rows) <= MOST_CODES else rows[np.sort(draw.permutation(len(rows))[:MOST_CODES])]
        chosen = chosen[:, columns]
        centres, cell = _cells(chosen, draw)
        order = np.argsort(cell, kind="stable")
        codes, cell = chosen[order], cell[order]
        starts = np.searchsorted(cell, np.arange(len(centres) + 1))
        distances = np.sqrt(np.square(codes - centres[cell]).sum(axis=1))
        radii = np.array([distances[a:b].max(initial=0.0) for a, b in pairwise(starts)])
        book = cls(
            grid=rescaling.grid, columns=columns, still=still, values=rows[:, still].mean(axis=0),
            centres=centres, radii=radii, starts=starts, codes=codes,
            scale=np.ones(len(columns)), typical=np.ones(3),
        )  # fmt: skip
        # Each code is judged as if it were none: held out from the others by itself.
        sample = codes[:: -(-len(codes) // _MOST_TYPICAL_RECORDS)]
        found = book._search(sample, leave_out=True)
        residuals = sample - book._rebuild(*found)
        book.scale = (np.sqrt(np.square(residuals).mean(axis=0)) + _LEAST_DEVIATION).astype(np.float32)
        measures, _ = book._judge(sample, np.zeros(len(sample)), *found)
        book.typical = np.quantile(measures, _TYPICAL, axis=0) + 1e-9
        return book

    @classmethod
    def restore(cls, state: Mapping[str, NDArray[Any]]) -> Codebook:
        """The codebook whose `state()` this is.

        Raises:
            KeyError: A part of the state is missing.
            ValueError: Its parts do not belong together.
        """
        single, place, any_ = np.float32, np.int64, (None,)
        check_arrays("the codebook", state, {
            "grid": (single, (None, None)), "columns": (place, any_), "still": (place, any_), "values": (single, any_),
            "centres": (single, (None, None)), "radii": (single, any_), "starts": (place, any_),
            "codes": (single, (None, None)), "scale": (single, any_), "typical": (np.float64, (3,)),
        })  # fmt: skip
        columns = sorted([*state["columns"].tolist(), *state["still"].tolist()])
        if columns != list(range(len(state["grid"]))) or len(state["columns"]) == 0:
            raise ValueError("the codebook: columns and still are not each of its columns once: it is damaged")
        return cls(**{name: state[name] for name in cls.STATE})

    def state(self) -> dict[str, NDArray[Any]]:
        """All that was fitted: arrays by the names of `STATE`, as the constructor takes them."""
        return {name: getattr(self, name) for name in self.STATE}

    @property
    def grid(self) -> NDArray[np.float32]:
        """The maps to the scale on which records are compared, (e, 513)."""
        return self._rescaling.grid

    @property
    def cost(self) -> int:
        """About how many multiplications one record takes."""
        searched = min(len(self.codes), PROBES * _CODES_A_CELL)
        return (len(self.centres) + searched) * len(self.columns)

    def reconstruct(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstructions (n, e) of encoded records (n, e), on the scale on which records are compared.

        Columns that never varied are as they are.
        """
        rebuilt = self._rescaling(matrix)
        rebuilt[:, self.columns] = self._rebuild(*self._search(rebuilt[:, self.columns], leave_out=False))
        return rebuilt

    def score(self, matrix: NDArray[np.float32], *, leave_out: bool = False) -> NDArray[np.float64]:
        """How unlike its nearest codes each record is, (n,): at least 0, below .7 on most normal records, without end.

        Where a column that never varied does, all codes are as far off as it is.

        Args:
            matrix: Encoded records, (n, e).
            leave_out: Whether one code that equals the record does not count, so that a code is judged as if it were
                none.
        """
        return self._in_chunks(matrix, leave_out=leave_out)[1]

    def measures(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the scores of encoded records (n, e) are made of, (n, 3) in the order above; no code is left out."""
        return self._in_chunks(matrix, leave_out=False)[0]

    def _in_chunks(
        self, matrix: NDArray[np.float32], *, leave_out: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Measures (n, 3) and scores (n,), in no more memory than a chunk needs."""
        measures, scores = np.empty((len(matrix), 3)), np.empty(len(matrix))
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            chunk = slice(start, start + _ROWS_AT_ONCE)
            rows = self._rescaling(matrix[chunk])
            further = np.zeros(len(rows))
            for column in np.square(rows[:, self.still] - self.values).T:  # one after the other: in one order
                further += column
            moving = np.ascontiguousarray(rows[:, self.columns])
            found = self._search(moving, leave_out=leave_out)
            measures[chunk], scores[chunk] = self._judge(moving, further, *found)
        return measures, scores

    def _search(self, rows: NDArray[np.float32], *, leave_out: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The codes that rows (n, d) are made of, (n, k), and the squared distances from them."""
        n = len(rows)
        shape = (n, min(PROBES, len(self.radii)))
        cells, to_cells = np.empty(shape, np.int64), np.empty(shape, np.float32)
        find_cells(rows, self._centre_block, cells, to_cells)
        shape = (n, max(1, min(NEIGHBOURS, len(self.codes) - 1)))
        places, squares = np.empty(shape, np.int64), np.empty(shape, np.float32)
        find_codes(
            rows, np.argsort(cells[:, 0], kind="stable"), cells, to_cells, self._between, self.radii, self.starts,
            self._blocks, leave_out, places, squares,
        )  # fmt: skip
        return places, squares

    def _rebuild(self, places: NDArray[np.int64], squares: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstructions (n, d) from what `_search` found."""
        rebuilt = np.empty((len(places), len(self.columns)), np.float32)
        rebuild(self.codes, places, squares, rebuilt)
        return rebuilt

    def _judge(
        self, rows: NDArray[np.float32], further: NDArray[np.float64], places: NDArray[np.int64],
        squares: NDArray[np.float32],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
        """Measures (n, 3) and scores (n,) of rows (n, d); `further` (n,) is added to all squared distances."""
        measures, scores = np.empty((len(rows), 3)), np.empty(len(rows))
        _judge(rows, further, places, squares, self.codes, self.scale, self.typical, measures, scores)
        return measures, scores


def _cells(rows: NDArray[np.float32], draw: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Centres (c, d) of groups of rows by k-means, and for each row the group of the centre nearest to it (n,)."""
    count = max(1, math.ceil(len(rows) / _CODES_A_CELL))
    centres = rows[draw.permutation(len(rows))[:count]].astype(np.float32)
    for _ in range(_ROUNDS if count > 1 else 1):
        cell = _squared_distances(rows, centres).argmin(axis=1)
        sizes = np.bincount(cell, minlength=count)
        order = np.argsort(cell, kind="stable")
        filled = np.flatnonzero(sizes)
        sums = np.add.reduceat(rows[order].astype(np.float64), np.cumsum(sizes[filled]) - sizes[filled], axis=0)
        centres[filled] = sums / sizes[filled, None]
    return centres, _squared_distances(rows, centres).argmin(axis=1)


def _squared_distances(rows: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared distances (n, m) of rows (n, d) from others (m, d)."""
    a, b = rows.astype(np.float64), others.astype(np.float64)
    squares: NDArray[np.float64] = np.square(a).sum(axis=1)[:, None] - 2 * a @ b.T + np.square(b).sum(axis=1)
    return np.maximum(squares, 0.0)


@compiled
def _judge(
    rows: NDArray[np.float32], further: NDArray[np.float64], places: NDArray[np.int64], squares: NDArray[np.float32],
    codes: NDArray[np.float32], scale: NDArray[np.float32], typical: NDArray[np.float64],
    measures: NDArray[np.float64], scores: NDArray[np.float64],
) -> None:  # fmt: skip
    """Each row by itself, into the last two arrays."""
    width, count = rows.shape[1], places.shape[1]
    rebuilt = np.empty(width, np.float32)
    for row in range(len(rows)):
        rebuild_row(codes, places[row], squares[row], rebuilt)
        standard = further[row] / _LEAST_DEVIATION / _LEAST_DEVIATION
        length, product, logarithms = further[row], 1.0 + standard, 0.0
        for column in range(width):
            residual = float(rows[row, column] - rebuilt[column])
            length += residual * residual
            standard = residual / scale[column]
            product *= 1.0 + standard * standard
            if product > 1e100:  # one logarithm for many columns
                logarithms += math.log(product)
                product = 1.0
        apart = 0.0
        for slot in range(count):
            apart += math.sqrt(squares[row, slot] + further[row])
        measures[row, 0] = math.sqrt(length)
        measures[row, 1] = (logarithms + math.log(product)) / width
        measures[row, 2] = apart / count
        scores[row] = 0.0
        for measure in range(3):
            scores[row] += math.log1p(measures[row, measure] / typical[measure]) / 3
