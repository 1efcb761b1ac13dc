"""What the documentation shows is true: its commands are taken, its examples run, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import typer.main

import offbeat
import worker.dead_letters
from detector import RejectReason, StreamDefinition
from detector.stream import (
    CategoryFeature,
    HistoryFeature,
    HistorySetting,
    ImageFeature,
    LabelField,
    NumberFeature,
    Statistic,
    ThresholdSetting,
    TimeFeature,
    TimeField,
)
from detector.suppression_rules import SUPPRESSION_RULES
from tests.deploy.commands import assert_accepted
from tests.deploy.files import ROOT, alert_rules, tool
from worker.alerts import Alert
from worker.dead_letters import NON_FINITE_SCORE
from worker.docs import with_tables
from worker.errors import EXIT_CODES

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
NOT_OURS = ("docker compose", "pip install", "kafka-consumer-groups.sh", "kafka-topics.sh")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def shown_commands() -> list[str]:
    """Every line of the shell blocks, without comments and redirections."""
    lines = [line for page in PAGES for block in blocks(page.read_text("utf-8"), "sh") for line in block.splitlines()]
    return sorted({re.split(r" +[#>]", line)[0].strip() for line in lines if not line.startswith("#")} - {""})


def mentioned_commands() -> list[str]:
    """Every `offbeat ...` within a sentence."""
    prose = (re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE) for page in PAGES)
    return sorted({span for text in prose for span in re.findall(r"`(offbeat [a-z][^`]*)`", text)})


@pytest.mark.parametrize("line", shown_commands())
def test_a_command_that_is_shown_is_one_that_works(line: str) -> None:
    program, *words = line.split()

    if program == "offbeat":
        assert_accepted(words)
    elif program == "make":
        made = subprocess.run(
            [tool("make", "make"), "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
    else:
        assert line.startswith(NOT_OURS), f"nothing here says whether {line!r} works"


@pytest.mark.parametrize("span", mentioned_commands())
def test_a_command_and_its_options_that_are_mentioned_exist(span: str) -> None:
    words = [word for word in span.split()[1:] if not word.isupper()]
    found: Any = typer.main.get_command(offbeat.app)
    commands: dict[str, Any] = {}
    for word in words:
        if not hasattr(found, "get_command"):
            break  # what follows a command's name are its arguments
        commands = {name: found.get_command(None, name) for name in word.split("|")}
        found = next(iter(commands.values()))

    assert [name for name, command in commands.items() if command is None] == []
    for command in commands.values():
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_the_example_for_python_gives_the_odd_record_the_highest_score() -> None:
    example, _ = blocks(text_of("README.md"), "python")
    names: dict[str, Any] = {}

    exec(example, names)

    assert names["scores"].shape == (4,)
    assert int(np.argmax(names["scores"])) == 3
    assert names["scores"][3] > names["detector"].threshold.value > names["scores"][:3].max()


def test_the_example_for_a_file_of_records_scores_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, example = blocks(text_of("README.md"), "python")
    records = np.vstack([np.random.default_rng(0).normal(size=(2000, 4)), np.full((3, 4), 6.0)])
    np.savez(tmp_path / "28_pendigits.npz", X=records, y=np.arange(2003) >= 2000)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    exec(example, names)

    assert len([line for line in example.splitlines() if line]) == 5
    assert set(np.argsort(names["scores"])[-3:]) == {2000, 2001, 2002}


@pytest.mark.parametrize("page", ["README.md", "docs/stream.md"])
def test_a_stream_definition_that_is_shown_is_one_that_loads(page: str) -> None:
    examples = [StreamDefinition.from_toml(example) for example in blocks(text_of(page), "toml")]

    assert {feature.kind for feature in examples[0].feature} == {"number", "category", "time", "history"}
    assert all([feature.kind for feature in stream.feature] == ["image"] or stream.suppress for stream in examples[1:])
    assert [StreamDefinition.from_toml(stream.to_toml()) for stream in examples] == examples


@pytest.mark.parametrize(
    "model",
    [
        StreamDefinition,
        TimeField,
        LabelField,
        ThresholdSetting,
        HistorySetting,
        NumberFeature,
        CategoryFeature,
        TimeFeature,
        HistoryFeature,
        ImageFeature,
    ],
    ids=lambda model: model.__name__,
)
def test_every_key_of_the_stream_definition_is_documented(model: Any) -> None:
    tables = {"time", "label", "threshold", "history"}
    rows = set(re.findall(r"^\| `(\w+)` \|", text_of("docs/stream.md"), re.MULTILINE))

    assert set(model.model_fields) - tables <= rows


@pytest.mark.parametrize("rule", SUPPRESSION_RULES)
def test_every_rule_of_suppression_and_its_keys_are_documented(rule: str) -> None:
    section = text_of("docs/stream.md").partition("### `[[suppress]]`")[2].partition("### `[history]`")[0]
    keys = set(SUPPRESSION_RULES[rule].model_fields) - {"rule"}

    assert f"| `{rule}` |" in section
    assert {key for key in keys if f"`{key}`" not in section} == set()


def test_every_statistic_of_a_history_is_documented_and_no_other() -> None:
    tables = text_of("docs/stream.md").partition("**Statistics of numbers")[2].partition("**Priors.**")[0]
    firsts = re.findall(r"^\| (`.+?`) \|", tables, re.MULTILINE)
    documented = [name for first in firsts for name in re.findall(r"`(\w+)`", first) if name != "statistic"]

    assert sorted(documented) == sorted(get_args(Statistic))


def test_every_reason_of_a_dead_letter_is_documented() -> None:
    assert {str(reason) for reason in RejectReason} <= set(re.findall(r"`(\w+)`", text_of("docs/stream.md")))
    assert f"`{NON_FINITE_SCORE}`" in text_of("README.md")


def test_every_header_of_a_dead_letter_is_documented_and_no_other() -> None:
    source = Path(worker.dead_letters.__file__).read_text(encoding="utf-8")

    assert set(re.findall(r"`(dlq\.[a-z._]+)`", text_of("README.md"))) == set(
        re.findall(r'"(dlq\.[a-z._]+[a-z])"', source)
    )


def test_the_alert_that_is_shown_is_an_alert() -> None:
    (example,) = blocks(text_of("README.md"), "json")

    alert = msgspec.json.decode(example, type=Alert)

    assert list(msgspec.json.decode(example)) == list(Alert.__struct_fields__)
    assert sum(part.contribution for part in alert.contributions) + alert.others == pytest.approx(1, abs=0.01)
    assert alert.score_ratio == pytest.approx(alert.score / alert.threshold, rel=1e-3)


def test_the_tables_of_settings_and_metrics_are_those_of_the_code() -> None:
    assert with_tables(text_of("README.md")) == text_of("README.md"), "run: make docs"


def test_every_alert_rule_has_its_section_in_the_runbook_and_no_section_is_without_a_rule() -> None:
    alerts = text_of("docs/operations.md").partition("\n## Alerts\n")[2].partition("\n## ")[0]

    assert re.findall(r"^### (\w+)$", alerts, re.MULTILINE) == list(alert_rules())
    for name, rule in alert_rules().items():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        assert {"summary", "description"} <= set(rule["annotations"])
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_every_exit_code_is_documented_and_no_other() -> None:
    table = text_of("docs/operations.md").partition("\n## Exit codes\n")[2]
    codes = {int(code) for cell in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in cell.split(",")}

    assert codes == set(EXIT_CODES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_decision_is_in_the_index() -> None:
    pages = {path.name for path in (ROOT / "docs" / "decisions").glob("0*.md")}

    assert pages == set(re.findall(r"\((0[\w-]+\.md)\)", text_of("docs/decisions/README.md")))
