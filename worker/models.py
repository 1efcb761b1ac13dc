"""The model in use and the loader beside the loop: a newer version takes over between batches, a broken one never."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detector import (
    ArtifactError,
    ArtifactRefusal,
    Detector,
    HistoryMismatch,
    HistoryState,
    ModelDirectory,
    PublicKeys,
    read_state,
)
from worker.clock import Clock
from worker.errors import SettingsRefused
from worker.metrics import WorkerMetrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A verified detector, ready to score."""

    version: str
    detector: Detector
    begin: HistoryState | None = None
    """Histories at the end of its training, where they were published."""

    def describe(self) -> dict[str, str | None]:
        """What people ask about it first."""
        until = self.detector.trained_until
        return {
            "name": self.detector.name,
            "version": self.version,
            "sha256": self.detector.sha256,
            "trained_until": until.isoformat() if until else None,
        }


class Models:
    """Looks for the version that is in production, loads and verifies it, and hands it over when the loop asks.

    `refresh` may run on a thread of its own; `swap` and `current` belong to the loop.
    """

    def __init__(
        self, root: Path, name: str | None, *, clock: Clock, metrics: WorkerMetrics, trusted: PublicKeys | None = None
    ) -> None:
        self._root = root
        self._trusted = trusted
        self._name = name
        self._clock = clock
        self._metrics = metrics
        self._current: Model | None = None
        self._loaded: deque[Model] = deque(maxlen=1)  # put in and taken out in one step each, so that none gets lost
        self._seen: str | None = None  # version that the loader handed over last
        self._refused: set[tuple[str, object]] = set()  # versions, each with the signature that it had then
        self._unreachable = ""
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> Model | None:
        """The model in use; None until a first one was swapped in."""
        return self._current

    @property
    def place(self) -> str:
        """Where versions are looked for, in words."""
        return str(self._root / (self._name or "<the only detector>"))

    def swap(self, is_prepared: Callable[[Model], bool] = lambda _: True) -> bool:
        """Take the newer model that the loader has verified, if there is one; never raises, never waits.

        Args:
            is_prepared: Whether all that a model needs beside itself is there; until then it is asked again each time,
                unless a newer one takes its place.
        """
        try:
            model = self._loaded[0]
        except IndexError:
            return False
        if not is_prepared(model):
            return False
        with contextlib.suppress(IndexError):
            taken = self._loaded.pop()
            if taken is not model and not self._loaded:  # loaded this very moment: it waits for its turn
                self._loaded.append(taken)
        before = self._current
        self._current = model
        self._metrics.model_changed(model.detector, self._clock.now_s())
        logger.info(
            "model %s takes over%s; batches from now on are scored by it. detector=%s version=%s",
            model.version,
            f" from {before.version}" if before else "",
            model.detector.name,
            model.version,
        )
        return True

    def refresh(self) -> None:
        """Look once, and load what is new. A broken version is tried once, one that is not all there again.

        Raises:
            SettingsRefused: `detector` is not given and there are several.
        """
        version: str | None = None
        tried: tuple[str, object] = "", None
        try:
            directory = self._directory()
            version = directory.current() if directory is not None else None
            if directory is not None and version is not None:
                tried = version, directory.signature_stamp(version)
            if version is None or version == self._seen or tried in self._refused:
                self._unreachable = ""
                return
            assert directory is not None  # noqa: S101 - it named the version
            detector = directory.load(version)
            self._loaded.append(Model(version, detector, _histories_of_training(directory, version, detector)))
            self._seen = version
            self._unreachable = ""
            self._metrics.reloads.labels("loaded").inc()
        except SettingsRefused:
            raise
        except OSError as error:  # the disk's or the network's: the version itself may be sound
            self._report_unreachable(error)
        except Exception as error:  # noqa: BLE001 - whatever an artifact can do, it must not end the worker that has a good one
            if version is None or _is_passing(error):
                self._report_unreachable(error)
            else:
                self._refused.add(tried)
                self._refuse(version, error)

    def version(self, version: str) -> Detector | None:
        """Another version of the detector in use, verified; None where it is gone or refused."""
        try:
            directory = self._directory()
            return None if directory is None else directory.load(version)
        except (ArtifactError, OSError, SettingsRefused) as error:
            logger.warning("version %s cannot be read: %s. version=%s", version, error, version)
            return None

    def start(self, interval_s: float) -> None:
        """Look every `interval_s` on a thread of its own, until `close`."""
        self._thread = threading.Thread(target=self._look, args=(interval_s,), name="model-loader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking; a load that is under way is left to end by itself."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _look(self, interval_s: float) -> None:
        while not self._closing.wait(interval_s):
            try:
                self.refresh()
            except SettingsRefused as error:  # a second detector appeared: the one that runs is not in doubt
                self._report_unreachable(error)

    def _directory(self) -> ModelDirectory | None:
        if self._name is None:
            self._name = only_detector(self._root)
        return ModelDirectory(self._root / self._name, self._trusted) if self._name else None

    def _refuse(self, version: str, error: Exception) -> None:
        reason = error.reason if isinstance(error, ArtifactError) else type(error).__name__
        self._metrics.reloads.labels("refused").inc()
        logger.error(
            "model %s is refused (%s): %s; %s, it is not tried again: publish another or roll back. version=%s",
            version,
            reason,
            error,
            f"{self._seen} stays in use" if self._seen else "there is no model to score with",
            version,
        )

    def _report_unreachable(self, error: Exception) -> None:
        self._metrics.reloads.labels("unavailable").inc()
        if str(error) != self._unreachable:  # once, not every few seconds
            self._unreachable = str(error)
            logger.warning(
                "models cannot be read: %s; %s, looking again. models=%s",
                error,
                f"{self._seen} stays in use" if self._seen else "there is no model to score with",
                self._root,
            )


def _histories_of_training(directory: ModelDirectory, version: str, detector: Detector) -> HistoryState | None:
    """The histories that were published with a version; None where there are none that can be used."""
    if detector.history is None:
        return None
    try:
        return read_state(detector.history, directory.state_path(version), directory.trusted, version)
    except HistoryMismatch as error:
        logger.warning("the histories of training are not used: %s; the input is replayed instead", error)
        return None


def _is_passing(error: Exception) -> bool:
    """Whether an artifact is refused for what the disk did or a copy has not done yet, not for what it holds."""
    return isinstance(error, ArtifactError) and error.reason in (ArtifactRefusal.MISSING, ArtifactRefusal.INCOMPLETE)


def only_detector(root: Path) -> str | None:
    """The name of the only detector below `root`, None where there is none yet.

    Raises:
        SettingsRefused: There are several.
    """
    names = sorted(path.parent.name for path in root.glob("*/aliases.json"))
    if len(names) > 1:
        raise SettingsRefused(f"detector: {root} has {', '.join(names)}: say which one this worker serves")
    return names[0] if names else None
