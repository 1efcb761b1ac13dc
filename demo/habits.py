"""Honest payments: what customers do when they do what they always do; knows nothing of fraud."""

from __future__ import annotations

import numpy as np

from demo.payments import HONEST, Payments
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
    pick_terminals,
    towns_on_day,
)

DAY_US = 86_400_000_000
_CASH = CATEGORY_INDEX["cash"]

_OUT_OF_TOWN = 0.08  # of the payments in person: a day out, a visit, a way to work
_SLEEPLESS = 0.02  # of the payments where nothing closes: at any hour, for no reason
_OLD_TERMINAL = (0.02, 0.05)  # at home and abroad: the chip cannot be read, the stripe is
_TYPED_AT_THE_TILL = 0.0004  # of honest payments in person: a damaged card


def honest_payments(rng: np.random.Generator, population: Population, day: int, start_us: int) -> Payments:
    """Draw what all customers pay for on a day that begins at `start_us`."""
    customers = population.customers
    busy = np.array([category.weekdays[day % 7] for category in CATEGORIES])
    share = customers.category_share * busy  # (customers, categories)
    who = np.repeat(np.arange(len(share)), rng.poisson(customers.payments_per_day * share.sum(axis=1)))
    category = choose(rng, share[who])
    return habitual_payments(rng, population, who, category, towns_on_day(customers, who, day), start_us)


def habitual_payments(
    rng: np.random.Generator,
    population: Population,
    who: IntArray,
    category: IntArray,
    town: IntArray,
    start_us: int,
) -> Payments:
    """Draw a payment as each customer in `who` (n,) is used to make it.

    Args:
        rng: Where chance comes from.
        population: Whose habits.
        who: Who pays, (n,).
        category: What for, (n,).
        town: Where they woke up, (n,).
        start_us: Begin of the day.
    """
    customers, terminals = population.customers, population.terminals
    n = len(who)
    online = rng.random(n) < np.array([kind.online for kind in CATEGORIES])[category]
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


def distance_from_home(population: Population, who: IntArray, terminal: IntArray) -> FloatArray:
    """Return the kilometres between home and terminal, to 100 m; NaN where the terminal does not say where it is."""
    terminals, customers = population.terminals, population.customers
    km = np.hypot(terminals.x_km[terminal] - customers.x_km[who], terminals.y_km[terminal] - customers.y_km[who])
    return np.where(terminals.sends_location[terminal], np.round(km, 1), np.nan)


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
