"""Every error that the detector raises on purpose.

DetectorError
├── StreamDefinitionError     the stream definition is wrong: file, key and remedy
├── TrainingDataError         the data cannot train or calibrate a detector
├── HistoryMismatch           a block of histories cannot be carried on with
├── AlertStateMismatch        the state of alerts cannot be carried on with
├── SigningKeyError           a key that signs or verifies artifacts cannot be used
└── ArtifactError             an artifact is refused; `reason` is one of a closed set
"""

from __future__ import annotations

from enum import StrEnum


class DetectorError(Exception):
    """Base of all errors of this room."""


class StreamDefinitionError(DetectorError, ValueError):
    """The stream definition is wrong; the message names file, key and remedy."""


class TrainingDataError(DetectorError, ValueError):
    """The data cannot train or calibrate a detector; the message says how much or what is missing."""


class HistoryMismatch(DetectorError, ValueError):  # noqa: N818 - what it is, not that it is an error
    """A block of histories is damaged, or belongs to another history than the one that is to carry on with it."""


class AlertStateMismatch(DetectorError, ValueError):  # noqa: N818 - what it is, not that it is an error
    """The state of the alerts of a partition is damaged."""


class SigningKeyError(DetectorError, ValueError):
    """A key that signs or verifies artifacts cannot be used; the message says which file, and never what is in it."""


class ArtifactRefusal(StrEnum):
    """Why an artifact was not loaded."""

    MISSING = "missing"
    INCOMPLETE = "incomplete"
    TAMPERED = "tampered"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    FORMAT_VERSION = "format_version"
    GOLDEN_SCORES = "golden_scores"
    UNSIGNED = "unsigned"
    WRONG_SIGNATURE = "wrong_signature"
    WRONG_DETECTOR = "wrong_detector"


class ArtifactError(DetectorError):
    """An artifact is refused: `reason` for machines, the message for people."""

    def __init__(self, reason: ArtifactRefusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason
