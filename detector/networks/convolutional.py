"""The autoencoder of images: two convolutions down to a short code and two back; it knows no files and no scores."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from detector.networks.base import Autoencoder, SteadyLinear


class ConvolutionalAutoencoder(Autoencoder):
    """Rebuilds images (n, c, h, w), flattened to rows (n, d), through a code (n, k).

    Each convolution halves height and width, which are multiples of 4. The output is linear: what is rebuilt are the
    blurred images of equal length that `ImageScorer` makes, and those have no bounds.

    Source: Masci et al., "Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction", ICANN 2011.
    """

    kind = "convolutional"

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

    def architecture(self) -> dict[str, Any]:
        """All that `build` needs."""
        channels, height, width = self.shape
        return {
            "kind": self.kind, "height": height, "width": width, "channels": channels, "code_width": self.code_width,
            "filters": self.filters, "hidden": self.hidden,
        }  # fmt: skip
