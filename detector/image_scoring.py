"""Anomaly scores of images: how unlike the normal ones their shapes are, and how badly they are rebuilt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.arrays import check_arrays
from detector.image_gradients import Gradients
from detector.networks import ConvolutionalAutoencoder, rows_times
from detector.scoring import LEAST_STATISTIC_SPREAD, in_tiles
from detector.tails import fit_tails, rarity

TILE = 32
"""Images that are scored at once, always as many; one alone costs as much as all of them."""

COMPONENTS = 96
"""Principal components of the descriptors that distances are measured in."""

NEIGHBOURS = 5
"""Nearest normal images that an image is compared with."""

MOST_CODES = 8_192
"""Most normal images that are remembered, drawn at random from more."""

RESIDUAL_WEIGHT = 1 / 3
"""Weight of the network's residual beside the distance: without it a defect that changes no edge would pass."""

LEVEL = 0.32
"""Root mean square of an image as the network sees it: all are equally bright."""

_MOST_TAIL_ROWS = 4_096


class ImageScorer:
    """A convolutional autoencoder and a codebook of normal images, with what their errors look like on normal ones.

    Two statistics of an image, each in decades of rarity among normal images, give the score:

    - distance: how far its descriptor (`Gradients`) is from its nearest codes, which are those of normal images, as
      a share of how far those are from their own. The codebook is an autoencoder too: its code is the nearest image.
      Divided by the square root of the codes' own distances, so that a gap between two dense groups counts, and the rim
      of a sparse one less.
    - residual: the squared error of the network's reconstruction of the blurred image, brought to one brightness.

        score = rarity(distance) + rarity(residual) / 3

    with the scale of rarities as in `Scorer`. Images that are simpler than all normal ones are rebuilt too well, so
    the residual alone would call them normal; the distance does not.

    Sources: Ramaswamy, Rastogi and Shim, "Efficient Algorithms for Mining Outliers from Large Data Sets", SIGMOD 2000
        (the distance to the k-th neighbour); Breunig et al., "LOF: Identifying Density-Based Local Outliers", SIGMOD
        2000 (the comparison with the neighbours' own distances).
    """

    kind = "image"

    STATE = ("centre", "basis", "codes", "spacing", "tails")
    """Names of the tensors that were fitted."""

    def __init__(
        self, network: ConvolutionalAutoencoder, *, centre: Tensor, basis: Tensor, codes: Tensor, spacing: Tensor,
        tails: Tensor,
    ) -> None:  # fmt: skip
        self.network = network.eval()
        self.gradients = _gradients(network)
        # Copies of one memory layout: that of a tensor can change its product's last bits.
        self.centre, self.basis, self.codes, self.spacing, self.tails = (
            part.clone(memory_format=torch.contiguous_format) for part in (centre, basis, codes, spacing, tails)
        )  # (g,), (g, p), (m, p), (m,), (5, 2)
        self._code_squares = self.codes.square().sum(dim=1, keepdim=True)  # (m, 1)

    @classmethod
    def fit(
        cls,
        network: ConvolutionalAutoencoder,
        fitted: NDArray[np.float32],
        held_out: NDArray[np.float32],
        seed: int = 0,
    ) -> ImageScorer:
        """Learn what normal images look like.

        Args:
            network: The trained autoencoder.
            fitted: Normal images that it was trained on, (n, d): the codes are taken from them.
            held_out: Normal images that it was not trained on, (v, d).
            seed: Of the choice of codes.
        """
        chosen = np.random.default_rng(seed).permutation(len(fitted))[:MOST_CODES]
        remembered = fitted[np.sort(chosen)]
        gradients = _gradients(network)
        descriptors = in_tiles(lambda rows: gradients.of_blurred(gradients.blurred(rows)), remembered, TILE)
        centre, basis = _principal(descriptors, COMPONENTS)
        codes = torch.from_numpy(((descriptors - centre) @ basis).astype(np.float32))
        scorer = cls(
            network, centre=torch.from_numpy(centre.astype(np.float32)), basis=torch.from_numpy(basis), codes=codes,
            spacing=torch.ones(len(codes)), tails=torch.zeros(5, 2, dtype=torch.float64),
        )  # fmt: skip
        # A code is its own nearest: leave it out, here and where the tails are learned.
        own = in_tiles(lambda rows: scorer._nearest(rows, leave_out=1)[0].mean(dim=0), codes.numpy(), TILE)
        scorer.spacing = torch.from_numpy(np.maximum(own, 1e-3))
        among = remembered[:: -(-len(remembered) // _MOST_TAIL_ROWS)]
        sample = np.concatenate([
            in_tiles(lambda rows: scorer._statistics(rows, leave_out=1).T, among, TILE),
            in_tiles(lambda rows: scorer._statistics(rows).T, held_out[:_MOST_TAIL_ROWS], TILE),
        ])  # fmt: skip
        scorer.tails = torch.from_numpy(fit_tails(sample, LEAST_STATISTIC_SPREAD))
        return scorer

    @classmethod
    def restore(cls, network: ConvolutionalAutoencoder, state: Mapping[str, Tensor]) -> ImageScorer:
        """The scorer whose `state()` this is.

        Raises:
            KeyError: A part of the state is missing.
            ValueError: Its parts do not belong together.
        """
        own = {name: state[name] for name in cls.STATE}
        width, components, codes = Gradients.width, own["basis"].numel() // Gradients.width, own["spacing"].numel()
        check_arrays("the scorer", {name: tensor.numpy() for name, tensor in own.items()}, {
            "centre": (np.float32, (width,)), "basis": (np.float32, (width, components)),
            "codes": (np.float32, (codes, components)), "spacing": (np.float32, (codes,)),
            "tails": (np.float64, (5, 2)),
        })  # fmt: skip
        if not codes or not components:
            raise ValueError("the scorer knows no normal image: it is damaged")
        return cls(network, **own)

    def state(self) -> dict[str, Tensor]:
        """All that was fitted beside the network: tensors by the names of `STATE`, as the constructor takes them."""
        return {name: getattr(self, name) for name in self.STATE}

    def encode(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's codes (n, k) of images (n, d)."""
        return in_tiles(lambda rows: self.network.encode(self._seen(rows)[0]), matrix, TILE)

    def decode(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstructions (n, d) from codes (n, k), at the one brightness that the network knows."""
        return in_tiles(self.network.decode, codes, TILE)

    def reconstruct(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstructions (n, d) of images (n, d), each as bright as its image."""

        def rebuilt(rows: Tensor) -> Tensor:
            seen, length = self._seen(rows)
            whole: Tensor = self.network(seen) * length[:, None]
            return whole

        return in_tiles(rebuilt, matrix, TILE)

    def blurred(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """What reconstructions are to be compared with: images (n, d) blurred as the network sees them."""
        return in_tiles(self.gradients.blurred, matrix, TILE)

    def score(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Anomaly scores (n,) of images (n, d), in decades of rarity; at least 0, higher is stranger."""
        distance, residual = self.rarities(matrix).T
        scores: NDArray[np.float64] = distance + RESIDUAL_WEIGHT * residual
        return scores

    def score_features(self, matrix: NDArray[np.float32], features: Sequence[slice]) -> NDArray[np.float64]:
        """How badly each feature was rebuilt: the rarity of its residual, (n, f); a stream of images has one."""
        return np.repeat(self.rarities(matrix)[:, 1:], len(features), axis=1)

    def rarities(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the score is made of: distance and residual of images (n, d) in decades of rarity, (n, 2)."""
        statistics: NDArray[np.float64] = in_tiles(lambda rows: self._statistics(rows).T, matrix, TILE)
        return rarity(statistics.T, self.tails.numpy()).T

    def _statistics(self, rows: Tensor, leave_out: int = 0) -> Tensor:
        """Distance and residual of rows (TILE, d): (2, TILE), in double precision."""
        blurred = self.gradients.blurred(rows)
        descriptors = self.gradients.of_blurred(blurred)
        distances, codes = self._nearest(rows_times(descriptors - self.centre, self.basis), leave_out)
        distance = distances.mean(dim=0) / self.spacing[codes].mean(dim=0).sqrt()
        seen, _ = _evenly_bright(blurred)
        residual = (self.network(seen) - seen).T.contiguous().square().mean(dim=0)
        return torch.stack([distance, residual / LEVEL**2]).double()

    def _nearest(self, points: Tensor, leave_out: int = 0) -> tuple[Tensor, Tensor]:
        """Distances to the nearest codes of points (TILE, p) and which those are, (NEIGHBOURS, TILE) each."""
        wanted = min(NEIGHBOURS + leave_out, len(self.codes))
        products = self.codes @ points.T.contiguous()  # (m, TILE)
        nearest = (self._code_squares - 2 * products).topk(wanted, dim=0, largest=False).indices[leave_out:]
        differences = self.codes[nearest] - points  # (NEIGHBOURS, TILE, p)
        return differences.permute(2, 0, 1).contiguous().square().sum(dim=0).sqrt(), nearest

    def _seen(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as the network sees them, and what they were divided by."""
        return _evenly_bright(self.gradients.blurred(rows))


def _gradients(network: ConvolutionalAutoencoder) -> Gradients:
    channels, height, width = network.shape
    return Gradients(height, width, channels)


def _evenly_bright(blurred: Tensor) -> tuple[Tensor, Tensor]:
    """Blurred images (n, d) with a root mean square of `LEVEL`, black ones as they are, and the divisors (n,)."""
    columns = blurred.T.contiguous()
    length = columns.square().mean(dim=0).sqrt().clamp_min(1e-4) / LEVEL
    return (columns / length).T.contiguous(), length


def evenly_bright(gradients: Gradients, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images (n, d) as the network sees them, (n, d): what it has to be trained on."""
    return in_tiles(lambda rows: _evenly_bright(gradients.blurred(rows))[0], matrix, TILE)


def _principal(rows: NDArray[np.float32], components: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Mean (g,) and the first principal directions (g, p) of rows (n, g)."""
    centre = rows.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(np.cov(rows, rowvar=False, dtype=np.float64))
    return centre, np.ascontiguousarray(vectors[:, ::-1][:, :components], np.float32)
