"""What reasons cost: processor time an alert, where a thousand alert at once, beside the score and the earlier search.

    python -m benchmarks.explain_cost --json benchmarks/results/explain_cost.json

Simulated payments with history features, one or two of their fields altered, as in `benchmarks.faithfulness`. Scores
are known when reasons are asked for, as in the worker; five features are listed. `every_feature` is the search alone,
without what is made of it, that hides, rebuilds and scores each feature by itself. Rounds alternate, and the median of
their times stands: processor time on one core still varies by a factor of two with what else the machine does, so look
at the ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.faithfulness import KINDS, altered, by_every_feature, payments
from benchmarks.rig import arguments, report

ALERTS = 1_000
LISTED = 5
ROUNDS = 9


def main() -> None:
    """Run it and report."""
    report(run(), arguments(__doc__ or "").parse_args().json)


def run() -> dict[str, Any]:
    """Microseconds an alert by kind and number of altered fields."""
    stream = payments()
    _, alerted = stream.judged(stream.records)
    quiet = replace(stream, rows=stream.rows[~alerted[stream.rows]])
    detector = stream.detector
    figures: dict[str, Any] = {}
    for kind in KINDS:
        for count in (1, 2):
            records, _ = altered(quiet, kind, count)
            records = records.take(np.arange(min(ALERTS, len(records))))
            scores, threshold = detector.score(records), detector.threshold.value
            ways: dict[str, Callable[[], Any]] = {
                "score": partial(detector.score, records),
                "reasons": partial(detector.explain, records, listed=LISTED, scores=scores),
                "with_counterfactuals": partial(
                    detector.explain, records, listed=LISTED, scores=scores, threshold=threshold
                ),
                "every_feature": partial(by_every_feature, detector, records),
            }
            figures[f"{kind}, {count}"] = {"alerts": len(records), **_measured(ways, len(records))}
    return {"features": len(detector.feature_names), "us_an_alert": figures}


def _measured(ways: dict[str, Callable[[], Any]], count: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, call in ways.items():
            began = time.process_time()
            call()
            times[name].append((time.process_time() - began) / count * 1e6)
    found = {name: round(statistics.median(each), 1) for name, each in times.items()}
    return {
        **found,
        "least_with_counterfactuals": round(min(times["with_counterfactuals"]), 1),
        "earlier_search_over_reasons": round(found["every_feature"] / found["reasons"], 1),
        "with_counterfactuals_over_score": round(found["with_counterfactuals"] / found["score"], 1),
    }


if __name__ == "__main__":
    main()
