"""The model directory of one detector: versions side by side, and an alias that says which one serves."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from detector.artifact import VERSION, pack, read_artifact, write_files
from detector.detector import Detector
from detector.errors import ArtifactError, ArtifactRefusal
from detector.history_file import SUFFIX as STATE_SUFFIX

PRODUCTION = "production"
_ALIASES = "aliases.json"


class ModelDirectory:
    """Versions of one detector under `root`, and the aliases that point at them.

    An alias changes atomically; a version never changes. The former target of an alias is remembered, so that
    `rollback` needs no argument.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def versions(self) -> list[str]:
        """Every complete version, the oldest first."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and VERSION.fullmatch(path.name))

    def aliases(self) -> dict[str, str]:
        """Alias to version.

        Raises:
            ArtifactError: The file of aliases is damaged.
        """
        return {alias: history[-1] for alias, history in self._history().items()}

    def current(self, alias: str = PRODUCTION) -> str | None:
        """The version that an alias points at, None where there is none yet."""
        return self.aliases().get(alias)

    def path(self, version: str) -> Path:
        """Directory of a version.

        Raises:
            ArtifactError: There is no such version.
        """
        if VERSION.fullmatch(version) is None or not (self.root / version).is_dir():
            known = ", ".join(self.versions()[-5:]) or "none"
            raise ArtifactError(
                ArtifactRefusal.MISSING, f"{self.root} has no version {version!r} (newest here: {known})"
            )
        return self.root / version

    def load(self, version: str) -> Detector:
        """The verified detector of a version.

        Raises:
            ArtifactError: There is no such version, or it is refused.
        """
        return read_artifact(self.path(version))

    def state_path(self, version: str) -> Path:
        """Where the histories at the end of a version's training lie, if they were published."""
        return self.root / f"{version}{STATE_SUFFIX}"

    def publish(
        self,
        detector: Detector,
        *,
        promote: bool = False,
        files: Mapping[str, bytes] | None = None,
        state: Mapping[str, bytes] | None = None,
    ) -> str:
        """Write a new version; the first one becomes production, a later one only where `promote` says so.

        Args:
            detector: What to publish.
            promote: Whether it becomes production at once.
            files: More files for people.
            state: Files of the histories at the end of training, which lie beside the version.

        Returns:
            The version.

        Raises:
            FileExistsError: This very detector is published already.
        """
        version, content = pack(detector, files)
        if state is not None:  # first, so that whoever sees the version sees its state
            write_files(state, self.state_path(version))
        write_files(content, self.root / version)
        if promote or self.current() is None:
            self.promote(version)
        return version

    def promote(self, version: str, alias: str = PRODUCTION) -> None:
        """Point an alias at a version, after verifying it.

        Raises:
            ArtifactError: There is no such version, or it is refused.
        """
        self.load(version)
        history = self._history()
        if history.get(alias, [""])[-1] != version:
            history.setdefault(alias, []).append(version)
            self._write(history)

    def rollback(self, alias: str = PRODUCTION) -> str:
        """Point an alias at the version before, and return that version.

        Raises:
            ArtifactError: There is no version before, or it is refused.
        """
        history = self._history()
        versions = history.get(alias, [])
        if len(versions) < 2:
            raise ArtifactError(
                ArtifactRefusal.MISSING, f"{alias!r} of {self.root} had no version before: nothing to go back to"
            )
        self.load(versions[-2])
        history[alias] = versions[:-1]
        self._write(history)
        return versions[-2]

    def _history(self) -> dict[str, list[str]]:
        """Every alias with all versions that it pointed at, the current one last."""
        path = self.root / _ALIASES
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ArtifactError(
                ArtifactRefusal.UNREADABLE, f"{path} cannot be read ({error}): restore it, or promote a version again"
            ) from error
        former = content.pop("former", {}) if isinstance(content, dict) else None
        if former is None or not all(isinstance(version, str) for version in content.values()):
            raise ArtifactError(
                ArtifactRefusal.UNREADABLE, f"{path} does not map aliases to versions: restore it, or promote again"
            )
        return {alias: [*former.get(alias, []), version] for alias, version in content.items()}

    def _write(self, history: dict[str, list[str]]) -> None:
        content: dict[str, object] = {alias: versions[-1] for alias, versions in history.items()}
        content["former"] = {alias: versions[:-1] for alias, versions in history.items() if versions[:-1]}
        draft = self.root / f".{_ALIASES}.{secrets.token_hex(4)}"
        with draft.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.root / _ALIASES)
