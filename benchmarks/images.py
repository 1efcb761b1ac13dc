"""Images: how well odd digits are found, on MNIST with one digit normal and with nine, beside two classical methods."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.rig import arguments, report
from detector import ImageScorer, LinearAutoencoder, records_of_images, stream_of_images
from detector.image_gradients import Gradients
from detector.image_scoring import evenly_bright
from detector.scoring import in_tiles
from trainer.evaluation import auroc
from trainer.fitting_images import ImageFitSettings, fit_images

#: More normal images than this are sampled for the neighbours of the comparison, which else take minutes.
MOST_NEIGHBOURS = 8_000


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", type=Path, required=True, help="directory in which MNIST/raw holds MNIST's idx files")
    parser.add_argument("--seeds", type=int, default=1, help="fits of each digit")
    parser.add_argument("--digits", default="0123456789", help="which digits")
    parser.add_argument("--protocols", default="one_normal,nine_normal", help="which of the two")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, train_labels = mnist(options.data, train=True)
    test, test_labels = mnist(options.data, train=False)
    digits = [int(digit) for digit in options.digits]
    figures: dict[str, Any] = {}
    for protocol in options.protocols.split(","):
        rows = []
        for digit in digits:
            normal, odd = train_labels == digit, test_labels != digit
            if protocol == "nine_normal":
                normal, odd = ~normal, ~odd
            fits = [one_fit(train[normal], test, odd, seed) for seed in range(options.seeds)]
            rows.append({"digit": digit, **classical(train[normal], test, odd), "fits": fits})
            print(protocol, rows[-1], file=sys.stderr, flush=True)
        figures[protocol] = {"summary": summary(rows), "digits": rows}
    report({"data": "MNIST, scored on all 10,000 test images; threads: 1", **figures}, options.json)


def mnist(directory: Path, *, train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from torchvision.datasets import MNIST

    found = MNIST(directory, train=train, download=False)
    return found.data.numpy(), found.targets.numpy()


def one_fit(normal: NDArray[np.uint8], test: NDArray[np.uint8], odd: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    """A detector with nothing but the defaults: its AUROC, that of its two statistics alone, and what it costs."""
    stream = stream_of_images(normal)
    began, cpu = time.perf_counter(), time.process_time()
    detector, _ = fit_images(records_of_images(stream, normal), stream, ImageFitSettings(seed=seed))
    wall, fit = time.perf_counter() - began, time.process_time() - cpu
    cpu = time.process_time()
    scores = detector.score(test)
    scoring = time.process_time() - cpu
    scorer = detector.scorer
    assert isinstance(scorer, ImageScorer)
    matrix = detector.encoder.encode(records_of_images(stream, test))
    distance, residual = scorer.rarities(matrix).T
    alarms = scores > detector.threshold.value
    return {
        "seed": seed,
        "auroc": auroc(scores, odd),
        "auroc_distance_alone": auroc(distance, odd),
        "auroc_residual_alone": auroc(residual, odd),
        "false_alarm_rate": float(alarms[~odd].mean()),
        "found_at_threshold": float(alarms[odd].mean()),
        "fit_wall_s": wall,
        "fit_cpu_s": fit,
        "score_cpu_us_per_image": scoring / len(test) * 1e6,
    }


def classical(normal: NDArray[np.uint8], test: NDArray[np.uint8], odd: NDArray[np.bool_]) -> dict[str, float]:
    """The five nearest neighbours, and the residual of PCA, on blurred images of one brightness."""
    stream = stream_of_images(normal)
    gradients = Gradients(28, 28, 1)

    def seen(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        records = records_of_images(stream, images)
        assert records.images is not None
        return evenly_bright(gradients, records.images.reshape(len(images), -1).astype(np.float32) / np.float32(255))

    chosen = np.random.default_rng(0).permutation(len(normal))[:MOST_NEIGHBOURS]
    reference, images = seen(normal[chosen]), seen(test)
    known = torch.from_numpy(reference)
    squares = known.square().sum(dim=1)

    def distances(rows: torch.Tensor) -> torch.Tensor:
        apart = squares[:, None] + rows.square().sum(dim=1) - 2 * known @ rows.T
        return apart.clamp_min(0).topk(5, dim=0, largest=False).values.sqrt().mean(dim=0)

    linear = LinearAutoencoder.fit(reference, 16)
    residual = in_tiles(lambda rows: (linear(rows) - rows).square().mean(dim=1), images)
    return {"auroc_knn5": auroc(in_tiles(distances, images), odd), "auroc_pca16": auroc(residual, odd)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over digits and seeds, and the worst digit."""
    keys = ("auroc", "auroc_distance_alone", "auroc_residual_alone", "false_alarm_rate", "found_at_threshold",
            "fit_wall_s", "fit_cpu_s", "score_cpu_us_per_image")  # fmt: skip
    by_digit = {key: [float(np.mean([fit[key] for fit in row["fits"]])) for row in rows] for key in keys}
    by_digit |= {key: [row[key] for row in rows] for key in ("auroc_knn5", "auroc_pca16")}
    means = {key: float(np.mean(values)) for key, values in by_digit.items()}
    return {**means, "auroc_worst_digit": min(by_digit["auroc"]), "auroc_knn5_worst_digit": min(by_digit["auroc_knn5"])}


if __name__ == "__main__":
    main()
