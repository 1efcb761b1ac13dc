"""The command: find the data, run what is missing, write the page.

    python -m benchmarks.quality --data FOLDER --seeds 0 1 2 --jobs 2

FOLDER is searched, with all folders in it, for tables (`.npz` with X and y, as ADBench has them), for the features of
card payments (`.parquet`) and for MNIST (its four files). Results are kept as they come: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.quality.page import OURS, render, summarise
from benchmarks.quality.plots import draw_ranks
from benchmarks.quality.runs import PARTS, ResultsFile, jobs_of, left_out, run

HERE = Path(__file__).parents[1]
DATA = HERE.parents[1] / "shared" / "data"
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, and write page, diagrams and figures."""
    chosen = parser().parse_args(arguments)
    results = ResultsFile(chosen.results)
    results.forget(chosen.again)
    notes: list[str] = []
    jobs = []
    for part in chosen.parts or PARTS:
        problems = PARTS[part].find(chosen.data)
        if chosen.only:
            problems = [problem for problem in problems if any(text in problem.name for text in chosen.only)]
        if not problems:
            if chosen.parts:
                sys.exit(f"{chosen.data} holds nothing for the part {part!r}: see python -m benchmarks.quality --help")
            notes.append(f"The part “{part}” was left out: there was no data for it.")
            continue
        absent = left_out(part)
        notes += [
            f"{PARTS[part].entries[name].title} was left out: the package {package} is not installed."
            for name, package in absent.items()
            if not chosen.methods or name in chosen.methods
        ]
        methods = [name for name in PARTS[part].entries if not chosen.methods or name in chosen.methods]
        jobs += jobs_of(part, problems, [name for name in methods if name not in absent], chosen.seeds)
    missing = results.missing(jobs)
    say(f"{len(missing)} of {len(jobs)} results are missing")
    began = time.perf_counter()
    for done, result in enumerate(run(missing, chosen.jobs), 1):
        results.add(result)
        said = result.error or ", ".join(f"{name} {figure:.4f}" for name, figure in result.figures.items())
        took = time.perf_counter() - began
        say(f"{done}/{len(missing)} in {took:.0f} s  {' '.join(map(str, result.key))}: {said}")
    for note in notes:
        say(note)
    keys = {job.key for job in jobs}
    ablation = json.loads(chosen.ablation.read_bytes()) if chosen.ablation.exists() else None
    write([result for result in results.results if result.key in keys], notes, chosen.page, chosen.json, ablation)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--data", type=Path, default=DATA, help="folder to search (default: ../shared/data beside the checkout)")
    add("--parts", nargs="+", choices=list(PARTS), help="what to compare on (default: all that has data)")
    add("--only", nargs="+", help="problems whose names contain one of these")
    add("--methods", nargs="+", choices=sorted({name for part in PARTS.values() for name in part.entries}))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--jobs", type=int, default=1, help="processes, of one thread each")
    add("--again", nargs="+", default=[], help="methods whose results are dropped first, such as those that changed")
    add("--results", type=Path, default=HERE / "results" / "quality" / "results.jsonl")
    add("--page", type=Path, default=HERE / "QUALITY.md")
    add("--ablation", type=Path, default=HERE / "results" / "ablation.json", help="what benchmarks.ablation reported")
    add("--json", type=Path, help="also write the figures to this file")
    return made


def write(
    results: Sequence[Any], notes: Sequence[str], page: Path, file: Path | None, ablation: dict[str, Any] | None = None
) -> None:
    """The page, with its diagrams beside it, and the figures."""
    summary = summarise(results)
    plots: dict[tuple[str, str], str] = {}
    for part, figure in (("tables", "auroc"), ("tables", "ap")):
        ranking = summary[part]["rankings"][figure] if part in summary else None
        if ranking is not None and len(ranking.mean_ranks) > 2 and ranking.sets > 1:
            plots[part, figure] = f"results/quality/{part}_{figure}.png"
            titles = {name: PARTS[part].entries[name].title for name in ranking.mean_ranks}
            draw_ranks(ranking, titles, page.parent / plots[part, figure], bold=OURS)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(summary, machine(), plots, notes, ablation), encoding="utf-8")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = _plain({"measured_on": machine(), **summary})
        file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(content: object) -> object:
    """What JSON can hold: null for numbers that are none, or without end."""
    if is_dataclass(content) and not isinstance(content, type):
        return _plain(asdict(content))
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def machine() -> str:
    """Processor and libraries, for people."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}, {libraries}"


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
