"""What the tour shows: steps, progress, alerts as short lines, the summary; computes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from demo.tally import Account, Detection

_PLAIN_EVERY_S = 5.0
_REASONS = 2
_NOTABLE = 0.1  # share of the score below which a second reason says more about us than about the record

Advance = Callable[[int, int], None]  # messages sent, alerts read


class Show:
    """Everything that a person sees of the tour, on a terminal or in a log file."""

    def __init__(
        self, console: Console, *, alert_every_s: float = 0.5, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console
        self._alert_every_s = alert_every_s
        self._clock = clock
        self._began = clock()
        self._last_alert = -alert_every_s
        self._unshown = 0

    def step(self, text: str) -> None:
        """Say what begins now."""
        self.console.print(
            f"\n[bold cyan]{self._clock() - self._began:5.1f} s[/]  [bold]{escape(text)}[/]", highlight=False
        )

    def note(self, text: str) -> None:
        """Say something about the step."""
        self.console.print(f"         {escape(text)}", soft_wrap=True, highlight=False)

    def addresses(self, lines: Sequence[tuple[str, str]]) -> None:
        """Show names and what to type for them, each on a line that nothing breaks: it can be copied whole."""
        width = max(len(name) for name, _ in lines) + 2
        for name, text in lines:
            self.console.print(f"{name:<{width}}{escape(text)}", soft_wrap=True, highlight=False)

    @contextmanager
    def sending(self, total: int) -> Iterator[Advance]:
        """Show how far the feed is: a bar on a terminal, a line every few seconds elsewhere."""
        if not self.console.is_terminal:
            yield self._plain_progress(total)
            return
        columns = (
            TextColumn("         sent"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[alerts]} alerts"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task("sending", total=total, alerts=0)
            yield lambda sent, alerts: progress.update(task, completed=sent, alerts=alerts)

    def _plain_progress(self, total: int) -> Advance:
        last = self._clock()

        def advance(sent: int, alerts: int) -> None:
            nonlocal last
            if self._clock() - last >= _PLAIN_EVERY_S:
                last = self._clock()
                self.note(f"{sent:,} of {total:,} sent, {alerts} alerts")

        return advance

    def alert(self, alert: Mapping[str, Any], truth: str) -> None:
        """Show one alert and its reasons on one line, unless another was shown a moment ago."""
        now = self._clock()
        if now - self._last_alert < self._alert_every_s:
            self._unshown += 1
            return
        more = f" [dim](+{self._unshown} more)[/]" if self._unshown else ""
        self._last_alert, self._unshown = now, 0
        self.console.print(f"  {alert_line(alert)}  {truth}{more}", soft_wrap=True, highlight=False)

    def summary(
        self,
        *,
        sent: int,
        seconds: float,
        account: Account,
        committed: int,
        latency: tuple[float, float] | None,
        detection: Detection,
    ) -> None:
        """Show what the tour comes to."""
        facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
        facts.add_row("records", f"{sent:,} sent in {seconds:.1f} s, {sent / seconds:,.0f} a second")
        outcomes = [f"{account.outcomes.get(name, 0):,} {text}" for name, text in _OUTCOMES.items()]
        facts.add_row("outcomes", f"{' + '.join(outcomes)} = {sum(account.outcomes.values()):,}")
        facts.add_row("committed", f"{committed:,} by the worker's group")
        facts.add_row("dead letters", _reasons(account.dead_letters))
        facts.add_row("suppressed", _reasons(account.suppressed))
        if latency is not None:
            facts.add_row(
                "latency",
                f"half of the alerts were read within {latency[0] * 1000:.0f} ms of the record's sending, "
                f"95 % within {latency[1] * 1000:.0f} ms",
            )
        self.console.print()
        self.console.print(facts)
        self.console.print()
        self.console.print(_detection_table(detection))
        self.note("Without history: a detector trained likewise, but on what each payment says by itself.")
        self.note("By the amount alone: a rule that raises as many alerts, on the largest amounts of the whole stream.")


def alert_line(alert: Mapping[str, Any]) -> str:
    """One alert as a short line of markup: who, how strange, and the features that say so: actual (expected)."""
    ranked = sorted(alert["contributions"], key=lambda one: -one["contribution"])
    shown = [one for place, one in enumerate(ranked[:_REASONS]) if place == 0 or one["contribution"] >= _NOTABLE]
    reasons = " · ".join(
        f"{one['feature'].removeprefix('timestamp.')} [bold]{escape(_value(one['actual']))}[/] "
        f"(expected {escape(_value(one['expected']))})"
        for one in shown
    )
    who = ", ".join((alert["entity"] or {}).values())
    return f"[red]alert[/] {escape(who)} [yellow]×{alert['score_ratio']:.1f}[/]  {reasons}{_otherwise(alert)}"


def _otherwise(alert: Mapping[str, Any]) -> str:
    """What would not have alerted, where a single change is enough: more do not fit a line."""
    changes = (alert.get("counterfactual") or {}).get("changes", ())
    if len(changes) != 1 or changes[0]["relation"] not in _BOUNDS:
        return ""
    bound, value = _BOUNDS[changes[0]["relation"]], _value(changes[0]["value"])
    return f" [dim]· no alert with {changes[0]['feature'].removeprefix('timestamp.')} {bound} {escape(value)}[/]"


_BOUNDS = {"at_most": "≤", "at_least": "≥"}


def _value(value: str | float | None) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 10 else f"{value:,.0f}"


def _reasons(counts: Mapping[str, int]) -> str:
    named = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return f"{sum(counts.values())}: {named}" if counts else "none"


_OUTCOMES = {"normal": "normal", "alert": "alerts", "suppressed": "suppressed", "dead_letter": "dead letters"}


def _detection_table(detection: Detection) -> Table:
    table = Table(title="Frauds sent, and how many were caught", title_justify="left", pad_edge=False)
    table.add_column("kind of fraud")
    for heading in ("sent", "by offbeat", "without history", "by the amount alone"):
        table.add_column(heading, justify="right")
    for kind in detection.kinds:
        caught = (kind.caught, kind.caught_without_history, kind.caught_by_amount)
        table.add_row(kind.kind, str(kind.injected), *(_share(each, kind.injected) for each in caught))
    table.add_section()
    true = (detection.true_alerts, detection.true_without_history, detection.true_by_amount)
    alerts = (detection.alerts, detection.alerts_without_history, detection.alerts)
    injected = detection.injected
    table.add_row("all", str(injected), *(_share(each, injected) for each in true), style="bold")
    table.add_row("alerts", "", *map(str, alerts))
    table.add_row("of them frauds", "", *(_share(each, whole) for each, whole in zip(true, alerts, strict=True)))
    return table


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:4.0%})" if whole else "none"


def truth_of(kind: str | None) -> str:
    """What an alert really was, which only the sender knows, as markup."""
    return "[dim]false alarm[/]" if kind is None else f"[green]✓ {kind}[/]"
