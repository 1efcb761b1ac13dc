"""What a few labels are worth: heads by three losses beside the score without labels, also on kinds never labelled.

    python -m benchmarks.labelled_head --json benchmarks/results/labelled_head.json

Detectors are fitted on normal records alone. Then 10, 50 and 250 of the labelled anomalies that were known in time
teach a head by each loss, and later records are ranked. Twice: with labels of every kind, tested on anomalies of every
kind; and without the labels of one kind after the other, tested on anomalies of that kind alone.

- payments: the Fraud Detection Handbook's, with what `offbeat init` proposes. Fitted on the normal records of a week,
  labels of that week and the three before it (known after a week's delay), tested on the week after next without cards
  known by then. Kinds are the scenarios; of the second no payment looks odd.
- demo: four weeks of the simulated payments, labels of the first three, tested on the fifth. Kinds are those of the
  simulator.
- tables of ADBench: half of the normal records, half of the anomalies as labels, the rest tested. They have no kinds:
  their anomalies are put into three by k-means.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from benchmarks.history_quality import rows_of_the_test_week, transactions
from benchmarks.rig import TRANSACTIONS, arguments, months, report
from demo.simulator import Simulator
from demo.tour import STREAM_DEFINITION
from detector import Detector, Records, StreamDefinition, decode_table, records_of_matrix, stream_of_matrix
from trainer.columns import sample_columns
from trainer.evaluation import auroc, average_precision, entity_precision
from trainer.fitting import FitSettings, fit_detector
from trainer.head import LABEL_FREE, LOSSES, MOST_NORMAL, fit_head
from trainer.loading import load
from trainer.proposal import propose

LABELS = (10, 50, 250)
TABLES = ("2_annthyroid", "5_campaign")
_WEEK, _START = 7, 101
_LABELLED_DAYS = 28
_HIDDEN = ("day", "TX_FRAUD_SCENARIO")
_LEAST_OF_A_KIND = 5
_FALSE_ALARMS = 1e-3


@dataclass(frozen=True)
class Problem:
    """What heads look at of normal records, of anomalies that may be labelled, and of later records.

    Attributes:
        normal: Inputs of normal records, (n, m).
        labelled: Inputs of anomalies, (a, m).
        kinds: Theirs, (a,).
        test: Inputs of later records, (t, m).
        test_kinds: Theirs, (t,); empty for normal ones.
        entities: Entities of later records, (t,), where there are any.
        days: Theirs, (t,).
    """

    normal: NDArray[np.float64]
    labelled: NDArray[np.float64]
    kinds: NDArray[np.str_]
    test: NDArray[np.float64]
    test_kinds: NDArray[np.str_]
    entities: NDArray[np.object_] | None = None
    days: NDArray[np.int64] | None = None


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--seeds", type=int, default=3, help="detectors, each with draws of labels of its own")
    options.add_argument("--draws", type=int, default=1, help="draws of labels a detector")
    options.add_argument("--only", nargs="*", help="names of the problems to run, such as demo")
    chosen = options.parse_args()
    problems: dict[str, Callable[[int], Problem]] = {"payments": payments, "demo": simulated}
    problems |= {name: partial(table, name) for name in TABLES}
    found = {
        name: run(make, chosen.seeds, chosen.draws)
        for name, make in problems.items()
        if not chosen.only or name in chosen.only
    }
    report({"seeds": chosen.seeds, "draws": chosen.draws, "problems": found}, chosen.json)


def run(make: Callable[[int], Problem], seeds: int, draws: int) -> dict[str, Any]:
    """Means of each figure and the least and greatest gain in average precision, by task, labels and loss."""
    tested: dict[tuple[str, str, str], list[dict[str, float]]] = defaultdict(list)
    for seed in range(seeds):
        problem = make(seed)
        for pool, targets in _tasks(problem):
            free = {task: _measured(problem, problem.test[:, -1], target) for task, target in targets.items()}
            for draw in range(draws):
                order = np.random.default_rng((seed, draw)).permutation(pool)
                for count in (count for count in LABELS if count <= len(order)):
                    for task, found in free.items():
                        tested[task, str(count), LABEL_FREE].append(found)
                    for loss in LOSSES:
                        head = fit_head(problem.normal, problem.labelled[order[:count]], loss)
                        scores = head.score(problem.test)
                        for task, target in targets.items():
                            found = _measured(problem, scores, target)
                            gain = found["average_precision"] - free[task]["average_precision"]
                            tested[task, str(count), loss].append(found | {"gain": gain})
    figures: dict[str, Any] = {}
    for (task, labels, score), runs in tested.items():
        means = {name: round(statistics.mean(each[name] for each in runs), 4) for name in runs[0]}
        if score != LABEL_FREE:
            gains = [each["gain"] for each in runs]
            means |= {"least_gain": round(min(gains), 4), "most_gain": round(max(gains), 4), "runs": len(runs)}
        figures.setdefault(task, {}).setdefault(labels, {})[score] = means
    return figures


def _tasks(problem: Problem) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[np.bool_]]]]:
    """Which anomalies may be labelled, and by name which later ones are to be found, (t,)."""
    kinds = sorted(set(problem.kinds.tolist()))
    of_kind = {kind: problem.test_kinds == kind for kind in kinds}
    of_kind = {kind: rows for kind, rows in of_kind.items() if rows.sum() >= _LEAST_OF_A_KIND}
    labelled = {f"{kind}, labelled with the others": rows for kind, rows in of_kind.items()}
    yield np.arange(len(problem.kinds)), {"all kinds": problem.test_kinds != "", **labelled}
    for kind, rows in of_kind.items():
        yield np.flatnonzero(problem.kinds != kind), {f"{kind}, never labelled": rows}


def _measured(problem: Problem, scores: NDArray[np.float64], anomalous: NDArray[np.bool_]) -> dict[str, float]:
    """The figures of scores (t,) on normal records and the anomalies in question; all others are left out."""
    normal = problem.test_kinds == ""
    kept = anomalous | normal
    threshold = np.quantile(scores[normal], 1 - _FALSE_ALARMS)
    found = {
        "average_precision": average_precision(scores[kept], anomalous[kept]),
        "auroc": auroc(scores[kept], anomalous[kept]),
        "recall_at_1e-3": float((scores[anomalous] > threshold).mean()),
    }
    all_kinds = bool((anomalous | normal).all())
    if all_kinds and problem.entities is not None and problem.days is not None:
        days = problem.days[kept]
        found["cp100"] = entity_precision(scores[kept], anomalous[kept], problem.entities[kept], days).mean
    return found


def _inputs(detector: Detector, records: Records, *, seen: bool = False) -> NDArray[np.float64]:
    """What a head looks at of records that carry their history; of `seen` ones as if they were no codes."""
    inputs: NDArray[np.float64] = detector.scorer.head_inputs(detector.encoder.encode(records), leave_out=seen)
    return inputs


def _few(records: Records) -> Records:
    return records.take(np.arange(0, len(records), -(-len(records) // MOST_NORMAL)))


def payments(seed: int) -> Problem:
    """The handbook's payments."""
    every = transactions()
    day, scenario = every["day"].to_numpy(), every["TX_FRAUD_SCENARIO"].to_numpy()
    stream = propose(*sample_columns([months("2018-04")[0]]), "transactions").stream
    first, end = _START + _WEEK - _LABELLED_DAYS, _START + _WEEK
    with tempfile.TemporaryDirectory() as name:
        earlier, span = Path(name) / "earlier.parquet", Path(name) / "span.parquet"
        pq.write_table(every.filter(pa.array(day < first)).drop_columns(_HIDDEN), earlier)
        pq.write_table(every.filter(pa.array((day >= first) & (day < end))).drop_columns(_HIDDEN), span)
        dataset = load([span], stream, earlier=[earlier], seed=seed)
    records = dataset.records
    assert records.ids is not None
    known = np.searchsorted(every["TRANSACTION_ID"].to_numpy(), records.ids.astype(np.int64))
    normal = records.take(np.flatnonzero((scenario[known] == 0) & (day[known] >= _START)))
    detector, _ = fit_detector(normal, stream, FitSettings(seed=seed), history=dataset.history)
    live = np.flatnonzero((day >= end) & (day < _START + 3 * _WEEK))
    later = _remembered(detector, every.take(pa.array(live)).drop_columns(_HIDDEN), dataset.state)
    rows = rows_of_the_test_week(every, _START)
    odd = np.flatnonzero(scenario[known] > 0)
    return Problem(
        normal=_inputs(detector, _few(normal), seen=True),
        labelled=_inputs(detector, records.take(odd)),
        kinds=_named(scenario[known][odd]),
        test=_inputs(detector, later.take(np.searchsorted(live, rows))),
        test_kinds=_named(scenario[rows]),
        entities=every["CUSTOMER_ID"].to_numpy()[rows].astype(object),
        days=day[rows],
    )


def _remembered(detector: Detector, table: pa.Table, state: Any) -> Records:
    """Later records with their history features, given what earlier ones left behind."""
    records, _ = decode_table(detector.stream, table)
    assert detector.history is not None
    return detector.history.fold_all([detector.history.new_state(base=state)], records)[0]


def _named(scenario: NDArray[np.int64]) -> NDArray[np.str_]:
    return np.where(scenario == 0, "", np.char.add("scenario ", scenario.astype(str)))


def simulated(seed: int) -> Problem:
    """The demo's payments: days 0 to 27, labels of the days before 21, and days 28 to 34."""
    stream = StreamDefinition.load(STREAM_DEFINITION)
    days = list(Simulator(seed).days(0, 35))
    every = pa.concat_tables([one.table() for one in days])
    day = np.repeat(np.arange(35), [len(one.payments) for one in days])
    kind = np.array([name or "" for name in every["fraud_kind"].to_pylist()])
    place = {name: row for row, name in enumerate(every["transaction_id"].to_pylist())}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "history.parquet"
        pq.write_table(every.filter(pa.array(day < _LABELLED_DAYS)), file)
        dataset = load([file], stream, seed=seed)
    records = dataset.records
    known = _places(records, place)
    normal = records.take(np.flatnonzero(kind[known] == ""))
    detector, _ = fit_detector(normal, stream, FitSettings(seed=seed), history=dataset.history)
    later = _remembered(detector, every.filter(pa.array(day >= _LABELLED_DAYS)), dataset.state)
    tested = _places(later, place)
    odd = np.flatnonzero((kind[known] != "") & (day[known] < _LABELLED_DAYS - _WEEK))
    return Problem(
        normal=_inputs(detector, _few(normal), seen=True),
        labelled=_inputs(detector, records.take(odd)),
        kinds=kind[known][odd],
        test=_inputs(detector, later),
        test_kinds=kind[tested],
        entities=later.keys,
        days=day[tested],
    )


def _places(records: Records, place: dict[str, int]) -> NDArray[np.int64]:
    assert records.ids is not None
    return np.array([place[name] for name in records.ids], np.int64)


def table(name: str, seed: int) -> Problem:
    """A set of ADBench, at most 20,000 normal records on either side."""
    with np.load(TRANSACTIONS.parent / "adbench" / f"{name}.npz") as content:
        matrix, odd = content["X"].astype(np.float64), content["y"] == 1
    draw = np.random.default_rng(seed)
    normal, anomalies = draw.permutation(np.flatnonzero(~odd)), draw.permutation(np.flatnonzero(odd))
    half = len(normal) // 2
    fitted, held_out = normal[:half][:MOST_NORMAL], normal[half:][:MOST_NORMAL]
    scale = matrix[fitted].std(axis=0) + 1e-9
    standard = ((matrix[anomalies] - matrix[fitted].mean(axis=0)) / scale).clip(-10, 10)
    groups = KMeans(3, n_init=4, random_state=seed).fit_predict(standard)
    kinds = np.char.add("cluster ", _by_size(groups).astype(str))
    stream = stream_of_matrix(matrix.shape[1])
    detector, _ = fit_detector(records_of_matrix(stream, matrix[fitted]), stream, FitSettings(seed=seed))
    taught = len(anomalies) // 2

    def inputs(rows: NDArray[np.int64], *, seen: bool = False) -> NDArray[np.float64]:
        return _inputs(detector, records_of_matrix(stream, matrix[rows]), seen=seen)

    return Problem(
        normal=inputs(fitted, seen=True),
        labelled=inputs(anomalies[:taught]),
        kinds=kinds[:taught],
        test=inputs(np.concatenate([held_out, anomalies[taught:]])),
        test_kinds=np.concatenate([np.full(len(held_out), ""), kinds[taught:]]),
    )


def _by_size(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups numbered from the largest, so that they mean about the same for every seed."""
    order = np.argsort(-np.bincount(groups), kind="stable")
    return np.argsort(order)[groups] + 1


if __name__ == "__main__":
    main()
