"""How well a dimension reduction keeps what it reduces: variance, and who is near to whom; it knows no network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Preservation:
    """How well neighbourhoods of k records are kept; 1 is as well as can be.

    Attributes:
        trustworthiness: Falls with every record that is a neighbour in the codes and was none, by how far off it was.
        continuity: Falls with every record that was a neighbour and is none in the codes, by how far off it is now.
        overlap: Mean share of the k nearest records that are the same; k / (n - 1) by chance.
    """

    trustworthiness: float
    continuity: float
    overlap: float


def preservation(records: NDArray[np.floating], codes: NDArray[np.floating], k: int = 10) -> Preservation:
    """Compare the k nearest neighbours of each record with those of its code.

    A record is not its own neighbour. Of records at the same distance the earlier is the nearer. Takes memory for some
    n * n numbers, so give a sample of a few thousand.

    Args:
        records: Records, (n, d).
        codes: Their codes, (n, c).
        k: Neighbours that count, fewer than n / 2.

    Raises:
        ValueError: There are not twice as many records as neighbours, or not as many codes.

    Source: Venna and Kaski, "Neighborhood Preservation in Nonlinear Projection Methods: An Experimental Study",
        ICANN 2001 (trustworthiness and continuity).
    """
    n = len(records)
    if len(codes) != n:
        raise ValueError(f"{n} records and {len(codes)} codes cannot be compared: give one code for each record")
    if not 1 <= k < n / 2:
        raise ValueError(f"{k} neighbours of {n} records mean nothing: take at least one and fewer than half of them")
    before, after = _ranks(records), _ranks(codes)  # (n, n)
    worst = n * k * (2 * n - 3 * k - 1) / 2
    came, left = (after <= k) & (before > k), (before <= k) & (after > k)
    off_diagonal = ~np.eye(n, dtype=np.bool_)
    shared = (after <= k) & (before <= k) & off_diagonal
    return Preservation(
        trustworthiness=1 - float((before[came] - k).sum()) / worst,
        continuity=1 - float((after[left] - k).sum()) / worst,
        overlap=float(shared.sum()) / (n * k),
    )


def explained_variance(records: NDArray[np.floating], rebuilt: NDArray[np.floating]) -> float:
    """Share of the variance of records (n, d) that their reconstruction keeps; below 0 where the mean were nearer.

    Raises:
        ValueError: The records do not vary.
    """
    records, rebuilt = records.astype(np.float64), rebuilt.astype(np.float64)
    total = float(np.square(records - records.mean(axis=0)).sum())
    if total == 0:
        raise ValueError(f"{len(records)} equal records have no variance to explain: give records that differ")
    return 1 - float(np.square(records - rebuilt).sum()) / total


def _ranks(points: NDArray[np.floating]) -> NDArray[np.int64]:
    """Rank of each point among the others by distance, (n, n), from 1; 0 on the diagonal."""
    points = points.astype(np.float64)
    points = points - points.mean(axis=0)
    squares = np.square(points).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * points @ points.T
    np.fill_diagonal(distances, -np.inf)
    order = np.argsort(distances, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(points))[None, :], axis=1)
    return ranks
