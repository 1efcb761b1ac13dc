"""The threshold that a command line states in the place of a stream definition's."""

from __future__ import annotations

import typer
from pydantic import ValidationError

from detector import StreamDefinition


def with_threshold(
    stream: StreamDefinition, budget: str | None, rate: float | None, one_in: float | None
) -> StreamDefinition:
    """The definition with the threshold of the command line, where it has one; whether it follows stays.

    Raises:
        BadParameter: It cannot be a threshold, or is stated twice.
    """
    stated = {"alert_budget": budget, "false_alarm_rate": rate, "one_in": one_in}
    given = {name: value for name, value in stated.items() if value is not None}
    if not given:
        return stream
    kept = {"mode": stream.threshold.mode, "window": stream.threshold.window}
    try:
        return StreamDefinition.model_validate({**stream.model_dump(), "threshold": kept | given})
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise typer.BadParameter(message, param_hint="--alert-budget / --false-alarm-rate / --one-in") from error
