"""What an image looks like apart from its contrast: where strokes and edges run, and in which direction."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detector.networks import rows_times

BLUR = 0.7
"""Deviation in pixels of the Gaussian blur that comes before everything: single pixels are noise."""

ORIENTATIONS = 12
"""Directions that are told apart, over the full circle: a stroke has two edges, and they differ."""

CELLS = 7
"""Places along each side; with `ORIENTATIONS` an image has 588 numbers, whatever its size."""

_OVERLAP = 0.5
"""Deviation of a cell's Gaussian window, in units of its side."""


class Gradients:
    """Histograms of oriented gradients of images of one size.

    Each pixel's gradient, that of its strongest channel, votes by its length for the two directions next to its own,
    in all cells around it. Square roots of the sums, scaled to length 1 together, make the difference of two images
    one of shape and not of contrast, and a faint stroke count.

    Sources: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005; Arandjelović and
        Zisserman, "Three things everyone should know to improve object retrieval", CVPR 2012 (the square root).
    """

    width = ORIENTATIONS * CELLS * CELLS

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.shape = (channels, height, width)
        self._blur = tuple(blurring(side) for side in (height, width))
        self._pool = tuple(_pooling(side) for side in (height, width))

    def blurred(self, rows: Tensor) -> Tensor:
        """Images (n, d) blurred, (n, d)."""
        return _along_both(rows.view(-1, *self.shape[1:]), self._blur).reshape(len(rows), -1)

    def of_blurred(self, rows: Tensor) -> Tensor:
        """Descriptors (n, `Gradients.width`) of blurred images (n, d); all zero where an image is of one level."""
        n = len(rows)
        channels, height, width = self.shape
        framed = torch.nn.functional.pad(rows.view(n, channels, height, width), (1, 1, 1, 1), mode="replicate")
        across = framed[:, :, 1:-1, 2:] - framed[:, :, 1:-1, :-2]
        down = framed[:, :, 2:, 1:-1] - framed[:, :, :-2, 1:-1]
        length, strongest = (across.square() + down.square()).sqrt().max(dim=1, keepdim=True)  # (n, 1, h, w)
        across, down = across.gather(1, strongest), down.gather(1, strongest)
        turn = torch.atan2(down, across) * (ORIENTATIONS / (2 * math.pi)) + ORIENTATIONS
        first = turn.floor()
        share = turn - first
        index = first.long() % ORIENTATIONS
        votes = torch.zeros(n, ORIENTATIONS, height, width)
        votes.scatter_(1, index, length * (1 - share))
        votes.scatter_add_(1, (index + 1) % ORIENTATIONS, length * share)
        pooled = _along_both(votes.view(-1, height, width), self._pool).reshape(n, -1)
        return _to_unit_length(pooled.clamp_min(0.0).sqrt())


def blurring(side: int) -> Tensor:
    """The Gaussian blur along a side as a matrix (side, side); beyond the image it is dark."""
    distance = torch.arange(side)[:, None] - torch.arange(side)
    reach = torch.arange(-4, 5)
    weights: Tensor = _gauss(distance.float(), BLUR) / _gauss(reach.float(), BLUR).sum()
    return weights


def _pooling(side: int) -> Tensor:
    """Pixels to cells along a side as a matrix (side, CELLS)."""
    cell = side / CELLS
    centres = (torch.arange(CELLS) + 0.5) * cell - 0.5
    weights = _gauss(torch.arange(side)[:, None] - centres, _OVERLAP * cell)
    return weights / weights.sum(dim=0)


def _gauss(distance: Tensor, deviation: float) -> Tensor:
    return torch.exp(-(distance**2) / (2 * deviation**2))


def _along_both(images: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
    """Images (n, h, w) times a matrix along each side, (h, h') and (w, w'): (n, h', w')."""
    vertical, horizontal = matrices
    n, height, width = images.shape
    wide = rows_times(images.reshape(-1, width), horizontal).view(n, height, -1)
    turned = wide.transpose(1, 2).reshape(-1, height)
    return rows_times(turned, vertical).view(n, wide.shape[2], -1).transpose(1, 2)


def _to_unit_length(rows: Tensor) -> Tensor:
    columns = rows.T.contiguous()  # so that a sum's order does not depend on where its row begins
    return (columns / columns.square().sum(dim=0).sqrt().clamp_min(1e-6)).T
