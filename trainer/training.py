"""Training: encoded records in, the weights of the best held-out loss kept; it knows no kind of network and no files.

Any module can be trained that gives the two losses of `Trainable`. Several processes give what one gives: each draws
the whole batch, and takes its share of it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detector import TrainingDataError
from trainer.checkpoints import Checkpoint, Checkpoints
from trainer.processes import ALONE, Processes

Stopped = Literal["patience", "steps", "time"]

_RISING = 0.3
_FIRST, _LAST = 1 / 25, 1 / 250_000
_MOMENTA = (0.85, 0.95)
_ROWS_A_LOOK = 65_536


class Trainable(Protocol):
    """What a `torch.nn.Module` has to offer to be trained; both losses are means over columns, summed over rows."""

    def training_loss(self, rows: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        """The loss to go down on, summed over `rows[share]`.

        Whatever is drawn is drawn for all rows (n, d), from the generator, which is on the CPU: so the shares of
        several processes add up to what one process gives, and a GPU sees the draws that a CPU sees. A sum, not a mean:
        the trainer divides by the rows of the whole batch.
        """

    def validation_loss(self, rows: Tensor) -> Tensor:
        """The loss by which weights are chosen, without any draw, summed over the rows (n, d)."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        seed: Of the batches and of all that the network draws.
        most_steps: Most optimiser steps.
        most_seconds: Most wall time, None for no limit; the schedule then follows whichever of the two is nearer its
            end, so that the learning rate has come down when time is up.
        batch_records: Rows in one step, of all processes together.
        check_every: Steps between two looks at the held-out loss.
        patience: Looks without a better held-out loss before training stops.
        learning_rate: Highest learning rate of the one-cycle schedule.
        weight_decay: Of AdamW.
        gradient_limit: Longest gradient, as a norm over all weights; a longer one is shortened.
    """

    seed: int = 0
    most_steps: int = 2_000
    most_seconds: float | None = None
    batch_records: int = 512
    check_every: int = 50
    patience: int = 10
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    gradient_limit: float = 1.0


@dataclass(frozen=True)
class TrainingResult:
    """How a training went.

    Attributes:
        losses: (step, training loss, held-out loss) at each look, per row.
        best_step: Step whose weights were kept.
        steps: Steps that were made.
        stopped: Why it ended: no better held-out loss for long (`patience`), or a budget is spent (`steps`, `time`).
        seconds: Wall time, that of the runs before an interruption included.
        device: Where it ran.
        processes: How many processes shared it.
        resumed_at: Step of the checkpoint that it went on from, None where it began anew.
        is_reproducible: Whether the same data and seed give the same weights again: not where the clock ended it, or
            brought the learning rate down before the steps did.
    """

    losses: list[tuple[int, float, float]]
    best_step: int
    steps: int
    stopped: Stopped
    seconds: float
    device: str = "cpu"
    processes: int = 1
    resumed_at: int | None = None
    is_reproducible: bool = True


def train(
    network: Trainable,
    fitting: NDArray[np.float32],
    validation: NDArray[np.float32],
    settings: TrainingSettings | None = None,
    progress: Callable[[int, float, float], None] | None = None,
    *,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
    checkpoints: Checkpoints | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train a network in place and leave it on the CPU with the weights of the best held-out loss.

    The same network, rows and settings give the same weights, unless time was limited: to the last bit on one machine
    with as many threads and processes, an interruption in between or not; within rounding elsewhere.

    Args:
        network: A module with initial weights, on the CPU.
        fitting: Encoded normal records to fit on, (n, d).
        validation: Encoded normal records to stop by, (m, d).
        settings: How to train.
        progress: Called at each look with the step and both losses, in the first process alone.
        device: Where to compute.
        processes: Those that share the work; every one of them calls this with the same arguments.
        checkpoints: Where to keep what a later process needs to go on.
        clock: Seconds that only grow.

    Raises:
        CheckpointError: There is a checkpoint that may not be continued or replaced; says why.
        ProcessError: Another process is gone, or works on something else.
        TrainingDataError: The held-out loss was never a number.

    Source: Smith and Topin, "Super-Convergence", 2018 (the one-cycle schedule); Prechelt, "Early Stopping - But
        When?", 1998 (patience on the held-out loss); Pascanu, Mikolov and Bengio, "On the difficulty of training
        recurrent neural networks", ICML 2013 (shortened gradients).
    """
    settings = settings or TrainingSettings()
    module = cast(nn.Module, network)
    identity = _identity(module, fitting, validation, settings)
    saved = None if checkpoints is None else checkpoints.read(identity)
    processes.check_same({**identity, "step of the checkpoint": "none" if saved is None else str(saved.step)})
    module.to(device).train()
    run = _Run(network, fitting, validation, settings, torch.device(device), processes, clock)
    if saved is not None:
        run.restore(saved)
    written_at = clock()
    while run.stopped is None:
        look = run.advance()
        if look is None:
            continue
        if progress is not None and processes.is_first:
            progress(*look)
        due = run.stopped is not None or clock() - written_at >= (checkpoints.every_s if checkpoints else 0)
        if checkpoints is not None and processes.is_first and due:
            checkpoints.write(run.checkpoint(identity))
            written_at = clock()
    module.load_state_dict(run.best_weights)
    module.to("cpu").eval()
    return TrainingResult(
        losses=run.losses,
        best_step=run.best_step,
        steps=run.step,
        stopped=run.stopped,
        seconds=run.seconds(),
        device=torch.device(device).type,
        processes=processes.count,
        resumed_at=None if saved is None else saved.step,
        is_reproducible=not run.followed_the_clock,
    )


def one_cycle(spent: float) -> tuple[float, float]:
    """Share of the highest learning rate, and momentum, where a share `spent` of the budget is spent.

    The rate rises from a 25th over the first three tenths and falls to almost nothing, along cosines; momentum the
    other way round, between .95 and .85.
    """
    low, high = _MOMENTA
    if spent < _RISING:
        turn = _half_cosine(spent / _RISING)
        return _FIRST + (1 - _FIRST) * turn, high - (high - low) * turn
    turn = _half_cosine((min(spent, 1.0) - _RISING) / (1 - _RISING))
    return 1 + (_LAST - 1) * turn, low + (high - low) * turn


def _half_cosine(share: float) -> float:
    """From 0 to 1 along half a cosine."""
    return (1 - math.cos(math.pi * share)) / 2


class _Run:
    """A training under way: everything that changes from step to step."""

    def __init__(
        self, network: Trainable, fitting: NDArray[np.float32], validation: NDArray[np.float32],
        settings: TrainingSettings, device: torch.device, processes: Processes, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._network, self._module = network, cast(nn.Module, network)
        self._fitting = torch.from_numpy(np.ascontiguousarray(fitting)).to(device)
        self._validation = torch.from_numpy(np.ascontiguousarray(validation)).to(device)
        self._settings, self._device, self._processes, self._clock = settings, device, processes, clock
        self._began = clock()
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._weights = [weight for weight in self._module.parameters() if weight.requires_grad]
        self._optimiser = torch.optim.AdamW(self._weights, settings.learning_rate, weight_decay=settings.weight_decay)
        self._running = torch.zeros((), device=device)
        self._looked_at = 0
        self.step = 0
        self.followed_the_clock = False
        self.stopped: Stopped | None = None
        self.losses: list[tuple[int, float, float]] = []
        self.best, self.best_step = math.inf, 0
        self.best_weights = self._copy_of_weights()

    def seconds(self) -> float:
        """Wall time so far, that of the runs before included."""
        return self._clock() - self._began

    def advance(self) -> tuple[int, float, float] | None:
        """Make one step; where a look at the held-out loss was due after it, the step and both losses."""
        settings = self._settings
        time_spent = 0.0
        if settings.most_seconds is not None:
            # The clock of the first process counts for all of them, or they would not stop at the same step.
            time_spent = self._processes.from_first(self.seconds()) / settings.most_seconds
        steps_spent = (self.step + 1) / settings.most_steps
        self.followed_the_clock |= time_spent > steps_spent
        self._make_step(max(steps_spent, time_spent))
        self.step += 1
        spent: Stopped | None = "steps" if self.step >= settings.most_steps else "time" if time_spent >= 1 else None
        if spent is None and self.step % settings.check_every:
            return None
        look = self._look()
        waited = self.step - self.best_step >= settings.patience * settings.check_every
        self.stopped = spent or ("patience" if waited else None)
        if self.stopped is not None and not math.isfinite(self.best):
            raise TrainingDataError(
                f"the held-out loss was never a number in {self.step:,} steps: the network learned nothing that can be "
                "used; a lower learning rate may mend it, and so may leaving out features of extreme values"
            )
        return look

    def _make_step(self, spent: float) -> None:
        """Go down the loss of one batch, where a share `spent` of the budget will be spent after it."""
        settings, count = self._settings, self._settings.batch_records
        rate, momentum = one_cycle(spent)
        for group in self._optimiser.param_groups:
            group["lr"], group["betas"] = rate * settings.learning_rate, (momentum, group["betas"][1])
        chosen = torch.randint(len(self._fitting), (count,), generator=self._generator).to(self._device)
        share = self._processes.share(count)
        loss = self._network.training_loss(self._fitting[chosen], self._generator, share) / count
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        self._processes.add_up(gradients)
        nn.utils.clip_grad_norm_(self._weights, settings.gradient_limit)
        self._optimiser.step()
        self._running += loss.detach()

    def _look(self) -> tuple[int, float, float]:
        """Both losses; weights better than all before are kept."""
        share = self._processes.share(len(self._validation))
        rows = self._validation[share]
        held_out = torch.zeros((), device=self._device, dtype=torch.float64)
        self._module.eval()
        with torch.inference_mode():
            for start in range(0, len(rows), _ROWS_A_LOOK):
                held_out += self._network.validation_loss(rows[start : start + _ROWS_A_LOOK])
        self._module.train()
        both = torch.stack([self._running.double(), held_out])
        self._processes.add_up([both])
        training, validating = both.tolist()
        look = (self.step, training / (self.step - self._looked_at), validating / len(self._validation))
        self._running, self._looked_at = torch.zeros_like(self._running), self.step
        self.losses.append(look)
        if look[2] < self.best:
            self.best, self.best_step, self.best_weights = look[2], self.step, self._copy_of_weights()
        return look

    def _copy_of_weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._module.state_dict().items()}

    def checkpoint(self, identity: dict[str, str]) -> Checkpoint:
        """All that a later process needs to go on from this look as if there had been no interruption."""
        tensors = {f"weights.{name}": tensor for name, tensor in self._module.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        for position, state in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{position}.{name}": tensor for name, tensor in state.items()}
        tensors["generator"] = self._generator.get_state()
        facts = {
            "losses": self.losses,
            "best": self.best if math.isfinite(self.best) else None,
            "best_step": self.best_step,
            "stopped": self.stopped,
            "followed_the_clock": self.followed_the_clock,
            "seconds": self.seconds(),
        }
        return Checkpoint(identity, self.step, facts, {name: tensor.detach().cpu() for name, tensor in tensors.items()})

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self._module.load_state_dict(saved.group("weights"))
        self.best_weights = {name: tensor.to(self._device) for name, tensor in saved.group("best").items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in saved.group("optimiser").items():
            position, _, part = name.partition(".")
            state.setdefault(int(position), {})[part] = tensor
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": state})
        self._generator.set_state(saved.tensors["generator"])
        facts = saved.facts
        self.step = self._looked_at = saved.step
        self.losses = [(int(step), training, validating) for step, training, validating in facts["losses"]]
        self.best = math.inf if facts["best"] is None else facts["best"]
        self.best_step, self.stopped = facts["best_step"], facts["stopped"]
        self.followed_the_clock = facts["followed_the_clock"]
        self._began = self._clock() - facts["seconds"]


def _identity(
    module: nn.Module, fitting: NDArray[np.float32], validation: NDArray[np.float32], settings: TrainingSettings
) -> dict[str, str]:
    """What a training is of, by name: two of the same identity give the same weights. How long it may take is not."""
    weights = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        weights.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    chosen = {f"setting {name}": f"{value}" for name, value in asdict(settings).items() if name != "most_seconds"}
    return {
        "records to fit on": _digest(fitting),
        "held-out records": _digest(validation),
        "network and its first weights": weights.hexdigest(),
        **chosen,
    }


def _digest(matrix: NDArray[np.float32]) -> str:
    return hashlib.sha256(f"{matrix.shape}".encode() + np.ascontiguousarray(matrix).tobytes()).hexdigest()
