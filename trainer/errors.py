"""Every error that the trainer raises on purpose, beside those of the detector.

TrainerError
├── DataFileError      a file of records cannot be read: which and why
├── OutputError        a result cannot be written: which file and why
├── CheckpointError    a checkpoint cannot be continued: what is wrong with it, or what differs
├── ProcessError       the processes or the device of a training are not there, or do not fit together
└── NotFittedError     an estimator is asked before it was fitted
"""

from __future__ import annotations


class TrainerError(Exception):
    """Base of all errors of this room."""


class DataFileError(TrainerError):
    """A file of records cannot be read; the message names the file and what to do."""


class OutputError(TrainerError):
    """A result cannot be written; the message names the file and what to do."""


class NotFittedError(TrainerError, ValueError, AttributeError):
    """An estimator is asked before it was fitted; raised where scikit-learn, whose own is raised else, is not there."""


class CheckpointError(TrainerError):
    """A checkpoint cannot be continued; the message names the file, what is wrong and what to do."""


class ProcessError(TrainerError):
    """The processes or the device of a training are not there, or do not fit together; says which and what to do."""
