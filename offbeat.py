"""The front door: it mounts each room's commands, hands one what it needs of another, and has the public names."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from detector import Detector
    from trainer.estimator import OffbeatDetector, fit, fit_threshold
    from trainer.topics import LookBack

__all__ = ["Detector", "OffbeatDetector", "app", "fit", "fit_threshold", "main"]

_HOMES = {
    "fit": "trainer.estimator",
    "fit_threshold": "trainer.estimator",
    "OffbeatDetector": "trainer.estimator",
    "Detector": "detector",
}

app = typer.Typer(
    name="offbeat",
    help="Finds the odd record in a Kafka stream: a trainer fits an autoencoder on normal records, a worker alerts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes a second that `offbeat --help` need not wait for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'offbeat' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def _tell_version(asked: bool) -> None:  # noqa: FBT001 - typer's signature
    if asked:
        typer.echo(f"offbeat {_version()}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    pass


def _version() -> str:
    try:
        return version("offbeat")
    except PackageNotFoundError:
        return "(not installed)"


def _look_back(topic: str, flags: Sequence[str]) -> LookBack:
    """The worker's view of a topic, for the trainer's commands: neither room knows the other."""
    from trainer.errors import DataFileError
    from worker.errors import SettingsRefused
    from worker.point_in_time import PointInTime

    try:
        return PointInTime.of(topic, flags)
    except SettingsRefused as error:
        raise DataFileError(str(error)) from error


import_module("trainer.commands").mount(app, _look_back)
for _room in ("worker", "demo"):
    import_module(f"{_room}.commands").mount(app)


def main() -> None:
    """Run the command that the arguments name."""
    app()


if __name__ == "__main__":
    main()
