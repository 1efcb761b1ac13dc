"""Who pays and where: towns, terminals and customers with habits; knows nothing of single payments or of fraud."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class MerchantCategory:
    """What is sold, and how an average customer buys it."""

    name: str
    share: float  # of an average customer's payments
    median_amount: float  # euros
    spread: float  # standard deviation of the logarithm of the amount
    online: float  # share of the payments that are made online
    peaks: tuple[tuple[float, float, float], ...]  # busy hours: (hour, width in hours, weight)
    opens: float  # hour of day; terminals of a shop stand still outside its hours, online shops never do
    closes: float
    weekdays: tuple[float, ...]  # how busy Monday to Sunday are, 1 is an average day


_WORKING = (1.05, 1.05, 1.05, 1.05, 1.2, 1.0, 0.6)
_WEEKEND = (0.8, 0.8, 0.85, 0.95, 1.3, 1.5, 0.8)
_EVEN = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

CATEGORIES: tuple[MerchantCategory, ...] = (
    MerchantCategory("groceries", 0.29, 30.0, 0.55, 0.0, ((11, 2.0, 0.4), (18, 1.6, 0.6)), 7, 22, _WORKING),
    MerchantCategory("restaurant", 0.17, 21.0, 0.50, 0.0, ((12.8, 0.9, 0.5), (20, 1.3, 0.5)), 7, 24, _WEEKEND),
    MerchantCategory("transit", 0.13, 3.2, 0.55, 0.0, ((8.2, 0.9, 0.5), (17.8, 1.4, 0.5)), 5, 24, _WORKING),
    MerchantCategory("online_retail", 0.13, 38.0, 0.60, 1.0, ((13, 3.0, 0.4), (20.8, 1.8, 0.6)), 0, 24, _EVEN),
    MerchantCategory("digital", 0.10, 6.0, 0.65, 1.0, ((12, 5.0, 0.4), (21, 2.0, 0.6)), 0, 24, _EVEN),
    MerchantCategory("fuel", 0.08, 48.0, 0.35, 0.0, ((8, 1.8, 0.4), (17.5, 2.2, 0.6)), 0, 24, _WORKING),
    MerchantCategory("cash", 0.06, 80.0, 0.50, 0.0, ((12.5, 2.8, 0.5), (18, 2.5, 0.5)), 0, 24, _WORKING),
    MerchantCategory("electronics", 0.04, 95.0, 0.50, 0.5, ((16, 2.8, 1.0),), 9, 21, _WEEKEND),
)
CATEGORY_INDEX = {category.name: index for index, category in enumerate(CATEGORIES)}

COUNTRIES = ("PT", "ES", "GB")
CURRENCIES = ("EUR", "GBP")
COUNTRY_CURRENCY: IntArray = np.array([0, 0, 1], dtype=np.int64)
HOME_COUNTRY = 0
# How often a foreign country is travelled to or shopped in, and roughly where it lies (km east, km north).
_FOREIGN_WEIGHT = (0.6, 0.4)
_FOREIGN_CENTRE = ((480.0, 60.0), (950.0, 1650.0))

CHANNELS = ("pos", "online", "atm")
POS, ONLINE, ATM = range(3)
ENTRY_MODES = ("chip", "contactless", "stripe", "keyed", "stored")
CHIP, CONTACTLESS, STRIPE, KEYED, STORED = range(5)
DEVICES = ("phone", "desktop")
CONTACTLESS_LIMIT = 50.0  # euros; above it the terminal asks for the chip

HOME_TOWNS = 18
FOREIGN_TOWNS_EACH = 4
ONLINE_SHOPS_EACH = 60

_COMMUTERS = 0.1  # of the customers


@dataclass(frozen=True)
class Towns:
    """Where terminals stand and customers live: domestic towns first, the largest of them first."""

    x_km: FloatArray  # (towns,)
    y_km: FloatArray
    country: IntArray  # index into COUNTRIES
    size: FloatArray  # share of the home country's customers; zero abroad


@dataclass(frozen=True)
class Terminals:
    """Places to pay, sorted by town and category; online shops come last and have no town."""

    category: IntArray  # (terminals,), index into CATEGORIES
    town: IntArray  # -1 for online shops
    x_km: FloatArray
    y_km: FloatArray
    country: IntArray
    sends_location: BoolArray  # without it the issuer cannot compute a distance
    sends_device: BoolArray  # some shops do not say what they were visited with
    first: IntArray  # (towns + 1, categories): first terminal of that town and category; last row: online shops
    count: IntArray  # (towns + 1, categories)


@dataclass(frozen=True)
class Customers:
    """The habits of each customer. They do not change with time."""

    home: IntArray  # (customers,), index into the towns
    x_km: FloatArray
    y_km: FloatArray
    payments_per_day: FloatArray
    category_share: FloatArray  # (customers, categories), rows sum to 1
    log_amount: FloatArray  # (customers, categories): the logarithm of the usual amount in euros
    hour_shift: FloatArray  # early birds are below 0, night owls above
    taps: FloatArray  # how often contactless where it can be
    types: FloatArray  # how often the card number is typed in online; else the shop has stored it
    on_desktop: FloatArray  # how often a desktop; else a phone
    favourite: IntArray  # (customers, categories): which terminal of a town they prefer, modulo their number
    trip_every_days: IntArray
    trip_phase_days: IntArray
    trip_days: IntArray
    trip_towns: IntArray  # (customers, 3): they take turns
    card_number: NDArray[np.str_]  # 16 digits that begin with 99: no bank issues these
    commutes: BoolArray  # pays for bus and train with this card, and for nothing else


@dataclass(frozen=True)
class Population:
    """Towns, terminals and customers that belong together."""

    towns: Towns
    terminals: Terminals
    customers: Customers


def make_population(rng: np.random.Generator, customers: int) -> Population:
    """Draw a population; the same generator state and number of customers give the same one.

    Raises:
        ValueError: Fewer than one customer is asked for.
    """
    if customers < 1:
        raise ValueError(f"{customers} customers cannot pay for anything: give at least 1")
    towns = _make_towns(rng)
    terminals = _make_terminals(rng, towns, customers)
    return Population(towns, terminals, _make_customers(rng, towns, customers))


def choose(rng: np.random.Generator, weights: FloatArray) -> IntArray:
    """Draw one column per row of `weights` (n, k) with probability proportional to its weight; shape (n,)."""
    edges = np.cumsum(weights, axis=1)
    at = rng.random(len(weights)) * edges[:, -1]
    chosen: IntArray = np.minimum((edges <= at[:, None]).sum(axis=1), weights.shape[1] - 1)
    return chosen


def towns_on_day(customers: Customers, who: IntArray, day: int) -> IntArray:
    """Return the town that each customer in `who` (n,) wakes up in on that day: home, or where a trip led."""
    since = day - customers.trip_phase_days[who]
    trip, day_of_trip = np.divmod(since, customers.trip_every_days[who])
    away = customers.trip_towns[who, trip % customers.trip_towns.shape[1]]
    return np.where(day_of_trip < customers.trip_days[who], away, customers.home[who])


def pick_terminals(
    rng: np.random.Generator, population: Population, who: IntArray, category: IntArray, town: IntArray
) -> IntArray:
    """Draw a terminal of the given category in the given town for each customer; town -1 means an online shop."""
    first, count = population.terminals.first[town, category], population.terminals.count[town, category]
    # Cubed: mostly the favourite, now and then another.
    step = np.floor(rng.random(len(who)) ** 3 * count).astype(np.int64)
    chosen: IntArray = first + (population.customers.favourite[who, category] + step) % count
    return chosen


def _make_towns(rng: np.random.Generator) -> Towns:
    size = 1.0 / np.arange(1, HOME_TOWNS + 1) ** 0.8
    x, y = [rng.uniform(0, 180, HOME_TOWNS)], [rng.uniform(0, 420, HOME_TOWNS)]
    country = [np.zeros(HOME_TOWNS, dtype=np.int64)]
    for index, (east, north) in enumerate(_FOREIGN_CENTRE, start=1):
        x.append(rng.normal(east, 120, FOREIGN_TOWNS_EACH))
        y.append(rng.normal(north, 120, FOREIGN_TOWNS_EACH))
        country.append(np.full(FOREIGN_TOWNS_EACH, index, dtype=np.int64))
    abroad = np.zeros(FOREIGN_TOWNS_EACH * len(_FOREIGN_CENTRE))
    return Towns(
        np.concatenate(x), np.concatenate(y), np.concatenate(country), np.concatenate([size / size.sum(), abroad])
    )


def _make_terminals(rng: np.random.Generator, towns: Towns, customers: int) -> Terminals:
    share = np.array([category.share for category in CATEGORIES])
    physical = np.array([category.online < 1.0 for category in CATEGORIES])
    busy = np.where(towns.size > 0, towns.size, 0.05)
    count = np.zeros((len(busy) + 1, len(share)), dtype=np.int64)
    count[:-1] = np.maximum(2, np.ceil(np.outer(busy, share) * customers * 0.3)) * physical
    count[-1] = ONLINE_SHOPS_EACH
    first = np.concatenate([[0], np.cumsum(count.ravel())[:-1]]).reshape(count.shape)

    cell_town, cell_category = np.divmod(np.arange(count.size), len(share))
    town = np.repeat(np.where(cell_town == len(busy), -1, cell_town), count.ravel())
    category = np.repeat(cell_category, count.ravel())
    n, online = len(town), town == -1
    web_country = rng.choice(len(COUNTRIES), n, p=[0.72, *(0.28 * weight for weight in _FOREIGN_WEIGHT)])
    country = np.where(online, web_country, towns.country[town])
    return Terminals(
        category=category,
        town=town,
        x_km=np.where(online, np.nan, towns.x_km[town] + rng.normal(0, 3, n)),
        y_km=np.where(online, np.nan, towns.y_km[town] + rng.normal(0, 3, n)),
        country=country,
        sends_location=~online & ((country != HOME_COUNTRY) | (rng.random(n) < 0.9)),
        sends_device=online & (rng.random(n) < 0.85),
        first=first,
        count=count,
    )


def _make_customers(rng: np.random.Generator, towns: Towns, n: int) -> Customers:
    share = np.array([category.share for category in CATEGORIES])
    median = np.log([category.median_amount for category in CATEGORIES])
    home = rng.choice(len(towns.size), n, p=towns.size)
    abroad = np.flatnonzero(towns.size == 0)
    abroad_weight = np.repeat(_FOREIGN_WEIGHT, FOREIGN_TOWNS_EACH) / FOREIGN_TOWNS_EACH
    # Two trips of three stay in the country.
    trip_weight = 0.67 * towns.size
    trip_weight[abroad] = 0.33 * abroad_weight
    every = rng.integers(15, 120, n)
    customers = Customers(
        home=home,
        x_km=towns.x_km[home] + rng.normal(0, 5, n),
        y_km=towns.y_km[home] + rng.normal(0, 5, n),
        payments_per_day=rng.gamma(2.5, 1.6 / 2.5, n),
        category_share=rng.dirichlet(share * 60, n),
        log_amount=median + rng.normal(0, 0.25, (n, 1)) + rng.normal(0, 0.15, (n, len(share))),
        hour_shift=rng.normal(0, 0.9, n),
        taps=rng.beta(3, 2, n),
        types=rng.beta(2, 3, n),
        on_desktop=rng.beta(2, 3, n),
        favourite=rng.integers(0, 1000, (n, len(share))),
        trip_every_days=every,
        trip_phase_days=rng.integers(0, every),
        trip_days=rng.integers(2, 8, n),
        trip_towns=rng.choice(len(trip_weight), (n, 3), p=trip_weight / trip_weight.sum()),
        card_number=np.array([f"99{number:014d}" for number in rng.integers(0, 10**14, n).tolist()], dtype=np.str_),
        commutes=rng.random(n) < _COMMUTERS,
    )
    only_transit = np.array([kind.name == "transit" for kind in CATEGORIES])
    kept = customers.category_share * (only_transit | ~customers.commutes[:, None])
    return replace(customers, category_share=kept / kept.sum(axis=1, keepdims=True))
