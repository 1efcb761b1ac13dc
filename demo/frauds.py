"""The kinds of fraud and what their payments look like; honest payments are not made here.

Each kind can be seen in the fields of a single record. What gives it away:

    spree         amounts far above what such things usually cost; a rule on the amount sees it as well
    cash_out      ordinary amounts, drawn at night, far from home, mostly by the magnetic stripe
    card_testing  amounts of a ticket or a song, in quick bursts, at shops that sell nothing that cheap
    keyed_in      ordinary amounts at ordinary hours and places: typed in by hand where a card should be read
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from demo.payments import Payments
from demo.population import (
    ATM,
    CATEGORIES,
    CATEGORY_INDEX,
    CHIP,
    KEYED,
    ONLINE,
    POS,
    STRIPE,
    FloatArray,
    IntArray,
    Population,
    pick_terminals,
)

DAY_US = 86_400_000_000
_NOWHERE = -1
_DESKTOP = 1


@dataclass(frozen=True)
class FraudKind:
    """One way to steal: how often, and what it looks like."""

    name: str
    share: float  # of all payments that are frauds of this kind
    incident: int  # payments of one incident on one card, on average
    make: Callable[[np.random.Generator, Population, IntArray, int], Payments]


def make_frauds(rng: np.random.Generator, population: Population, start_us: int, honest: int) -> Payments | None:
    """Draw the frauds of a day that begins at `start_us` and has `honest` other payments; None where there are none."""
    victims = population.customers.payments_per_day / population.customers.payments_per_day.sum()
    parts = []
    for index, kind in enumerate(KINDS):
        incidents = rng.poisson(kind.share * honest / kind.incident)
        if incidents == 0:
            continue
        who = rng.choice(len(victims), incidents, p=victims)
        payments = kind.make(rng, population, who, start_us)
        parts.append(payments.take(payments.fraud == 0))
        parts[-1].fraud[:] = index
    return Payments.concat(parts) if parts else None


def _spree(rng: np.random.Generator, population: Population, who: IntArray, start_us: int) -> Payments:
    who = np.repeat(who, 2)
    category = rng.choice(_indices("electronics", "online_retail"), len(who))
    usual = np.array([kind.median_amount for kind in CATEGORIES])[category]
    return _payments(
        rng,
        population,
        who,
        start_us,
        hour=rng.normal(15, 5, len(who)),
        category=category,
        town=np.full(len(who), _NOWHERE),
        amount=usual * np.exp(rng.normal(2.5, 0.45, len(who))),
        channel=ONLINE,
        entry_mode=np.full(len(who), KEYED),
        device=np.where(rng.random(len(who)) < 0.6, _DESKTOP, _any_device(rng, len(who))),
    )


def _cash_out(rng: np.random.Generator, population: Population, who: IntArray, start_us: int) -> Payments:
    who = np.repeat(who, 2)
    cash = CATEGORY_INDEX["cash"]
    # Half of the stolen cards are used in another town of the country, half abroad.
    abroad = rng.random(len(who)) < 0.5
    domestic = np.flatnonzero(population.towns.size > 0)
    foreign = np.flatnonzero(population.towns.size == 0)
    return _payments(
        rng,
        population,
        who,
        start_us,
        hour=rng.normal(3, 1.0, len(who)),
        category=np.full(len(who), cash),
        town=np.where(abroad, rng.choice(foreign, len(who)), rng.choice(domestic, len(who))),
        amount=np.maximum(20, 10 * np.round(np.exp(population.customers.log_amount[who, cash]) / 10)),
        channel=ATM,
        entry_mode=np.where(rng.random(len(who)) < 0.75, STRIPE, CHIP),
        device=np.full(len(who), _NOWHERE),
    )


def _card_testing(rng: np.random.Generator, population: Population, who: IntArray, start_us: int) -> Payments:
    size = rng.integers(4, 9, len(who))
    who, burst = np.repeat(who, size), np.repeat(np.arange(len(size)), size)
    begins = rng.uniform(0, 23.8, len(size))[burst]
    return _payments(
        rng,
        population,
        who,
        start_us,
        hour=begins + rng.uniform(0, 0.15, len(who)),
        category=rng.choice(_indices("electronics", "online_retail"), len(who)),
        town=np.full(len(who), _NOWHERE),
        amount=np.exp(rng.normal(0.7, 0.4, len(who))),
        channel=ONLINE,
        entry_mode=np.full(len(who), KEYED),
        device=np.where(rng.random(len(who)) < 0.5, _NOWHERE, _any_device(rng, len(who))),
    )


def _keyed_in(rng: np.random.Generator, population: Population, who: IntArray, start_us: int) -> Payments:
    category = rng.choice(_indices("groceries", "restaurant", "fuel"), len(who))
    return _payments(
        rng,
        population,
        who,
        start_us,
        hour=rng.normal(15, 3, len(who)),
        category=category,
        town=population.customers.home[who],
        amount=np.exp(population.customers.log_amount[who, category] + rng.normal(0.2, 0.5, len(who))),
        channel=POS,
        entry_mode=np.full(len(who), KEYED),
        device=np.full(len(who), _NOWHERE),
    )


KINDS: tuple[FraudKind, ...] = (
    FraudKind("spree", 0.0012, 2, _spree),
    FraudKind("cash_out", 0.0012, 2, _cash_out),
    FraudKind("card_testing", 0.0014, 6, _card_testing),
    FraudKind("keyed_in", 0.0012, 1, _keyed_in),
)
KIND_NAMES = tuple(kind.name for kind in KINDS)


def _payments(
    rng: np.random.Generator,
    population: Population,
    who: IntArray,
    start_us: int,
    *,
    hour: FloatArray,
    category: IntArray,
    town: IntArray,
    amount: FloatArray,
    channel: int,
    entry_mode: IntArray,
    device: IntArray,
) -> Payments:
    terminal = pick_terminals(rng, population, who, category, town)
    terminals = population.terminals
    return Payments(
        time_us=start_us + (hour % 24 / 24 * DAY_US).astype(np.int64),
        customer=who,
        terminal=terminal,
        amount=np.maximum(0.01, np.round(amount, 2)),
        category=category,
        country=terminals.country[terminal],
        channel=np.full(len(who), channel),
        entry_mode=entry_mode,
        device=np.where(terminals.sends_device[terminal], device, _NOWHERE),
        distance_km=distance_from_home(population, who, terminal),
        fraud=np.zeros(len(who), dtype=np.int64),
    )


def distance_from_home(population: Population, who: IntArray, terminal: IntArray) -> FloatArray:
    """Return the kilometres between home and terminal, to 100 m; NaN where the terminal does not say where it is."""
    terminals, customers = population.terminals, population.customers
    km = np.hypot(terminals.x_km[terminal] - customers.x_km[who], terminals.y_km[terminal] - customers.y_km[who])
    return np.where(terminals.sends_location[terminal], np.round(km, 1), np.nan)


def _indices(*names: str) -> list[int]:
    return [CATEGORY_INDEX[name] for name in names]


def _any_device(rng: np.random.Generator, n: int) -> IntArray:
    return rng.integers(0, 2, n)
