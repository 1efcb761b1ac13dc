"""The tour's detector once more without its history features, to show what those are good for; knows no broker.

Importing this module does not load torch, so that `offbeat --help` is quick; its functions do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from demo.wire import Delivery

if TYPE_CHECKING:
    from detector import Detector


def fit_without_history(history: Path, stream: Path) -> Detector:
    """Fit a detector on a file of payments as `offbeat train` does, but on what each payment says by itself.

    All else is equal: payments, seed, settings, and the alert budget that a threshold of its own keeps.
    """
    from detector import StreamDefinition
    from trainer.datasets import find_files
    from trainer.fitting import fit_detector
    from trainer.loading import load

    definition = StreamDefinition.load(stream)
    alone = definition.model_copy(update={"feature": definition.field_features})
    detector, _ = fit_detector(load(find_files([history]), alone).records, alone)
    return detector


def alerts_of(detector: Detector, delivery: Delivery) -> frozenset[str]:
    """Ids of the records among some messages that a detector without history features calls anomalous."""
    from detector import Messages

    records, _ = detector.decode(Messages(delivery.values))
    verdicts, _ = detector.judge(records, explanations=False)
    assert records.ids is not None  # noqa: S101 - payments have ids
    return frozenset(records.ids[verdicts.anomalies].tolist())
