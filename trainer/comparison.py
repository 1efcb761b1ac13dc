"""On which scale records are compared with normal ones: chosen without labels, by what tells swapped values apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector import Codebook, Encoder, Records, Rescaling, StreamDefinition
from detector.encode import Notes

MOST_RECORDS = 20_000
"""More records than this say nothing more about scales."""

MOST_CODES = 4_096
MOST_HELD_OUT = 2_000
SWAPS = 3
"""Copies of each held-out record that get a value of another one."""

LEAST_GAIN = 0.02
"""Ranks must tell so much more of the swapped records apart, as a share of pairs: more than chance brings."""

_FOLDS = 5
_LEAST_RECORDS_OF_ONE_FOLD = 2_500
_STANDARD_ERRORS = 2.0


def choose_scale(
    stream: StreamDefinition, encoder: Encoder, records: Records, seed: int
) -> tuple[Rescaling, dict[str, float]]:
    """The scale of numbers on which a codebook tells unlikely records best: standard scores, or ranks.

    Where gaps matter, standard scores keep them; where a few values are far off, ranks keep them from crowding the
    others. Which of the two holds for a stream shows without labels: held-out normal records of which one number is
    exchanged for that of another record are unlikely, though each of their values is common. The scale is better on
    which more of them are further from the codes than normal records are. Standard scores are the default: ranks take
    their place where they win by more than `LEAST_GAIN` and by more than two standard errors.

    Args:
        stream: What a record is.
        encoder: Fitted on these records.
        records: Normal records to compare, in any order.
        seed: Of the choice of records and of the swaps.

    Returns:
        The maps from the encoder's scale to the chosen one; and the share of pairs of a swapped and a normal record in
        which the swapped one is further from the codes, by scale.
    """
    some = records.take(np.random.default_rng(seed).permutation(len(records))[:MOST_RECORDS])
    notes = Notes()
    encoded = encoder.encode(some, notes)
    known = np.ones(encoded.shape, np.bool_)
    for name, columns in zip(encoder.names, encoder.slices, strict=True):
        known[:, columns] = ~notes.missing[name][:, None]
    scales = {}
    for name, rank_share in (("standard scores", 0.0), ("ranks", 1.0)):
        own = Encoder.fit(stream, records, rank_share)
        scales[name] = Rescaling.fit(encoded, own.encode(some), known)
    numbers = [columns for columns, swapped in zip(encoder.slices, encoder.are_numbers, strict=True) if swapped]
    told = {name: _told_apart(rescaling, encoded, numbers, seed) for name, rescaling in scales.items()}
    gain = told["ranks"] - told["standard scores"]
    needed = max(LEAST_GAIN, _STANDARD_ERRORS * float(gain.std()) / len(gain) ** 0.5)
    chosen = "ranks" if float(gain.mean()) > needed else "standard scores"
    return scales[chosen], {name: float(shares.mean()) for name, shares in told.items()}


def _told_apart(
    rescaling: Rescaling, encoded: NDArray[np.float32], numbers: list[slice], seed: int
) -> NDArray[np.float64]:
    """Of held-out records, the share of pairs of a swapped copy and a normal record that are told apart, (h,).

    Too few records, and such without a number, tell nothing: that is half of the pairs.
    """
    n = len(encoded)
    if not numbers or n < 2 * _FOLDS:
        return np.array([0.5])
    folds = _FOLDS if n < _LEAST_RECORDS_OF_ONE_FOLD else 1
    held = min(MOST_HELD_OUT, n // _FOLDS)
    shares = []
    for fold in range(folds):
        draw = np.random.default_rng((seed, fold))  # the same swaps on every scale
        held_out = np.arange(fold * held, (fold + 1) * held)
        codes = np.delete(encoded, held_out, axis=0)[:MOST_CODES]
        book = Codebook.fit(codes, seed, rescaling)
        normal = np.sort(book.score(encoded[held_out]))
        swapped = book.score(_swapped(encoded, held_out, numbers, draw))
        below = (np.searchsorted(normal, swapped, "left") + np.searchsorted(normal, swapped, "right")) / 2
        shares.append((below / held).reshape(held, SWAPS).mean(axis=1))
    return np.concatenate(shares)


def _swapped(
    encoded: NDArray[np.float32], rows: NDArray[np.int64], numbers: list[slice], draw: np.random.Generator
) -> NDArray[np.float32]:
    """Copies of some rows, each with one number of another row, (rows * SWAPS, d)."""
    copies = np.repeat(encoded[rows], SWAPS, axis=0)
    others = draw.integers(len(encoded), size=len(copies))
    chosen = draw.integers(len(numbers), size=len(copies))
    for place, columns in enumerate(numbers):
        mine = chosen == place
        copies[mine, columns] = encoded[others[mine], columns]
    return copies
