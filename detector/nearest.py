"""The codes nearest to each record, found in the cells whose centres are nearest: compiled loops over one record each.

Each record's result depends on it alone; arithmetic is IEEE's, and nothing is reordered.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from detector.compiled import compiled, inlined

NEAR = 1e-6
"""Added to squared distances before they divide, so that a record equal to a code has finite weights."""


@inlined
def _squares(record: NDArray[np.float32], block: NDArray[np.float32], size: int, sums: NDArray[np.float32]) -> None:
    """Squared distances of a record (d,) from the points of a block (d * size,), column by column, into `sums`."""
    width = len(record)
    sums[:size] = 0.0
    by_fours = width - width % 4  # four columns at once: each sum is fetched and stored a quarter as often
    for column in range(0, by_fours, 4):
        one, two, three, four = record[column], record[column + 1], record[column + 2], record[column + 3]
        others = block[column * size : (column + 4) * size]
        for place in range(size):
            a, b = one - others[place], two - others[place + size]
            c, d = three - others[place + 2 * size], four - others[place + 3 * size]
            sums[place] += (a * a + b * b) + (c * c + d * d)
    for column in range(by_fours, width):
        value, others = record[column], block[column * size : (column + 1) * size]
        for place in range(size):
            difference = value - others[place]
            sums[place] += difference * difference


@inlined
def _insert(square: np.float32, place: int, squares: NDArray[np.float32], places: NDArray[np.int64], last: int) -> None:
    """Put a square that is less than the last one where it belongs among ascending ones; the last one is lost."""
    slot = last
    while slot > 0 and squares[slot - 1] > square:
        squares[slot], places[slot] = squares[slot - 1], places[slot - 1]
        slot -= 1
    squares[slot], places[slot] = square, place


@compiled
def find_cells(
    rows: NDArray[np.float32], centre_block: NDArray[np.float32], cells: NDArray[np.int64], squares: NDArray[np.float32]
) -> None:
    """The cells whose centres are nearest to each row, ascending, and the squared distances from them: (n, p) each.

    The least of all is found again and again: floats of at least 0 are in the order of their bits, and of whole numbers
    the least is found many at once.
    """
    count = len(centre_block) // rows.shape[1]
    to_centres = np.empty(count, np.float32)
    bits = to_centres.view(np.int32)
    for row in range(len(rows)):
        _squares(rows[row], centre_block, count, to_centres)
        for slot in range(cells.shape[1]):
            least = bits.min()
            cell = 0
            while bits[cell] != least:
                cell += 1
            cells[row, slot], squares[row, slot] = cell, to_centres[cell]
            to_centres[cell] = np.inf


@compiled
def find_codes(
    rows: NDArray[np.float32], order: NDArray[np.int64], cells: NDArray[np.int64], to_cells: NDArray[np.float32],
    between: NDArray[np.float32], radii: NDArray[np.float32], starts: NDArray[np.int64], blocks: NDArray[np.float32],
    leave_out: bool, places: NDArray[np.int64], squares: NDArray[np.float32],  # noqa: FBT001 - compiled: no keywords
) -> None:  # fmt: skip
    """The codes nearest to each row in its cells, ascending, and the squared distances from them: (n, k) each.

    Where the cells hold fewer, the furthest that was found stands for the rest.

    Args:
        rows: Records, (n, d).
        order: In which the rows are looked at, (n,): those of one cell after each other, while its codes are at hand.
        cells: Where to look, (n, p).
        to_cells: Squared distances from their centres, (n, p).
        between: How far the centres of all cells are from each other, (c, c).
        radii: How far the codes of a cell are from its centre at most, (c,).
        starts: Where the codes of each cell start, (c + 1,).
        blocks: The codes, column by column within a cell, (m * d,).
        leave_out: Whether one code that equals the row does not count.
        places: Takes the codes.
        squares: Takes the squared distances.
    """
    width, last = rows.shape[1], places.shape[1] - 1
    largest = 0
    for cell in range(len(radii)):
        largest = max(largest, starts[cell + 1] - starts[cell])
    distances = np.empty(largest, np.float32)
    for row in order:
        best, place = squares[row], places[row]
        best[:] = np.inf
        place[:] = 0
        left_out = not leave_out
        for probe in range(cells.shape[1]):
            cell, square = cells[row, probe], to_cells[row, probe]
            bound = math.sqrt(square) - radii[cell]
            for earlier in range(probe):
                # Its codes are beyond the plane halfway between its centre and that of a nearer cell.
                plane = (square - to_cells[row, earlier]) / (2 * between[cell, cells[row, earlier]] + NEAR)
                bound = max(bound, plane)
            if bound > 0.0 and bound * bound > best[last]:
                continue  # none of its codes can be nearer
            start, size = starts[cell], starts[cell + 1] - starts[cell]
            _squares(rows[row], blocks[start * width : (start + size) * width], size, distances)
            for code in range(size):
                if distances[code] < best[last]:
                    if distances[code] == 0.0 and not left_out:
                        left_out = True
                    else:
                        _insert(distances[code], start + code, best, place, last)
        for slot in range(1, last + 1):
            if best[slot] == np.inf:
                best[slot], place[slot] = best[slot - 1], place[slot - 1]


@inlined
def rebuild_row(
    codes: NDArray[np.float32], places: NDArray[np.int64], squares: NDArray[np.float32], rebuilt: NDArray[np.float32]
) -> None:
    """The mean of some codes, the nearer the more they count: by inverse squared distance, into `rebuilt` (d,)."""
    total = 0.0
    for slot in range(len(places)):
        total += 1.0 / (squares[slot] + NEAR)
    rebuilt[:] = 0.0
    for slot in range(len(places)):
        weight, code = np.float32(1.0 / (squares[slot] + NEAR) / total), codes[places[slot]]
        for column in range(len(rebuilt)):
            rebuilt[column] += weight * code[column]


@compiled
def rebuild(
    codes: NDArray[np.float32], places: NDArray[np.int64], squares: NDArray[np.float32], rebuilt: NDArray[np.float32]
) -> None:
    """Rows (n, d) from the codes nearest to them (n, k), into `rebuilt`."""
    for row in range(len(places)):
        rebuild_row(codes, places[row], squares[row], rebuilt[row])
