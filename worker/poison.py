"""Tells bad records from a bad stream; it knows only which records became dead letters, in their order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.errors import PoisonStream
from worker.settings import PoisonSettings


def _none() -> NDArray[np.bool_]:
    return np.zeros(0, np.bool_)


@dataclass(frozen=True, eq=False)
class PoisonCount:
    """What the limits look at; a value, so that a batch that is given back leaves no trace in it.

    Attributes:
        consecutive: Dead letters since the last good record.
        recent: The last records, True where a dead letter, shape (window,) or shorter.
    """

    consecutive: int = 0
    recent: NDArray[np.bool_] = field(default_factory=_none)

    def after(self, dead: NDArray[np.bool_], limits: PoisonSettings) -> PoisonCount:
        """The count after one more batch.

        Args:
            dead: True for each dead letter of the batch, in the batch's order, tombstones left out, shape (n,).
            limits: The limits to keep.

        Raises:
            PoisonStream: A limit is crossed within the batch, or at its end for the ratio.
        """
        longest, consecutive = _longest_run(dead, self.consecutive)
        if longest > limits.max_consecutive:
            raise PoisonStream(
                f"{longest} records in a row are dead letters and poison.max_consecutive is {limits.max_consecutive}: "
                "the sender's format or this deployment is wrong, not the records; mend it, or raise the limit. "
                "The batch is neither published nor committed: a restart reads it again"
            )
        recent = np.concatenate((self.recent, dead))[-limits.window :]
        ratio = float(recent.mean()) if recent.size == limits.window else 0.0
        if ratio > limits.max_ratio:
            raise PoisonStream(
                f"{ratio:.0%} of the last {limits.window} records are dead letters and poison.max_ratio is "
                f"{limits.max_ratio:g}: the sender's format or this deployment is wrong, not the records; mend it, or "
                "raise the limit. The batch is neither published nor committed: a restart reads it again"
            )
        return PoisonCount(consecutive, recent)

    def is_suspicious(self, limits: PoisonSettings) -> bool:
        """Whether a run of dead letters is long enough to hold back commits until a good record comes.

        Without that a worker that is restarted over and over would empty a bad topic run by run.
        """
        return self.consecutive >= max(1, limits.max_consecutive // 10)


def _longest_run(dead: NDArray[np.bool_], before: int) -> tuple[int, int]:
    """The longest run of True that touches the batch, counting `before` that came earlier, and the run at its end."""
    good = np.flatnonzero(~dead)
    if good.size == 0:
        return before + dead.size, before + dead.size
    first = before + int(good[0]) if good[0] else 0
    inner = int(np.diff(good).max() - 1) if good.size > 1 else 0
    last = int(dead.size - 1 - good[-1])
    return max(first, inner, last), last
