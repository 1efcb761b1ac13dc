"""The arrows between the rooms, and what the detector must not know: read from the sources, nothing is imported."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What each room may import of ours.
ARROWS = {
    "transport": set[str](),
    "detector": set[str](),
    "trainer": {"detector", "transport"},
    "worker": {"detector", "transport"},
    "demo": {"detector", "transport", "trainer", "worker", "offbeat"},
    "offbeat": {"detector", "transport", "trainer", "worker", "demo"},
}

#: A detector that read these would give other verdicts elsewhere, or at another time.
FORBIDDEN_IN_DETECTOR = {"kafka", "prometheus_client", "time", "confluent_kafka", "aiokafka"}
CLOCK_CALLS = {"now", "utcnow", "today"}


def modules_of(room: str) -> list[Path]:
    return [ROOT / f"{room}.py"] if room == "offbeat" else sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Top-level package of every import in a module, wherever it stands; `os` members as os.member."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_imports_no_room_that_it_may_not_know(room: str) -> None:
    modules = modules_of(room)
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules
        for name in imported(path)
        if name in ARROWS and name != room and name not in ARROWS[room]
    ]

    assert modules, f"{room} has no module: is this test looking in the wrong place?"
    assert wrong == []


def test_the_detector_knows_no_broker_no_metrics_and_no_clock() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules_of("detector")
        for name in imported(path)
        if name in FORBIDDEN_IN_DETECTOR
    ]

    assert wrong == []


def test_the_detector_reads_no_environment_and_asks_no_clock() -> None:
    wrong = []
    for path in modules_of("detector"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} reads the environment")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} asks the clock")
        wrong += [f"{path}: {name}" for name in imported(path) if name in {"os.environ", "os.getenv"}]

    assert wrong == []


def test_what_the_trainer_computes_knows_nothing_of_its_command_line() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules_of("trainer")
        if path.parent.name != "commands"
        for name in imported(path)
        if name in {"typer", "rich"} or name.startswith("trainer.commands")
    ]

    assert wrong == []


def test_the_rooms_of_this_test_are_the_packages_of_the_project() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}

    assert packages == set(ARROWS) - {"offbeat"}


def test_every_folder_of_modules_in_a_room_is_installed() -> None:
    rooms = set(ARROWS) - {"offbeat"}
    folders = {path.parent.relative_to(ROOT) for room in rooms for path in (ROOT / room).rglob("*.py")}
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]

    assert sorted(installed) == sorted(".".join(folder.parts) for folder in folders)
