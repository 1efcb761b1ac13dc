"""The life of a worker process: waiting for a model, settings for the transport, commands and exit codes."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import typer
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from tests.fakes import FakeClock, FakeCluster
from tests.worker.bench import BenchClock, BenchStop, publish_models
from transport import Forbidden, missing_topics
from worker.commands import config_command, mount, print_help, setting_to_mend, status_command, work_command
from worker.errors import EXIT_CODES, NoModel, SettingsRefused
from worker.health import HealthServer
from worker.logs import log_to
from worker.metrics import WorkerMetrics
from worker.models import Models
from worker.service import check_topics, publisher_settings, source_settings, wait_for_model
from worker.settings import WorkerSettings
from worker.status import Status


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("OFFBEAT_")]:
        monkeypatch.delenv(name)


class Waiting:
    """What `wait_for_model` needs, on a clock that only moves when somebody waits."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.fake = FakeClock()
        self.clock = BenchClock(self.fake)
        self.settings = WorkerSettings.model_validate({"input_topics": ("payments",), "models": root, **settings})
        self.models = Models(root, None, clock=self.clock, metrics=WorkerMetrics(CollectorRegistry()))
        self.status = Status(self.clock, stall_limit_s=300, silence_limit_s=30)
        self.stop = BenchStop(self.fake, turns=10_000)

    def wait(self) -> str | None:
        model = wait_for_model(self.models, self.settings, status=self.status, stop=self.stop, clock=self.clock)
        return None if model is None else model.version


def test_a_worker_without_a_model_gives_up_after_its_limit(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path, model_wait_s=60)

    with pytest.raises(NoModel, match=r"model_wait_s \(60 s\)"):
        waiting.wait()

    assert 60 <= sum(waiting.stop.waits_s) < 62
    assert waiting.status.state == "waiting_for_model"
    assert waiting.status.why_not_live() == []


def test_a_model_that_comes_late_is_taken(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path / "models", model_wait_s=60)
    wait = waiting.stop.wait

    def wait_while_the_trainer_publishes(seconds: float) -> bool:
        if not (tmp_path / "models").exists():
            publish_models(tmp_path / "models")
        return wait(seconds)

    waiting.stop.wait = wait_while_the_trainer_publishes  # type: ignore[method-assign]

    assert waiting.wait() is not None
    assert waiting.status.model["name"] == "payments"


def test_a_wish_to_stop_ends_the_wait_for_a_model(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    waiting.stop.request()

    assert waiting.wait() is None


@pytest.mark.parametrize("setting", ["alert_topic", "dead_letter_topic", "score_topic"])
def test_a_missing_output_topic_is_told_before_anything_is_read(setting: str) -> None:
    settings = WorkerSettings.model_validate({"input_topics": ("payments",), setting: "misspelled"})
    cluster = FakeCluster({"payments": 1, "payments.alerts": 1, "payments.dlq": 1})

    with pytest.raises(SettingsRefused, match=f"{setting}: topic 'misspelled' does not exist"):
        check_topics(settings, missing_of=partial(missing_topics, connect=cluster.admin))


def test_all_missing_output_topics_are_told_at_once() -> None:
    settings = WorkerSettings(input_topics=("payments",))

    with pytest.raises(SettingsRefused, match=r"alert_topic: topic 'payments\.alerts' .*dead_letter_topic: topic"):
        check_topics(settings, missing_of=partial(missing_topics, connect=FakeCluster({"payments": 1}).admin))


def test_a_missing_input_topic_and_a_broker_that_is_away_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    settings = WorkerSettings(input_topics=("payments",))
    cluster = FakeCluster({"payments.alerts": 1, "payments.dlq": 1})
    missing_of = partial(missing_topics, connect=cluster.admin)

    check_topics(settings, missing_of=missing_of)
    cluster.away = True
    check_topics(settings, missing_of=missing_of)

    assert ["payments does not exist yet" in caplog.text, "waits for the broker" in caplog.text] == [True, True]


def test_settings_of_the_worker_reach_source_and_publisher(tmp_path: Path) -> None:
    settings = WorkerSettings.model_validate(
        {
            "input_topics": ("a", "b"),
            "models": tmp_path,
            "max_batch_records": 7,
            "commit_timeout_s": 3,
            "publish_timeout_s": 4,
            "compression": "zstd",
            "group_instance_id": "worker-1",
            "start_at": "latest",
        }
    )

    source, publisher = source_settings(settings, "g"), publisher_settings(settings)

    assert (source.topics, source.group_id, source.group_instance_id) == (("a", "b"), "g", "worker-1")
    assert (source.max_batch_records, source.commit_timeout_s, source.start_at) == (7, 3, "latest")
    assert (publisher.publish_timeout_s, publisher.compression) == (4, "zstd")


def test_a_wrong_setting_ends_the_process_with_1_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert work_command(["--http.port", "x"]) == 1
    assert "--http.port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("blamed", "message", "name"),
    [
        ("sasl_username", "the broker refused sasl_username and sasl_password", "kafka.sasl_username"),
        ("group_instance_id", "another member has the same", "group_instance_id"),
        ("topics", "could not read payments: no right to topic payments; grant it", "input_topics"),
        (
            "topics",
            "could not publish to topic 'payments.dlq': no right to topic payments.dlq; grant it",
            "dead_letter_topic",
        ),
        ("topics", "could not publish to topic 'odd': no right to topic odd; grant it", "alert_topic"),
    ],
)
def test_what_the_broker_forbids_is_told_with_the_name_of_a_setting_of_the_worker(
    blamed: str, message: str, name: str
) -> None:
    settings = WorkerSettings(input_topics=("payments",), alert_topic="odd")

    assert setting_to_mend(Forbidden(message, setting=blamed), settings) == name


def test_no_model_in_time_ends_the_process_with_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--input-topics", "t", "--models", str(tmp_path), "--model-wait-s", "0", "--http.port", "0"]

    assert work_command(arguments) == 1
    assert "no version of a detector could be loaded" in capfd.readouterr().err


def test_a_port_that_is_taken_ends_the_process_with_1_and_names_the_setting(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        assert work_command(["--input-topics", "t", "--models", str(tmp_path), "--http.port", port]) == 1

    assert f"http.port {port}" in capfd.readouterr().err


def test_help_lists_every_setting_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    print_help("offbeat work")

    text = capsys.readouterr().out
    assert "--kafka.bootstrap-servers" in text
    assert "--poison.max-consecutive" in text
    for code in EXIT_CODES:
        assert f"\n  {code} " in text


def test_the_commands_are_mounted(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    mount(app)
    runner = CliRunner()

    assert "--input-topics" in runner.invoke(app, ["work", "--help"]).output
    assert runner.invoke(app, ["config", "--input-topics", "a"]).output.startswith('input_topics = ["a"]  # flag')
    assert runner.invoke(app, ["config", "--inputs", "a"]).exit_code == 1
    assert "--url" in runner.invoke(app, ["status", "--help"]).output


def test_config_prints_where_each_value_comes_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFBEAT_INPUT_TOPICS", "a")

    assert config_command(["--http.port", "1"]) == 0

    text = capsys.readouterr().out
    assert 'input_topics = ["a"]  # environment OFFBEAT_INPUT_TOPICS' in text
    assert "port = 1  # flag --http.port" in text
    assert 'host = "127.0.0.1"  # default' in text


def test_status_shows_a_running_worker_and_says_whether_it_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    status = Status(BenchClock(), stall_limit_s=300, silence_limit_s=30, state="running", joined=True)
    status.model = {"name": "payments", "version": "v1"}
    status.counts = {"consumed": 5, "alert": 2}
    server = HealthServer("127.0.0.1", 0, registry=CollectorRegistry(), status=status)
    server.start()
    try:
        assert status_command(f"{server.address}/statusz", as_json=True) == 0
        capsys.readouterr()
        assert status_command(server.address, as_json=False) == 0
        text = capsys.readouterr().out
        status.state = "stopping"
        assert status_command(server.address, as_json=True) == 1
        assert json.loads(capsys.readouterr().out)["state"] == "stopping"
    finally:
        server.close()

    assert "payments v1" in text
    assert "5 consumed, 2 alert" in text


def test_status_of_a_worker_that_is_not_there_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]

    assert status_command(f"http://127.0.0.1:{port}", as_json=False) == 1
    assert status_command("file:///etc/passwd", as_json=False) == 1
    assert "no worker answers" in capsys.readouterr().err


def test_a_json_log_line_is_one_object_with_the_traceback_in_it() -> None:
    stream = StringIO()
    log_to(stream, level="info", form="json")

    try:
        int("two\nlines")
    except ValueError:
        logging.getLogger("x").exception("went %s", "wrong")

    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["level"], said["logger"], said["message"]) == ("error", "x", "went wrong")
    assert "ValueError: invalid literal" in said["traceback"]


def test_the_client_library_is_quiet_unless_debugging() -> None:
    stream = StringIO()
    log_to(stream, level="info", form="text")

    logging.getLogger("kafka.client").error("chatter")
    logging.getLogger("worker").info("ours")

    assert "chatter" not in stream.getvalue()
    assert "ours" in stream.getvalue()
