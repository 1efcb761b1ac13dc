"""Increasing maps of a matrix's columns onto another scale, fast enough to be applied to every record."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.compiled import compiled
from detector.encode import SOFT_LIMIT

_STEPS_A_UNIT = 32
_STEPS = int(2 * SOFT_LIMIT * _STEPS_A_UNIT)
_LEAST_BEND = 1e-4


class Rescaling:
    """For each column an increasing map: in straight lines between points of a grid, and beside it with slope 1.

    Attributes:
        grid: What each column's map makes of the points from -8 to 8, a 32nd apart: (d, 513).
    """

    def __init__(self, grid: NDArray[Any]) -> None:
        self.grid = np.array(grid, np.float32)
        if self.grid.ndim != 2 or self.grid.shape[1] != _STEPS + 1:
            raise ValueError(f"a rescaling has the shape {self.grid.shape}, not (columns, {_STEPS + 1}): it is damaged")
        # Columns that stay as they are, as indicators do, cost nothing.
        self._bent = np.flatnonzero(np.abs(self.grid - _points()).max(axis=1) > _LEAST_BEND)

    @classmethod
    def fit(
        cls, rows: NDArray[np.float32], wanted: NDArray[np.float32], known: NDArray[np.bool_] | None = None
    ) -> Rescaling:
        """The maps that make `wanted` (n, d) of `rows` (n, d), which say the same, row for row and column for column.

        Of `known` (n, d), where given, are the values to learn from; a column without any stays as it is.
        """
        points = _points()
        grid = np.tile(points, (rows.shape[1], 1))
        for column, (own, others) in enumerate(zip(rows.T, wanted.T, strict=True)):
            told = slice(None) if known is None else known[:, column]
            places, first = np.unique(own[told], return_index=True)
            if len(places) > 0:
                values = np.maximum.accumulate(others[told][first])
                beside = np.maximum(points - places[-1], 0.0) - np.maximum(places[0] - points, 0.0)
                grid[column] = np.interp(points, places, values) + beside
        return cls(grid)

    @classmethod
    def identity(cls, width: int) -> Rescaling:
        """Maps that leave everything as it is."""
        return cls(np.tile(_points(), (width, 1)))

    def __call__(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows (n, d) on the other scale; each by itself."""
        mapped = matrix.copy()
        _map(mapped, self._bent, self.grid)
        return mapped


def _points() -> NDArray[np.float64]:
    return np.linspace(-SOFT_LIMIT, SOFT_LIMIT, _STEPS + 1)


@compiled
def _map(matrix: NDArray[np.float32], columns: NDArray[np.int64], grid: NDArray[np.float32]) -> None:
    limit, steps = np.float32(SOFT_LIMIT), np.float32(_STEPS_A_UNIT)
    for row in range(matrix.shape[0]):
        for column in columns:
            value = matrix[row, column]
            if value >= limit:
                matrix[row, column] = grid[column, _STEPS] + (value - limit)
            elif value <= -limit:
                matrix[row, column] = grid[column, 0] + (value + limit)
            else:
                place = (value + limit) * steps
                step = min(int(place), _STEPS - 1)
                low = grid[column, step]
                matrix[row, column] = low + (grid[column, step + 1] - low) * (place - np.float32(step))
