"""Settings: precedence, refusals that name source, key and remedy, and nothing secret printed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from transport.settings import SECRETS
from worker.configuration import Configuration, configure
from worker.errors import SettingsRefused
from worker.settings import settings, settings_table


def configured(*flags: str, environment: dict[str, str] | None = None) -> Configuration:
    return configure(["--input-topics", "payments", *flags], environment or {})


def refusal(*flags: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsRefused) as caught:
        configured(*flags, environment=environment)
    return str(caught.value)


def test_a_flag_wins_over_a_variable_a_variable_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('retry_max_s = 7\ncommit_interval_s = 7\n[http]\nport = 7\n[kafka]\nclient_id = "file"\n')
    environment = {"OFFBEAT_CONFIG": str(file), "OFFBEAT_HTTP__PORT": "8", "OFFBEAT_COMMIT_INTERVAL_S": "8"}

    configuration = configured("--http.port", "9", environment=environment)

    assert configuration.settings.http.port == 9
    assert configuration.settings.commit_interval_s == 8
    assert configuration.settings.retry_max_s == 7
    assert configuration.settings.kafka.client_id == "file"
    assert configuration.settings.kafka.bootstrap_servers == "127.0.0.1:9092"
    assert configuration.origins[("http", "port")] == "flag --http.port"
    assert configuration.origins[("commit_interval_s",)] == "environment OFFBEAT_COMMIT_INTERVAL_S"
    assert configuration.origins[("retry_max_s",)] == f"file {file}"


def test_the_config_flag_wins_over_the_config_variable(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text("max_batch_records = 11")

    configuration = configured("--config", str(tmp_path / "one.toml"), environment={"OFFBEAT_CONFIG": "missing.toml"})

    assert configuration.settings.max_batch_records == 11


def test_several_input_topics_come_from_commas_or_a_list(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('input_topics = ["a", "b"]')

    assert configure(["--input-topics", "a, b"], {}).settings.input_topics == ("a", "b")
    assert configure([], {"OFFBEAT_INPUT_TOPICS": "a,b"}).settings.input_topics == ("a", "b")
    assert configure(["--config", str(file)], {}).settings.input_topics == ("a", "b")


def test_public_keys_of_models_come_from_commas_and_a_private_one_is_refused_at_the_start(tmp_path: Path) -> None:
    from detector import write_key_pair
    from worker.service import trusted_keys

    old, new = write_key_pair(tmp_path / "old"), write_key_pair(tmp_path / "new")

    both = trusted_keys(configured("--model-public-key", f"{old},{new}").settings)

    assert both is not None
    assert len(set(both.fingerprints)) == 2
    assert trusted_keys(configured().settings) is None
    with pytest.raises(SettingsRefused, match=r"model_public_key: .*belongs to the trainer alone"):
        trusted_keys(configured(environment={"OFFBEAT_MODEL_PUBLIC_KEY": str(tmp_path / "old")}).settings)


def test_topics_of_alerts_and_dead_letters_are_named_after_the_first_input() -> None:
    chosen = configured().settings

    assert (chosen.alerts_to, chosen.dead_letters_to, chosen.score_topic) == ("payments.alerts", "payments.dlq", None)


def test_a_misspelled_flag_stops_the_start_with_the_flag_that_was_meant() -> None:
    assert "--comit-interval-s" in (message := refusal("--comit-interval-s", "3"))
    assert "did you mean --commit-interval-s?" in message


@pytest.mark.parametrize("flags", [["--kafka.sasl-pasword", "hunter2"], ["--kafka.sasl-pasword=hunter2"]])
def test_what_follows_a_misspelled_flag_is_not_repeated_for_it_may_be_a_password(flags: list[str]) -> None:
    message = refusal(*flags)

    assert "did you mean --kafka.sasl-password?" in message
    assert "hunter2" not in message


def test_what_stands_between_flags_is_not_repeated_for_it_may_be_the_rest_of_a_password() -> None:
    message = refusal("--kafka.sasl-password", "hunter2", "and", "more")

    assert "put values with spaces in quotes" in message
    assert "more" not in message.replace("for more", "")
    assert "hunter2" not in message


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_is_also_a_setting_for_a_file_by_flag_variable_and_key(name: str, tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(f'[kafka]\n{name}_file = "from-file"\n')
    protocol = {"OFFBEAT_KAFKA__SECURITY_PROTOCOL": "SASL_SSL"}
    who = {
        "ssl_password": {"OFFBEAT_KAFKA__SASL_MECHANISM": "PLAIN", "OFFBEAT_KAFKA__SASL_USERNAME": "me"},
        "sasl_password": {"OFFBEAT_KAFKA__SASL_MECHANISM": "PLAIN", "OFFBEAT_KAFKA__SASL_USERNAME": "me"},
        "sasl_oauth_client_secret": {
            "OFFBEAT_KAFKA__SASL_MECHANISM": "OAUTHBEARER",
            "OFFBEAT_KAFKA__SASL_OAUTH_TOKEN_URL": "https://id.example.org/token",
            "OFFBEAT_KAFKA__SASL_OAUTH_CLIENT_ID": "me",
        },
    }[name]
    if name == "ssl_password":
        who["OFFBEAT_KAFKA__SASL_PASSWORD"] = "another"
    environment = protocol | who
    variable = {f"OFFBEAT_KAFKA__{name.upper()}_FILE": "from-variable"}
    flag = f"--kafka.{name.replace('_', '-')}-file"

    given = [
        configured("--config", str(file), environment=environment),
        configured("--config", str(file), environment=environment | variable),
        configured("--config", str(file), flag, "from-flag", environment=environment | variable),
    ]

    assert [getattr(each.settings.kafka, f"{name}_file") for each in given] == [
        "from-file",
        "from-variable",
        "from-flag",
    ]
    both = refusal(environment=environment | variable | {f"OFFBEAT_KAFKA__{name.upper()}": "hunter2"})
    assert f"{name} and {name}_file are both set" in both
    assert "hunter2" not in both


def test_a_flag_is_never_guessed_from_its_beginning() -> None:
    assert "--commit-int" in refusal("--commit-int", "3")


def test_a_misspelled_variable_stops_the_start_with_the_variable_that_was_meant() -> None:
    message = refusal(environment={"OFFBEAT_KAFKA__BOOTSTRAP_SERVER": "broker:9092"})

    assert message.startswith("environment OFFBEAT_KAFKA__BOOTSTRAP_SERVER: ")
    assert "did you mean OFFBEAT_KAFKA__BOOTSTRAP_SERVERS?" in message


def test_one_underscore_instead_of_two_stops_the_start() -> None:
    assert "did you mean OFFBEAT_HTTP__PORT?" in refusal(environment={"OFFBEAT_HTTP_PORT": "9000"})


def test_variables_that_kubernetes_adds_for_a_service_named_offbeat_are_not_ours() -> None:
    configured(
        environment={
            "OFFBEAT_SERVICE_HOST": "10.0.0.1",
            "OFFBEAT_SERVICE_PORT": "9464",
            "OFFBEAT_WORKER_SERVICE_PORT_METRICS": "9464",
            "OFFBEAT_PORT": "tcp://10.0.0.1:9464",
            "OFFBEAT_PORT_9464_TCP": "tcp://10.0.0.1:9464",
            "OFFBEAT_PORT_9464_TCP_ADDR": "10.0.0.1",
        }
    )


@pytest.mark.parametrize(
    ("content", "key", "meant"),
    [
        ("comit_interval_s = 1", "comit_interval_s", "commit_interval_s"),
        ("[http]\nprt = 1", "http.prt", "http.port"),
        ("[htpp]\nport = 1", "htpp.port", "http.port"),
    ],
)
def test_a_misspelled_key_in_the_file_stops_the_start(tmp_path: Path, content: str, key: str, meant: str) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(content)

    message = refusal("--config", str(file))

    assert message.startswith(f"file {file}: {key}: ")
    assert f"did you mean {meant}?" in message


@pytest.mark.parametrize("content", [None, b"\xff", b"= 1"])
def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "worker.toml"
    if content is not None:
        file.write_bytes(content)

    assert refusal("--config", str(file)).startswith(f"file {file}: cannot be read as TOML")


def test_a_value_of_the_wrong_kind_is_refused_with_its_source_and_value() -> None:
    assert refusal("--http.port", "x").startswith("flag --http.port: http.port: ")
    assert "(it is 'x')" in refusal(environment={"OFFBEAT_HTTP__PORT": "x"})


def test_a_missing_input_topic_names_the_three_ways_to_give_it() -> None:
    with pytest.raises(SettingsRefused, match=r"--input-topics, OFFBEAT_INPUT_TOPICS, or input_topics in the file"):
        configure([], {})


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--publish-timeout-s", "290"], "publish_timeout_s (290)"),
        (["--retry-initial-s", "20"], "retry_initial_s (20)"),
        (["--heartbeat-interval-s", "20"], "heartbeat_interval_s (20)"),
        (["--session-timeout-s", "400"], "session_timeout_s (400)"),
        (["--alert-topic", "payments"], "alert_topic (payments)"),
        (["--dead-letter-topic", "payments"], "dead_letter_topic (payments)"),
        (["--score-topic", "payments.dlq"], "score_topic (payments.dlq)"),
        (["--input-topics", "payments,payments"], "names a topic twice"),
        (["--kafka.sasl-username", "me"], "security_protocol"),
        (["--group-instance-id", "worker 1"], "group_instance_id"),
        (["--poll-timeout-s", "61"], "poll_timeout_s"),
        (["--poll-timeout-s", "50", "--max-poll-interval-s", "45"], "poll_timeout_s (50)"),
    ],
)
def test_settings_that_contradict_each_other_stop_the_start(flags: list[str], named: str) -> None:
    assert named in refusal(*flags)


def test_secrets_are_printed_as_stars_and_never_repeated_in_a_refusal() -> None:
    secrets = {
        "OFFBEAT_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "OFFBEAT_KAFKA__SASL_MECHANISM": "PLAIN",
        "OFFBEAT_KAFKA__SASL_USERNAME": "me",
        "OFFBEAT_KAFKA__SASL_PASSWORD": "hunter2",
    }

    text = configured(environment=secrets).to_toml()

    assert 'sasl_password = "****"  # environment OFFBEAT_KAFKA__SASL_PASSWORD' in text
    assert "hunter2" not in text
    assert "hunter2" not in refusal(environment={**secrets, "OFFBEAT_KAFKA__SASL_MECHANISM": "nonsense"})


def test_the_printed_settings_are_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    before = configured("--kafka.client-id", 'a "quoted" \\ name', "--score-topic", "scores", "--http.port", "0")
    file = tmp_path / "worker.toml"
    file.write_text(before.to_toml())

    after = configure(["--config", str(file)], {}).settings

    assert after.model_copy(update={"alert_topic": None, "dead_letter_topic": None}) == before.settings
    assert tomllib.loads(file.read_text())["alert_topic"] == "payments.alerts"


def test_every_setting_says_what_turning_it_does() -> None:
    assert [setting.key for setting in settings() if len(setting.field.description or "") < 10] == []


def test_every_setting_is_a_row_of_the_table() -> None:
    rows = settings_table().splitlines()[2:]

    assert [row.split("|")[1].strip(" `") for row in rows] == [setting.key for setting in settings()]
    assert "| `input_topics` | required |" in settings_table()
