"""Golden records: made-up messages that prove a detector scores here as it did where it was fitted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detector.encode import CategoryEncoder, CycleEncoder, NumberEncoder
from detector.records import Messages
from detector.times import iso8601

if TYPE_CHECKING:
    from detector.detector import Detector

_COUNT = 16
_SEED = 20180401
_START, _YEAR_S = 1_700_000_000, 31_536_000


def make_golden(detector: Detector) -> dict[str, Any]:
    """Made-up messages as JSON text, and their scores. Values of sensitive categories are never among them."""
    draw = np.random.default_rng(_SEED)
    messages = [json.dumps(_message(detector, draw, row), ensure_ascii=False) for row in range(_COUNT)]
    golden: dict[str, Any] = {"messages": messages}
    return golden | {"scores": golden_scores(detector, golden).tolist()}


def golden_scores(detector: Detector, golden: Mapping[str, Any]) -> NDArray[np.float64]:
    """Scores (n,) of golden messages, through decoding, encoding and network, as the worker would score them."""
    values: list[bytes | None] = [message.encode() for message in golden["messages"]]
    records, rejects = detector.decode(Messages(values))
    if rejects:
        raise ValueError(f"golden record {rejects[0].row} cannot be decoded: {rejects[0].message}")
    return detector.score(records)


def _message(detector: Detector, draw: np.random.Generator, row: int) -> dict[str, Any]:
    stream = detector.stream
    flat: dict[str, Any] = {path: f"golden-{row}" for path in (stream.key, stream.id) if path}
    moment = int(_START + draw.integers(_YEAR_S))
    for path in stream.paths:
        written = stream.time_format(path)
        if written is not None:
            form = written[0]
            iso = iso8601(np.datetime64(moment, "s"))
            flat[path] = iso if form == "iso8601" else moment if form == "epoch_s" else moment * 1000
    required = {feature.field for feature in stream.feature if feature.required}
    for feature in detector.encoder.features:
        if isinstance(feature, CycleEncoder):
            continue
        left_out = draw.random() < 0.1 and feature.field not in required | {stream.id, stream.key}
        value: Any = None
        if isinstance(feature, NumberEncoder):
            # One in four beyond the fitted range, so that the extremes of the encoding are proved as well.
            reach = feature.high - feature.low
            value = float(f"{feature.low + reach * draw.uniform(-0.5, 1.5):.6g}")
        elif isinstance(feature, CategoryEncoder):
            hidden = stream.is_sensitive(feature.field) or not feature.values
            value = "golden" if hidden or draw.random() < 0.1 else str(draw.choice(feature.values))
        if not left_out:
            flat[feature.field] = value
    return _nest(flat)


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted paths as nested objects."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return nested
