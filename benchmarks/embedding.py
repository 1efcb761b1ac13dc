"""The encoder as a dimension reduction, beside PCA of equal width: what is kept of variance and of neighbourhoods.

Each table is a .npz with X (n, d) and y (n,), as ADBench's: fitted on half of the normal records, measured on the
others, never seen. Both see the encoded records within the range that the network sees. Variance is what the
reconstruction explains. Neighbourhoods are those of the 10 nearest: the mean over tables, and in how many of them the
autoencoder is ahead.

    python -m benchmarks.embedding --json benchmarks/results/embedding.json
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.rig import arguments, report
from detector import Autoencoder, DenoisingAutoencoder, Encoder, LinearAutoencoder, records_of_matrix, stream_of_matrix
from detector.networks import INPUT_LIMIT
from tests.kafka.worker import ROOT
from trainer.neighbourhoods import explained_variance, preservation
from trainer.training import TrainingSettings, train

TABLES = ROOT.parent / "shared" / "data" / "adbench"
NEIGHBOURS = 10
MEASURES = ("explained_variance", "trustworthiness", "continuity", "overlap")


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--tables", type=Path, default=TABLES, help="folder of .npz files")
    options.add_argument("--only", nargs="+", help="names of some of them, without .npz")
    options.add_argument("--widths", type=int, nargs="+", default=[2, 4, 8])
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--steps", type=int, default=2_000)
    options.add_argument("--fit", type=int, default=5_000, help="most records to fit on")
    options.add_argument("--measure", type=int, default=1_000, help="most records to measure on")
    options.add_argument("--corrupted", action="store_true", help="with the noise and hidden features of detection")
    chosen = options.parse_args()
    files = sorted(chosen.tables.glob("*.npz"))
    if chosen.only:
        files = [file for file in files if file.stem in chosen.only]
    if not files:
        sys.exit(f"{chosen.tables}: holds no such .npz: this benchmark runs on tables beside the checkout")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for file in files:
        fitting, validation, measured = halves(file, chosen.fit, chosen.measure)
        for width in chosen.widths:
            if width >= varying(fitting):
                continue
            pca = LinearAutoencoder.fit(fitting, width)
            found = {"pca": [quality(pca, measured)], "autoencoder": []}
            began = time.perf_counter()
            for seed in chosen.seeds:
                network = autoencoder(
                    fitting, validation, width, TrainingSettings(seed=seed, most_steps=chosen.steps),
                    corrupted=chosen.corrupted,
                )  # fmt: skip
                found["autoencoder"].append(quality(network, measured))
            row = {"table": file.stem, "width": width, "columns": varying(fitting), "measured": len(measured)}
            for name, figures in found.items():
                row[name] = {key: round(float(np.mean([each[key] for each in figures])), 4) for key in MEASURES}
            rows.append(row)
            print(row, f"{time.perf_counter() - began:.1f} s", file=sys.stderr)
    settings = {"widths": chosen.widths, "seeds": chosen.seeds, "steps": chosen.steps, "corrupted": chosen.corrupted}
    report({**settings, "neighbours": NEIGHBOURS, "by_width": by_width(rows), "tables": rows}, chosen.json)


def by_width(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over tables, and in how many of them the autoencoder is ahead."""
    found = []
    for width in sorted({row["width"] for row in rows}):
        here = [row for row in rows if row["width"] == width]
        summary: dict[str, Any] = {"width": width, "tables": len(here)}
        for measure in MEASURES:
            pairs = [(row["autoencoder"][measure], row["pca"][measure]) for row in here]
            own, other = np.mean(pairs, axis=0).round(4).tolist()
            ahead = sum(one > two for one, two in pairs)
            summary[measure] = {"autoencoder": own, "pca": other, "autoencoder_ahead": ahead}
        found.append(summary)
    return found


def halves(file: Path, fit: int, measure: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Encoded normal records: to fit on, to stop by, and others to measure on."""
    content = np.load(file)
    matrix, odd = content["X"].astype(np.float64), content["y"].ravel() > 0
    normal = np.random.default_rng(0).permutation(np.flatnonzero(~odd))
    half = len(normal) // 2
    stream = stream_of_matrix(matrix.shape[1])
    fitted = records_of_matrix(stream, matrix[normal[:half][:fit]])
    encoder = Encoder.fit(stream, fitted)
    seen = encoder.encode(fitted).clip(-INPUT_LIMIT, INPUT_LIMIT)
    measured = encoder.encode(records_of_matrix(stream, matrix[normal[half:][:measure]]))
    end = max(1, round(len(seen) * 0.87))
    return seen[:end], seen[end:], measured.clip(-INPUT_LIMIT, INPUT_LIMIT)


def varying(matrix: NDArray[np.float32]) -> int:
    """Columns that vary."""
    return int((matrix.std(axis=0) > 1e-6).sum())


def autoencoder(
    fitting: NDArray[np.float32],
    validation: NDArray[np.float32],
    width: int,
    settings: TrainingSettings,
    *,
    corrupted: bool,
) -> Autoencoder:
    """The nonlinear network with a code of that width."""
    torch.manual_seed(settings.seed)
    network = DenoisingAutoencoder(fitting.shape[1], width)
    if not corrupted:
        network.noise, network.hidden_share = (0.0,), 0.0
    train(network, fitting, validation, settings)
    return network


def quality(network: Autoencoder, matrix: NDArray[np.float32]) -> dict[str, float]:
    """All measures of a network on encoded records (n, d)."""
    with torch.inference_mode():
        codes = network.encode(torch.from_numpy(matrix))
        rebuilt = network.decode(codes).numpy()
    kept = preservation(matrix, codes.numpy(), min(NEIGHBOURS, (len(matrix) - 1) // 2))
    return {"explained_variance": explained_variance(matrix, rebuilt), **vars(kept)}


if __name__ == "__main__":
    main()
