"""What an error says on standard error, and what the process ends with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

EXIT_FAILED = 1
"""What was asked for could not be done: the model, the disk, the broker or another process."""

EXIT_BAD_INPUT = 2
"""What was given is wrong: data, definition, options, key, checkpoint."""


@contextmanager
def failures_told() -> Iterator[None]:
    """Turn a failure that a person can mend into one clear line on standard error and an exit code.

    Commands are decorated with it.
    """
    from detector import ArtifactError, DetectorError
    from trainer.errors import CheckpointError, DataFileError, TrainerError

    try:
        yield
    except (ArtifactError, OSError) as error:
        _complain(error, EXIT_FAILED)
    except (DetectorError, DataFileError, CheckpointError) as error:
        _complain(error, EXIT_BAD_INPUT)
    except TrainerError as error:
        _complain(error, EXIT_FAILED)


def _complain(error: Exception, code: int) -> None:
    sys.stderr.write(f"offbeat: {error}\n")
    raise typer.Exit(code) from error
