"""The page of a comparison: results in, Markdown and figures out; it runs nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.quality.runs import PARTS, Result
from benchmarks.quality.statistics import Comparison, Ranking, compare, rank

OURS = "offbeat"

NARROW = 40
"""Most columns of the tables whose time to score a row is quoted: wide ones would say more of their width."""

INTRODUCTION = """\
# Detection quality beside the anchors

Written by `make bench-quality` (`python -m benchmarks.quality`). Every method gets the same rows, learns from normal
ones alone, and is judged by how it ranks rows that it has not seen. No method is tuned for a data set: ours is what
`offbeat.fit` gives, and the anchors are in their usual form. AUROC, average precision (AP) and F1 of tables and images
are in per cent.
"""

ABOUT = {
    "tables": """\
## Tables

{problems} tables of numbers in the form of [ADBench](https://github.com/Minqi824/ADBench), {seeds}. Half of the normal
rows, at most 10,000, are fitted on; the other half and all anomalies, at most 20,000 rows, are scored. Columns are
standardised first. Figures are means over the tables of the means over the seeds; F1 is that of as many alerts as there
are anomalies. *Fit* is in seconds on one thread, the mean and the largest table; *µs a row* is the time to score a row
in batches of 4,096 on one thread, through the detector and its checks: the median of the tables with at most 40
columns.
""",
    "transactions": """\
## Card payments

The simulated stream of the
[Fraud Detection Handbook](https://fraud-detection-handbook.github.io/fraud-detection-handbook/), {seeds}: the normal
payments of a week are fitted on, and the week after next is scored, without cards that are known by then, seven days
late, to be compromised. Means; in brackets the least and the most of the seeds. *Frauds to be seen* are those of odd
amounts and of customers whose spending changes (scenarios 1 and 3). Those of compromised terminals look like any other
payment, so that nobody can see them without late labels. CP@100 is the handbook's card precision: the share of
compromised cards among the 100 most suspicious ones of a day.
""",
    "images": """\
## Images

MNIST, {seeds}: one digit normal, all its train images fitted on; and nine digits normal, 10,000 of theirs fitted on.
All 10,000 test images are scored. *µs an image* is the time to score one in batches of 4,096 on one thread.
""",
}


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """Every figure of the page, by part."""
    summary: dict[str, Any] = {}
    for part in PARTS:
        own = [result for result in results if result.part == part]
        if any(result.error is None for result in own):
            summary[part] = _summary(part, own)
    return summary


def _summary(part: str, results: Sequence[Result]) -> dict[str, Any]:
    good = [result for result in results if result.error is None]
    methods = [name for name in PARTS[part].entries if any(result.method == name for result in good)]
    figures = {
        figure: {
            method: {
                problem: statistics.mean(result.figures[figure] for result in of)
                for problem, of in _grouped(good, method).items()
            }
            for method in methods
        }
        for figure in PARTS[part].figures
    }
    rankings = {figure: rank(of) for figure, of in figures.items()}
    return {
        "problems": list(dict.fromkeys(result.problem for result in good)),
        "seeds": sorted({result.seed for result in good}),
        "methods": methods,
        "figures": figures,
        "spread": {
            figure: {
                method: {
                    problem: [min(values), max(values)]
                    for problem, of in _grouped(good, method).items()
                    for values in [[result.figures[figure] for result in of]]
                }
                for method in methods
            }
            for figure in PARTS[part].figures
        },
        "rankings": rankings,
        "comparisons": {
            figure: compare(of[OURS], {name: other for name, other in of.items() if name != OURS})
            for figure, of in figures.items()
            if OURS in of
        },
        "costs": {method: _costs(_grouped(good, method)) for method in methods},
        "failures": [
            f"{result.method} on {result.problem}, seed {result.seed}: {result.error}"
            for result in results
            if result.error is not None
        ],
    }


def _grouped(results: Iterable[Result], method: str) -> dict[str, list[Result]]:
    """Results of a method by problem."""
    grouped: dict[str, list[Result]] = {}
    for result in results:
        if result.method == method:
            grouped.setdefault(result.problem, []).append(result)
    return grouped


def _costs(grouped: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """Seconds to fit, mean and largest of the problems, and microseconds to score a row, median of the narrow ones."""
    fits = [statistics.mean(result.fit_s for result in of) for of in grouped.values()]
    rows = [
        statistics.mean(result.us_per_row for result in of) for of in grouped.values() if of[0].width <= NARROW
    ] or [statistics.mean(result.us_per_row for result in of) for of in grouped.values()]
    return {"fit_s_mean": statistics.mean(fits), "fit_s_max": max(fits), "us_per_row": statistics.median(rows)}


def render(
    summary: Mapping[str, Any],
    machine: str,
    plots: Mapping[tuple[str, str], str],
    notes: Sequence[str],
    ablation: Mapping[str, Any] | None = None,
) -> str:
    """The page in Markdown.

    Args:
        summary: What `summarise` gave.
        machine: What it was measured on.
        plots: Address of the diagram of a part and a figure, where there is one.
        notes: What else the reader should know, a line each.
        ablation: What `python -m benchmarks.ablation` reported.
    """
    writers: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
        "tables": _tables, "transactions": _transactions, "images": _images,
    }  # fmt: skip
    lines = [INTRODUCTION, f"Measured on {machine}.", ""]
    lines += [f"- {note}" for note in notes] + [""] * bool(notes)
    for part, content in summary.items():
        seeds = content["seeds"]
        said = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
        lines += [ABOUT[part].format(problems=len(content["problems"]), seeds=said)]
        lines += writers[part](content)
        for figure in ("auroc", "ap") if part == "tables" else ():
            lines += _significance(part, figure, content, plots)
        if part == "tables":
            lines += _every_problem(content)
        if content["failures"]:
            lines += ["Failed, and not in any mean:", "", *(f"- {each}" for each in content["failures"]), ""]
    lines += [] if ablation is None else _ablation(ablation)
    return "\n".join(lines).rstrip() + "\n"


def _tables(content: Mapping[str, Any]) -> list[str]:
    order = _by_mean(content, "auroc")
    figures = content["figures"]
    rows = []
    for method in order:
        costs = content["costs"][method]
        row = [_title("tables", method)]
        row += [_per_cent(statistics.mean(figures[figure][method].values())) for figure in ("auroc", "ap", "f1")]
        row += [f"{content['rankings'][figure].mean_ranks[method]:.2f}" for figure in ("auroc", "ap", "f1")]
        row += [f"{costs['fit_s_mean']:.1f}", f"{costs['fit_s_max']:.1f}", f"{costs['us_per_row']:.2g}"]
        if missing := len(content["problems"]) - len(figures["auroc"][method]):
            row[0] += f" (without {missing} tables)"
        rows.append(row)
    titles = ["", "AUROC", "AP", "F1", "rank, AUROC", "rank, AP", "rank, F1", "fit, mean", "fit, most", "µs a row"]
    return [*_table(titles, rows), ""]


def _transactions(content: Mapping[str, Any]) -> list[str]:
    lines = []
    for problem in content["problems"]:
        rows = [
            [
                _title("transactions", method),
                *(_with_spread(content, figure, method, problem) for figure in PARTS["transactions"].figures),
                f"{content['costs'][method]['fit_s_mean']:.1f}",
            ]
            for method in content["methods"]
            if problem in content["figures"]["auroc"][method]
        ]
        lines += [f"### {problem[0].upper()}{problem[1:]}", ""]
        lines += [*_table(["", *PARTS["transactions"].figures.values(), "fit, s"], rows), ""]
    return lines


def _images(content: Mapping[str, Any]) -> list[str]:
    lines = []
    for setting in ("one digit normal", "nine digits normal"):
        rows = []
        for method in content["methods"]:
            own = {
                figure: [value for name, value in of[method].items() if name.startswith(setting)]
                for figure, of in content["figures"].items()
            }
            if own["auroc"]:
                rows.append(
                    [
                        _title("images", method),
                        _per_cent(statistics.mean(own["auroc"]), 2), _per_cent(min(own["auroc"]), 2),
                        _per_cent(statistics.mean(own["ap"]), 2), f"{content['costs'][method]['fit_s_mean']:.1f}",
                        f"{content['costs'][method]['us_per_row']:.2g}",
                    ]
                )  # fmt: skip
        lines += [f"### {setting.capitalize()}", ""]
        lines += [*_table(["", "AUROC, mean", "AUROC, worst digit", "AP, mean", "fit, s", "µs an image"], rows), ""]
    return lines


def _significance(
    part: str, figure: str, content: Mapping[str, Any], plots: Mapping[tuple[str, str], str]
) -> list[str]:
    """How ours stands beside each anchor, table by table."""
    ranking: Ranking = content["rankings"][figure]
    comparisons: list[Comparison] = content["comparisons"].get(figure, [])
    title = PARTS[part].figures[figure]
    lines = [f"### Significance: {title}", ""]
    if ranking.sets > 1 and len(ranking.mean_ranks) > 2:
        lines += [
            f"Friedman's test over the {ranking.sets} tables that all methods have: p = {_p(ranking.friedman_p)}."
        ]
        lines += [f"Mean ranks further apart than {ranking.critical_difference:.2f} are so at 5 % (Nemenyi).", ""]
    if (part, figure) in plots:
        lines += [f"![Mean ranks by {title}, and what is not significantly apart]({plots[part, figure]})", ""]
    rows = [
        [
            _title(part, each.other), f"{each.wins} / {each.ties} / {each.losses}",
            f"{100 * each.mean_difference:+.2f}", _p(each.p), _p(each.p_holm),
        ]
        for each in comparisons
    ]  # fmt: skip
    if rows:
        lines += [f"Wilcoxon's signed-rank test of {_title(part, OURS)} and each other method, two-sided:", ""]
        lines += _table(["beside", "wins / ties / losses", "mean difference", "p", "p, Holm"], rows)
        lines += [""]
    return lines


def _every_problem(content: Mapping[str, Any]) -> list[str]:
    """AUROC and AP of every method on every table, folded up."""
    lines = []
    for figure in ("auroc", "ap"):
        figures = content["figures"][figure]
        order = _by_mean(content, figure)
        rows = []
        for problem in content["problems"]:
            values = {method: figures[method].get(problem) for method in order}
            best = max(value for value in values.values() if value is not None)
            said = [
                "–" if value is None else f"**{_per_cent(value)}**" if value == best else _per_cent(value)
                for value in values.values()
            ]
            rows.append([problem, *said])
        title = PARTS["tables"].figures[figure]
        lines += [f"<details><summary>Every table: {title}</summary>", ""]
        lines += _table(["", *(method.removesuffix("**") for method in order)], rows)
        lines += ["", "</details>", ""]
    return lines


def _ablation(report: Mapping[str, Any]) -> list[str]:
    """What each part of our detector adds and costs."""
    means: Mapping[str, Mapping[str, Mapping[str, float]]] = report["means"]
    tables = means.get("tables", {})
    weeks = [group for group in means if group != "tables"]
    rows = [
        [
            variant,
            *(f"{figures[figure]:.3f}" if variant in tables else "" for figure in ("auroc", "ap", "f1")),
            f"{figures['us_a_row']:.1f}" if variant in tables else "",
            *(
                f"{means[week][variant]['visible_auroc']:.3f} / {means[week][variant]['visible_ap']:.3f}"
                if variant in means[week]
                else ""
                for week in weeks
            ),
        ]
        for variant, figures in (tables or means[weeks[0]]).items()
    ]
    runs = max((int(figures["runs"]) for figures in tables.values()), default=0)
    seeds = ", ".join(map(str, report["seeds"]))
    about = (
        f"`python -m benchmarks.ablation`, seed {seeds}: our detector with one thing changed. Tables: means of {runs} "
        "runs; the time is that of encoded rows. Payments: AUROC and AP of the frauds to be seen."
    )
    titles = ["", "AUROC", "AP", "F1", "µs a row", *weeks]
    return ["## What each part adds and costs", "", about, "", *_table(titles, rows), ""]


def _by_mean(content: Mapping[str, Any], figure: str) -> list[str]:
    """Methods from the highest mean of a figure down."""
    figures = content["figures"][figure]
    return sorted(content["methods"], key=lambda method: -statistics.mean(figures[method].values()))


def _title(part: str, method: str) -> str:
    return PARTS[part].entries[method].title


def _with_spread(content: Mapping[str, Any], figure: str, method: str, problem: str) -> str:
    least, most = content["spread"][figure][method][problem]
    said = f"{content['figures'][figure][method][problem]:.3f}"
    return said if f"{least:.3f}" == f"{most:.3f}" else f"{said} ({least:.3f}–{most:.3f})"


def _per_cent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def _p(p: float) -> str:
    return f"{p:.0e}".replace("e-0", "e-") if p < 1e-3 else f"{p:.3f}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]
