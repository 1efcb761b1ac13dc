"""Training of any network: what stops it, that it repeats itself, and that an interruption leaves no trace."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from detector import DenoisingAutoencoder, TrainingDataError
from tests.trainer.killed_training import HELD_OUT, MATRIX, SETTINGS, network
from trainer.checkpoints import Checkpoints
from trainer.errors import CheckpointError
from trainer.training import TrainingResult, TrainingSettings, one_cycle, train

ROOT = Path(__file__).parents[2]


class Mean(nn.Module):
    """The smallest network that can be trained: it learns the mean of the rows."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.full((2,), start))

    def training_loss(self, rows: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        return (rows[share] - self.mean).square().mean(dim=1).sum()

    def validation_loss(self, rows: Tensor) -> Tensor:
        return (rows - self.mean).square().mean(dim=1).sum()


def quick(**changes: object) -> TrainingSettings:
    return TrainingSettings(**{"most_steps": 200, "check_every": 10, "batch_records": 64, **changes})  # type: ignore[arg-type]


def rows(n: int, mean: float = 1.0) -> np.ndarray:
    return np.random.default_rng(n).normal(mean, 0.1, (n, 2)).astype(np.float32)


def ticking(step_s: float) -> Callable[[], float]:
    """A clock that goes on by so much each time that it is asked."""
    ticks = itertools.count()
    return lambda: next(ticks) * step_s


def bits(module: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


def test_any_module_with_the_two_losses_can_be_trained() -> None:
    module = Mean()

    result = train(module, rows(500), rows(50), quick(learning_rate=0.1))

    assert module.mean.detach().numpy() == pytest.approx([1.0, 1.0], abs=0.03)
    assert result.losses[-1][2] < 0.02 < result.losses[0][2]


def test_losses_are_means_over_rows_and_columns() -> None:
    module = Mean()
    fitting, held_out = np.full((9, 2), 2.0, np.float32), np.full((5, 2), 3.0, np.float32)

    ((step, training, validating),) = train(
        module, fitting, held_out, quick(most_steps=1, check_every=1, learning_rate=0.0)
    ).losses

    assert (step, training, validating) == (1, 4.0, 9.0)


def test_training_ends_when_the_held_out_loss_gets_no_better_and_keeps_the_best_weights() -> None:
    module = Mean(1.0)  # the held-out mean: every step towards the other rows is one away from it

    result = train(module, rows(100, mean=5.0), rows(40, mean=1.0), quick(most_steps=5_000, patience=3))

    assert result.stopped == "patience"
    assert result.steps == result.best_step + 30
    best = min(result.losses, key=lambda look: look[2])
    assert best[0] == result.best_step
    own = float(module.validation_loss(torch.from_numpy(rows(40, mean=1.0))).detach()) / 40
    assert own == pytest.approx(best[2], rel=1e-6)


def test_training_that_still_gets_better_ends_with_its_last_step() -> None:
    result = train(Mean(), rows(100), rows(40), quick(most_steps=25))

    assert (result.stopped, result.steps, result.best_step) == ("steps", 25, 25)
    assert [look[0] for look in result.losses] == [10, 20, 25]
    assert result.is_reproducible


def test_training_ends_when_its_time_is_up_and_says_that_it_cannot_be_repeated() -> None:
    result = train(Mean(), rows(100), rows(40), quick(most_steps=10_000, most_seconds=12.0), clock=ticking(1.0))

    assert result.stopped == "time"
    assert not result.is_reproducible
    assert 5 <= result.steps <= 12
    assert result.losses[-1][0] == result.steps  # the last weights are looked at too


def test_a_training_whose_learning_rate_followed_the_clock_cannot_be_repeated_though_patience_ended_it(
    tmp_path: Path,
) -> None:
    fitting, held_out = rows(100, mean=5.0), rows(40, mean=1.0)  # every step is one away
    hurried, unhurried = quick(most_steps=5_000, most_seconds=100.0), quick(most_steps=5_000, most_seconds=1e9)

    followed = train(
        Mean(1.0), fitting, held_out, hurried, clock=ticking(0.1), checkpoints=Checkpoints(tmp_path, every_s=0)
    )
    again = train(Mean(1.0), fitting, held_out, hurried, checkpoints=Checkpoints(tmp_path, resume=True))
    free = train(Mean(1.0), fitting, held_out, unhurried, clock=ticking(0.1))

    assert [result.stopped for result in (followed, again, free)] == ["patience"] * 3
    assert [result.is_reproducible for result in (followed, again, free)] == [False, False, True]


def test_the_learning_rate_has_come_down_when_time_is_up() -> None:
    moves: list[float] = []

    class Watched(Mean):
        def training_loss(self, rows: Tensor, generator: torch.Generator, share: slice) -> Tensor:
            moves.append(float(self.mean.detach()[0]))
            return super().training_loss(rows, generator, share)

    train(
        Watched(), rows(100, mean=1e4), rows(40, mean=1e4), quick(most_steps=10**6, most_seconds=100.0),
        clock=ticking(1.0),
    )  # fmt: skip

    steps = np.diff(moves)  # with gradients that always point the same way, Adam moves by the learning rate
    assert steps.argmax() == pytest.approx(0.3 * len(steps), abs=0.1 * len(steps))
    assert steps[-1] < 0.01 * steps.max()


def test_the_schedule_rises_for_three_tenths_and_falls_to_almost_nothing() -> None:
    rates, momenta = zip(*(one_cycle(spent / 10) for spent in range(11)), strict=True)

    assert rates[0] == pytest.approx(1 / 25)
    assert rates[3] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1 / 250_000)
    assert rates[5] == pytest.approx((1 + np.cos(np.pi * 2 / 7)) / 2, abs=1e-5)
    assert momenta[0] == momenta[10] == pytest.approx(0.95)
    assert momenta[3] == pytest.approx(0.85)


def test_no_gradient_is_longer_than_the_limit() -> None:
    lengths: list[float] = []

    class Steep(Mean):
        def training_loss(self, rows: Tensor, generator: torch.Generator, share: slice) -> Tensor:
            if self.mean.grad is not None:
                lengths.append(float(self.mean.grad.norm()))
            return 1e6 * super().training_loss(rows, generator, share)

    train(Steep(), rows(100), rows(40), quick(gradient_limit=0.5))

    assert max(lengths) == pytest.approx(0.5, rel=1e-3)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    def trained(seed: int) -> dict[str, bytes]:
        module = network()
        train(module, MATRIX, HELD_OUT, quick(seed=seed))
        return bits(module)

    assert trained(0) == trained(0) != trained(1)


def test_what_is_drawn_for_a_row_does_not_depend_on_the_share() -> None:
    module = network()
    matrix = torch.from_numpy(MATRIX[:101])

    def loss(share: slice) -> float:
        return float(module.training_loss(matrix, torch.Generator().manual_seed(3), share).detach())

    assert loss(slice(0, 33)) + loss(slice(33, 101)) == pytest.approx(loss(slice(0, 101)), rel=1e-5)


def test_a_loss_that_is_never_a_number_is_an_error_that_says_so() -> None:
    with pytest.raises(TrainingDataError, match=r"never a number in 20 steps: .* a lower learning rate"):
        train(Mean(), rows(100), np.full((40, 2), np.nan, np.float32), quick(most_steps=20))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_cuda_gives_what_the_cpu_gives_and_the_network_comes_back() -> None:
    here, there = network(), network()

    on_cpu = train(here, MATRIX, HELD_OUT, quick())
    on_cuda = train(there, MATRIX, HELD_OUT, quick(), device="cuda")

    assert on_cuda.device == "cuda"
    assert all(weight.device.type == "cpu" for weight in there.parameters())
    for (_, training, validating), (_, other, held_out) in zip(on_cpu.losses, on_cuda.losses, strict=True):
        assert [other, held_out] == pytest.approx([training, validating], rel=1e-3)
    for name, weight in here.state_dict().items():
        torch.testing.assert_close(there.state_dict()[name], weight, rtol=1e-2, atol=1e-3)


# --- interruptions ---


class KilledError(Exception):
    """What ends a training in the middle, inside one process."""


def interrupted(module: DenoisingAutoencoder, checkpoints: Checkpoints, looks: int, settings: TrainingSettings) -> None:
    """Train, and die at a look."""
    seen = itertools.count(1)

    def die(*_: object) -> None:
        if next(seen) == looks:
            raise KilledError

    with pytest.raises(KilledError):
        train(module, MATRIX, HELD_OUT, settings, die, checkpoints=checkpoints)


def resumed(directory: Path, settings: TrainingSettings | None = None) -> tuple[DenoisingAutoencoder, TrainingResult]:
    module = network()
    checkpoints = Checkpoints(directory, resume=True, every_s=0)
    return module, train(module, MATRIX, HELD_OUT, settings or quick(), checkpoints=checkpoints)


def test_a_training_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = network()
    expected = train(whole, MATRIX, HELD_OUT, SETTINGS)
    command = [sys.executable, "-m", "tests.trainer.killed_training", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and int(line) < 60:
            pass
        process.send_signal(signal.SIGKILL)  # in the middle of a step, wherever that is
    assert process.returncode == -signal.SIGKILL
    left = Checkpoints(tmp_path).file.read_bytes()

    module, result = resumed(tmp_path, SETTINGS)

    assert left  # whole, though the process died while it wrote the next perhaps
    assert result.resumed_at is not None
    assert 0 < result.resumed_at < SETTINGS.most_steps
    assert bits(module) == bits(whole)
    assert (result.losses, result.best_step, result.stopped) == (expected.losses, expected.best_step, expected.stopped)


@pytest.mark.parametrize("looks", [2, 11, 20])
def test_going_on_from_any_look_gives_the_same_bits(tmp_path: Path, looks: int) -> None:
    whole = network()
    expected = train(whole, MATRIX, HELD_OUT, quick())
    interrupted(network(), Checkpoints(tmp_path, every_s=0), looks, quick())

    module, result = resumed(tmp_path)

    assert result.resumed_at == 10 * (looks - 1)  # the last look that was written
    assert bits(module) == bits(whole)
    assert result.losses == expected.losses


def test_a_training_that_had_ended_is_not_made_again(tmp_path: Path) -> None:
    whole = network()
    first = train(whole, MATRIX, HELD_OUT, quick(), checkpoints=Checkpoints(tmp_path, every_s=1e9))

    module, again = resumed(tmp_path)

    assert again.resumed_at == again.steps == first.steps
    assert (again.losses, again.stopped) == (first.losses, first.stopped)
    assert bits(module) == bits(whole)


def test_time_that_was_spent_before_an_interruption_is_spent(tmp_path: Path) -> None:
    settings = quick(most_steps=10_000, most_seconds=1_000.0, check_every=1)
    seen: list[int] = []

    def die(step: int, *_: float) -> None:
        seen.append(step)
        if len(seen) == 100:
            raise KilledError

    with pytest.raises(KilledError):
        train(
            Mean(), rows(100), rows(40), settings, die, checkpoints=Checkpoints(tmp_path, every_s=0), clock=ticking(1.0)
        )

    result = train(
        Mean(), rows(100), rows(40), settings, checkpoints=Checkpoints(tmp_path, resume=True, every_s=1e9),
        clock=ticking(1.0),
    )  # fmt: skip

    alone = train(Mean(), rows(100), rows(40), settings, clock=ticking(1.0))
    assert result.stopped == "time"
    assert result.steps < alone.steps + 50  # not 99 more
    assert result.seconds == pytest.approx(1_000, abs=10)


def test_a_checkpoint_is_not_replaced_without_being_asked(tmp_path: Path) -> None:
    interrupted(network(), Checkpoints(tmp_path, every_s=0), 3, quick())
    before = Checkpoints(tmp_path).file.read_bytes()

    with pytest.raises(CheckpointError, match="add --resume to go on from it, or remove it"):
        train(network(), MATRIX, HELD_OUT, quick(), checkpoints=Checkpoints(tmp_path))

    assert Checkpoints(tmp_path).file.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"settings": quick(learning_rate=0.5)}, "setting learning_rate was 0.002 and is 0.5 now"),
        ({"settings": quick(seed=1)}, "setting seed was 0 and is 1 now"),
        ({"fitting": MATRIX[1:]}, "the records to fit on are others"),
        ({"validation": HELD_OUT[1:]}, "the held-out records are others"),
        ({"network": DenoisingAutoencoder(6, 2)}, "the network and its first weights are others"),
        ({"noise": "0.5"}, "setting noise was 0.1 and is 0.5 now"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_with_what_differs(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    noise = (("setting noise", "0.1"),)
    interrupted(network(), Checkpoints(tmp_path, every_s=0, identity=noise), 3, quick())
    own = {
        "network": network(),
        "fitting": MATRIX,
        "validation": HELD_OUT,
        "settings": quick(),
        "noise": "0.1",
    } | change
    checkpoints = Checkpoints(tmp_path, resume=True, identity=(("setting noise", str(own.pop("noise"))),))

    with pytest.raises(CheckpointError) as refused:
        train(**own, checkpoints=checkpoints)  # type: ignore[arg-type]

    differences = str(refused.value).split("would not be: ")[1].split(". Go on")[0]
    assert differences == says


def test_more_time_may_be_given_to_a_training_that_goes_on(tmp_path: Path) -> None:
    interrupted(network(), Checkpoints(tmp_path, every_s=0), 3, quick(most_seconds=1e6))

    assert resumed(tmp_path, quick(most_seconds=2e6))[1].resumed_at == 20


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x10" + b"\0" * 7 + b"{}" + b" " * 14])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    Checkpoints(tmp_path).file.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"no checkpoint that can be read .*: remove it"):
        resumed(tmp_path)


def test_a_checkpoint_holds_tensors_and_json_alone_and_goes_with_its_directory(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "inside", every_s=0)
    interrupted(network(), checkpoints, 3, quick())

    names = set(load_file(checkpoints.file))
    checkpoints.remove()

    assert {name.split(".")[0] for name in names} == {"weights", "best", "optimiser", "generator"}
    assert list(tmp_path.iterdir()) == []


def test_removing_a_checkpoint_leaves_what_else_is_in_the_directory(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints = Checkpoints(tmp_path, every_s=0)
    interrupted(network(), checkpoints, 3, quick())

    checkpoints.remove()

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
