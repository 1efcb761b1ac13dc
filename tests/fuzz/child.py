"""One process of the coverage-guided fuzzer: instruments our code, then lets libFuzzer throw bytes at one target.

A broken promise does not end it: the input is written to the folder of findings, once for each place that breaks, and
it goes on. A crash of the process, a hang or too much memory do end it; libFuzzer writes the input then.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from pathlib import Path

ROOMS = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).resolve().parent / "corpus"


def compiled_modules() -> list[str]:
    """Our modules that are compiled for the machine, and so can't be looked into."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((ROOMS / "detector").rglob("*.py"))}
    compiled = [path for path, text in texts.items() if "@compiled" in text or "@inlined" in text]
    return [".".join(path.relative_to(ROOMS).with_suffix("").parts) for path in compiled]


def place_of(error: BaseException) -> str:
    """Where an error came from: its kind, and the last lines of ours on the way to it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in frames
        if ROOMS in Path(frame.filename).parents and "site-packages" not in frame.filename
    ]
    return f"{type(error).__name__} at {' < '.join(reversed(ours[-2:]))}"


def main(target: str, findings: Path, options: list[str]) -> None:
    """Fuzz until libFuzzer's time is up."""
    import atheris
    import torch

    rooms = {"include": ["detector", "worker"], "exclude": compiled_modules()}
    with atheris.instrument_imports(**rooms, enable_loader_override=False):
        from tests.fuzz.targets import TARGETS, seeds
    torch.set_num_threads(1)
    run, seen = TARGETS[target], set[str]()
    begin = seeds(target) + [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]

    def one(data: bytes) -> None:
        try:
            run(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it breaks a promise
            place = place_of(error)
            if place not in seen:
                seen.add(place)
                (findings / f"{target}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
                sys.stderr.write(f"\nFINDING {place}: {str(error)[:300]!r}\n")

    for number, seed in enumerate(begin):  # once before the clock runs: what is imported or compiled late is there then
        one(seed)
        Path(options[-1], f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
