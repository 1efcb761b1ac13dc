"""Card payments day by day, honest and fraudulent; the same seed and day give the same payments, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from demo.frauds import DAY_US, KIND_NAMES, distance_from_home, make_frauds
from demo.payments import HONEST, LabelledPayments, Payments
from demo.population import (
    ATM,
    CATEGORIES,
    CATEGORY_INDEX,
    CHIP,
    CONTACTLESS,
    CONTACTLESS_LIMIT,
    KEYED,
    ONLINE,
    POS,
    STORED,
    STRIPE,
    FloatArray,
    IntArray,
    Population,
    choose,
    make_population,
    pick_terminals,
    towns_on_day,
)

FIRST_DAY = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
_FIRST_DAY_US = int(FIRST_DAY.timestamp()) * 1_000_000
_CASH = CATEGORY_INDEX["cash"]

_OUT_OF_TOWN = 0.08  # of the payments in person: a day out, a visit, a way to work
_SLEEPLESS = 0.02  # of the payments where nothing closes: at any hour, for no reason
_OLD_TERMINAL = (0.02, 0.05)  # at home and abroad: the chip cannot be read, the stripe is
_TYPED_AT_THE_TILL = 0.0004  # of honest payments in person: a damaged card


class Simulator:
    """An endless stream of card payments, of which about one in two hundred is a fraud.

    Days are independent of each other given the population, so that a history (days 0 to 20, say) and a live
    stream (day 21 onwards) come from the same habits, and neither needs the other to have been made.
    """

    def __init__(self, seed: int = 0, customers: int = 2_500) -> None:
        self.seed = seed
        self.population = make_population(np.random.default_rng([seed, 0]), customers)

    def day(self, number: int) -> LabelledPayments:
        """Return all payments of day `number` (0 is the first), in the order of their time."""
        rng = np.random.default_rng([self.seed, 1, number])
        start_us = _FIRST_DAY_US + number * DAY_US
        honest = _honest_payments(rng, self.population, number, start_us)
        frauds = make_frauds(rng, self.population, start_us, len(honest))
        together = honest if frauds is None else Payments.concat([honest, frauds])
        return LabelledPayments(together.in_order(), self.population, number, KIND_NAMES)

    def days(self, first: int, count: int | None = None) -> Iterator[LabelledPayments]:
        """Return `count` days from day `first` on; without a count the days never end."""
        number = first
        while count is None or number < first + count:
            yield self.day(number)
            number += 1


def _honest_payments(rng: np.random.Generator, population: Population, day: int, start_us: int) -> Payments:
    customers, terminals = population.customers, population.terminals
    busy = np.array([category.weekdays[day % 7] for category in CATEGORIES])
    share = customers.category_share * busy  # (customers, categories)
    who = np.repeat(np.arange(len(share)), rng.poisson(customers.payments_per_day * share.sum(axis=1)))
    n = len(who)

    category = choose(rng, share[who])
    online = rng.random(n) < np.array([kind.online for kind in CATEGORIES])[category]
    town = towns_on_day(customers, who, day)
    elsewhere = rng.choice(len(population.towns.size), n, p=population.towns.size)
    town = np.where(rng.random(n) < _OUT_OF_TOWN, elsewhere, town)
    terminal = pick_terminals(rng, population, who, category, np.where(online, -1, town))

    amount = _amounts(rng, population, who, category)
    channel = np.where(online, ONLINE, np.where(category == _CASH, ATM, POS))
    device = np.where(
        terminals.sends_device[terminal], (rng.random(n) < customers.on_desktop[who]).astype(np.int64), -1
    )
    return Payments(
        time_us=start_us + (_hours(rng, population, who, category, channel) / 24 * DAY_US).astype(np.int64),
        customer=who,
        terminal=terminal,
        amount=amount,
        category=category,
        country=terminals.country[terminal],
        channel=channel,
        entry_mode=_entry_modes(rng, population, who, channel, amount, terminals.country[terminal]),
        device=device,
        distance_km=distance_from_home(population, who, terminal),
        fraud=np.full(n, HONEST),
    )


def _amounts(rng: np.random.Generator, population: Population, who: IntArray, category: IntArray) -> FloatArray:
    spread = np.array([kind.spread for kind in CATEGORIES])[category]
    amount = np.exp(population.customers.log_amount[who, category] + rng.normal(0, 1, len(who)) * spread)
    priced = np.floor(amount) + 0.99
    amount = np.where((amount > 3) & (rng.random(len(who)) < 0.3), priced, amount)
    amount = np.where(category == _CASH, np.clip(10 * np.round(amount / 10), 20, 400), amount)
    charged: FloatArray = np.maximum(0.2, np.round(amount, 2))
    return charged


def _hours(
    rng: np.random.Generator, population: Population, who: IntArray, category: IntArray, channel: IntArray
) -> FloatArray:
    n = len(who)
    hour = np.empty(n)
    for index, kind in enumerate(CATEGORIES):
        rows = np.flatnonzero(category == index)
        centre, width, weight = np.array(kind.peaks).T
        peak = rng.choice(len(weight), len(rows), p=weight)
        drawn = rng.normal(centre[peak], width[peak]) + population.customers.hour_shift[who[rows]]
        opens, closes = np.where((channel[rows] == ONLINE)[:, None], (0, 24), (kind.opens, kind.closes)).T
        round_the_clock = closes - opens >= 24
        drawn = np.where(round_the_clock, drawn % 24, drawn)
        anytime = ((drawn < opens) | (drawn >= closes)) | (round_the_clock & (rng.random(len(rows)) < _SLEEPLESS))
        hour[rows] = np.where(anytime, rng.uniform(opens, closes), drawn)
    return hour


def _entry_modes(
    rng: np.random.Generator,
    population: Population,
    who: IntArray,
    channel: IntArray,
    amount: FloatArray,
    country: IntArray,
) -> IntArray:
    n = len(who)
    customers = population.customers
    taps = (rng.random(n) < customers.taps[who]) & (amount <= CONTACTLESS_LIMIT)
    present = np.where(taps, CONTACTLESS, CHIP)
    absent = np.where(rng.random(n) < customers.types[who], KEYED, STORED)
    present = np.where(channel == ATM, CHIP, present)
    odd = rng.random(n)
    old = np.where(country == 0, *_OLD_TERMINAL)
    present = np.where((present == CHIP) & (odd < old), STRIPE, present)
    present = np.where((channel == POS) & (rng.random(n) < _TYPED_AT_THE_TILL), KEYED, present)
    return np.where(channel == ONLINE, absent, present)
