"""Whether the reasons of alerts name what is wrong: fields of normal records are altered, and reasons should find them.

    python -m benchmarks.faithfulness --json benchmarks/results/faithfulness.json

One, two or three fields of held-out normal records take other values: far ones (numbers beyond the range, categories
never seen) or swapped ones (those of another record). Of those that alert then and did not before, how often is the
first field that is named an altered one; of the fields named first, as many as were altered, how many are altered ones
(precision and recall are the same); and of those with at least a tenth of the score, precision and recall. A feature
computed from a field counts as that field: an altered amount alters its history features as well.

Three ways to give reasons: offbeat's; every feature hidden, rebuilt and scored alone; residuals alone. The streams are
simulated payments, and beside the checkout the handbook's transactions and tables of numbers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.rig import TRANSACTIONS, arguments, months, report
from demo.payments import HONEST
from demo.simulator import Simulator
from detector import (
    Counterfactual,
    Decoder,
    Detector,
    HistoryState,
    Messages,
    Records,
    StreamDefinition,
    decode_table,
    records_of_matrix,
    stream_of_matrix,
)
from detector.ablation import owners, shares_of
from detector.encode import RARE, CategoryEncoder, CycleEncoder, FeatureEncoder
from trainer.columns import sample_columns
from trainer.fitting import FitSettings, fit_detector
from trainer.loading import load
from trainer.proposal import propose

TABLES = TRANSACTIONS.parent / "adbench"
NUMBERS_ALONE = ("6_cardio", "22_magic.gamma", "28_pendigits", "31_satimage-2")
MOST_ALERTS = 2_000
KINDS = ("far", "swapped")
NAMED_FROM = 0.1

_DAYS_TO_FIT, _DAYS = 21, 28
_WEEK_TO_FIT, _LIVE_DAYS = 101, 7

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Stream:
    """A detector and normal records that it was not fitted on.

    Attributes:
        detector: The detector.
        records: Normal records in order of time.
        rows: Those of them that may be altered: no later one of the same entity has them in its history.
        state: What earlier records left behind, None where there is no history.
    """

    detector: Detector
    records: Records
    rows: NDArray[np.int64]
    state: HistoryState | None = None

    @property
    def fields(self) -> list[str]:
        """Fields that can be altered: those of all features but times, which no value is far out of."""
        features = self.detector.encoder.features
        return sorted({each.field for each in features if each.field and not isinstance(each, CycleEncoder)})

    def judged(self, records: Records) -> tuple[Records, NDArray[np.bool_]]:
        """Records with their history features, and whether each alerts."""
        if self.detector.history is not None and self.state is not None:
            records, _ = self.detector.history.fold_all([self.state], records)
        return records, self.detector.score(records) > self.detector.threshold.value


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--streams", nargs="*", help="only these: payments, transactions, or names of tables")
    chosen = options.parse_args()
    report({"streams": run(chosen.streams)}, chosen.json)


def run(wanted: list[str] | None = None) -> dict[str, Any]:
    """The figures of each stream that is there."""
    there: dict[str, Callable[[], Stream]] = {"payments": payments}
    if TRANSACTIONS.is_dir():
        there["transactions"] = transactions
    there |= {name: partial(table, name) for name in NUMBERS_ALONE if (TABLES / f"{name}.npz").exists()}
    return {name: measured(make()) for name, make in there.items() if not wanted or name in wanted}


def payments() -> Stream:
    """Simulated payments with history features: three weeks to fit on, the fourth to alter."""
    stream = StreamDefinition.load(Path(__file__).parent.parent / "demo" / "stream.toml")
    simulator, days = Simulator(0), []
    decoder = Decoder(stream)
    for day in simulator.days(0, _DAYS):
        values = day.messages()
        honest = np.flatnonzero(day.payments.fraud == HONEST).tolist()
        days.append(decoder.decode(Messages([values[row] for row in honest]))[0])
    earlier, later = Records.concat(days[:_DAYS_TO_FIT]), Records.concat(days[_DAYS_TO_FIT:])
    fitted, _ = fit_detector(earlier, stream, FitSettings())
    return Stream(fitted, later, _last_of_each(later), _state(fitted, earlier))


def transactions() -> Stream:
    """The handbook's transactions as `offbeat init` proposes: a week to fit on, the next one to alter."""
    proposal = propose(*sample_columns([months("2018-04")[0]]), "transactions").stream
    content = pa.concat_tables([pq.read_table(file) for file in months("2018-04", "2018-05", "2018-06", "2018-07")])
    content = content.sort_by("TRANSACTION_ID")
    start = np.datetime64("2018-04-01", "D")
    day = (content["TX_DATETIME"].to_numpy().astype("datetime64[D]") - start).astype(int)
    normal = content["TX_FRAUD"].to_numpy() == 0
    content = content.drop_columns("TX_FRAUD_SCENARIO")
    with tempfile.TemporaryDirectory() as name:
        earlier, week = Path(name) / "earlier.parquet", Path(name) / "week.parquet"
        pq.write_table(content.filter(pa.array(normal & (day < _WEEK_TO_FIT))), earlier)
        in_week = (day >= _WEEK_TO_FIT) & (day < _WEEK_TO_FIT + 7)
        pq.write_table(content.filter(pa.array(normal & in_week)), week)
        dataset = load([week], proposal, earlier=[earlier])
    detector, _ = fit_detector(dataset.records, proposal, FitSettings(), history=dataset.history)
    live = normal & (day >= _WEEK_TO_FIT + 7) & (day < _WEEK_TO_FIT + 7 + _LIVE_DAYS)
    records, _ = decode_table(proposal, content.filter(pa.array(live)))
    state = None if detector.history is None else detector.history.new_state(base=dataset.state)
    return Stream(detector, records, _last_of_each(records), state)


def table(name: str) -> Stream:
    """A table of numbers: half of its normal rows to fit on, the others to alter."""
    content = np.load(TABLES / f"{name}.npz", allow_pickle=True)
    rows = content["X"][content["y"].ravel() == 0].astype(np.float64)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    stream = stream_of_matrix(rows.shape[1])
    fitting, later = (records_of_matrix(stream, part) for part in np.array_split(rows, 2))
    detector, _ = fit_detector(fitting, stream, FitSettings())
    return Stream(detector, later, np.arange(len(later)))


def _last_of_each(records: Records) -> NDArray[np.int64]:
    keys = [] if records.keys is None else records.keys.tolist()
    return np.array(sorted({key: row for row, key in enumerate(keys)}.values()), np.int64)


def _state(detector: Detector, records: Records) -> HistoryState | None:
    if detector.history is None:
        return None
    state = detector.history.new_state()
    state.apply(detector.history.fold(state, records)[1])
    return state


def measured(stream: Stream) -> dict[str, Any]:
    """Figures by kind and number of altered fields, of each way to give reasons."""
    _, alerted = stream.judged(stream.records)
    quiet = replace(stream, rows=stream.rows[~alerted[stream.rows]])
    figures: dict[str, Any] = {"features": len(stream.detector.encoder.features), "fields": len(stream.fields)}
    for kind in KINDS:
        for count in range(1, min(len(stream.fields), 3) + 1):
            records, truth = altered(quiet, kind, count)
            if truth:
                figures[f"{kind}, {count}"] = one(quiet.detector, records, truth)
    return figures


def altered(stream: Stream, kind: str, count: int) -> tuple[Records, list[set[str]]]:
    """Records with some fields altered that alert for it, with their history features, and which fields those are."""
    draw = np.random.default_rng([count, KINDS.index(kind)])
    numbers = {path: column.copy() for path, column in stream.records.numbers.items()}
    categories = {path: column.copy() for path, column in stream.records.categories.items()}
    truth: dict[int, set[str]] = {}
    alter = {path: _number_alterer(column, kind) for path, column in stream.records.numbers.items()}
    choices = {path: sorted({v for v in column if v is not None}) for path, column in stream.records.categories.items()}
    for row in draw.permutation(stream.rows)[: 4 * MOST_ALERTS].tolist():
        chosen = [stream.fields[place] for place in draw.choice(len(stream.fields), count, replace=False)]
        truth[row] = set(chosen)
        for path in chosen:
            if path in numbers:
                numbers[path][row] = alter[path](draw)
            elif kind == "far":
                categories[path][row] = f"never seen {draw.integers(1000)}"
            else:
                others = [value for value in choices[path] if value != categories[path][row]]
                categories[path][row] = others[draw.integers(len(others))]
    records, alerts = stream.judged(replace(stream.records, numbers=numbers, categories=categories))
    rows = [row for row in truth if alerts[row]][:MOST_ALERTS]
    return records.take(np.array(rows, np.int64)), [truth[row] for row in rows]


def _number_alterer(column: NDArray[np.float64], kind: str) -> Callable[[np.random.Generator], float]:
    """Draws the number of another record; a far one is moved out by one to five times the range of the usual ones."""
    known = column[~np.isnan(column)]
    lowest, low, middle, high = (float(np.quantile(known, share)) for share in (0.0, 0.01, 0.5, 0.99))
    span = max(high - low, 1e-9)

    def draw_number(draw: np.random.Generator) -> float:
        value = float(known[draw.integers(len(known))])
        if kind == "swapped":
            return value
        away = float(draw.uniform(1, 5)) * span
        outwards = -1.0 if value < middle and lowest < 0 else 1.0
        return value + outwards * away

    return draw_number


def one(detector: Detector, records: Records, truth: list[set[str]]) -> dict[str, Any]:
    """Figures of some alerts whose altered fields are known."""
    figures: dict[str, Any] = {"alerts": len(truth)}
    for name, reasons in WAYS.items():
        figures[name] = judged_names(detector.encoder.features, reasons(detector, records), truth)
    figures["counterfactuals"] = judged_counterfactuals(detector, records, truth)
    return figures


def judged_names(features: list[FeatureEncoder], shares: Shares, truth: list[set[str]]) -> dict[str, float]:
    """How well the fields with the largest shares (n, features) are the altered ones."""
    names = [[*_names(features, row)] for row in shares]
    first = [named[0][0] in fields for named, fields in zip(names, truth, strict=True)]
    top = [
        len({name for name, _ in named[: len(fields)]} & fields) / len(fields)
        for named, fields in zip(names, truth, strict=True)
    ]
    notable = [{name for name, share in named if share >= NAMED_FROM} for named in names]
    right = [len(said & fields) for said, fields in zip(notable, truth, strict=True)]
    return {
        "first": float(np.mean(first)),
        "as_many_as_altered": float(np.mean(top)),
        "notable_precision": sum(right) / max(sum(map(len, notable)), 1),
        "notable_recall": sum(right) / sum(map(len, truth)),
    }


def _names(features: list[FeatureEncoder], shares: Shares) -> Iterator[tuple[str, float]]:
    """Fields by the share of their first feature, with the sum of the shares of all of theirs."""
    sums: dict[str, float] = {}
    for position in np.argsort(-shares, kind="stable").tolist():
        field = features[position].field or features[position].name
        sums[field] = sums.get(field, 0.0) + float(shares[position])
    yield from sums.items()


def by_offbeat(detector: Detector, records: Records) -> Shares:
    """Shares of the features, (n, f), in the order of the detector's."""
    place = {name: position for position, name in enumerate(detector.feature_names)}
    shares = np.zeros((len(records), len(place)))
    for row, explanation in enumerate(detector.explain(records)):
        for one in explanation.contributions:
            shares[row, place[one.feature]] = one.share
    return shares


def by_every_feature(detector: Detector, records: Records) -> Shares:
    """Each feature by itself hidden, rebuilt and scored: shares of the falls, of the residuals where nothing falls."""
    encoder, scorer = detector.encoder, detector.scorer
    matrix = encoder.encode(records)
    scores, falls = scorer.score(matrix), np.empty((len(matrix), len(encoder.features)))
    for position in range(len(encoder.features)):
        own = owners(encoder) == position
        rebuilt = scorer.reconstruct(np.where(own, np.float32(0.0), matrix))
        falls[:, position] = scores - scorer.score(np.where(own, rebuilt, matrix))
    weights = np.maximum(falls, 0.0)
    none = weights.sum(axis=1) <= 0
    weights[none] = scorer.score_features(matrix, encoder.slices)[none]
    return shares_of(weights)


def by_residuals(detector: Detector, records: Records) -> Shares:
    """Shares of the residuals alone."""
    return shares_of(detector.score_features(records))


WAYS: dict[str, Callable[[Detector, Records], Shares]] = {
    "offbeat": by_offbeat,
    "every_feature": by_every_feature,
    "residuals": by_residuals,
}


def judged_counterfactuals(detector: Detector, records: Records, truth: list[set[str]]) -> dict[str, float]:
    """How many alerts have one, of how many changes, of altered fields alone; and how many alert when put in."""
    explanations = detector.explain(records, threshold=detector.threshold.value)
    found = [(row, each.counterfactual) for row, each in enumerate(explanations) if each.counterfactual is not None]
    field_of = {each.name: each.field or each.name for each in detector.encoder.features}
    only_altered = [all(field_of[change.feature] in truth[row] for change in one.changes) for row, one in found]
    refuted = sum(
        bool(detector.score(with_changes(detector, records, row, one))[0] > detector.threshold.value)
        for row, one in found
        if not any(isinstance(_feature(detector, change.feature), CycleEncoder) for change in one.changes)
    )
    return {
        "found": len(found) / len(truth),
        "changes": float(np.mean([len(one.changes) for _, one in found])) if found else 0.0,
        "of_altered_fields_alone": float(np.mean(only_altered)) if found else 0.0,
        "alert_when_put_in": refuted,
    }


def with_changes(detector: Detector, records: Records, row: int, counterfactual: Counterfactual) -> Records:
    """One record as its counterfactual says; times stay as they are."""
    changed = records.take(np.array([row]))
    for change in counterfactual.changes:
        feature = _feature(detector, change.feature)
        if isinstance(feature, CategoryEncoder):
            value = feature.rare[0] if change.value == RARE else change.value
            changed.categories[feature.field][0] = value
        else:
            column = changed.history if change.feature in changed.history else changed.numbers
            path = change.feature if change.feature in changed.history else feature.field
            column[path][0] = np.nan if change.value is None else change.value
    return changed


def _feature(detector: Detector, name: str) -> Any:
    return detector.encoder.features[detector.feature_names.index(name)]


if __name__ == "__main__":
    main()
