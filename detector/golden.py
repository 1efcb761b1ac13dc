"""Golden records: made-up messages that prove a detector scores here as it did where it was fitted."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detector.encode import CategoryEncoder, CycleEncoder, HistoryEncoder, NumberEncoder
from detector.history import History
from detector.image_golden import golden_images
from detector.records import Messages, Records
from detector.stream import OF_VALUES, CategoryFeature, StreamDefinition
from detector.times import iso8601

if TYPE_CHECKING:
    from detector.detector import Detector

_COUNT = 16
_SEED = 20180401
_START, _YEAR_S = 1_700_000_000, 31_536_000
_ENTITIES, _STEP_S = 4, 5_000
_LARGEST = 1e300


def make_golden(detector: Detector) -> dict[str, Any]:
    """Made-up messages as JSON text, and their scores. Values of sensitive categories are never among them."""
    draw = np.random.default_rng(_SEED)
    if detector.stream.image is not None:
        values = golden_images(detector.stream, draw, _COUNT)
        images: dict[str, Any] = {"base64": [base64.b64encode(value).decode() for value in values]}
        return images | {"scores": golden_scores(detector, images).tolist()}
    messages = [json.dumps(_message(detector, draw, row), ensure_ascii=False) for row in range(_COUNT)]
    golden: dict[str, Any] = {"messages": messages}
    return golden | {"scores": golden_scores(detector, golden).tolist()}


def golden_scores(detector: Detector, golden: Mapping[str, Any]) -> NDArray[np.float64]:
    """Scores (n,) of golden messages, through decoding, encoding and network, as the worker would score them."""
    return detector.score(golden_records(detector, golden))


def golden_records(detector: Detector, golden: Mapping[str, Any]) -> Records:
    """The golden messages as records.

    Raises:
        ValueError: There are none, or one is no record of the detector's stream.
    """
    values: list[bytes | None]
    if "base64" in golden:
        values = [base64.b64decode(value) for value in golden["base64"]]
    else:
        values = [message.encode() for message in golden["messages"]]
    records, rejects = detector.decode(Messages(values))
    if rejects:
        raise ValueError(f"golden record {rejects[0].row} cannot be decoded: {rejects[0].message}")
    if not len(records):
        raise ValueError("there are no golden records: nothing would say whether it scores as it did")
    return records


def _message(detector: Detector, draw: np.random.Generator, row: int) -> dict[str, Any]:
    stream = detector.stream
    flat: dict[str, Any] = {}
    moment = int(_START + draw.integers(_YEAR_S))
    if detector.history is not None:  # a few entities come back, and time goes on, so that the fold is proved as well
        moment = _START + row * _STEP_S + int(draw.integers(_STEP_S))
        flat |= _looked_at(detector.history, draw)
    for path in stream.paths:
        written = stream.time_format(path)
        if written is not None:
            form = written[0]
            iso = iso8601(np.datetime64(moment, "s"))
            flat[path] = iso if form == "iso8601" else moment if form == "epoch_s" else moment * 1000
    required = {feature.field for feature in stream.field_features if feature.required}
    for feature in detector.encoder.features:
        if isinstance(feature, (CycleEncoder, HistoryEncoder)):
            continue
        left_out = draw.random() < 0.1 and feature.field not in required | {stream.id, stream.key}
        value: Any = None
        if isinstance(feature, NumberEncoder):
            # One in four beyond the fitted range, so that the extremes of the encoding are proved as well.
            low, high = max(feature.low, -_LARGEST), min(feature.high, _LARGEST)
            value = float(f"{low + (high - low) * draw.uniform(-0.5, 1.5):.6g}")
            if _is_text_too(stream, feature.field):
                value = round(value)
        elif isinstance(feature, CategoryEncoder):
            hidden = stream.is_sensitive(feature.field) or not feature.values
            value = "golden" if hidden or draw.random() < 0.1 else str(draw.choice(feature.values))
            if isinstance(flat.get(feature.field), (int, float)):
                continue  # a number as well, and so what can be read as both
        if not left_out:
            flat[feature.field] = value
    flat |= {path: name for path, name in _names(stream, row).items() if not isinstance(flat.get(path), (int, float))}
    return _nest(flat)


def _names(stream: StreamDefinition, row: int) -> dict[str, str]:
    """Who a message is, and of which entity."""
    names = {} if stream.key is None else {stream.key: f"golden-{row % _ENTITIES}"}
    return names if stream.id is None else names | {stream.id: f"golden-{row}"}


def _looked_at(history: History, draw: np.random.Generator) -> dict[str, Any]:
    """Values of the fields that history features look at; those that are features themselves get others later."""
    values: dict[str, Any] = {path: f"golden-{draw.integers(3)}" for path in history.layout.values}
    for path, prior in history.priors.items():
        value = float(f"{prior.mean + prior.deviation * draw.uniform(-1, 2):.6g}")
        values[path] = round(value) if path in values else value
    return values


def _is_text_too(stream: StreamDefinition, path: str) -> bool:
    """Whether a number field is also read as text, which only a whole number can be."""
    return (
        path in (stream.id, stream.key)
        or any(isinstance(feature, CategoryFeature) and feature.field == path for feature in stream.field_features)
        or any(feature.of == path and feature.statistic in OF_VALUES for feature in stream.history_features)
    )


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
