"""Whether thresholds keep their rate: the true share of a known law above them, law by law and rate by rate.

    python -m benchmarks.threshold_laws --json benchmarks/results/threshold_laws.json

Six laws of normal scores, a tail in two pieces among them, and eight others that the method was not made on: harder
ends, heavier tails than it believes, and pieces that few of the scores are in. `offbeat.fit_threshold` beside
`mean + k * std`; how often its 95% intervals hold the truth; and what fitting the tails costs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import offbeat
from benchmarks.rig import arguments, report
from detector.pareto import LARGEST_SHARE, Tails, fit_tails

ROWS = 50_000
RATES = (1e-2, 1e-3, 1e-4)
BANDS = ((0.8, 1.25), (0.5, 2.0))

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
Law = tuple[Draw, Callable[[float], float]]


def _mixed(share: float, odd: Draw, rest: Draw) -> Draw:
    return lambda draw, n: np.where(draw.random(n) < share, odd(draw, n), rest(draw, n))


def _gamma(shape: float, scale: float) -> Draw:
    return lambda draw, n: draw.gamma(shape, scale, n)


LAWS: dict[str, Law] = {
    "gauss": (lambda draw, n: draw.normal(size=n), stats.norm.sf),
    "chi2(10)": (lambda draw, n: draw.chisquare(10, n), lambda z: stats.chi2.sf(z, 10)),
    "lognormal(.7)": (lambda draw, n: draw.lognormal(0, 0.7, n), lambda z: stats.lognorm.sf(z, 0.7)),
    "|t3|": (lambda draw, n: np.abs(draw.standard_t(3, n)), lambda z: 2 * stats.t.sf(z, 3)),
    "beta(2,5)": (lambda draw, n: draw.beta(2, 5, n), lambda z: stats.beta.sf(z, 2, 5)),
    "1% heavy component": (
        _mixed(0.01, _gamma(2, 6), _gamma(4, 1)),
        lambda z: 0.99 * stats.gamma.sf(z, 4) + 0.01 * stats.gamma.sf(z, 2, scale=6),
    ),
}
OTHER_LAWS: dict[str, Law] = {
    "weibull(.7)": (lambda draw, n: draw.weibull(0.7, n), lambda z: stats.weibull_min.sf(z, 0.7)),
    "gamma(.5)": (_gamma(0.5, 1), lambda z: stats.gamma.sf(z, 0.5)),
    "exponential": (lambda draw, n: draw.exponential(size=n), stats.expon.sf),
    "frechet(2)": (lambda draw, n: 1 / np.sqrt(draw.exponential(size=n)), lambda z: stats.invweibull.sf(z, 2)),
    "|cauchy|": (lambda draw, n: np.abs(draw.standard_cauchy(n)), lambda z: 2 * stats.cauchy.sf(z)),
    "uniform": (lambda draw, n: draw.random(n), stats.uniform.sf),
    "0.2% far": (
        _mixed(0.002, lambda draw, n: draw.normal(12, 1, n), lambda draw, n: draw.normal(size=n)),
        lambda z: 0.998 * stats.norm.sf(z) + 0.002 * stats.norm.sf(z, 12),
    ),
    "0.05% wide": (
        _mixed(0.0005, _gamma(2, 6), _gamma(4, 1)),
        lambda z: 0.9995 * stats.gamma.sf(z, 4) + 0.0005 * stats.gamma.sf(z, 2, scale=6),
    ),
}


@dataclass
class Runs:
    """What came of the samples of a law: achieved by promised share, and whether the intervals held the truth."""

    ratios: list[float] = field(default_factory=list)
    naive: list[float] = field(default_factory=list)
    score_held: list[bool] = field(default_factory=list)
    rate_held: list[bool] = field(default_factory=list)
    fitted: list[bool] = field(default_factory=list)


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--seeds", type=int, default=60, help="samples of each law")
    options.add_argument("--first-seed", type=int, default=0, help="first of the seeds")
    options.add_argument("--rows", type=int, default=ROWS, help="calibration scores in a sample")
    options.add_argument("--rates", type=float, nargs="+", default=RATES, help="shares that may alert")
    chosen = options.parse_args()
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    every = LAWS | OTHER_LAWS
    found = {
        law: on_law(every[law], place, seeds, chosen.rows, chosen.rates)
        for place, law in enumerate(every)
    }  # fmt: skip
    figures = {
        f"{rate:g}": {
            group: told({law: found[law][rate] for law in laws})
            for group, laws in (("six laws", LAWS), ("other laws", OTHER_LAWS))
        }
        for rate in chosen.rates
    }
    content = {
        "rows": chosen.rows,
        "seeds": [seeds.start, seeds.stop - 1],
        "by_rate": figures,
        "cost_us": cost(chosen.rows),
    }
    report(content, chosen.json)


def on_law(law: Law, place: int, seeds: range, rows: int, rates: list[float]) -> dict[float, Runs]:
    """Thresholds on samples of a law, by rate; seeds of one law are not those of another."""
    scores_of, share_above = law
    found = {rate: Runs() for rate in rates}
    for seed in seeds:
        scores = scores_of(np.random.default_rng([place, seed, rows]), rows)
        for rate, runs in found.items():
            threshold = offbeat.fit_threshold(scores, rate)
            share = float(share_above(threshold.value))
            runs.ratios.append(share / rate)
            runs.naive.append(float(share_above(float(scores.mean() + stats.norm.isf(rate) * scores.std()))) / rate)
            runs.rate_held.append(threshold.rate_low <= share <= threshold.rate_high)
            runs.score_held.append(float(share_above(threshold.low)) >= rate >= float(share_above(threshold.high)))
            runs.fitted.append(threshold.method == "tail fit")
    print(place, {rate: round(float(np.median(runs.ratios)), 2) for rate, runs in found.items()}, file=sys.stderr)
    return found


def told(runs: dict[str, Runs]) -> dict[str, Any]:
    """Shares of all runs and of each law's within each band, its median ratio, and how often intervals held."""
    return {
        "offbeat": _in_bands(np.concatenate([of.ratios for of in runs.values()])),
        "mean + k std": _in_bands(np.concatenate([of.naive for of in runs.values()])),
        "interval of rate held": _mean(np.concatenate([of.rate_held for of in runs.values()])),
        "interval of score held": _mean(np.concatenate([of.score_held for of in runs.values()])),
        "by law": {
            law: {
                **_in_bands(np.array(of.ratios)),
                "5%, median, 95%": np.round(np.quantile(of.ratios, [0.05, 0.5, 0.95]), 3).tolist(),
                "tail fitted": _mean(of.fitted),
                "interval of rate held": _mean(of.rate_held),
                "interval of score held": _mean(of.score_held),
            }
            for law, of in runs.items()
        },
    }


def _in_bands(ratios: NDArray[np.float64]) -> dict[str, float]:
    return {f"within {low} to {high}": _mean((ratios >= low) & (ratios <= high)) for low, high in BANDS}


def _mean(held: Any) -> float:
    return round(float(np.mean(held)), 4)


def cost(rows: int, rounds: int = 50) -> dict[str, float]:
    """Least time of fitting all tails of scores whose highest tenth is sorted, and of the score at a rate, in µs."""
    scores = np.sort(np.random.default_rng(0).gamma(4, 1, rows))
    highest = scores[-round(LARGEST_SHARE * rows) - 1 :]
    tails = Tails(fit_tails(highest, rows))
    doing: dict[str, Callable[[], object]] = {
        "fit_tails": lambda: fit_tails(highest, rows),
        "score_at": lambda: tails.score_at(1e-4),
        "standard_error": lambda: tails.standard_error(rows, float(scores[-1])),
    }
    return {name: round(min(_seconds(act) for _ in range(rounds)) * 1e6, 1) for name, act in doing.items()}


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
