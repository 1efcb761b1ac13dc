"""Real transactions on a real broker: every record accounted for, and the worker's scores against `offbeat score`'s.

Trains on April to June of the Fraud Detection Handbook's stream with what `offbeat init` proposes, streams July and
August through Kafka to a worker that begins with the histories at the end of training, reads the score topic back, and
compares it with the file that `offbeat score` writes.

    python -m benchmarks.transactions_on_kafka --json benchmarks/results/transactions_on_kafka.json
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.rig import arguments, command, drain, fill, months, report
from tests.kafka.broker import KafkaBroker
from tests.kafka.worker import ROOT, WorkerProcess
from trainer.evaluation import evaluate
from transport import read_topic

TOPIC = "transactions"


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--train", nargs="+", default=["2018-04", "2018-05", "2018-06"], help="months to train on")
    options.add_argument("--stream", nargs="+", default=["2018-07", "2018-08"], help="months to stream")
    options.add_argument("--partitions", type=int, default=4)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(run(Path(folder), chosen.train, chosen.stream, chosen.partitions), chosen.json)


def run(folder: Path, train: list[str], stream: list[str], partitions: int) -> dict[str, Any]:
    """The figures."""
    history = folder / "history"
    history.mkdir()
    for file in months(*train):
        (history / file.name).symlink_to(file)
    definition = folder / "stream.toml"
    proposal = subprocess.run(
        [sys.executable, "-m", "offbeat", "init", str(history)], check=True, cwd=ROOT, capture_output=True, text=True
    ).stdout
    definition.write_text(proposal)
    command("train", history, "--stream", definition, "--models", folder / "models", "--with-state")

    live = months(*stream)
    streamed = folder / "live"
    streamed.mkdir()
    for file in live:
        (streamed / file.name).symlink_to(file)
    command(
        "score", "--models", folder / "models", "--history", history, "--input", streamed,
        "--output", folder / "scores.parquet",
    )  # fmt: skip
    with KafkaBroker(heap_mb=1024) as broker:
        sent = fill(broker, TOPIC, live, partitions)
        with WorkerProcess(
            folder, bootstrap_servers=broker.bootstrap_servers, topic=TOPIC, models=folder / "models",
            score_topic=f"{TOPIC}.scores",
        ) as worker:  # fmt: skip
            drained = drain(worker, sent)
        ids, scores = read_scores(broker)
    table = pa.concat_tables([pq.read_table(file) for file in live])
    return {
        "sent": sent,
        "worker": asdict(drained) | {"records_per_s": drained.records_per_s},
        "outcomes_sum_to_sent": sum(drained.outcomes.values()) == sent,
        **compare(ids, scores, folder / "scores.parquet"),
        **quality(ids, scores, table),
    }


def read_scores(broker: KafkaBroker) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Transaction ids and scores of the score topic, in the order of the ids; a repeat counts once if it is equal."""
    found: dict[int, float] = {}
    for batch in read_topic(broker.settings, f"{TOPIC}.scores", timeout_s=60.0):
        for value in batch.values:
            content = msgspec.json.decode(value or b"")
            number, score = int(content["record_id"]), content["score"]
            if found.setdefault(number, score) != score:
                raise AssertionError(f"record {number} was scored twice, differently: {found[number]} and {score}")
    ids = np.array(sorted(found), np.int64)
    return ids, np.array([found[number] for number in ids.tolist()])


def compare(ids: NDArray[np.int64], scores: NDArray[np.float64], file: Path) -> dict[str, Any]:
    """The worker's scores beside those of `offbeat score`, bit for bit."""
    table = pq.read_table(file)
    order = np.argsort(table["TRANSACTION_ID"].to_numpy())
    offline_ids = table["TRANSACTION_ID"].to_numpy()[order].astype(np.int64)
    offline = table["score"].to_numpy()[order]
    same = bool((ids == offline_ids).all()) if len(ids) == len(offline_ids) else False
    return {
        "records_scored_by_the_worker": len(ids),
        "records_scored_by_offbeat_score": len(offline),
        "the_same_records": same,
        "scores_equal_to_the_last_bit": same and scores.tobytes() == offline.astype(np.float64).tobytes(),
    }


def quality(ids: NDArray[np.int64], scores: NDArray[np.float64], table: pa.Table) -> dict[str, Any]:
    """AUROC, average precision and card precision@100 of the worker's scores.

    All frauds, and those that can be seen in a payment without labels (scenario 1: large amounts, scenario 3:
    compromised customers; scenario 2 only flips the label of payments that look normal).
    """
    rows = np.argsort(table["TRANSACTION_ID"].to_numpy())
    rows = rows[np.searchsorted(table["TRANSACTION_ID"].to_numpy()[rows], ids)]
    fraud = table["TX_FRAUD"].to_numpy()[rows] > 0
    scenario = table["TX_FRAUD_SCENARIO"].to_numpy()[rows]
    cards = np.array([str(card) for card in table["CUSTOMER_ID"].to_numpy()[rows]], np.object_)
    times = table["TX_DATETIME"].to_numpy()[rows].astype("datetime64[us]")
    figures = {}
    for name, chosen in (("all_frauds", np.ones(len(ids), np.bool_)), ("label_free_frauds", scenario != 2)):
        result = evaluate(scores[chosen], fraud[chosen], entities=cards[chosen], times=times[chosen])
        if result is not None:
            figures[name] = {
                "auroc": result.auroc,
                "average_precision": result.average_precision,
                "card_precision_at_100": None if result.entity is None else result.entity.mean,
                "card_precision_at_100_attainable": None if result.entity is None else result.entity.attainable,
            }
    return figures


if __name__ == "__main__":
    main()
