"""Which detector and which version a command means, and what manifests say of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detector import ArtifactError, Detector, HistoryState, ModelDirectory, PublicKeys, read_state
from detector.artifact import read_manifest
from trainer.errors import DataFileError
from trainer.report import history_rows, needs_of_history


def load_version(
    models: Path, name: str | None, version: str | None, trusted: PublicKeys | None = None
) -> tuple[ModelDirectory, Detector]:
    """A version of a detector, the one in production unless named, and the directory that it is in.

    Args:
        models: The directory of all detectors.
        name: The detector, None for the only one.
        version: The version.
        trusted: Keys of which one must have signed it; None asks for no signature.

    Raises:
        DataFileError: No such detector, several of them, or none in production.
        ArtifactError: No such version, or it is refused.
    """
    directory = directory_of(models, name, trusted)
    return directory, _load(directory, version)


def directory_of(models: Path, name: str | None, trusted: PublicKeys | None = None) -> ModelDirectory:
    """The detector of that name, or the only one.

    Raises:
        DataFileError: There is no such detector, or several.
    """
    found = {directory.root.name: directory for directory in directories(models)}
    if name is None and len(found) > 1:
        raise DataFileError(f"{models}: holds several detectors: choose with --detector from {', '.join(found)}")
    if name is not None and name not in found:
        raise DataFileError(f"{models}: holds no detector {name!r}: choose with --detector from {', '.join(found)}")
    directory = found[name or next(iter(found))]
    directory.trusted = trusted
    return directory


def directories(models: Path) -> list[ModelDirectory]:
    """Every detector under `models`.

    Raises:
        DataFileError: There is none.
    """
    if not models.is_dir():
        raise DataFileError(f"{models}: no such directory: give the directory that `offbeat train --models` wrote to")
    inside = [ModelDirectory(path) for path in sorted(models.iterdir()) if path.is_dir() and path.name[0] != "."]
    found = [directory for directory in inside if directory.versions()]
    if not found:
        hint = f"; did you mean --models {models.parent}?" if ModelDirectory(models).versions() else ""
        raise DataFileError(f"{models}: holds no detector{hint}")
    return found


def detector_at(path: Path) -> Detector:
    """The detector of a version's directory, or the one in production of a detector's, or of the only detector's.

    Raises:
        DataFileError: There is none, or several.
        ArtifactError: It is refused.
    """
    if (path / "manifest.json").is_file():
        return Detector.load(path)
    directory = ModelDirectory(path)
    return _load(directory if directory.versions() else directory_of(path, None), None)


def public_keys(paths: list[Path] | None) -> PublicKeys | None:
    """The keys of `--public-key`, None where none is named.

    Raises:
        SigningKeyError: One cannot be read.
    """
    return PublicKeys.read(paths) if paths else None


def published_state(directory: ModelDirectory, detector: Detector) -> HistoryState:
    """The histories that `train --with-state` published beside a version.

    Raises:
        DataFileError: There are none.
    """
    version = detector.version or ""
    if detector.history is None:
        raise DataFileError(f"{detector.name} {version} has no features from history: leave out --with-state")
    state = read_state(detector.history, directory.state_path(version), version=version)
    if state is None:
        raise DataFileError(
            f"{detector.name} {version} has no histories beside it: train with --with-state, or give --history"
        )
    return detector.history.new_state(base=state)


def aliases_of(version: str, aliases: Mapping[str, str]) -> list[str]:
    """Those of some aliases that point at a version."""
    return [alias for alias, target in aliases.items() if target == version]


def facts_of(directory: ModelDirectory) -> list[dict[str, Any]]:
    """What the manifests of all versions say, unverified: a damaged version is listed as such."""
    aliases = directory.aliases()
    found = []
    for version in directory.versions():
        try:
            manifest = read_manifest(directory.path(version))
            facts, threshold = manifest["facts"], float(manifest["threshold"]["value"])
            kind = manifest["architecture"]["kind"]
        except (ArtifactError, ValueError, KeyError, TypeError):
            facts, threshold, kind = {}, None, ""
        found.append(
            {
                "detector": directory.root.name,
                "version": version,
                "aliases": aliases_of(version, aliases),
                "fitted_at": facts.get("fitted_at"),
                "trained_until": facts.get("trained_until"),
                "threshold": threshold,
                "quality": (facts.get("evaluation") or {}).get(kind),
            }
        )
    return found


def shown(directory: ModelDirectory, detector: Detector) -> Iterator[tuple[str, str]]:
    """What a loaded version is, for people: name and value."""
    version, facts, threshold = detector.version or "", detector.facts, detector.threshold
    aliases = aliases_of(version, directory.aliases())
    yield "detector", detector.name
    yield "version", f"{version} ({', '.join(aliases)})" if aliases else version
    yield "sha256", detector.sha256 or ""
    yield "fitted at", str(facts.get("fitted_at", ""))
    if detector.trained_until:
        yield "trained on", f"{facts.get('trained_from')} to {facts.get('trained_until')}"
    for name, count in facts.get("records", {}).items():
        yield f"records: {name.replace('_', ' ')}", f"{count:,}"
    yield "threshold", f"{threshold.value:.6g} ({threshold.stated}; {threshold.rate:.3%} of normal records)"
    for kind, quality in (facts.get("evaluation") or {}).items():
        figures = f"AUROC {quality['auroc']:.4f}, average precision {quality['average_precision']:.4f}"
        yield f"quality: {kind}", figures
    if told := facts.get("head"):
        advice = "recommended" if told["recommended"] else "not recommended"
        yield "head", f"{told['loss']}, taught by {told['labels']:,} labelled anomalies; {advice}"
    yield "features", ", ".join(detector.feature_names)
    for row in history_rows(detector):
        yield f"history: {row.name}", f"{row.value} {row.remark}".rstrip()
    yield "libraries", ", ".join(f"{name} {number}" for name, number in facts.get("libraries", {}).items())
    yield "directory", str(directory.path(version))


def describe(directory: ModelDirectory, detector: Detector) -> dict[str, Any]:
    """What a loaded version is, for machines."""
    version = detector.version or ""
    return {
        "detector": detector.name,
        "version": version,
        "sha256": detector.sha256,
        "aliases": aliases_of(version, directory.aliases()),
        "directory": str(directory.path(version)),
        "threshold": detector.threshold.to_json(),
        "features": detector.feature_names,
        "history": None if detector.history is None else needs_of_history(detector.history),
        "stream": detector.stream.model_dump(mode="json", exclude_defaults=True),
        "facts": detector.facts,
    }


def _load(directory: ModelDirectory, version: str | None) -> Detector:
    """A version, or the one in production."""
    found = version or directory.current()
    if found is None:
        raise DataFileError(f"{directory.root}: no version is in production: name one, or promote one")
    return directory.load(found)
