"""What is compared on: problems with their samples, the methods of a part, and the figures of a ranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.anchors import Method
from trainer.evaluation import auroc, average_precision, precision_at

Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Problem:
    """One data set, not yet read.

    Attributes:
        name: Unique within its part.
        files: Where it is read from.
        options: What else tells it from other problems of the same files.
    """

    name: str
    files: tuple[Path, ...]
    options: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A problem as one seed splits it.

    Attributes:
        train: Normal rows to fit on, (n, ...).
        test: Rows to score, (m, ...).
        odd: Which of the latter are anomalies, (m,).
        judge: Scores of the test rows to figures by name; higher is better.
        columns: Names of the columns, where they have any.
    """

    train: NDArray[Any]
    test: NDArray[Any]
    odd: NDArray[np.bool_]
    judge: Callable[[Scores], dict[str, float]]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A method that takes part.

    Attributes:
        title: Its name on the page.
        make: An unfitted one, by seed and sample.
        is_random: Whether the seed changes anything but the split.
        needs: Package that it is left out without.
    """

    title: str
    make: Callable[[int, Sample], Method]
    is_random: bool = True
    needs: str | None = None


@dataclass(frozen=True)
class Part:
    """A kind of problem.

    Attributes:
        find: Its problems below a folder; none where its data is not there.
        load: A problem's sample by seed.
        entries: Methods by name.
        figures: Names of what `Sample.judge` gives, and their titles.
        is_split_by_seed: Whether another seed is another split.
    """

    find: Callable[[Path], list[Problem]]
    load: Callable[[Problem, int], Sample]
    entries: Mapping[str, Entry]
    figures: Mapping[str, str] = field(default_factory=dict)
    is_split_by_seed: bool = False


def ranking(scores: Scores, odd: NDArray[np.bool_]) -> dict[str, float]:
    """AUROC, average precision, and precision (equal to recall and F1) at as many rows as there are anomalies.

    A score that is not a number counts as the least.
    """
    finite = np.nan_to_num(scores.astype(np.float64), nan=-1e300, posinf=1e300, neginf=-1e300)
    return {
        "auroc": auroc(finite, odd),
        "ap": average_precision(finite, odd),
        "f1": precision_at(finite, odd, int(odd.sum())),
    }
