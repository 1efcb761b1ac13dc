"""What each part of the detector adds and costs: quality without it, on tables and on card payments.

    python -m benchmarks.ablation --json benchmarks/results/ablation.json

Parts of the score are left out of one fitted detector; choices of the fit are fitted anew. Tables and payments are
those of `benchmarks.quality`, split in the same way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import tables, transactions
from benchmarks.quality.problems import Part, Problem, Sample
from benchmarks.rig import arguments, report
from detector import Codebook, Detector, Rescaling, Scorer, records_of_matrix, stream_of_matrix
from detector.encode import NumberEncoder
from detector.networks import LinearAutoencoder
from trainer.fitting import FitSettings, fit_detector

ROWS = 4_096
MEASURES = ("residual", "residual by column", "distance")
_DATA = Path(__file__).parents[1].parent / "shared" / "data"


def encoded(rank_share: float) -> AbstractContextManager[Any]:
    """Numbers encoded with another share of their ranks."""
    blend = NumberEncoder._blend  # noqa: SLF001 - what is changed is inside
    return patch.object(NumberEncoder, "_blend", lambda self, unfolded, _: blend(self, unfolded, rank_share))


def with_pca(detector: Detector, codes: NDArray[np.float32]) -> Scorer:
    """The detector's scorer with PCA for the network."""
    varying = codes.std(axis=0) > 1e-6
    pca = LinearAutoencoder.fit(codes[:, varying], min(detector.scorer.network.code_width, int(varying.sum())))
    book = detector.scorer.codebook
    rescaling = None if book is None else Rescaling(book.grid)
    return Scorer.fit(pca, codes, detector.encoder.indicators, codes, varying=varying, rescaling=rescaling)


FITS: dict[str, tuple[dict[str, Any], Callable[[], AbstractContextManager[Any]]]] = {
    "as it is": ({}, nullcontext),
    "three members": ({"noise": (0.05, 0.1, 0.3)}, nullcontext),
    "2,000 steps": ({"most_steps": 2_000}, nullcontext),
    "1,024 codes": ({}, lambda: patch("detector.codebook.MOST_CODES", 1_024)),
    "exhaustive search": ({}, lambda: patch("detector.codebook.PROBES", 10_000)),
    "records compared by standard scores": ({}, lambda: patch("trainer.comparison.LEAST_GAIN", 1.0)),
    "records compared as encoded": ({}, lambda: patch("trainer.fitting.choose_scale", lambda *_: (None, {}))),
    "encoded as ranks": ({}, lambda: encoded(1.0)),
    "encoded as standard scores": ({}, lambda: encoded(0.0)),
}


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--data", type=Path, default=_DATA, help="folder that is searched for the data")
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--only", nargs="+", help="parts of names of the problems to run, all unless given")
    options.add_argument("--fits", nargs="+", choices=list(FITS), default=list(FITS))
    chosen = options.parse_args()
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for part, problem in problems(chosen.data, chosen.only):
        group = "tables" if part is tables.PART else problem.name
        for seed in chosen.seeds:
            sample = part.load(problem, seed)
            for name in chosen.fits:
                for variant, figures in run(sample, name, seed):
                    found.setdefault(group, {}).setdefault(variant, []).append(figures)
            print(problem.name, seed, found[group]["as it is"][-1], file=sys.stderr)
    means = {
        group: {
            variant: {name: round(float(np.mean([each[name] for each in rows])), 4) for name in rows[0]}
            | {"runs": len(rows)}
            for variant, rows in variants.items()
        }
        for group, variants in found.items()
    }
    report({"seeds": chosen.seeds, "means": means}, chosen.json)


def problems(folder: Path, only: list[str] | None) -> Iterator[tuple[Part, Problem]]:
    """All that there is to run on."""
    for part in (tables.PART, transactions.PART):
        for problem in part.find(folder):
            if only is None or any(text in problem.name for text in only):
                yield part, problem


def run(sample: Sample, name: str, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Figures of one way to fit; and of parts of its score, where it is fitted as it is."""
    options, patched = FITS[name]
    stream = stream_of_matrix(sample.train.shape[1])
    records = records_of_matrix(stream, sample.train)
    with patched():
        began = time.perf_counter()
        detector = fit_detector(records, stream, FitSettings(seed=seed, **options))[0]
        seconds = time.perf_counter() - began
        codes, matrix = (detector.encoder.encode(each) for each in (records, records_of_matrix(stream, sample.test)))
        yield name, judged(sample, detector.scorer.score, matrix) | {"fit_s": seconds}
        if name != "as it is":
            return
        for variant, score in parts(detector, codes):
            yield variant, judged(sample, score, matrix)


def parts(
    detector: Detector, codes: NDArray[np.float32]
) -> Iterator[tuple[str, Callable[[NDArray[np.float32]], NDArray[np.float64]]]]:
    """Scores by parts of a fitted detector."""
    scorer, book = detector.scorer, detector.scorer.codebook
    state = scorer.state()
    yield "codebook alone", book.score
    for place, measure in enumerate(MEASURES):
        yield f"codebook's {measure} alone", measured(book, place)
    yield "tails alone", Scorer.restore(
        scorer.network, {name: tensor for name, tensor in state.items() if not name.startswith("codebook.")}
    ).score  # fmt: skip
    yield "PCA for the network", with_pca(detector, codes).score


def measured(book: Codebook, place: int) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """One measure of a codebook for a score."""
    return lambda matrix: book.measures(matrix)[:, place]


def judged(
    sample: Sample, score: Callable[[NDArray[np.float32]], NDArray[np.float64]], matrix: NDArray[np.float32]
) -> dict[str, float]:
    """Quality, and microseconds a row of encoded records in batches of `ROWS`, the best of three."""
    figures = sample.judge(score(matrix))
    batch, times = np.resize(matrix, (ROWS, matrix.shape[1])), []
    for _ in range(3):
        began = time.perf_counter()
        score(batch)
        times.append(time.perf_counter() - began)
    return figures | {"us_a_row": min(times) / ROWS * 1e6}


if __name__ == "__main__":
    main()
