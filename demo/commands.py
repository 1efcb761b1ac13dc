"""The commands of this room: `demo` (the tour) and `simulate` (payments to a file or a topic)."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from demo.errors import DemoError
from demo.files import SUFFIXES, write_days
from demo.simulator import Simulator
from demo.tour import PARTITIONS, TourSettings, run_tour
from demo.wire import deliveries, feed
from transport import KafkaPublisher, KafkaSettings, PublisherSettings, TransportError, create_topics

_INTERRUPTED = 130  # what shells report for a command ended by Ctrl-C

Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same payments.")]
Customers = Annotated[int, typer.Option(min=1, help="How many people pay; each does about 1.6 times a day.")]


def mount(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("demo")(demo_command)
    app.command("simulate")(simulate_command)


def demo_command(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave broker and worker running until Ctrl-C; print the addresses.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=1, help="How long the live stream is fed.")] = TourSettings.seconds,
    rate: Annotated[float, typer.Option(min=1, help="Live records a second.")] = TourSettings.rate,
    seed: Seed = TourSettings.seed,
    customers: Customers = TourSettings.customers,
    history_days: Annotated[
        int, typer.Option(min=7, help="Days of history to train on; whole weeks show all weekdays.")
    ] = TourSettings.history_days,
    directory: Annotated[
        Path | None, typer.Option(help="Where history, model and logs are left; unless given they are removed.")
    ] = None,
) -> None:
    """Take the tour: simulate, train, stream, alert, on this machine alone; nothing to set up."""
    settings = TourSettings(
        seconds=seconds,
        rate=rate,
        seed=seed,
        customers=customers,
        history_days=history_days,
        directory=directory,
        keep=keep,
    )
    console, errors = Console(), Console(stderr=True)
    try:
        run_tour(settings, console)
    except KeyboardInterrupt:
        errors.print("\nended early; nothing is left running")
        raise typer.Exit(_INTERRUPTED) from None
    except (DemoError, TransportError) as error:
        errors.print(f"\nthe tour failed: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error


def simulate_command(
    out: Annotated[
        Path | None, typer.Argument(help=f"File to write, its suffix says how: {', '.join(SUFFIXES)}.")
    ] = None,
    *,
    topic: Annotated[str | None, typer.Option(help="Topic to feed instead of a file; created if missing.")] = None,
    bootstrap_servers: Annotated[
        str, typer.Option(help="Brokers of the topic, host:port, separated by commas.")
    ] = "127.0.0.1:9092",
    rate: Annotated[float, typer.Option(min=0.001, help="Records a second to a topic.")] = 100.0,
    records: Annotated[
        int | None, typer.Option(min=1, help="How many records to a topic; without end unless given.")
    ] = None,
    damaged_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the messages to a topic that are damaged on the way.")
    ] = 0.0,
    labels: Annotated[
        bool, typer.Option("--labels", help="Send the labels to a topic too; files always have them.")
    ] = False,
    days: Annotated[int, typer.Option(min=1, help="How many days to a file.")] = 21,
    first_day: Annotated[int, typer.Option(min=0, help="Day to begin with; day 0 is 5 January 2026.")] = 0,
    seed: Seed = 0,
    customers: Customers = 2_500,
) -> None:
    """Simulate card payments with labelled frauds, into a file or at a steady rate into a topic."""
    if (out is None) == (topic is None):
        raise typer.BadParameter("give either a file to write or --topic", param_hint="OUT")
    console = Console(stderr=True)
    simulator = Simulator(seed, customers)
    if out is not None:
        try:
            count = write_days(out, simulator.days(first_day, days))
        except (ValueError, OSError) as error:
            raise typer.BadParameter(str(error), param_hint="OUT") from error
        console.print(f"wrote {count:,} payments of {days} days to {out}", soft_wrap=True)
        return
    kafka = KafkaSettings(bootstrap_servers=bootstrap_servers)
    try:
        create_topics(kafka, {str(topic): PARTITIONS})
        _feed(console, simulator, kafka, str(topic), first_day, rate, records, damaged_share, labels=labels)
    except TransportError as error:
        console.print(f"{error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def _feed(
    console: Console,
    simulator: Simulator,
    kafka: KafkaSettings,
    topic: str,
    first_day: int,
    rate: float,
    records: int | None,
    damaged_share: float,
    *,
    labels: bool,
) -> None:
    left = math.inf if records is None else records
    sent = 0
    publisher = KafkaPublisher(kafka, PublisherSettings())
    try:
        for number, day in enumerate(deliveries(simulator, first_day, damaged_share=damaged_share, labels=labels)):
            part = day.take(slice(int(min(left - sent, len(day)))))
            sent += feed(publisher, topic, part, rate=rate, clock=time.monotonic, sleep=time.sleep)
            console.print(f"{sent:,} records sent, up to day {first_day + number}")
            if sent >= left:
                return
    finally:
        publisher.close()
