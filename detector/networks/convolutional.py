"""The autoencoder of images: two convolutions down to a short code and two back; it knows no files and no scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detector.networks.base import Autoencoder, SteadyLinear


class ConvolutionalAutoencoder(Autoencoder):
    """Rebuilds images (n, c, h, w), flattened to rows (n, d), through a code (n, k).

    Each convolution halves height and width, which are multiples of 4. The output is linear: what is rebuilt are the
    blurred images of equal length that `ImageScorer` makes, and those have no bounds.

    Source: Masci et al., "Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction", ICANN 2011.
    """

    kind = "convolutional"
    noise = 1.25
    """Largest deviation in training of the noise that the network has to remove, in units of `level`."""
    shift = 1
    """Most pixels that images are shifted by in training, so that it does not learn where a stroke stands exactly."""
    level = 1.0
    """Root mean square of the images; losses are in units of its square."""

    def __init__(
        self, height: int, width: int, channels: int, code_width: int = 16, filters: int = 16, hidden: int = 128
    ) -> None:
        super().__init__()
        self.shape = (channels, height, width)
        self.width, self.code_width = channels * height * width, code_width
        self.filters, self.hidden = filters, hidden
        inner = (2 * filters, height // 4, width // 4)
        flat = inner[0] * inner[1] * inner[2]
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, filters, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(filters, 2 * filters, 4, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), SteadyLinear(flat, hidden), nn.SiLU(), SteadyLinear(hidden, code_width),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            SteadyLinear(code_width, hidden), nn.SiLU(), SteadyLinear(hidden, flat), nn.SiLU(), nn.Unflatten(1, inner),
            nn.ConvTranspose2d(2 * filters, filters, 4, stride=2, padding=1), nn.SiLU(),
            nn.ConvTranspose2d(filters, channels, 4, stride=2, padding=1), nn.Flatten(),
        )  # fmt: skip

    def encode(self, matrix: Tensor) -> Tensor:
        """Codes (n, k) of images (n, d)."""
        codes: Tensor = self.encoder(matrix.view(-1, *self.shape))
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Images (n, d)."""
        rebuilt: Tensor = self.decoder(codes)
        return rebuilt

    def training_loss(self, rows: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        """Squared error of images `rows[share]` rebuilt from noisy ones, all shifted together.

        Mean over pixels, sum over rows. What leaves an image on one side comes in on the other. Noise is drawn for all
        rows (n, d), so that a row's does not depend on the share.
        """
        down, across = torch.randint(-self.shift, self.shift + 1, (2,), generator=generator).tolist()
        deviation = self.noise * self.level * torch.rand(len(rows), 1, generator=generator)
        noise = (deviation * torch.randn(rows.shape, generator=generator))[share].to(rows.device)
        target = torch.roll(rows[share].view(-1, *self.shape), (down, across), (2, 3)).reshape(-1, self.width)
        return self._loss(target + noise, target)

    def validation_loss(self, rows: Tensor) -> Tensor:
        """Squared error of images (n, d) rebuilt: mean over pixels, sum over rows."""
        return self._loss(rows, rows)

    def _loss(self, rows: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = (self(rows) - target).square().mean(dim=1).sum() / self.level**2
        return loss

    def architecture(self) -> dict[str, Any]:
        """All that `build` needs."""
        channels, height, width = self.shape
        return {
            "kind": self.kind, "height": height, "width": width, "channels": channels, "code_width": self.code_width,
            "filters": self.filters, "hidden": self.hidden,
        }  # fmt: skip
