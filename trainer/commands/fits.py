"""The fit of `train`: of tables or of images, in the process that publishes it or in one that shares its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from detector import Detector, StreamDefinition
from trainer.checkpoints import Checkpoints
from trainer.commands.inputs import test_images
from trainer.commands.output import note
from trainer.fitting import FitProgress, FitReport, FitSettings, fit_detector, share_training
from trainer.fitting_images import ImageFitSettings, fit_images, share_image_training
from trainer.loading import Dataset
from trainer.processes import Processes


@dataclass(frozen=True)
class Fit:
    """What is to be fitted, how and where; the same in all processes of a training.

    Attributes:
        stream: What a record is.
        settings: How to fit.
        most_steps: Most training steps, None for as many as tables or images have by default.
        data: DATA of the command line, beside which images to test on may lie.
        processes: Those that share the training.
        device: Where this one computes.
        checkpoints: What training goes on from, None for none.
    """

    stream: StreamDefinition
    settings: FitSettings
    most_steps: int | None
    data: list[Path]
    processes: Processes
    device: torch.device
    checkpoints: Checkpoints | None

    def run(self, dataset: Dataset, progress: Callable[[FitProgress], None]) -> tuple[Detector, FitReport]:
        """Fit, as the first process.

        Raises:
            As `fit_detector` and `fit_images`.
        """
        if self.stream.image is None:
            return fit_detector(
                dataset.records, self.stream, self.settings, progress, history=dataset.history, remark=note,
                processes=self.processes, device=self.device, checkpoints=self.checkpoints,
            )  # fmt: skip
        return fit_images(
            dataset.records, self.stream, self._image_settings(), progress, test=test_images(self.data, self.stream),
            processes=self.processes, device=self.device, checkpoints=self.checkpoints,
        )  # fmt: skip

    def share(self, dataset: Dataset) -> None:
        """Do the part of a process that is not the first.

        Raises:
            As `run`.
        """
        if self.stream.image is None:
            share_training(
                dataset.records, self.stream, self.settings, self.processes,
                history=dataset.history, device=self.device, checkpoints=self.checkpoints,
            )  # fmt: skip
            return
        share_image_training(
            dataset.records, self.stream, self._image_settings(), self.processes,
            is_tested_apart=test_images(self.data, self.stream) is not None, device=self.device,
            checkpoints=self.checkpoints,
        )  # fmt: skip

    def _image_settings(self) -> ImageFitSettings:
        return ImageFitSettings.of(self.settings, self.most_steps)
