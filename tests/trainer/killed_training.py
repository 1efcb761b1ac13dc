"""A training that somebody else kills: run with a directory, it tells each look's step on a line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from detector import DenoisingAutoencoder
from trainer.checkpoints import Checkpoints
from trainer.training import TrainingSettings, train

_DRAW = np.random.default_rng(0)
_ALL = (_DRAW.normal(size=(700, 2)) @ _DRAW.normal(size=(2, 6))).astype(np.float32)
MATRIX, HELD_OUT = _ALL[:600], _ALL[600:]
SETTINGS = TrainingSettings(most_steps=600, check_every=10, batch_records=64, patience=1_000)


def network() -> DenoisingAutoencoder:
    """The same first weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DenoisingAutoencoder(6, 3, hidden=16)


def main() -> None:
    """Train with a checkpoint at each look."""
    torch.set_num_threads(1)
    checkpoints = Checkpoints(Path(sys.argv[1]), every_s=0)
    train(network(), MATRIX, HELD_OUT, SETTINGS, lambda step, *_: print(step, flush=True), checkpoints=checkpoints)


if __name__ == "__main__":
    main()
