"""The kinds of fraud and what their payments look like; honest payments are not made here.

What gives each kind away:

    spree         amounts far above what such things usually cost; a rule on the amount sees it as well
    cash_out      ordinary amounts, drawn at night, far from home, mostly by the magnetic stripe
    card_testing  amounts of a ticket or a song, in quick bursts, at shops that sell nothing that cheap
    keyed_in      ordinary amounts at ordinary hours and places: typed in by hand where a card should be read
    neighbour     nothing in any single payment: a commuter's card, used as somebody of the same town uses their own

All but the last can be seen in the fields of a single record. Those of a neighbour are drawn as the neighbour's own
honest payments for fuel, cash and electronics are, and tell nobody anything who does not know what this card was used
for before: bus and train, some times a day, a few euros each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from demo.habits import DAY_US, distance_from_home, habitual_payments
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
    Customers,
    FloatArray,
    IntArray,
    Population,
    choose,
    pick_terminals,
)

_NOWHERE = -1
_DESKTOP = 1
_OFTEN = 1.5  # payments a day from which on a few weeks show a habit


def _often_used(customers: Customers) -> FloatArray:
    return customers.payments_per_day


def _for_commuting(customers: Customers) -> FloatArray:
    suited = customers.commutes & (customers.payments_per_day > _OFTEN)
    return suited.astype(np.float64) * (not customers.commutes.all())


@dataclass(frozen=True)
class FraudKind:
    """One way to steal: how often, and what it looks like."""

    name: str
    share: float  # of all payments that are frauds of this kind
    incident: int  # payments of one incident on one card, on average
    make: Callable[[np.random.Generator, Population, IntArray, int], Payments]
    victims: Callable[[Customers], FloatArray] = _often_used  # how likely each card is stolen, in proportion


def make_frauds(rng: np.random.Generator, population: Population, start_us: int, honest: int) -> Payments | None:
    """Draw the frauds of a day that begins at `start_us` and has `honest` other payments; None where there are none."""
    parts = []
    for index, kind in enumerate(KINDS):
        incidents = rng.poisson(kind.share * honest / kind.incident)
        weight = kind.victims(population.customers)
        if incidents == 0 or not weight.any():
            continue
        who = rng.choice(len(weight), incidents, p=weight / weight.sum())
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


def _neighbour(rng: np.random.Generator, population: Population, who: IntArray, start_us: int) -> Payments:
    customers = population.customers
    size = rng.integers(5, 9, len(who))
    owner, neighbour = np.repeat(who, size), np.repeat(_neighbours_of(rng, customers, who), size)
    # What a card is stolen for: the larger of the things that everybody pays for now and then.
    wanted = np.isin(np.arange(len(CATEGORIES)), _indices("fuel", "cash", "electronics"))
    category = choose(rng, customers.category_share[neighbour] * wanted)
    payments = habitual_payments(rng, population, neighbour, category, customers.home[owner], start_us)
    return replace(
        payments,
        customer=owner,
        distance_km=distance_from_home(population, owner, payments.terminal),
        fraud=np.zeros(len(owner), dtype=np.int64),
    )


def _neighbours_of(rng: np.random.Generator, customers: Customers, who: IntArray) -> IntArray:
    """Draw for each customer in `who` (n,) somebody of the same town who pays for everything; else of any town."""
    suited = ~customers.commutes
    near = suited & (customers.home == customers.home[who][:, None])  # (n, customers)
    return choose(rng, np.where(near.any(axis=1, keepdims=True), near, suited).astype(np.float64))


KINDS: tuple[FraudKind, ...] = (
    FraudKind("spree", 0.0012, 2, _spree),
    FraudKind("cash_out", 0.0012, 2, _cash_out),
    FraudKind("card_testing", 0.0014, 6, _card_testing),
    FraudKind("keyed_in", 0.0012, 1, _keyed_in),
    FraudKind("neighbour", 0.0014, 6, _neighbour, _for_commuting),
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


def _indices(*names: str) -> list[int]:
    return [CATEGORY_INDEX[name] for name in names]


def _any_device(rng: np.random.Generator, n: int) -> IntArray:
    return rng.integers(0, 2, n)
