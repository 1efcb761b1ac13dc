"""Several processes that train one network: who shares what, and how sums are made; it knows no network and no data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.errors import ProcessError

Device = Literal["auto", "cpu", "cuda"]

PATIENCE_S = 600.0
"""Longest that a process waits for the others: one that hangs ends all of them then."""


@dataclass(frozen=True)
class Processes:
    """The processes that share a training, seen from one of them.

    Attributes:
        rank: Number of this one, from 0.
        count: How many there are.
        device: Where their sums are made.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        """Whether this is the one that tells, writes and publishes."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This process's part of so many rows; the parts are the whole, and differ by one row at most."""
        return slice(self.rank * rows // self.count, (self.rank + 1) * rows // self.count)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all processes in the place of each tensor; the same bits everywhere.

        Raises:
            ProcessError: Another process is gone or silent.
        """
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _silence_told():
            dist.all_reduce(flat)
        sizes = [tensor.numel() for tensor in tensors]
        for tensor, part in zip(tensors, torch.split(flat, sizes), strict=True):
            tensor.copy_(part.view_as(tensor))

    def from_first(self, value: float) -> float:
        """The first process's value, in all of them.

        Raises:
            ProcessError: Another process is gone or silent.
        """
        if self.count == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64, device=self.device)
        with _silence_told():
            dist.broadcast(told, 0)
        return float(told)

    def check_same(self, identity: dict[str, str]) -> None:
        """Make sure that all processes are about to do the same.

        Raises:
            ProcessError: This one is about to do something else than the first; or another is gone or silent.
        """
        if self.count == 1:
            return
        parts = {name: hashlib.sha256(json.dumps(value).encode()).digest()[:7] for name, value in identity.items()}
        numbers = [int.from_bytes(parts[name]) for name in sorted(parts)]
        mine = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        highest, lowest = mine.clone(), mine.clone()
        with _silence_told():
            dist.all_reduce(highest, dist.ReduceOp.MAX)
            dist.all_reduce(lowest, dist.ReduceOp.MIN)
        # Found out by all at once, so that each ends with the reason and none waits for another.
        others = [name for name, high, low in zip(sorted(parts), highest, lowest, strict=True) if high != low]
        if others:
            raise ProcessError(
                f"the {self.count} processes do not train the same network on the same data; they differ in "
                f"{', '.join(others)}: start them with the same arguments, on the same files and the same version"
            )


ALONE = Processes()
"""One process by itself."""


@contextmanager
def joined(device: Device, patience_s: float = PATIENCE_S) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that `torchrun` started, of which this is one, and where each computes; else this one alone.

    Sums are made with NCCL on CUDA and with gloo elsewhere.

    Raises:
        ProcessError: The device is not there, or the other processes are not.
    """
    if not dist.is_torchelastic_launched() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, choose_device(device)
        return
    chosen = choose_device(device, int(os.environ["LOCAL_RANK"]))
    on_cuda = chosen.type == "cuda"
    with _silence_told():
        dist.init_process_group("nccl" if on_cuda else "gloo", timeout=timedelta(seconds=patience_s))
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), str(chosen) if on_cuda else "cpu"), chosen
    finally:
        dist.destroy_process_group()


def choose_device(device: Device, local_rank: int = 0) -> torch.device:
    """The device of that name; of several of CUDA, the one that belongs to the process of that number on its machine.

    Raises:
        ProcessError: It is not there.
    """
    found = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and found == 0):
        return torch.device("cpu")
    if local_rank >= found:
        seen = f"{found} CUDA devices" if found else "no CUDA device"
        raise ProcessError(
            f"process {local_rank} of this machine needs a CUDA device of its own, and torch sees {seen}: "
            f"{f'start at most {found} processes' if found else 'install a driver and a build of torch with CUDA'}, "
            "or take --device cpu"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def _silence_told() -> Iterator[None]:
    """Say what it means when the other processes do not answer."""
    try:
        yield
    except RuntimeError as error:  # all that torch.distributed raises
        raise ProcessError(
            f"another process of this training is gone or silent ({str(error).splitlines()[0]}): its own output says "
            "why; start all of them again, with --resume where there is a checkpoint"
        ) from error
