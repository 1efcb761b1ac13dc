"""Autoencoders of encoded records: nonlinear ones, and PCA as their linear special case; features are unknown here."""

from __future__ import annotations

from typing import Any

from detector.networks.base import INPUT_LIMIT, Autoencoder, SteadyLinear, rows_times
from detector.networks.convolutional import ConvolutionalAutoencoder
from detector.networks.denoising import DenoisingAutoencoder
from detector.networks.linear import LinearAutoencoder

__all__ = [
    "INPUT_LIMIT",
    "Autoencoder",
    "ConvolutionalAutoencoder",
    "DenoisingAutoencoder",
    "LinearAutoencoder",
    "SteadyLinear",
    "build",
    "rows_times",
]


def build(architecture: dict[str, Any]) -> Autoencoder:
    """An untrained network of the architecture that a network's `architecture()` described.

    Raises:
        ValueError: The kind is unknown.
    """
    kinds: dict[str, type[Any]] = {
        kind.kind: kind for kind in (LinearAutoencoder, DenoisingAutoencoder, ConvolutionalAutoencoder)
    }
    options = dict(architecture)
    kind = options.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"network kind {kind!r} is not one of {', '.join(kinds)}")
    network: Autoencoder = kinds[kind](**options)
    return network
