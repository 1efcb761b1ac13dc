"""Columns of card payments, and how they become rows, tables and JSON; does not know how payments come about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isnan
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from demo.population import (
    CATEGORIES,
    CHANNELS,
    COUNTRIES,
    COUNTRY_CURRENCY,
    CURRENCIES,
    DEVICES,
    ENTRY_MODES,
    BoolArray,
    FloatArray,
    IntArray,
    Population,
)

HONEST = -1
LABELS = ("is_fraud", "fraud_kind")  # fields that only a simulator can know


@dataclass(frozen=True)
class Payments:
    """Payments as columns of equal length, in the order of their time."""

    time_us: IntArray  # microseconds since 1970, UTC
    customer: IntArray  # index into the population's customers
    terminal: IntArray  # index into the population's terminals
    amount: FloatArray  # euros
    category: IntArray  # index into CATEGORIES; these and the following likewise
    country: IntArray
    channel: IntArray
    entry_mode: IntArray
    device: IntArray  # -1: not sent, or not online
    distance_km: FloatArray  # from the customer's home; NaN: online, or the terminal does not say where it stands
    fraud: IntArray  # index into the kinds of fraud; HONEST for the others

    def __len__(self) -> int:
        """Number of payments."""
        return len(self.time_us)

    def take(self, rows: IntArray | BoolArray | slice) -> Payments:
        """Return the given rows, in the given order."""
        return Payments(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @staticmethod
    def concat(parts: Sequence[Payments]) -> Payments:
        """Return all parts as one, in the given order."""
        return Payments(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Payments)}
        )

    def in_order(self) -> Payments:
        """Return the payments sorted by time."""
        return self.take(np.argsort(self.time_us, kind="stable"))


@dataclass(frozen=True)
class LabelledPayments:
    """Payments with what their wire form needs: whose they are, which day they fell on, what frauds are called."""

    payments: Payments
    population: Population
    day: int
    kinds: tuple[str, ...]

    def columns(self) -> dict[str, list[Any]]:
        """Return the record's fields as plain Python columns; None where a field was not sent."""
        payments, customers = self.payments, self.population.customers
        distance = payments.distance_km
        stamps = np.datetime_as_string(payments.time_us.view("datetime64[us]"), unit="ms")
        return {
            "transaction_id": self.transaction_ids,
            "timestamp": [stamp + "Z" for stamp in stamps.tolist()],
            "customer_id": self.customer_ids,
            "card_number": customers.card_number[payments.customer].tolist(),
            "terminal_id": [f"T{index:06d}" for index in payments.terminal.tolist()],
            "amount": payments.amount.tolist(),
            "currency": _names(CURRENCIES, COUNTRY_CURRENCY[payments.country]),
            "merchant_category": _names([category.name for category in CATEGORIES], payments.category),
            "merchant_country": _names(COUNTRIES, payments.country),
            "channel": _names(CHANNELS, payments.channel),
            "entry_mode": _names(ENTRY_MODES, payments.entry_mode),
            "device": _names(DEVICES, payments.device),
            "distance_km": [None if isnan(km) else km for km in distance.tolist()],
            "is_fraud": (payments.fraud != HONEST).astype(int).tolist(),
            "fraud_kind": self.fraud_kinds,
        }

    @property
    def fraud_kinds(self) -> list[str | None]:
        """What kind of fraud each payment is; None for the honest ones."""
        return _names(self.kinds, self.payments.fraud)

    @property
    def customer_ids(self) -> list[str]:
        """Whose payment each is."""
        return [f"C{index:06d}" for index in self.payments.customer.tolist()]

    @property
    def transaction_ids(self) -> list[str]:
        """The name of each payment, unlike that of any other day's."""
        return [f"{self.day:04d}-{row:07d}" for row in range(len(self.payments))]

    def table(self) -> pa.Table:
        """Return the payments as an Arrow table, one column per field of the record."""
        return pa.table(self.columns(), schema=SCHEMA)

    def messages(self, *, labels: bool = True) -> list[bytes]:
        """Return each payment as a JSON object in UTF-8; a field that was not sent is absent."""
        shown = {name: column for name, column in self.columns().items() if labels or name not in LABELS}
        names, columns = zip(*shown.items(), strict=True)
        encode = msgspec.json.Encoder().encode
        return [
            encode({name: value for name, value in zip(names, row, strict=True) if value is not None})
            for row in zip(*columns, strict=True)
        ]


SCHEMA = pa.schema(
    [
        ("transaction_id", pa.string()),
        ("timestamp", pa.string()),
        ("customer_id", pa.string()),
        ("card_number", pa.string()),
        ("terminal_id", pa.string()),
        ("amount", pa.float64()),
        ("currency", pa.string()),
        ("merchant_category", pa.string()),
        ("merchant_country", pa.string()),
        ("channel", pa.string()),
        ("entry_mode", pa.string()),
        ("device", pa.string()),
        ("distance_km", pa.float64()),
        ("is_fraud", pa.int64()),
        ("fraud_kind", pa.string()),
    ]
)


def _names(names: Sequence[str], index: IntArray) -> list[str | None]:
    lookup: NDArray[np.object_] = np.array([*names, None], dtype=object)  # index -1 is the last: None
    result: list[str | None] = lookup[index].tolist()
    return result
