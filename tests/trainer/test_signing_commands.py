"""Signing from the command line: keys, versions, and a passphrase that is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import offbeat as front
from detector import Detector, ModelDirectory
from trainer.commands.signing import PASSPHRASE_VARIABLE, passphrase
from trainer.errors import DataFileError

SECRET = "correct horse battery"


def offbeat(*arguments: object, **environment: str) -> Result:
    cleared = {"OFFBEAT_MODELS": None, PASSPHRASE_VARIABLE: None, f"{PASSPHRASE_VARIABLE}_FILE": None}
    return CliRunner().invoke(front.app, [str(argument) for argument in arguments], env={**cleared, **environment})


@pytest.fixture
def models(tiny_detector: Detector, tmp_path: Path) -> Path:
    ModelDirectory(tmp_path / "models" / "payments").publish(tiny_detector)
    return tmp_path / "models"


def version_in(models: Path) -> str:
    return ModelDirectory(models / "payments").current() or ""


def test_a_version_is_signed_and_verified_and_one_that_is_not_is_refused(models: Path, tmp_path: Path) -> None:
    made = offbeat("models", "keygen", tmp_path / "key")
    verify = ("models", "verify", "--models", models, "--public-key", tmp_path / "key.pub")

    before = offbeat(*verify)
    signed = offbeat("models", "sign", version_in(models), "--key", tmp_path / "key", "--models", models)
    after = offbeat(*verify)

    assert [result.exit_code for result in (made, before, signed, after)] == [0, 1, 0, 0], signed.stderr
    assert "is not signed" in before.stderr
    assert "untampered, signed" in after.stdout


def test_calibrate_signs_the_new_version_and_only_on_a_version_that_this_key_signed(
    models: Path, tmp_path: Path
) -> None:
    offbeat("models", "keygen", tmp_path / "key")
    calibrate = ("calibrate", "--models", models, "--one-in", 10, "--sign-with", tmp_path / "key")

    unsigned = offbeat(*calibrate)
    offbeat("models", "sign", version_in(models), "--key", tmp_path / "key", "--models", models)
    signed = offbeat(*calibrate)

    assert (unsigned.exit_code, signed.exit_code) == (1, 0), signed.stderr
    assert len(ModelDirectory(models / "payments").versions()) == 2
    assert offbeat("models", "verify", "--models", models, "--public-key", tmp_path / "key.pub").exit_code == 0


def test_an_unsigned_version_is_not_promoted_where_a_key_is_named(models: Path, tmp_path: Path) -> None:
    offbeat("models", "keygen", tmp_path / "key")

    refused = offbeat("models", "promote", version_in(models), "--models", models, "--public-key", tmp_path / "key.pub")

    assert refused.exit_code == 1
    assert "is not signed" in refused.stderr


def test_a_passphrase_opens_the_key_and_is_shown_nowhere(models: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    sign = ("models", "sign", version_in(models), "--key", tmp_path / "key", "--models", models)

    results = [
        offbeat("models", "keygen", tmp_path / "key", **{PASSPHRASE_VARIABLE: SECRET}),
        offbeat(*sign),
        offbeat(*sign, **{PASSPHRASE_VARIABLE: "another one"}),
        offbeat(*sign, **{f"{PASSPHRASE_VARIABLE}_FILE": str(tmp_path / "secret")}),
    ]

    assert [result.exit_code for result in results] == [0, 2, 2, 0], results[-1].stderr
    assert f"set {PASSPHRASE_VARIABLE}" in results[1].stderr
    told = "".join(result.stdout + result.stderr for result in results)
    assert SECRET not in told
    assert "another one" not in told
    assert SECRET not in (tmp_path / "key").read_text()


def test_a_wrong_key_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "stream.toml").write_text("nonsense")
    (tmp_path / "key").write_text("no key")

    refused = offbeat(
        "train", tmp_path / "nowhere.csv", "--stream", tmp_path / "stream.toml", "--sign-with", tmp_path / "key"
    )

    assert refused.exit_code == 2
    assert "it is no private key in PEM" in refused.stderr


def test_a_passphrase_that_is_given_twice_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")

    assert passphrase({}) is None
    for environment in (
        {PASSPHRASE_VARIABLE: SECRET, f"{PASSPHRASE_VARIABLE}_FILE": "x"},
        {f"{PASSPHRASE_VARIABLE}_FILE": str(tmp_path / "nowhere")},
        {f"{PASSPHRASE_VARIABLE}_FILE": str(tmp_path / "empty")},
    ):
        with pytest.raises(DataFileError) as refused:
            passphrase(environment)
        assert SECRET not in str(refused.value)
