"""Checkpoints: what a training needs to go on after its process was killed, as one file of tensors and JSON; no pickle.

A checkpoint is as confidential as the data that the network is trained on.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from trainer.errors import CheckpointError

FORMAT = 1
"""Version of the file; another one is refused."""

_SUFFIX = ".checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A training after a look at its held-out loss.

    Attributes:
        identity: What the training is of, by name: of another identity it is another training.
        step: Steps that were made.
        facts: What changes from look to look and is no tensor, as a JSON object.
        tensors: What changes and is a tensor, by dotted name.
    """

    identity: dict[str, str]
    step: int
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, name: str) -> dict[str, Tensor]:
        """Tensors whose name begins with `name` and a dot, by the rest of it."""
        return {key[len(name) + 1 :]: tensor for key, tensor in self.tensors.items() if key.startswith(f"{name}.")}


@dataclass(frozen=True)
class Checkpoints:
    """Where the checkpoint of a training is kept; there is one, which the next replaces.

    Attributes:
        directory: Made when the first is written.
        resume: Whether to go on from the one that is there; where there is none, a training begins anew.
        every_s: Least time between two, in seconds.
        name: Of the training, where one directory serves several.
        identity: What else the training is of, beside what it knows itself.
    """

    directory: Path
    resume: bool = False
    every_s: float = 30.0
    name: str = "training"
    identity: tuple[tuple[str, str], ...] = ()

    @property
    def file(self) -> Path:
        """The file that holds it."""
        return self.directory / f"{self.name}{_SUFFIX}"

    def read(self, identity: dict[str, str]) -> Checkpoint | None:
        """The checkpoint to go on from, None where there is none.

        Raises:
            CheckpointError: There is one and going on was not asked for; or it is damaged, or of another training, and
                the message says what differs.
        """
        if not self.file.exists():
            return None
        if not self.resume:
            raise CheckpointError(
                f"{self.file}: is the checkpoint of a training that did not end: add --resume to go on from it, or "
                "remove it to begin anew"
            )
        try:
            with safetensors.safe_open(str(self.file), "pt") as content:
                metadata = content.metadata() or {}
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
            found = json.loads(metadata["checkpoint"])
            version, step, facts, theirs = (found[key] for key in ("format", "step", "facts", "identity"))
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise CheckpointError(
                f"{self.file}: is no checkpoint that can be read ({error}): remove it and train from the beginning"
            ) from error
        if version != FORMAT:
            raise CheckpointError(
                f"{self.file}: has format {version}, and this version of offbeat goes on from format {FORMAT}: go on "
                "with the version that wrote it, or remove it and train from the beginning"
            )
        if differences := _differences(theirs, self._complete(identity)):
            raise CheckpointError(
                f"{self.file}: is of another training, whose result this one would not be: {'; '.join(differences)}. "
                "Go on with the same data and settings, or remove it, or choose another directory"
            )
        return Checkpoint(theirs, int(step), facts, tensors)

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint, in one go: a process that dies here leaves the one before."""
        content = {
            "format": FORMAT, "step": checkpoint.step, "facts": checkpoint.facts,
            "identity": self._complete(checkpoint.identity),
        }  # fmt: skip
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._draft.open("wb") as draft:
            draft.write(safetensors.torch.save(tensors, {"checkpoint": json.dumps(content)}))
            draft.flush()
            os.fsync(draft.fileno())
        self._draft.replace(self.file)

    def remove(self) -> None:
        """Remove the checkpoint, and the directory where nothing else is in it: the training has ended."""
        self.file.unlink(missing_ok=True)
        self._draft.unlink(missing_ok=True)
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()

    @property
    def _draft(self) -> Path:
        return self.file.with_name(f".{self.file.name}.part")

    def _complete(self, identity: dict[str, str]) -> dict[str, str]:
        return {**identity, **dict(self.identity)}


def _differences(theirs: dict[str, str], ours: dict[str, str]) -> list[str]:
    """What two trainings do not have in common; hashes are not shown, as they tell a person nothing."""
    found = []
    for name in sorted({*theirs, *ours}):
        one, other = theirs.get(name), ours.get(name)
        if one != other:
            is_setting = name.startswith("setting ")
            found.append(f"{name} was {one} and is {other} now" if is_setting else f"the {name} are others")
    return found
