"""Whether thresholds keep their rate: the true share of a known law above them, law by law and rate by rate.

    python -m benchmarks.threshold_laws --json benchmarks/results/threshold_laws.json

Six laws of normal scores, a tail in two pieces among them; `offbeat.fit_threshold` beside `mean + k * std`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import offbeat
from benchmarks.rig import arguments, report

ROWS = 50_000
RATES = (1e-2, 1e-3, 1e-4)
BANDS = ((0.8, 1.25), (0.5, 2.0))

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]

LAWS: dict[str, tuple[Draw, Callable[[float], float]]] = {
    "gauss": (lambda draw, n: draw.normal(size=n), stats.norm.sf),
    "chi2(10)": (lambda draw, n: draw.chisquare(10, n), lambda z: stats.chi2.sf(z, 10)),
    "lognormal(.7)": (lambda draw, n: draw.lognormal(0, 0.7, n), lambda z: stats.lognorm.sf(z, 0.7)),
    "|t3|": (lambda draw, n: np.abs(draw.standard_t(3, n)), lambda z: 2 * stats.t.sf(z, 3)),
    "beta(2,5)": (lambda draw, n: draw.beta(2, 5, n), lambda z: stats.beta.sf(z, 2, 5)),
    "1% heavy component": (
        lambda draw, n: np.where(draw.random(n) < 0.01, draw.gamma(2, 6, n), draw.gamma(4, 1, n)),
        lambda z: 0.99 * stats.gamma.sf(z, 4) + 0.01 * stats.gamma.sf(z, 2, scale=6),
    ),
}


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--seeds", type=int, default=60, help="samples of each law")
    options.add_argument("--rows", type=int, default=ROWS, help="calibration scores in a sample")
    chosen = options.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    for rate in RATES:
        found: dict[str, dict[str, list[float]]] = {"offbeat": {}, "mean + k std": {}}
        methods: dict[str, int] = {}
        for law, (scores_of, share_above) in LAWS.items():
            for seed in range(chosen.seeds):
                scores = scores_of(np.random.default_rng([seed, chosen.rows]), chosen.rows)
                threshold = offbeat.fit_threshold(scores, rate)
                methods[threshold.method] = methods.get(threshold.method, 0) + 1
                naive = float(scores.mean() + stats.norm.isf(rate) * scores.std())
                for setter, value in (("offbeat", threshold.value), ("mean + k std", naive)):
                    found[setter].setdefault(law, []).append(float(share_above(value)) / rate)
            print(f"{rate:g} {law}: {np.median(found['offbeat'][law]):.2f}", file=sys.stderr)
        figures[f"{rate:g}"] = {setter: told(ratios) for setter, ratios in found.items()} | {"methods": methods}
    report({"rows": chosen.rows, "seeds": chosen.seeds, "achieved_by_promised": figures}, chosen.json)


def told(ratios: dict[str, list[float]]) -> dict[str, Any]:
    """Shares of all runs within each band, and of each law its median and the ends of its middle 90%."""
    every = np.concatenate(list(ratios.values()))
    bands = {
        f"within {low} to {high}": round(float(((every >= low) & (every <= high)).mean()), 4) for low, high in BANDS
    }
    laws = {law: np.round(np.quantile(of, [0.05, 0.5, 0.95]), 3).tolist() for law, of in ratios.items()}
    return bands | {"5%, median, 95% by law": laws}


if __name__ == "__main__":
    main()
