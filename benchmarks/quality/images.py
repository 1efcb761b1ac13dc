"""MNIST with one digit normal, and with nine: fitted on the normal ones of the train images, tested on all 10,000."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA

import offbeat
from benchmarks.quality import anchors
from benchmarks.quality.problems import Entry, Part, Problem, Sample, ranking

TRAIN_CAP = 10_000
"""Most images to fit on: nine digits have 54,000, and neighbours among them take minutes to find."""

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def find(folder: Path) -> list[Problem]:
    """Each digit as the normal one and as the odd one, where the four files are below the folder, packed or not."""
    found = [next(iter(sorted(folder.rglob(f"{name}*"))), None) for name in _FILES]
    files = tuple(file for file in found if file is not None)
    if len(files) < len(_FILES):
        return []
    return [
        Problem(f"{normal} normal, {digit}", files, (normal, digit))
        for normal in ("one digit", "nine digits")
        for digit in range(10)
    ]


def load(problem: Problem, seed: int) -> Sample:
    """Train images of the normal digits, at most `TRAIN_CAP` drawn by the seed; all test images."""
    normal, digit = problem.options
    train, train_labels, test, test_labels = (_read(file) for file in problem.files)

    def is_odd(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        odd: NDArray[np.bool_] = (labels == digit) == (normal == "nine digits")
        return odd

    rows = np.random.default_rng(seed).permutation(np.flatnonzero(~is_odd(train_labels)))[:TRAIN_CAP]
    odd = is_odd(test_labels)
    return Sample(train[np.sort(rows)], test, odd, lambda scores: ranking(scores, odd))


@lru_cache(maxsize=4)
def _read(file: Path) -> NDArray[np.uint8]:
    """An array in the form of MNIST's files: a number of dimensions, their sizes, and bytes."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
        content = opened.read()
    dimensions = content[3]
    sizes = np.frombuffer(content, ">u4", dimensions, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(sizes.astype(int).tolist())


class OursOnImages:
    """The detector of this project, given the images as they are."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, images: NDArray[Any]) -> Self:
        """Fit on images (n, height, width) of bytes."""
        self._detector = offbeat.fit(images, seed=self._seed)
        return self

    def score(self, images: NDArray[Any]) -> NDArray[np.float64]:
        """The anomaly score."""
        return self._detector.score(images)


class OnBlurredUnit:
    """Another method on images that are blurred by a pixel and scaled to the same length, as rows of pixels."""

    def __init__(self, method: anchors.Method) -> None:
        self._method = method

    def fit(self, images: NDArray[Any]) -> Self:
        """Fit on images (n, height, width)."""
        self._method.fit(blurred_unit(images))
        return self

    def score(self, images: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """The method's score."""
        return self._method.score(blurred_unit(images))


def blurred_unit(images: NDArray[Any]) -> NDArray[np.float32]:
    """Images (n, height, width) as rows of pixels of length 1, blurred by a Gaussian of one pixel."""
    pixels = gaussian_filter(images.astype(np.float32), (0, 1, 1)).reshape(len(images), -1)
    unit: NDArray[np.float32] = pixels / np.linalg.norm(pixels, axis=1, keepdims=True).clip(1e-6)
    return unit


class PixelComponents:
    """Squared residual outside the first principal components of the pixels."""

    def __init__(self, count: int = 16) -> None:
        self._count = count

    def fit(self, rows: NDArray[np.floating[Any]]) -> Self:
        """Find the components."""
        self._model = PCA(self._count, svd_solver="covariance_eigh").fit(rows)
        return self

    def score(self, rows: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The squared residual."""
        rebuilt = self._model.inverse_transform(self._model.transform(rows))
        errors: NDArray[np.floating[Any]] = np.square(rows - rebuilt).sum(axis=1)
        return errors


class Standardised:
    """The plain autoencoder on pixels in units of their common deviation: a unit image has tiny ones."""

    def __init__(self, seed: int) -> None:
        self._method = anchors.PlainAutoencoder(seed)

    def fit(self, rows: NDArray[np.floating[Any]]) -> Self:
        """Fit on rows of pixels."""
        self._mean, self._deviation = rows.mean(axis=0), float(rows.std(axis=0).mean())
        self._method.fit((rows - self._mean) / self._deviation)
        return self

    def score(self, rows: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The method's score."""
        return self._method.score((rows - self._mean) / self._deviation)


ENTRIES = {
    "offbeat": Entry("**offbeat**", lambda seed, _: OursOnImages(seed)),
    "knn5-blurred": Entry(
        "kNN, k=5, mean distance, blurred unit pixels", lambda *_: OnBlurredUnit(anchors.Neighbours(5, mean=True)),
        is_random=False,
    ),
    "pca-blurred": Entry(
        "PCA, 16 components, blurred unit pixels", lambda *_: OnBlurredUnit(PixelComponents()), is_random=False
    ),
    "autoencoder": Entry(
        "plain autoencoder, squared error, blurred unit pixels", lambda seed, _: OnBlurredUnit(Standardised(seed))
    ),
}  # fmt: skip

PART = Part(find, load, ENTRIES, {"auroc": "AUROC", "ap": "average precision"})
