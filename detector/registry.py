"""The model directory of one detector: versions side by side, and an alias that says which one serves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from detector.artifact import SIGNATURE, VERSION, pack, read_artifact, replace_file, sign_artifact, write_files
from detector.detector import Detector
from detector.errors import ArtifactError, ArtifactRefusal
from detector.files import UnsafeFileError, read_plain
from detector.history_file import SUFFIX as STATE_SUFFIX
from detector.history_file import of_version, read_files
from detector.signing import PrivateKey, PublicKeys

PRODUCTION = "production"
_ALIASES = "aliases.json"
_MOST_ALIAS_BYTES = 1024 * 1024


class ModelDirectory:
    """Versions of one detector under `root`, and the aliases that point at them.

    An alias changes atomically; a version never changes. The former target of an alias is remembered, so that
    `rollback` needs no argument. The directory has the detector's name, and only versions of that one are loaded.

    Attributes:
        root: The directory.
        trusted: Keys of which one must have signed what is loaded; None asks for no signature. The aliases are not
            signed: whoever may write here can choose which of the signed versions serves, an old one too.
    """

    def __init__(self, root: Path | str, trusted: PublicKeys | None = None) -> None:
        self.root, self.trusted = Path(root), trusted

    @property
    def name(self) -> str:
        """The detector's name: that of the directory."""
        return self.root.absolute().name

    def versions(self) -> list[str]:
        """Every complete version, the oldest first."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if VERSION.fullmatch(path.name) and path.is_dir())

    def aliases(self) -> dict[str, str]:
        """Alias to version.

        Raises:
            ArtifactError: The file of aliases is damaged, or a link to another.
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
        return read_artifact(self.path(version), self.trusted, self.name)

    def sign(self, version: str, key: PrivateKey) -> None:
        """Sign a version and the histories beside it, in the place of any signature that they had.

        Raises:
            ArtifactError: There is no such version, or it is refused: nothing is signed that would not be loaded.
        """
        sign_artifact(self.path(version), key, self.name)
        state = self.state_path(version)
        if state.is_dir():
            for name, content in of_version(read_files(state), version, key).items():
                replace_file(state / name, content)

    def signature_stamp(self, version: str) -> tuple[int, int] | None:
        """What changes when a version is signed anew, None where it is not signed."""
        try:
            found = (self.root / version / SIGNATURE).lstat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

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
        key: PrivateKey | None = None,
    ) -> str:
        """Write a new version; the first one becomes production, a later one only where `promote` says so.

        Args:
            detector: What to publish.
            promote: Whether it becomes production at once.
            files: More files for people.
            state: Files of the histories at the end of training, which lie beside the version.
            key: Signs both, where one is given.

        Returns:
            The version.

        Raises:
            FileExistsError: This very detector is published already.
        """
        version, content = pack(detector, files, key)
        if state is not None:  # first, so that whoever sees the version sees its state
            write_files(of_version(state, version, key), self.state_path(version))
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
            content = json.loads(read_plain(path, _MOST_ALIAS_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            remedy = "restore it, or promote a version again"
            if isinstance(error, UnsafeFileError):
                remedy = "remove it, and promote a version again"
            raise ArtifactError(ArtifactRefusal.UNREADABLE, f"{path} cannot be read ({error}): {remedy}") from error
        former = content.pop("former", {}) if isinstance(content, dict) else None
        if not isinstance(former, dict) or not all(isinstance(versions, list) for versions in former.values()):
            raise ArtifactError(
                ArtifactRefusal.UNREADABLE, f"{path} does not map aliases to versions: restore it, or promote again"
            )
        history = {alias: [*former.get(alias, []), version] for alias, version in content.items()}
        for version in (version for versions in history.values() for version in versions):
            if not isinstance(version, str) or VERSION.fullmatch(version) is None:
                raise ArtifactError(
                    ArtifactRefusal.UNREADABLE,
                    f"{path} names {version!r:.120}, which is no version: restore it, or promote again",
                )
        return history

    def _write(self, history: dict[str, list[str]]) -> None:
        content: dict[str, object] = {alias: versions[-1] for alias, versions in history.items()}
        content["former"] = {alias: versions[:-1] for alias, versions in history.items() if versions[:-1]}
        replace_file(self.root / _ALIASES, json.dumps(content, indent=1).encode())
