"""A training that several processes share: what one gives, and an end for all where one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from typer.testing import CliRunner

import offbeat
from detector import Detector, ModelDirectory
from tests.images import STREAM, discs, write_idx
from tests.trainer.conftest import payments
from tests.trainer.payments import write_jsonl
from trainer.errors import ProcessError
from trainer.processes import ALONE, Processes, choose_device, joined

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "offbeat"]


def arguments(directory: Path, models: Path, *more: object) -> list[str]:
    words = ["train", directory / "payments.jsonl", "--stream", directory / "stream.toml", "--models", models,
             "--device", "cpu", *more]  # fmt: skip
    return [str(word) for word in words]


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen[str], timeout_s: float = 200.0) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return process.returncode, out, err


def the_detector(models: Path, name: str = "payments") -> Detector:
    directory = ModelDirectory(models / name)
    (version,) = directory.versions()
    return directory.load(version)


def test_two_processes_give_what_one_gives_and_the_first_alone_speaks_and_publishes(
    payments_dir: Path, tmp_path: Path
) -> None:
    more = ("--steps", 150, "--checkpoint", tmp_path / "checkpoint", "--checkpoint-every", 0)
    two = finished(start([*TORCHRUN, *arguments(payments_dir, tmp_path / "two", *more)]))
    one = CliRunner().invoke(offbeat.app, arguments(payments_dir, tmp_path / "one", *more))

    assert (two[0], one.exit_code) == (0, 0), two[2] + one.output
    shared, alone = the_detector(tmp_path / "two"), the_detector(tmp_path / "one")
    weights = alone.scorer.network.state_dict()
    for name, weight in shared.scorer.network.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=1e-4)
    assert shared.threshold.value == pytest.approx(alone.threshold.value, rel=1e-3)
    assert np.allclose(shared.facts["losses"], alone.facts["losses"], rtol=1e-3)
    assert (shared.facts["training"]["processes"], alone.facts["training"]["processes"]) == (2, 1)
    assert two[1].count("published payments") == 1
    assert "CPU, 2 processes" in two[1]
    assert two[2].count("setting the threshold") == 1
    assert not (tmp_path / "checkpoint").exists()


def test_two_processes_train_on_images_what_one_trains(tmp_path: Path) -> None:
    write_idx(tmp_path / "discs-images-idx3-ubyte", discs(150))
    (tmp_path / "stream.toml").write_text(STREAM.to_toml(), encoding="utf-8")
    words = ["train", str(tmp_path / "discs-images-idx3-ubyte"), "--stream", str(tmp_path / "stream.toml"),
             "--device", "cpu", "--steps", "50", "--models"]  # fmt: skip

    two = finished(start([*TORCHRUN, *words, str(tmp_path / "two")]))
    one = CliRunner().invoke(offbeat.app, [*words, str(tmp_path / "one")])

    assert (two[0], one.exit_code) == (0, 0), two[2] + one.output
    shared, alone = (the_detector(tmp_path / count, "discs") for count in ("two", "one"))
    assert np.allclose(shared.facts["losses"], alone.facts["losses"], rtol=1e-3)
    assert (shared.facts["training"]["processes"], alone.facts["training"]["processes"]) == (2, 1)
    assert two[1].count("published discs") == 1


def test_a_refusal_ends_all_processes_with_its_reason(payments_dir: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "payments.jsonl", payments(12))
    (tmp_path / "stream.toml").write_text((payments_dir / "stream.toml").read_text())

    code, _, err = finished(start([*TORCHRUN, *arguments(tmp_path, tmp_path / "models")]))

    assert code != 0
    assert "12 normal records of 12" in err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_takes_the_others_along(payments_dir: Path, tmp_path: Path, victim: int) -> None:
    command = arguments(
        payments_dir, tmp_path / "models", "--steps", 10**7, "--checkpoint", tmp_path / "c", "--checkpoint-every", 0
    )
    # Patience is a matter of looks: this training would end by itself, but not within the minute that is given here.
    process = start([*TORCHRUN, *command])
    children: list[psutil.Process] = []
    until = time.monotonic() + 120
    while time.monotonic() < until and not (tmp_path / "c").exists():
        assert process.poll() is None, finished(process)[2]
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    ranked = {child.environ().get("RANK"): child for child in children}

    ranked[str(victim)].send_signal(signal.SIGKILL)

    assert finished(process, 60)[0] != 0
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_the_shares_of_all_processes_are_the_whole() -> None:
    for count in (1, 2, 3, 7):
        for rows in (0, 1, 5, 512):
            parts = [range(rows)[Processes(rank, count).share(rows)] for rank in range(count)]
            assert [row for part in parts for row in part] == list(range(rows))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_that_torchrun_did_not_start_is_alone() -> None:
    with joined("cpu") as (processes, device):
        assert processes == ALONE
        assert device == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
def test_cuda_that_is_not_there_is_refused_and_auto_takes_the_cpu() -> None:
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ProcessError, match=r"torch sees no CUDA device: install a driver .* or take --device cpu"):
        choose_device("cuda")
