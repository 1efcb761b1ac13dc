"""Payments whose sensitive field holds something to look for: good ones, odd ones and broken ones of every kind."""

from __future__ import annotations

import json

from tests.payments import message

PLANTED = ("7351948.25", "7351948", "PLANTED", "UExBTlRFRA")
"""What must not be found: the sensitive number, the sensitive text, and that text in base64."""

LIMIT = 7_351_948.25


def planted_payments() -> list[bytes | None]:
    """Good and odd payments with the sensitive number, and one poison record of every kind around it."""
    good = [message(number, card__limit=LIMIT) for number in range(20)]
    odd = [message(number, amount=250_000.0, card__limit=LIMIT) for number in range(20, 24)]
    text = message(24, card__limit="PLANTED")
    poison = [
        text,
        message(25, card__limit={"PLANTED": "PLANTED"}),
        message(26, card__limit=["PLANTED"]),
        message(27, card__limit=True),
        message(28, card__limit=LIMIT).replace(b"7351948.25", b"7351948e999"),
        message(29, card__limit=LIMIT).replace(b"7351948.25", b"NaN7351948.25"),
        message(30, card__limit=LIMIT, at="PLANTED"),
        message(31, card__limit=LIMIT, amount="PLANTED"),
        message(32, card__limit=LIMIT, shop__kind={"PLANTED": LIMIT}),
        message(33, card__limit=LIMIT)[:-1],
        text.replace(b'"PLANTED"', b"PLANTED"),
        text.replace(b"PLANTED", b"PLANTED\xff"),
        b'"PLANTED 7351948.25"',
        json.dumps(["PLANTED", LIMIT]).encode(),
        b"[" * 200 + b'"PLANTED"' + b"]" * 200,
    ]
    return [*good, *odd, *(each for one in poison for each in (one, message(0, card__limit=LIMIT)))]


def found_in(text: str, *more: str) -> list[str]:
    """Which of the planted values, and of others, are in a text."""
    return [planted for planted in (*PLANTED, *more) if planted in text]
