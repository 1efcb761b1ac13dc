"""Card payments day by day, honest and fraudulent; the same seed and day give the same payments, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from demo.frauds import KIND_NAMES, make_frauds
from demo.habits import DAY_US, honest_payments
from demo.payments import LabelledPayments, Payments
from demo.population import make_population

FIRST_DAY = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
_FIRST_DAY_US = int(FIRST_DAY.timestamp()) * 1_000_000


class Simulator:
    """An endless stream of card payments, of which about six in a thousand are frauds.

    Days are independent of each other given the population, so that a history (days 0 to 27, say) and a live
    stream (day 28 onwards) come from the same habits, and neither needs the other to have been made.
    """

    def __init__(self, seed: int = 0, customers: int = 2_500) -> None:
        self.seed = seed
        self.population = make_population(np.random.default_rng([seed, 0]), customers)

    def day(self, number: int) -> LabelledPayments:
        """Return all payments of day `number` (0 is the first), in the order of their time."""
        rng = np.random.default_rng([self.seed, 1, number])
        start_us = _FIRST_DAY_US + number * DAY_US
        honest = honest_payments(rng, self.population, number, start_us)
        frauds = make_frauds(rng, self.population, start_us, len(honest))
        together = honest if frauds is None else Payments.concat([honest, frauds])
        return LabelledPayments(together.in_order(), self.population, number, KIND_NAMES)

    def days(self, first: int, count: int | None = None) -> Iterator[LabelledPayments]:
        """Return `count` days from day `first` on; without a count the days never end."""
        number = first
        while count is None or number < first + count:
            yield self.day(number)
            number += 1
