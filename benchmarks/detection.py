"""Detection quality of the choices behind the score: what is scored, code width, hidden features, span of evidence.

Payments: the Fraud Detection Handbook's stream without history features, amount, hour and weekday alone; fitted on May
and June, tested on July, on the frauds that a payment shows without labels (scenarios 1 and 3). Tables: sets of
ADBench, fitted on half of the normal records, tested on all else.

    python -m benchmarks.detection --json benchmarks/results/detection.json
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.rig import arguments, months, report
from detector import (
    Detector,
    Records,
    Scorer,
    StreamDefinition,
    decode_table,
    fit_threshold,
    records_of_matrix,
    stream_of_matrix,
)
from tests.kafka.worker import ROOT
from trainer.evaluation import auroc, average_precision
from trainer.fitting import FitSettings, fit_detector, records_per_day, split_by_time

STREAM = StreamDefinition.from_toml(
    """
    name = "payments"
    [time]
    field = "TX_DATETIME"
    [label]
    field = "TX_FRAUD"
    [threshold]
    alert_budget = "48/day"
    [[feature]]
    kind = "number"
    field = "TX_AMOUNT"
    [[feature]]
    kind = "time"
    field = "TX_DATETIME"
    """
)
SETS = ("6_cardio", "7_Cardiotocography", "19_landsat", "23_mammography", "25_musk", "28_pendigits", "31_satimage-2",
        "37_Stamps", "42_WBC")  # fmt: skip
VARIANTS = {
    "code .4, none hidden": {"code_share": 0.4, "hidden_share": 0.0},
    "code .4, .15 hidden": {"code_share": 0.4},
    "code .8, none hidden": {"hidden_share": 0.0},
    "code .8, .15 hidden (default)": {},
    "code .8, .3 hidden": {"hidden_share": 0.3},
    "PCA, code .4": {"network": "pca", "code_share": 0.4},
    "PCA, code .8": {"network": "pca"},
}


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    chosen = options.parse_args()
    figures = {"variants": variants(chosen.seeds), "evidence": evidence(chosen.seeds)}
    report({"seeds": chosen.seeds, **figures}, chosen.json)


def variants(seeds: list[int]) -> dict[str, Any]:
    """AUROC and average precision, means over seeds and tables, of each way to fit and of two ways to score."""
    fitted, tested, seen = payments()
    tables = [adbench(name) for name in SETS]
    figures: dict[str, Any] = {}
    for name, options in VARIANTS.items():
        found: dict[str, list[tuple[float, float, float, float]]] = {"score": [], "mean squared error": []}
        for seed in seeds:
            settings = FitSettings(seed=seed, **options)  # type: ignore[arg-type]
            detector = fit_detector(fitted, STREAM, settings)[0]
            matrices = [fit_matrix(train, settings) for train, _, _ in tables]
            for way, score in (("score", Detector.score), ("mean squared error", squared_error)):
                on_payments = quality(score(detector, tested)[seen], tested, seen)
                on_tables = np.mean(
                    [_both(score(each, test), odd) for each, (_, test, odd) in zip(matrices, tables, strict=True)],
                    axis=0,
                )
                found[way].append((*on_payments, *on_tables.tolist()))
            print(f"{name}, seed {seed}", file=sys.stderr)
        for way, rows in found.items():
            means = np.mean(rows, axis=0).round(4).tolist()
            figures[f"{name}: {way}"] = dict(
                zip(("payments_auroc", "payments_ap", "tables_auroc", "tables_ap"), means, strict=True)
            )
    return figures


def evidence(seeds: list[int]) -> list[dict[str, Any]]:
    """What the scorer learns from, the held-out part alone or rows of the whole span, by the days of training."""
    records = decode_table(STREAM, pa.concat_tables([pq.read_table(file) for file in months("2018-04", "2018-05")]))[0]
    assert records.event_times is not None
    assert records.labels is not None
    day = (records.event_times - np.datetime64("2018-04-01")) / np.timedelta64(1, "D")
    figures = []
    for days in (4, 7, 14, 21, 30):
        train = records.take(day < days)
        test = records.take((day >= days) & (day < days + 14))
        assert test.labels is not None
        for seed in seeds:
            whole = fit_detector(train, STREAM, FitSettings(seed=seed))[0]
            for name, detector in (("held-out part", from_held_out_part(whole, train, seed)), ("whole span", whole)):
                scores = detector.score(test)
                false_alarms = int(((scores > detector.threshold.value) & ~test.labels).sum())
                figures.append(
                    {
                        "days": days,
                        "seed": seed,
                        "evidence_from": name,
                        "false_alarms_a_day": round(false_alarms / 14, 1),
                        "average_precision": round(average_precision(scores, test.labels), 4),
                    }
                )
                print(figures[-1], file=sys.stderr)
    return figures


def from_held_out_part(detector: Detector, train: Records, seed: int) -> Detector:
    """The same network and encoder, with a scorer that knows the held-out part alone."""
    split = split_by_time(train, seed)
    encoder = detector.encoder
    scorer = Scorer.fit(detector.scorer.network, encoder.encode(train.take(split.validate)), encoder.indicators)
    calibration = train.take(split.calibrate)
    scores = scorer.score(encoder.encode(calibration))
    return Detector(STREAM, encoder, scorer, fit_threshold(scores, STREAM.threshold, records_per_day(calibration)))


def payments() -> tuple[Records, Records, NDArray[np.bool_]]:
    """Records to fit on and to test on, and which of the latter to count."""
    fitted = pa.concat_tables([pq.read_table(file) for file in months("2018-05", "2018-06")])
    tested = pq.read_table(months("2018-07")[0])
    visible = tested["TX_FRAUD_SCENARIO"].to_numpy() != 2
    return decode_table(STREAM, fitted)[0], decode_table(STREAM, tested)[0], visible


def adbench(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Normal records to fit on; records to test on, and which of them are anomalies. At most 5,000 and 10,000."""
    file = ROOT.parent / "shared" / "data" / "adbench" / f"{name}.npz"
    if not file.exists():
        sys.exit(f"{file} is not there: this benchmark runs on the tables of ADBench beside the checkout")
    content = np.load(file, allow_pickle=True)
    matrix, odd = content["X"].astype(np.float64), content["y"].ravel() > 0
    draw = np.random.default_rng(0)
    normal = draw.permutation(np.flatnonzero(~odd))
    half = len(normal) // 2
    test = draw.permutation(np.concatenate([normal[half:], np.flatnonzero(odd)]))[:10_000]
    return matrix[normal[:half][:5_000]], matrix[test], odd[test]


def fit_matrix(matrix: NDArray[np.float64], settings: FitSettings) -> Detector:
    """A detector of a matrix."""
    stream = stream_of_matrix(matrix.shape[1])
    return fit_detector(records_of_matrix(stream, matrix), stream, settings)[0]


def squared_error(detector: Detector, data: Any) -> NDArray[np.float64]:
    """The textbook's score: mean squared error of the reconstruction."""
    matrix = detector.encoder.encode(detector.records(data))
    error: NDArray[np.float64] = np.square(matrix - detector.scorer.reconstruct(matrix)).mean(axis=1, dtype=np.float64)
    return error


def quality(scores: NDArray[np.float64], records: Records, seen: NDArray[np.bool_]) -> tuple[float, float]:
    """AUROC and average precision on the records that count."""
    assert records.labels is not None
    return _both(scores, records.labels[seen])


def _both(scores: NDArray[np.float64], odd: NDArray[np.bool_]) -> tuple[float, float]:
    return auroc(scores, odd), average_precision(scores, odd)


if __name__ == "__main__":
    main()
