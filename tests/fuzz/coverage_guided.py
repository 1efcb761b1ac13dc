"""The coverage-guided fuzzer: `python -m tests.fuzz.coverage_guided --seconds 600 --json FILE`, or `make fuzz`.

Each target runs in a process of its own, so that a crash of it is one more finding. Needs the extra `fuzz` (atheris).
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
NAMES = ("decoder", "definition", "artifact", "blocks")
_STATUS = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+)")
_MOST_DEATHS = 10


@dataclass
class Tally:
    """What came of fuzzing one target."""

    executions: int = 0
    seconds: float = 0.0
    edges: int = 0
    features: int = 0
    findings: list[str] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)


def fuzz(target: str, seconds: float, findings: Path, *, timeout_s: int, memory_mb: int) -> Tally:
    """Fuzz one target for so long; inputs that break something are written to `findings`."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as generated:
        while tally.seconds < seconds and len(tally.deaths) < _MOST_DEATHS:
            began = time.monotonic()
            child = subprocess.run(
                [sys.executable, "-m", "tests.fuzz.child", target, str(findings),
                 f"-max_total_time={max(1, round(seconds - tally.seconds))}", f"-timeout={timeout_s}",
                 f"-rss_limit_mb={memory_mb}", "-max_len=20000", f"-artifact_prefix={findings / target}-",
                 generated],
                capture_output=True, text=True, errors="replace", check=False,
            )  # fmt: skip
            tally.seconds += time.monotonic() - began
            _read(child, tally)
    return tally


def _read(child: subprocess.CompletedProcess[str], tally: Tally) -> None:
    status = [tuple(map(int, found)) for found in _STATUS.findall(child.stderr)]
    if status:
        tally.executions += status[-1][0]
        tally.edges = max(tally.edges, *(edges for _, edges, _ in status))
        tally.features = max(tally.features, *(features for _, _, features in status))
    tally.findings += [line for line in re.findall(r"FINDING (.*)", child.stderr) if line not in tally.findings]
    if child.returncode:
        told = re.findall(r"ERROR: libFuzzer: (.*)|^(\w*Error.*)", child.stderr, re.MULTILINE)
        tally.deaths.append(" ".join(told[-1]).strip() if told else f"exit code {child.returncode}")
        if not status:
            sys.stderr.write(child.stderr[-2000:])


def main() -> int:
    """Fuzz the targets one after the other, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(NAMES), help=f"of {', '.join(NAMES)}; all unless given")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--timeout", type=int, default=10, help="seconds that one input may take")
    parser.add_argument("--memory", type=int, default=2048, help="megabytes that the process may take")
    parser.add_argument("--findings", type=Path, default=Path("out/fuzz"), help="where inputs that break something go")
    parser.add_argument("--json", type=Path, help="where to write the counts")
    given = parser.parse_args()
    given.findings.mkdir(parents=True, exist_ok=True)
    results = []
    for target in given.targets:
        tally = fuzz(target, given.seconds, given.findings.resolve(), timeout_s=given.timeout, memory_mb=given.memory)
        mended = len(list((CORPUS / target).glob("*"))) if (CORPUS / target).is_dir() else 0
        results.append({"target": target, **vars(tally), "seconds": round(tally.seconds, 1), "mended": mended})
        sys.stdout.write(
            f"{target}: {tally.executions:,} executions in {tally.seconds:.0f} s, {tally.edges:,} edges, "
            f"{len(tally.findings)} findings, {len(tally.deaths)} deaths; {mended} mended before\n"
        )
        for line in (*tally.findings, *tally.deaths):
            sys.stdout.write(f"  {line}\n")
        sys.stdout.flush()
    if given.json is not None:
        content = {"python": platform.python_version(), "machine": platform.machine(), "targets": results}
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 1 if any(result["findings"] or result["deaths"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
