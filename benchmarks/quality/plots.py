"""Critical-difference diagrams: mean ranks on a line, and bars that join what is not significantly apart."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.quality.statistics import Ranking

_ROW = 0.24
"""Height of a label's row in inches."""


def draw_ranks(ranking: Ranking, titles: dict[str, str], path: Path, *, bold: str = "offbeat") -> None:
    """Draw the diagram of a ranking as an image; the best are on the left.

    Args:
        ranking: Of two methods or more.
        titles: How each method is called.
        path: Of the image.
        bold: Method that is emphasised.

    Source: Demšar 2006, as cited in `statistics`.
    """
    names = sorted(ranking.mean_ranks, key=ranking.mean_ranks.__getitem__)
    left = (len(names) + 1) // 2
    bars = len(ranking.groups)
    rows_above, rows_below = 2.6, 0.55 * bars + 0.9 + max(left, len(names) - left)
    figure = Figure(figsize=(10.0, _ROW * (rows_above + rows_below + 0.4)))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    width = len(names) - 1
    margin = 0.75 * width
    axes.set(xlim=(1 - margin, len(names) + margin), ylim=(-rows_below - 0.4, rows_above))
    axes.axis("off")
    _draw_axis(axes, len(names), ranking.critical_difference)
    for row, group in enumerate(ranking.groups):
        y, ends = -0.55 * (row + 1), [ranking.mean_ranks[group[0]], ranking.mean_ranks[group[-1]]]
        reach = 0.006 * width
        axes.plot([ends[0] - reach, ends[1] + reach], [y, y], color="0.15", linewidth=3.2, solid_capstyle="butt")
    below_bars = -0.55 * bars - 0.9
    for place, name in enumerate(names):
        on_left = place < left
        row = place if on_left else len(names) - 1 - place
        _draw_label(
            axes, ranking.mean_ranks[name], below_bars - row, titles[name].replace("**", ""),
            edge=1 - 0.06 * width if on_left else len(names) + 0.06 * width, on_left=on_left, is_bold=name == bold,
        )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")


def _draw_axis(axes: Axes, count: int, critical_difference: float) -> None:
    """The line of ranks with its ticks, and above it how long the critical difference is."""
    axes.plot([1, count], [0, 0], color="0.15", linewidth=1.2)
    for rank in range(1, count + 1):
        axes.plot([rank, rank], [0, 0.3], color="0.15", linewidth=1.0)
        axes.text(rank, 0.42, str(rank), ha="center", va="bottom", fontsize=9)
    end, y = min(1 + critical_difference, count), 1.75
    axes.plot([1, end], [y, y], color="0.15", linewidth=1.2)
    for x in (1, end):
        axes.plot([x, x], [y - 0.15, y + 0.15], color="0.15", linewidth=1.2)
    axes.text(
        end + 0.012 * count, y, f"critical difference {critical_difference:.2f}", ha="left", va="center", fontsize=9
    )


def _draw_label(axes: Axes, rank: float, y: float, title: str, *, edge: float, on_left: bool, is_bold: bool) -> None:
    """A method's name beside the diagram, joined with its rank on the line."""
    colour = "tab:blue" if is_bold else "0.15"
    axes.plot([rank, rank, edge], [0, y, y], color=colour, linewidth=1.6 if is_bold else 0.8)
    text = f"{title}  {rank:.2f}" if on_left else f"{rank:.2f}  {title}"
    axes.annotate(
        text, (edge, y), xytext=(-4 if on_left else 4, 0), textcoords="offset points",
        ha="right" if on_left else "left", va="center", fontsize=9, color=colour,
        fontweight="bold" if is_bold else "normal",
    )  # fmt: skip
