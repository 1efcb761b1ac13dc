"""Denoising autoencoders, several of them batched as one network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.networks.base import INPUT_LIMIT, Autoencoder

NOISE = (0.1,)
"""Deviations of the noise that the members have to remove, one each. One member: beside a codebook more do not pay."""


class DenoisingAutoencoder(Autoencoder):
    """Multi-layer autoencoders d-h-h-k-h-h-d as one ensemble, trained to rebuild noisy and partly hidden records.

    The code is that of all members side by side, the reconstruction their mean. All are computed in one batched product
    a layer, with records side by side, so that a record's bits do not depend on its place (see `rows_times`).

    Sources: Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", ICML 2008;
        Hansen and Salamon, "Neural network ensembles", IEEE Transactions on Pattern Analysis and Machine Intelligence
        12, 1990.
    """

    kind = "denoising"
    hidden_share = 0.15
    """Chance of each feature to be hidden from a member in training."""

    def __init__(self, width: int, member_code: int, hidden: int = 64, noise: Sequence[float] = NOISE) -> None:
        super().__init__()
        self.feature_of_column = torch.arange(width)  # (d,): columns of one feature are hidden together
        self.width, self.member_code, self.hidden, self.noise = width, member_code, hidden, tuple(noise)
        self.code_width = member_code * len(self.noise)
        sizes = pairwise((width, hidden, hidden, member_code, hidden, hidden, width))
        layers = [(outputs, inputs) for inputs, outputs in sizes]
        members = len(self.noise)
        self.weights = nn.ParameterList(_drawn(members, outputs, inputs, inputs) for outputs, inputs in layers)
        self.biases = nn.ParameterList(_drawn(members, outputs, 1, inputs) for outputs, inputs in layers)
        self._stack = self._stacked()

    def _stacked(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Weights and biases by layer: to look them up in their lists costs as much as a product of a tile."""
        return list(zip(self.weights, self.biases, strict=True))

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Into the mode of training, or of use; to be called when parameters were replaced."""
        super().train(mode)
        self._stack = self._stacked()
        return self

    def encode(self, matrix: Tensor) -> Tensor:
        """Codes (n, k) of all members; inputs beyond `INPUT_LIMIT` count as at it."""
        columns = matrix.clamp(-INPUT_LIMIT, INPUT_LIMIT).T.contiguous()
        codes = self._layers(columns.expand(len(self.noise), *columns.shape), 0, 3)  # (members, member_code, n)
        return codes.reshape(self.code_width, -1).T

    def decode(self, codes: Tensor) -> Tensor:
        """Reconstructions (n, d): the mean of the members'."""
        columns = codes.T.reshape(len(self.noise), self.member_code, -1).contiguous()
        rebuilt = self._layers(columns, 3, 6)
        return rebuilt.mean(dim=0).T if len(self.noise) > 1 else rebuilt[0].T

    def _layers(self, columns: Tensor, first: int, last: int) -> Tensor:
        """Columns (members, inputs, n) through the layers from `first` to before `last`."""
        for layer in range(first, last):
            weights, biases = self._stack[layer]
            columns = torch.baddbmm(biases, weights, columns)
            if layer not in (2, 5):  # the code and the reconstruction are linear
                columns = functional.silu(columns)
        return columns

    def training_loss(self, rows: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        """Squared error of `rows[share]` rebuilt by each member from noisy and partly hidden ones.

        Mean over members and columns, sum over rows. Noise is drawn for all rows (n, d), so that a row's does not
        depend on the share.
        """
        members, features = len(self.noise), int(self.feature_of_column.max()) + 1
        shown = torch.rand(members, len(rows), features, generator=generator) >= self.hidden_share
        noise = torch.tensor(self.noise)[:, None, None] * torch.randn(members, *rows.shape, generator=generator)
        target = rows[share].clamp(-INPUT_LIMIT, INPUT_LIMIT)
        if not torch.equal(self.feature_of_column, torch.arange(self.width)):  # else each is a feature of its own
            shown = shown[:, :, self.feature_of_column]
        noise, mask = (part[:, share].to(rows.device) for part in (noise, shown))
        noisy = ((target + noise) * mask).transpose(1, 2).contiguous()  # (members, d, n)
        error = self._layers(noisy, 0, 6) - target.T
        loss: Tensor = error.square().mean(dim=(0, 1)).sum()
        return loss

    def validation_loss(self, rows: Tensor) -> Tensor:
        """Squared error of rows (n, d) rebuilt: mean over columns, sum over rows."""
        target = rows.clamp(-INPUT_LIMIT, INPUT_LIMIT)
        loss: Tensor = (self(target) - target).square().mean(dim=1).sum()
        return loss

    def architecture(self) -> dict[str, Any]:
        """All that `build` needs."""
        return {
            "kind": self.kind, "width": self.width, "member_code": self.member_code, "hidden": self.hidden,
            "noise": list(self.noise),
        }  # fmt: skip


def _drawn(members: int, outputs: int, inputs: int, fan_in: int) -> nn.Parameter:
    """First weights (members, outputs, inputs), uniform in the range that torch gives a linear layer."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(members, outputs, inputs).uniform_(-bound, bound))
