"""The report of one fit as a single HTML page: what a person looks at before promoting a version."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from detector import Detector, Explanation, History, Records, in_words, to_png
from detector.times import iso8601
from trainer.evaluation import Evaluation
from trainer.fitting import FitReport
from trainer.head import LABEL_FREE
from trainer.loading import Dataset
from trainer.writing import hidden_fields

NETWORKS = {
    "denoising": "autoencoder", "convolutional": "autoencoder", "pca": "PCA", LABEL_FREE: "without head",
}  # fmt: skip
"""What people call the networks."""

_EXAMPLES = 10
_NEWEST = 20_000
_BLUE, _RED, _GREY = "#2463a8", "#c2352b", "#7a7f87"
_LEGEND: dict[str, Any] = {
    "loc": "upper right",
    "facecolor": "white",
    "edgecolor": "none",
    "framealpha": 0.9,
}  # no line through its text

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; --bar: #2463a8; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
p.lead { color: var(--soft); margin-top: .2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tr { border-bottom: 1px solid var(--line); } .soft { color: var(--soft); }
.bar { display: inline-block; height: .7rem; background: var(--bar); vertical-align: middle; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; background: white; }
"""


@dataclass(frozen=True)
class Row:
    """One line of a table for people: what, how much, and a remark."""

    name: str
    value: str
    remark: str = ""


def record_rows(report: FitReport, dataset: Dataset) -> list[Row]:
    """What became of every row that was read."""
    rows = [Row("rows read", f"{dataset.rows_read:,}", dataset.read_from)]
    for reason, count in sorted(dataset.rejected.items(), key=lambda item: -item[1]):
        first = next((example for example in dataset.examples if example.reason == reason), None)
        remark = f"first at {first.origin.name}:{first.line}: {first.message}" if first else ""
        rows.append(Row(f"rejected: {reason}", f"{count:,}", remark))
    if dataset.left_out_by_sampling:
        rows.append(Row("left out by sampling", f"{dataset.left_out_by_sampling:,}", "more than --max-rows"))
    if replayed := dataset.replayed + report.counts["replayed"]:
        rows.append(
            Row("replayed only", f"{replayed:,}", "history of later records: earlier ones, first longest window")
        )
    labels = {
        "fit": ("fitted", "the oldest normal records" if report.test.event_times is not None else ""),
        "validate": ("held out: early stopping", ""),
        "calibrate": ("held out: threshold", ""),
        "test": (
            "held out: test",
            "the newest records, known anomalies included"
            if report.counts["test"]
            else "no record is labelled anomalous",
        ),
        "left_out_labelled": ("known anomalies left out", "in the span that the rest was drawn from"),
    }
    rows += [Row(label, f"{report.counts[name]:,}", remark) for name, (label, remark) in labels.items()]
    if spared := report.counts["spared"]:
        rows.append(
            Row("not fitted", f"{spared:,}", "more than --most-records; evenly spread over the time of the others")
        )
    return rows


def needs_of_history(history: History) -> dict[str, Any]:
    """What history takes, for machines."""
    bounded = [feature for feature in history.stream.history_features if feature.window_us is not None]
    longest = max(bounded, key=lambda feature: feature.window_us or 0, default=None)
    return {
        "mode": history.stream.history.mode,
        "features": len(history.names),
        "longest_window": None if longest is None else longest.window,
        "bytes_per_entity": history.row_bytes,
        "fingerprint": history.fingerprint,
    }


def history_rows(detector: Detector) -> list[Row]:
    """What the detector's history takes of those who run it; empty where it has none."""
    if detector.history is None:
        return []
    needs = needs_of_history(detector.history)
    exact = needs["mode"] == "exact"
    return [
        Row("features", f"{needs['features']}", f"kept by {detector.stream.key}"),
        Row(
            "longest window",
            needs["longest_window"] or "none",
            "records that far back have to be replayed before the features are whole",
        ),
        Row(
            "memory of an entity",
            f"{needs['bytes_per_entity']} bytes",
            "beside its key" + (", and each record of the longest window" if exact else ""),
        ),
        Row("mode", needs["mode"], "every record of the windows is kept" if exact else "windows are kept in buckets"),
    ]


def threshold_rows(report: FitReport) -> list[Row]:
    """The threshold and what it promises."""
    threshold = report.threshold
    rows = [
        Row(
            "threshold",
            f"{threshold.value:.4g}",
            f"95% interval {threshold.low:.4g} to {threshold.high:.4g}; {threshold.stated}, set on {threshold.n:,} "
            f"normal records ({threshold.method})",
        ),
        Row(
            "normal records above it",
            f"{threshold.rate:.3%}",
            f"95% interval {threshold.rate_low:.3%} to {threshold.rate_high:.3%}",
        ),
    ]
    if threshold.expected_per_day is not None:
        per_day = threshold.expected_per_day / threshold.rate
        low, high = threshold.rate_low * per_day, threshold.rate_high * per_day
        rows.append(
            Row("expected false alarms", f"{threshold.expected_per_day:,.1f} a day", f"{low:,.1f} to {high:,.1f}")
        )
    if threshold.warning is not None:
        rows.append(Row("mind", threshold.method, threshold.warning))
    return rows


def head_rows(report: FitReport) -> list[Row]:
    """What labels taught, and what that is worth beside the score without it; empty where there is no head."""
    head = report.head
    if head is None:
        return []
    young = f"; {head.too_young:,} more were not known in time" if head.too_young else ""
    rows = [Row("taught by", f"{head.labels:,}", f"labelled anomalies of the training span{young}")]
    for name, result in head.results.items():
        gain = f"; gain {result.gain:+.3f}, 95% interval {result.gain_low:+.3f} to {result.gain_high:+.3f}"
        rows.append(
            Row(
                f"{name}, published" if name == head.loss else name,
                f"{result.average_precision:.4f}",
                f"average precision on {head.tested:,} later anomalies; recall at the threshold {result.recall:.1%}"
                + ("" if name == LABEL_FREE else gain),
            )
        )
    return [*rows, Row("verdict", "recommended" if head.recommended else "not recommended", head.verdict)]


def loss_rows(report: FitReport) -> list[Row]:
    """Where training ended; empty for a network without steps."""
    if not report.losses:
        return []
    kept = next((look for look in report.losses if look[0] == report.best_step), report.losses[-1])
    return [
        Row(
            "training loss",
            f"{kept[1]:.4g}",
            f"at step {kept[0]:,} of {report.losses[-1][0]:,}, whose weights are kept",
        ),
        Row("held-out loss", f"{kept[2]:.4g}", "mean squared error of a column, in its deviations"),
        *_end_of_training(report),
    ]


_ENDS = {
    "patience": "the held-out loss got no better for long",
    "steps": "the most steps were made",
    "time": "time was up",
}


def _end_of_training(report: FitReport) -> list[Row]:
    """Why training stopped and where it ran."""
    training = report.training
    if training is None:
        return []
    where = "CUDA" if training.device == "cuda" else "CPU"
    where += f", {training.processes} processes" if training.processes > 1 else ""
    where += "" if training.resumed_at is None else f", resumed at step {training.resumed_at:,}"
    remark = f"{_ENDS[training.stopped]}; {training.seconds:,.1f} s on {where}"
    if not training.is_reproducible:
        remark += "; the clock decided: not reproducible, the same data and seed give another detector"
    return [Row("stopped", f"step {training.steps:,}", remark)]


def quality_rows(evaluation: dict[str, Evaluation], key: str | None) -> list[list[str]]:
    """Quality by network: one row a figure, one column a network, the networks' names first."""
    results = list(evaluation.values())
    rows = [["", *(NETWORKS.get(kind, kind) for kind in evaluation)]]
    rows.append(["AUROC", *(f"{result.auroc:.4f}" for result in results)])
    rows.append(["average precision", *(f"{result.average_precision:.4f}" for result in results)])
    rows += [
        [f"precision@{k}", *(f"{result.precision_at[k]:.4f}" for result in results)] for k in results[0].precision_at
    ]
    entities = [result.entity for result in results if result.entity is not None]
    if len(entities) == len(results) and entities:
        best = f"a day ({entities[0].days} days; at best {entities[0].attainable:.4f})"
        rows.append([f"{key or 'entity'} precision@{entities[0].k} {best}", *(f"{one.mean:.4f}" for one in entities)])
    return rows


def render(detector: Detector, report: FitReport, dataset: Dataset) -> bytes:
    """The page as UTF-8; it loads nothing from elsewhere, and shows no value of a sensitive field."""
    stream = detector.stream
    span = f", on records from {_moment(detector, 'trained_from')} to {_moment(detector, 'trained_until')}"
    lead = f"fitted {_moment(detector, 'fitted_at')}{span if detector.trained_until else ''}"
    parts = [
        f"<h1>{_text(detector.name)}</h1><p class=lead>{_text(lead)}</p>",
        "<p>As confidential as the data that it was fitted on.</p>",
        "<h2>Records</h2>",
        _rows(record_rows(report, dataset)),
        _remarks(report),
        "<h2>Threshold</h2>",
        _rows(threshold_rows(report)),
        _figure(_score_histogram(report), "Scores of held-out records; the line is the threshold."),
    ]
    if report.evaluation:
        sizes = next(iter(report.evaluation.values()))
        parts += [
            "<h2>Quality on the labelled test span</h2>",
            f"<p>{sizes.anomalies:,} known anomalies among {sizes.records:,} records.</p>",
            _table(quality_rows(report.evaluation, stream.key)),
        ]
    if report.head is not None:
        parts += ["<h2>Head</h2>", _rows(head_rows(report))]
    if report.losses:
        parts += ["<h2>Training</h2>", _rows(loss_rows(report)), _figure(_loss_curve(report), "Losses by step.")]
    if detector.history is not None:
        parts += ["<h2>History</h2>", _rows(history_rows(detector))]
    parts += ["<h2>Features</h2>", _features(report.feature_errors, report.feature_drift)]
    parts += ["<h2>The strangest records</h2>", _examples(detector, report, dataset)]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(detector.name)}: offbeat</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    return page.encode("utf-8", "replace")


def _remarks(report: FitReport) -> str:
    """What a person should know of the data."""
    return f"<ul>{''.join(f'<li>{_text(line)}' for line in report.remarks)}</ul>" if report.remarks else ""


def _moment(detector: Detector, fact: str) -> str:
    """A fact that is a time, to the second."""
    return str(detector.facts[fact])[:19] + "Z"


def _text(value: object) -> str:
    return html.escape(str(value))


def _rows(rows: Iterable[Row]) -> str:
    return _cells(
        f"<tr><td>{_text(row.name)}<td class=number>{_text(row.value)}<td class=soft>{_text(row.remark)}"
        for row in rows
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    first = "<tr>" + "".join(f"<th class=number>{_text(cell)}" for cell in head)
    return _cells(
        [
            first,
            *(
                f"<tr><td>{_text(name)}" + "".join(f"<td class=number>{_text(c)}" for c in cells)
                for name, *cells in body
            ),
        ]
    )


def _cells(rows: Iterable[str]) -> str:
    return f"<table>{''.join(rows)}</table>"


def _features(errors: dict[str, float], drift: dict[str, float]) -> str:
    """Residuals of each feature, and its drift within the training data where that is known."""
    most = max(errors.values(), default=0.0) or 1.0
    rows = "".join(
        f"<tr><td>{_text(name)}<td class=number>{error:.3f}"
        f"<td><span class=bar style='width:{12 * error / most:.2f}rem'></span>"
        f"<td class=number>{'' if name not in drift else f'{drift[name]:.3f}'}"
        for name, error in sorted(errors.items(), key=lambda item: -item[1])
    )
    head = "<tr><th>feature<th class=number>residual<th><th class=number>drift" if drift else ""
    of_drift = (
        " Drift is the population stability index of the fitted records against the later ones that the threshold was "
        "set on: above 0.1 the feature moves within the training data, above 0.25 it moves much, and will go on to."
    )
    return (
        "<p>Mean squared residual on held-out normal records, in squared deviations: near 1 is as on the records that "
        f"the score was learned from; far above it, the feature drifts.{of_drift if drift else ''}</p>"
        f"<table>{head}{rows}</table>"
    )


def _examples(detector: Detector, report: FitReport, dataset: Dataset) -> str:
    """The records of the highest scores with their reasons; sensitive values left out."""
    records, scores = report.test, report.test_scores
    where = "of the test span"
    if len(records) == 0:
        records = dataset.records.take(_newest(dataset.records))
        scores = detector.score(records)
        where = f"of the newest {len(records):,} records"
    finite = np.flatnonzero(np.isfinite(scores))
    top = finite[np.argsort(-scores[finite], kind="stable")[:_EXAMPLES]]
    chosen = records.take(top)
    explanations = detector.explain(chosen, threshold=detector.threshold.value)
    rows = [
        f"<tr><td class=number>{scores[row] / detector.threshold.value:.2f}<td>{_identity(detector, chosen, position)}"
        f"<td>{_images(explanation, chosen, position) or _reasons(explanation)}"
        for position, (row, explanation) in enumerate(zip(top.tolist(), explanations, strict=True))
    ]
    head = "<tr><th class=number>score ratio<th>record<th>why: feature, share, actual (expected)"
    return f"<p>The highest scores {where}; 1.0 is the threshold.</p>" + _cells([head, *rows])


def _newest(records: Records) -> NDArray[np.int64]:
    times = records.event_times
    order = np.arange(len(records)) if times is None else np.argsort(times, kind="stable")
    return order[-_NEWEST:].astype(np.int64)


def _identity(detector: Detector, records: Records, row: int) -> str:
    stream, hidden = detector.stream, hidden_fields(detector.stream)
    shown: list[str] = []
    for path, column in ((stream.id, records.ids), (stream.key, records.keys)):
        if path is not None and column is not None:
            value = "(sensitive)" if path in hidden else column[row]
            shown.append(f"{_text(path)} {_text(value)}" if value is not None else "")
    if stream.time is not None and records.event_times is not None and stream.time.field not in hidden:
        shown.append(_text(iso8601(records.event_times[row])))
    if records.labels is not None and records.labels[row]:
        shown.append("<b>known anomaly</b>")
    return "<br>".join(part for part in shown if part)


def _reasons(explanation: Explanation) -> str:
    lines = [
        f"{_text(one.feature)} {one.share:.0%}"
        + ("" if one.sensitive else f": {_value(one.actual)} <span class=soft>({_value(one.expected)})</span>")
        for one in explanation.contributions[:3]
        if one.share >= 0.005
    ]
    if explanation.counterfactual is not None:
        lines.append(f"<span class=soft>{_text(in_words(explanation.counterfactual.changes))}</span>")
    return "<br>".join(lines)


def _images(explanation: Explanation, records: Records, row: int) -> str:
    """An image as it was scored, its reconstruction and its errors side by side; empty where there is none to show."""
    if explanation.image is None or records.images is None:
        return ""
    error = explanation.image.error / max(float(explanation.image.error.max()), 1e-6) * 255
    shown = {
        "image": records.images[row],
        "reconstruction": explanation.image.reconstruction,
        "error": np.rint(error).astype(np.uint8)[:, :, None],
    }
    return " ".join(
        f"<img alt={name} title={name} height=84 style='image-rendering: pixelated' "
        f"src='data:image/png;base64,{base64.b64encode(to_png(picture)).decode()}'>"
        for name, picture in shown.items()
    )


def _value(value: Any) -> str:
    return "missing" if value is None else f"{value:,.6g}" if isinstance(value, float) else _text(value)


def _figure(figure: Figure, caption: str) -> str:
    """A drawing inside the page; the same data give the same bytes."""
    drawing = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "offbeat", "svg.fonttype": "none"}):
        figure.savefig(drawing, format="svg", metadata={"Date": None}, bbox_inches="tight")
    svg = drawing.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption class=soft>{_text(caption)}</figcaption></figure>"


def _loss_curve(report: FitReport) -> Figure:
    figure = Figure(figsize=(8, 3))
    axes = figure.add_subplot()
    steps, training, validating = zip(*report.losses, strict=True)
    axes.plot(steps, training, color=_GREY, label="training (with noise and hidden features)")
    axes.plot(steps, validating, color=_BLUE, label="held out")
    axes.axvline(report.best_step, color=_RED, linewidth=1, label="weights kept")
    axes.set(xlabel="step", ylabel="mean squared error", yscale="log")
    axes.legend(**_LEGEND)
    return figure


def _score_histogram(report: FitReport) -> Figure:
    figure = Figure(figsize=(8, 3))
    axes = figure.add_subplot()
    normal, known = report.calibration_scores, np.empty(0)
    if report.test.labels is not None:
        known = report.test_scores[report.test.labels & np.isfinite(report.test_scores)]
    everything = np.concatenate([normal, known])
    low = max(float(everything.min()), 1e-6)
    high = max(float(everything.max()), report.threshold.value, low * 1.01) * 1.01
    edges = np.geomspace(low, high, 80).tolist()
    axes.hist(np.maximum(normal, low), edges, color=_BLUE, alpha=0.75, label=f"normal ({len(normal):,})")
    if len(known):
        axes.hist(np.maximum(known, low), edges, color=_RED, alpha=0.75, label=f"known anomalies ({len(known):,})")
    axes.axvline(report.threshold.value, color="black", linewidth=1, label="threshold")
    axes.set(xlabel="anomaly score", ylabel="records", xscale="log", yscale="log")
    axes.legend(**_LEGEND)
    return figure
