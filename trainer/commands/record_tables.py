"""What was decided about a record, as people read it on a terminal; it decides nothing."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from detector import in_words
from trainer.explaining import FeatureFacts, RecordFacts

_MOST_COLUMNS = 4


def show_facts(console: Console, facts: RecordFacts) -> None:
    """One record: where it is from, what became of it and why, and a line for each feature."""
    console.print(Text(facts.origin, style="bold"), Text(facts.outcome, style=_STYLES.get(facts.outcome, "")))
    head = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name, value in _head(facts):
        head.add_row(Text(name), Text(value))
    console.print(head)
    if facts.features:
        console.print(_features(facts.features))
        console.print(Text(_otherwise(facts)), soft_wrap=True)
    console.print()


def _head(facts: RecordFacts) -> list[tuple[str, str]]:
    rows = list((facts.identity or {}).items())
    if facts.score is None and facts.reason is not None:
        return [*rows, ("reason", facts.reason), ("message", facts.message or "")]
    if facts.reason is not None:
        rows.append(("suppressed by", f"{facts.reason}, a rule of the stream definition"))
    if facts.quiet_since is not None:
        count = f", and {facts.suppressed_since:,} suppressed since" if facts.suppressed_since else ""
        rows.append(("last alert", f"of its entity at {facts.quiet_since}{count}"))
    if facts.score is not None and facts.threshold is not None and facts.score_ratio is not None:
        sign = ">" if facts.score > facts.threshold else "<="
        rows.append(("score", f"{facts.score:.4f} {sign} {facts.threshold:.4f}, the threshold in force"))
        rows.append(("score ratio", f"{facts.score_ratio:.3f}"))
    if facts.tail_probability is not None:
        rows.append(("tail probability", f"{facts.tail_probability:.3g}, of so high a score of a normal record"))
    if facts.severity is not None:
        rows.append(("severity", facts.severity))
    if facts.is_exact is not None and facts.remembered:
        known = "as the worker had it" if facts.is_exact else "not all that the worker had"
        rows.append(("remembered", f"{known}: {'; '.join(facts.remembered)}"))
    return rows


def _features(features: tuple[FeatureFacts, ...]) -> Table:
    table = Table("feature", "share", "actual", "", "expected", "encoded", "noticed", box=None, pad_edge=False)
    for each in features:
        table.add_row(
            Text(each.name), f"{each.share:.1%}",
            Text("(sensitive)" if each.sensitive else _value(each.actual)), Text(each.direction or ""),
            Text("(sensitive)" if each.sensitive else _value(each.expected)), _encoded(each.encoded),
            ", ".join(note.replace("_", " ") for note in each.notes),
        )  # fmt: skip
    return table


def _value(value: str | float | None) -> str:
    return "none" if value is None else f"{value:,.6g}" if isinstance(value, float) else value


def _encoded(columns: list[float] | None) -> str:
    """The first columns, and how many more there are."""
    if columns is None:
        return ""
    more = f" and {len(columns) - _MOST_COLUMNS} more" if len(columns) > _MOST_COLUMNS else ""
    return " ".join(f"{column:.2f}" for column in columns[:_MOST_COLUMNS]) + more


def _otherwise(facts: RecordFacts) -> str:
    if facts.changes is not None:
        return f"{in_words(facts.changes)} (score {facts.counterfactual_score:.4f})"
    if facts.outcome in ("alert", "suppressed"):
        return "no other values were found of the features that were tried, with which this would not alert"
    return "this does not alert"


_STYLES = {"alert": "red", "normal": "green", "dead_letter": "yellow", "suppressed": "yellow"}
