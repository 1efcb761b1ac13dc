"""The trainer's commands: which there are, and how they are mounted.

One module a command, `models` with its subcommands being one. Beside them is what several of them share:

    options         arguments and options that several commands have
    topic_options   those of commands that read topics
    output          what is printed, and where
    failures        what an error says, and what the process ends with
    versions        which detector and version is meant
    inputs          what is behind DATA and --history
    thresholds      the threshold of the command line
    signing         the key of --sign-with
    progress        bars and lines while something runs
    fits, fit_tables, data_remarks      the larger parts of `train`
    record_tables                       the larger part of `explain`

Importing this package loads neither torch nor pyarrow, so that `offbeat --help` is quick: a command imports what it
needs when it runs. Modules beside the commands that need much, such as `inputs`, are imported there and nowhere else.
"""

from __future__ import annotations

import typer

from trainer.commands import calibrate, embed, explain, features, init, models, score, train
from trainer.commands.topic_options import LookBackOf, reading_topics


def mount(app: typer.Typer, look_back_of: LookBackOf | None = None) -> None:
    """Add the trainer's commands to `app`.

    Args:
        app: The command line.
        look_back_of: Makes what reads a topic as the worker does; without it topics are refused.
    """
    app.command()(init.init)
    for command in (train.train, calibrate.calibrate, score.score, features.features):
        app.command()(reading_topics(command, look_back_of))
    app.command()(reading_topics(explain.explain, look_back_of, ranges=False))
    app.command()(embed.embed)
    app.add_typer(models.models_app(), name="models")
