"""The fault harness in short: a few faults change nothing that readers see, and a sabotaged worker is caught."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos.arena import Arena
from benchmarks.chaos.checker import Findings, Promise
from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.faults import freeze_worker, kill_worker, reset_connections
from benchmarks.chaos.nursery import Nursery
from benchmarks.chaos.runs import publish_models

pytestmark = pytest.mark.timeout(900)  # on a busy machine; on a quiet one it is a minute or two

SEED = 20_260_301
RATE = 200.0
SETTINGS: dict[str, object] = {"session_timeout_s": 3.0}
PROMISES: list[Promise] = ["at_least_once", "exactly_once"]


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Workers that need not import what takes seconds."""
    with Nursery(tmp_path_factory.mktemp("nursery") / "log") as nursery:
        yield nursery


@pytest.fixture(scope="module")
def cluster(nursery: Nursery) -> Iterator[Cluster]:
    """A broker behind a proxy."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model directory of the recording's detector."""
    return publish_models(tmp_path_factory.mktemp("chaos"))


@pytest.fixture
def models(published: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(published, tmp_path / "models"))


@pytest.mark.parametrize("promise", PROMISES)
def test_kills_zombies_and_resets_change_nothing_that_readers_see(
    cluster: Cluster, nursery: Nursery, models: Path, name: str, tmp_path: Path, promise: Promise
) -> None:
    draw = random.Random(SEED)
    with Arena(
        cluster, tmp_path, models, promise=promise, rate=RATE, name=name, is_proxied=True, processes=nursery.start,
        settings=SETTINGS,
    ) as arena:  # fmt: skip
        for inject in (kill_worker, reset_connections, freeze_worker, reset_connections):
            inject(arena, draw)
            arena.recover()
        findings = arena.finish()

    assert findings.violations == ()
    assert findings.records > 500
    assert findings.outcomes["alert"] >= 0.05 * findings.records
    assert min(findings.outcomes[name] for name in ("normal", "suppressed", "dead_letter", "tombstone")) > 0


def sabotaged(
    what: str, cluster: Cluster, nursery: Nursery, models: Path, name: str, directory: Path, **settings: object
) -> Arena:
    return Arena(
        cluster, directory, models, promise="at_least_once", rate=RATE / 2, workers=1, name=name, is_proxied=True,
        module="tests.kafka.sabotage", variables={"CHAOS_SABOTAGE": what}, processes=nursery.start,
        settings=SETTINGS | settings,
    )  # fmt: skip


def assert_caught(findings: Findings) -> None:
    assert findings.lost > 0
    assert any(violation.startswith("lost: ") for violation in findings.violations)


def test_a_worker_that_commits_before_it_publishes_is_caught(
    cluster: Cluster, nursery: Nursery, models: Path, name: str, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    with sabotaged("commit_before_publishing", cluster, nursery, models, name, tmp_path) as arena:
        for _ in range(2):  # one kill may miss the moment between commit and publishing
            kill_worker(arena, draw)
            arena.recover()
        findings = arena.finish()

    assert_caught(findings)


def test_a_worker_that_skips_a_batch_after_a_failed_publish_is_caught(
    cluster: Cluster, nursery: Nursery, models: Path, name: str, tmp_path: Path
) -> None:
    # Its session outlasts the stalls: a worker that was put out would read its batch again from the last commit.
    settings = {
        "publish_timeout_s": 0.5, "commit_timeout_s": 1.0, "session_timeout_s": 30.0, "max_poll_interval_s": 60.0,
    }  # fmt: skip
    with sabotaged("skip_a_failed_batch", cluster, nursery, models, name, tmp_path, **settings) as arena:
        (worker,) = arena.workers
        for _ in range(3):  # one stall may find no batch in hand
            seen = worker.outcomes().total()
            arena.wait_for(lambda seen=seen: worker.outcomes().total() > seen + 50, "records in work")  # type: ignore[misc]
            cluster.proxies[0].stall()
            time.sleep(3)  # until an attempt has failed
            cluster.proxies[0].reset()  # with all that it held of the attempt
            cluster.proxies[0].resume()
            arena.recover()
        findings = arena.finish()

    assert_caught(findings)


def test_a_worker_that_drops_a_dead_letter_is_caught(
    cluster: Cluster, nursery: Nursery, models: Path, name: str, tmp_path: Path
) -> None:
    with sabotaged("drop_a_dead_letter", cluster, nursery, models, name, tmp_path) as arena:
        findings = arena.finish(500)

    assert_caught(findings)
    assert all("dead_letter" in violation for violation in findings.violations if violation.startswith("lost: "))
