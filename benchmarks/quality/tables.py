"""Tables of numbers in ADBench's form, `.npz` with `X` and `y`: half of the normal rows train, the rest test."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from benchmarks.quality import anchors
from benchmarks.quality.problems import Entry, Part, Problem, Sample, ranking

TRAIN_CAP = 10_000
TEST_CAP = 20_000
LEAST_KEPT_ANOMALIES = 100

ENTRIES = {
    "offbeat": Entry("**offbeat**", lambda seed, _: anchors.Ours(seed)),
    "offbeat-pca": Entry("offbeat, PCA for the network", lambda seed, _: anchors.Ours(seed, "pca")),
    "knn1": Entry("kNN, k=1", lambda *_: anchors.Neighbours(1), is_random=False),
    "knn5-mean": Entry("kNN, k=5, mean distance", lambda *_: anchors.Neighbours(5, mean=True), is_random=False),
    "knn5-max": Entry("kNN, k=5, largest distance", lambda *_: anchors.Neighbours(5), is_random=False),
    "lof20": Entry("LOF, 20 neighbours", lambda *_: anchors.OutlierFactor(), is_random=False),
    "mahalanobis": Entry("Mahalanobis, Ledoit-Wolf", lambda *_: anchors.Mahalanobis(), is_random=False),
    "autoencoder": Entry("plain autoencoder, squared error", lambda seed, _: anchors.PlainAutoencoder(seed)),
    "ocsvm": Entry("one-class SVM", lambda seed, _: anchors.SupportVectors(seed)),
    "iforest": Entry("isolation forest", lambda seed, _: anchors.Forest(seed)),
    "pca90": Entry("PCA residual, 90 %", lambda *_: anchors.LinearResidual(), is_random=False),
    "hbos": Entry("HBOS", lambda *_: anchors.Histograms(), is_random=False),
    "ecod": Entry("ECOD", lambda *_: anchors.EmpiricalTails(), is_random=False),
    "pyod-autoencoder": Entry("PyOD's autoencoder", lambda seed, _: anchors.PyodAutoencoder(seed), needs="pyod"),
}


def find(folder: Path) -> list[Problem]:
    """Every file with a matrix and its labels, those with a number first and in its order."""
    files = [file for file in folder.rglob("*.npz") if _holds_labels(file)]
    return [Problem(file.stem, (file,)) for file in sorted(files, key=lambda file: _by_number(file.stem))]


def _holds_labels(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        return {"X.npy", "y.npy"} <= set(archive.namelist())


def _by_number(name: str) -> tuple[float, str]:
    number = name.split("_")[0]
    return (float(number) if number.isdigit() else float("inf"), name)


def load(problem: Problem, seed: int) -> Sample:
    """Half of the normal rows, at most `TRAIN_CAP`, to fit on; the other half and all anomalies to score.

    No row is in both. More than `TEST_CAP` rows to score are thinned in the same proportion, but
    `LEAST_KEPT_ANOMALIES` are kept if there are so many. Columns are standardised by the rows to fit on.

    Source: the semi-supervised protocol of Livernoche et al., "On Diffusion Modeling for Anomaly Detection", ICLR 2024,
        without its duplicated rows, which would be in both.
    """
    content = np.load(problem.files[0], allow_pickle=True)
    matrix, labels = content["X"].astype(np.float64), content["y"].astype(np.int64).ravel()
    draw = np.random.RandomState(1000 + seed)
    normal, odd = draw.permutation(np.flatnonzero(labels == 0)), draw.permutation(np.flatnonzero(labels == 1))
    half = round(0.5 * len(normal))
    train, rest = normal[:half][:TRAIN_CAP], normal[half:]
    if len(rest) + len(odd) > TEST_CAP:
        share = len(odd) / (len(rest) + len(odd))
        odd = odd[: max(LEAST_KEPT_ANOMALIES, round(share * TEST_CAP))]
        rest = rest[: TEST_CAP - len(odd)]
    test = draw.permutation(np.concatenate([rest, odd]))
    centre, deviation = matrix[train].mean(axis=0), matrix[train].std(axis=0)
    deviation[deviation < 1e-12] = 1.0
    anomalous = labels[test] == 1
    return Sample(
        train=(matrix[train] - centre) / deviation,
        test=(matrix[test] - centre) / deviation,
        odd=anomalous,
        judge=lambda scores: ranking(scores, anomalous),
    )


PART = Part(
    find,
    load,
    ENTRIES,
    {"auroc": "AUROC", "ap": "average precision", "f1": "F1 at n anomalies"},
    is_split_by_seed=True,
)
