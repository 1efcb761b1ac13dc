"""The worker's commands: `work`, `config`, `status`, `dlq`; how they are mounted, and what their process ends with."""

from __future__ import annotations

import json
import logging
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from transport import ConfigurationRefused, Forbidden, TransportError, check_files
from worker.clock import Stop, stopping_on_signals
from worker.configuration import configure, flag_parser
from worker.dlq_commands import dlq_app
from worker.errors import EXIT_BUG, EXIT_CLEAN, EXIT_CODES, EXIT_OPERATOR, SettingsRefused, WorkerError
from worker.logs import log_to
from worker.settings import WorkerSettings
from worker.settings import settings as all_settings

logger = logging.getLogger(__name__)

_PASS_ALL = {"allow_extra_args": True, "ignore_unknown_options": True}


def mount(app: typer.Typer) -> None:
    """Add the worker's commands to `app`."""
    app.add_typer(dlq_app(), name="dlq")

    @app.command(context_settings=_PASS_ALL, add_help_option=False)
    def work(context: typer.Context) -> None:
        """Consume a topic, score its records, publish an alert for every anomaly (--help lists all settings)."""
        raise typer.Exit(work_command(context.args))

    @app.command(context_settings=_PASS_ALL, add_help_option=False)
    def config(context: typer.Context) -> None:
        """Print the worker's settings as TOML, secrets as ****, with where each came from (flags as for work)."""
        raise typer.Exit(config_command(context.args))

    @app.command()
    def status(
        url: Annotated[str, typer.Option(help="Address of the worker's health endpoint.")] = "http://127.0.0.1:9464",
        as_json: Annotated[bool, typer.Option("--json", help="Print what /statusz says as it is.")] = False,  # noqa: FBT002
    ) -> None:
        """Show what a running worker is doing; exits 1 where it is not ready or not there."""
        raise typer.Exit(status_command(url, as_json=as_json))


def work_command(arguments: Sequence[str]) -> int:
    """Run a worker and return the exit code of its process."""
    if _asks_for_help(arguments):
        print_help("offbeat work")
        return EXIT_CLEAN
    try:
        configuration = configure(arguments)
    except SettingsRefused as error:
        return _complain(error)
    from worker.service import serve  # torch takes a second, which help and refusals need not wait for

    settings = configuration.settings
    log_to(None, level=settings.log_level, form=settings.log_format)
    stop = Stop()
    try:
        check_files(settings.kafka)  # before anything is waited for
        with stopping_on_signals(stop):
            serve(settings, stop=stop)
    except WorkerError as error:
        logger.critical("%s. exit_code=%d", error, error.exit_code)
        return error.exit_code
    except (Forbidden, ConfigurationRefused) as error:
        logger.critical("%s. setting=%s exit_code=%d", error, setting_to_mend(error, settings), EXIT_OPERATOR)
        return EXIT_OPERATOR
    except TransportError as error:
        logger.critical("%s. error=%s exit_code=%d", error, type(error).__name__, EXIT_OPERATOR)
        return EXIT_OPERATOR
    except Exception:  # the last stop before the process ends: a bug gets an exit code of its own
        logger.critical(
            "a bug stopped the worker; nothing of the batch in hand is committed. exit_code=%d", EXIT_BUG, exc_info=True
        )
        return EXIT_BUG
    return EXIT_CLEAN


def setting_to_mend(error: Forbidden | ConfigurationRefused, settings: WorkerSettings) -> str:
    """The worker's name of the setting that the transport blames: it does not know which topic is for what."""
    if error.setting != "topics":
        return next((setting.key for setting in all_settings() if setting.path[-1] == error.setting), error.setting)
    outputs = {
        "alert_topic": settings.alerts_to,
        "dead_letter_topic": settings.dead_letters_to,
        "score_topic": settings.score_topic,
        "state.topic": settings.state_to,
    }
    told = set(re.findall(r"[a-zA-Z0-9._-]+", str(error)))
    blamed = [name for name, topic in outputs.items() if topic in told]
    return ", ".join(blamed) or "input_topics"


def config_command(arguments: Sequence[str]) -> int:
    """Print the settings and return the exit code."""
    if _asks_for_help(arguments):
        print_help("offbeat config")
        return EXIT_CLEAN
    try:
        sys.stdout.write(configure(arguments).to_toml())
    except SettingsRefused as error:
        return _complain(error)
    return EXIT_CLEAN


def status_command(url: str, *, as_json: bool) -> int:
    """Print what the worker at `url` says of itself and return the exit code."""
    if not url.startswith(("http://", "https://")):
        return _complain(SettingsRefused(f"--url {url}: is no address of a worker: begin it with http://"))
    try:
        with urllib.request.urlopen(f"{url.rstrip('/').removesuffix('/statusz')}/statusz", timeout=5) as answer:  # noqa: S310 - http(s) only, above
            snapshot: dict[str, Any] = json.load(answer)
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return _complain(
            SettingsRefused(
                f"no worker answers at {url} ({reason}): is it running, and is http.port what it listens on?"
            )
        )
    if as_json:
        sys.stdout.write(json.dumps(snapshot, indent=2) + "\n")
    else:
        _show(snapshot)
    return EXIT_CLEAN if snapshot["ready"] else EXIT_OPERATOR


def print_help(program: str) -> None:
    """All settings as flags, and the exit codes."""
    sys.stdout.write(flag_parser(program).format_help())
    sys.stdout.write("\nexit codes:\n" + "".join(f"  {code:<4} {meaning}\n" for code, meaning in EXIT_CODES.items()))


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return "--help" in arguments or "-h" in arguments


def _complain(error: Exception) -> int:
    sys.stderr.write(f"{error}\n")
    return EXIT_OPERATOR


def _show(snapshot: dict[str, Any]) -> None:
    console = Console()
    model = snapshot["model"]
    ready = "ready" if snapshot["ready"] else "not ready: " + "; ".join(snapshot["not_ready"])
    facts = Table(show_header=False, box=None)
    facts.add_row("worker", f"{snapshot['state']}, {ready}")
    facts.add_row("model", f"{model['name']} {model['version']}" if model else "none")
    facts.add_row("records", ", ".join(f"{count} {name}" for name, count in snapshot["records"].items()) or "none yet")
    facts.add_row("broker", f"answered {snapshot['broker_answered_s_ago']:g} s ago")
    if drift := snapshot.get("drift"):
        facts.add_row("drift", _drift(drift))
    if snapshot["last_error"]:
        facts.add_row("last failure", snapshot["last_error"])
    console.print(facts)
    if snapshot["assignment"]:
        partitions = Table("topic", "partition", "lag")
        for place in snapshot["assignment"]:
            lag = "unknown" if place["lag"] is None else str(place["lag"])
            partitions.add_row(place["topic"], str(place["partition"]), lag)
        console.print(partitions)


def _drift(drift: dict[str, Any]) -> str:
    """Stability indices of the score and of the features that moved, and over what they are measured."""
    moved = ", ".join(f"{name} {index:.2f}" for name, index in drift["features_psi"].items())
    hours = drift["span_s"] / 3600
    return f"{moved or 'no feature'}; score {drift['score_psi']:.2f}; of {drift['records']} records in {hours:.1f} h"
