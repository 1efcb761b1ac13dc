"""The command: inject faults into workers and brokers while records flow, and check what came of every record.

    python -m benchmarks.chaos --seed 1 --times 20 --records 1000000 --json benchmarks/results/chaos.json

Each fault has a cluster, topics and workers of its own. With --json the file is written after each fault, and a run
that was stopped goes on with those that are missing. Exits with 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.checker import Promise
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.pool import run_all
from benchmarks.chaos.runs import FIGURES, Job, Result, publish_models
from tests.kafka.broker import why_not
from worker.settings import WorkerSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and not done yet, and print the table; the exit code."""
    chosen = parser().parse_args(arguments)
    if missing := why_not():
        sys.exit(missing)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # brokers and workers end with us
    rows: list[dict[str, Any]] = read_rows(chosen.json)
    with tempfile.TemporaryDirectory(prefix="offbeat-chaos-models-") as models:
        jobs = jobs_of(chosen, Path(models), rows)
        if jobs:
            _say("fitting the detector of the recording")
            publish_models(Path(models))
        for done, result in enumerate(run_all(jobs, chosen.jobs), 1):
            rows.append(result.figures())
            write_rows(chosen.json, rows)
            _say(f"{done}/{len(jobs)} {_in_words(result)}")
    Console(width=140).print(table(rows))
    return 1 if any(row["lost"] or row.get("violations") for row in rows) else 0


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--faults", type=lambda text: text.split(","), default=list(FAULTS), help=f"of {', '.join(FAULTS)}; all")
    add("--delivery", type=lambda text: text.split(","), help="at_least_once, exactly_once, or both with a comma; all")
    add("--times", type=int, default=3, help="how often to inject each fault (default: %(default)s)")
    add("--records", type=int, default=60_000, help="how many records to send in all (default: %(default)s)")
    add("--workers", type=int, default=2, help="how many workers share the input (default: %(default)s)")
    add("--jobs", type=int, default=1, help="how many faults to run side by side (default: %(default)s)")
    add("--seed", type=int, default=1, help="decides when what happens to whom (default: %(default)s)")
    add("--logs", type=Path, help="keep all logs below this directory")
    add("--json", type=Path, help="write a row for each fault to this file; those in it already are not run again")
    return made


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows as a table for people."""
    made = Table(*(name.replace("_", " ") for name in FIGURES), "broken promises", title="Faults")
    for row in rows:
        figures = [f"{row[name]:,}" if isinstance(row[name], (int, float)) else str(row[name]) for name in FIGURES]
        made.add_row(*figures, str(len(row.get("violations", ()))))
    return made


def jobs_of(chosen: argparse.Namespace, models: Path, rows: Sequence[dict[str, Any]]) -> list[Job]:
    """What is asked for and has no row yet."""
    if unknown := set(chosen.faults) - FAULTS.keys():
        sys.exit(f"--faults {','.join(sorted(unknown))}: is no fault; there are {', '.join(FAULTS)}")
    deliveries: list[Promise] = chosen.delivery or _promises()
    done = {(row["fault"], row["delivery"]) for row in rows}
    wanted = [(fault, delivery) for delivery in deliveries for fault in chosen.faults]
    records = -(-chosen.records // len(wanted))
    return [
        Job(
            fault, delivery, chosen.times, records, chosen.seed, chosen.workers, models,
            None if chosen.logs is None else chosen.logs / delivery / fault,
        )
        for fault, delivery in wanted
        if (fault, delivery) not in done
    ]  # fmt: skip


def _promises() -> list[Promise]:
    return ["at_least_once", "exactly_once"] if "delivery" in WorkerSettings.model_fields else ["at_least_once"]


def read_rows(file: Path | None) -> list[dict[str, Any]]:
    """The rows of a results file; none where there is no file."""
    if file is None or not file.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(file.read_bytes())
    return rows


def write_rows(file: Path | None, rows: Sequence[dict[str, Any]]) -> None:
    """Replace a results file in one step, so that a run may be stopped at any moment."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".new")
        beside.write_text("[\n" + ",\n".join(" " + json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
        beside.replace(file)


def _in_words(result: Result) -> str:
    facts = [
        f"{result.fault} ({result.delivery}): {result.times} times, {result.records} records {result.outcomes}",
        f"lost {result.lost}, duplicated {result.duplicated}, longest gap {result.longest_gap_s} s",
        f"{result.restarts} workers restarted, {result.moved_entities} entities moved, {result.seconds} s",
    ]
    return "; ".join(facts) + "".join(f"\n  BROKEN: {violation}" for violation in result.violations)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
