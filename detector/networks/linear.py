"""PCA as the linear special case of an autoencoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.networks.base import Autoencoder, rows_times


class LinearAutoencoder(Autoencoder):
    """PCA: the best linear autoencoder in closed form, the honest baseline of every other.

    Source: Baldi and Hornik, "Neural networks and principal component analysis: Learning from examples without local
        minima", Neural Networks 2, 1989 (a linear autoencoder spans the principal components).
    """

    kind = "pca"
    mean: Tensor
    components: Tensor

    def __init__(self, width: int, code_width: int) -> None:
        super().__init__()
        self.width, self.code_width = width, code_width
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.zeros(code_width, width))

    @classmethod
    def fit(cls, matrix: NDArray[np.float32], code_width: int) -> LinearAutoencoder:
        """Principal components of encoded normal records (n, d)."""
        network = cls(matrix.shape[1], code_width)
        mean = matrix.mean(axis=0, dtype=np.float64)
        _, vectors = np.linalg.eigh(np.atleast_2d(np.cov(matrix, rowvar=False, dtype=np.float64, ddof=0)))
        components = vectors[:, ::-1][:, :code_width].T
        # The sign of a component is arbitrary; fix it, so that the same data gives the same code.
        signs = np.sign(components[np.arange(code_width), np.abs(components).argmax(axis=1)])
        network.mean.copy_(torch.from_numpy(mean))
        network.components.copy_(torch.from_numpy(components * signs[:, None]))
        return network

    def encode(self, matrix: Tensor) -> Tensor:
        """Principal coordinates (n, k)."""
        return rows_times(matrix - self.mean, self.components.T)

    def decode(self, codes: Tensor) -> Tensor:
        """Points of the principal subspace (n, d)."""
        return rows_times(codes, self.components) + self.mean

    def architecture(self) -> dict[str, Any]:
        """All that `build` needs."""
        return {"kind": self.kind, "width": self.width, "code_width": self.code_width}
