"""A record's bits depend neither on its place in a tile nor on threads, whatever the shape of the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from detector import DenoisingAutoencoder, LinearAutoencoder, Scorer
from detector.networks import Autoencoder
from detector.scoring import TILE


def scorer(kind: str, width: int, code_width: int) -> Scorer:
    rows = np.random.default_rng(width).normal(size=(400, width)).astype(np.float32)
    torch.manual_seed(width)
    network: Autoencoder
    if kind == "pca":
        network = LinearAutoencoder.fit(rows, code_width)
    else:
        noise = (0.05, 0.1, 0.3) if kind == "ensemble" else (0.1,)
        network = DenoisingAutoencoder(width, code_width, noise=noise)
    return Scorer.fit(network, rows, np.zeros(width, np.bool_), None if kind == "pca" else rows)


@pytest.mark.parametrize("kind", ["pca", "denoising", "ensemble"])
@pytest.mark.parametrize(
    ("width", "code_width"),
    [(2, 1), (3, 2), (5, 4), (6, 5), (7, 3), (8, 6), (9, 7), (13, 6), (17, 11), (30, 24), (41, 33)],
)
def test_a_row_has_the_same_bits_at_every_place(kind: str, width: int, code_width: int) -> None:
    judge = scorer(kind, width, code_width)
    matrix = np.random.default_rng(1).normal(size=(TILE, width)).astype(np.float32)
    expected: dict[str, NDArray[Any]] = {
        "score": judge.score(matrix),
        "code": judge.encode(matrix),
        "reconstruction": judge.reconstruct(matrix),
        "features": judge.score_features(matrix, [slice(0, 1), slice(1, width)]),
    }

    for shift in (1, 2, 3, 5, 77):
        moved = np.roll(matrix, shift, axis=0)
        found: dict[str, NDArray[Any]] = {
            "score": judge.score(moved),
            "code": judge.encode(moved),
            "reconstruction": judge.reconstruct(moved),
            "features": judge.score_features(moved, [slice(0, 1), slice(1, width)]),
        }
        for name, values in found.items():
            assert np.roll(values, -shift, axis=0).tobytes() == expected[name].tobytes(), (name, shift)


@pytest.mark.parametrize("kind", ["pca", "denoising", "ensemble"])
def test_a_row_has_the_same_bits_on_any_number_of_threads(kind: str) -> None:
    before = torch.get_num_threads()
    try:
        for width in range(3, 16):
            judge = scorer(kind, width, width - 1)
            matrix = np.random.default_rng(1).normal(size=(300, width)).astype(np.float32)
            found = set()
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                found.add(judge.score(matrix).tobytes())
                assert torch.get_num_threads() == threads
            assert len(found) == 1, width
    finally:
        torch.set_num_threads(before)
