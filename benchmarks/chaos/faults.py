"""The faults, each a way to disturb a run and to undo it; whether the run kept its promises is the checker's to say."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.chaos.arena import MAX_POLL_INTERVAL_S, Arena
from benchmarks.chaos.recording import NAME
from detector import Detector, ModelDirectory
from tests.kafka.worker import WorkerProcess
from worker.errors import EXIT_OPERATOR, EXIT_POISON

Draw = random.Random

_DISK_BYTES = 8 * 2**20
_JUMPS_S = [sign * seconds for sign in (-1, 1) for seconds in (5.0, 600.0, 7 * 3600.0, 400 * 86_400.0)]


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        inject: Disturbs a run once and undoes what does not undo itself; `Arena.recover` follows.
        seconds: About how long one injection and the recovery from it take: so long the records are spread.
        brokers: How many brokers the cluster has.
        workers: How many workers the group has, None for the harness's number.
        is_proxied: Whether workers reach the brokers through the proxies.
        is_launched: Whether workers run under the harness's launcher.
        settings: Settings of the workers.
        allowed_exits: Exit codes of workers that the fault brings about.
    """

    inject: Callable[[Arena, Draw], None]
    seconds: float
    brokers: int = 1
    workers: int | None = None
    is_proxied: bool = False
    is_launched: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    allowed_exits: frozenset[int] = frozenset()


def kill_worker(arena: Arena, draw: Draw) -> None:
    """SIGKILL one worker at any moment; another is started after a while."""
    worker = draw.choice(arena.workers)
    time.sleep(draw.uniform(0, 1))
    worker.kill()
    time.sleep(draw.uniform(0, 2))
    arena.replace(worker)


def freeze_worker(arena: Arena, draw: Draw) -> None:
    """Stop one worker for longer than its session lasts: it wakes as a zombie whose partitions have moved."""
    worker = draw.choice(arena.workers)
    time.sleep(draw.uniform(0, 1))
    os.kill(worker.process.pid, signal.SIGSTOP)
    time.sleep(arena.session_timeout_s + draw.uniform(0.5, 3))
    os.kill(worker.process.pid, signal.SIGCONT)
    time.sleep(1)


def join_and_leave(arena: Arena, draw: Draw) -> None:
    """One worker joins, and one of those that were there leaves in good order, now the one first and now the other."""
    leaver = draw.choice(arena.workers)
    if draw.random() < 0.5:
        joiner = arena.start_worker()
        _until_member(arena, joiner)
        arena.stop_worker(leaver)
    else:
        arena.stop_worker(leaver)
        arena.start_worker()


def kill_broker(arena: Arena, draw: Draw) -> None:
    """SIGKILL the only broker, and start it again after a while."""
    (broker,) = arena.cluster.brokers
    time.sleep(draw.uniform(0, 1))
    broker.kill()
    time.sleep(draw.uniform(0, 2))
    broker.start()


def freeze_broker(arena: Arena, draw: Draw) -> None:
    """Stop the only broker for longer than sessions last: connections stay open and nothing answers."""
    (broker,) = arena.cluster.brokers
    time.sleep(draw.uniform(0, 1))
    broker.freeze()
    time.sleep(arena.session_timeout_s + draw.uniform(0.5, 3))
    broker.thaw()


def kill_leader(arena: Arena, draw: Draw) -> None:
    """SIGKILL the broker that leads a partition of the input, of three; it comes back, and catches up."""
    leader = arena.cluster.leader_of(arena.topic, draw.randrange(arena.partitions))
    time.sleep(draw.uniform(0, 1))
    leader.kill()
    time.sleep(draw.uniform(1, 4))
    leader.start()
    arena.wait_for(lambda: arena.cluster.is_in_sync(arena.topic), "copies in sync")


def add_partition(arena: Arena, draw: Draw) -> None:
    """Add a partition while records flow: entities move there."""
    time.sleep(draw.uniform(0, 1))
    arena.add_partition()
    time.sleep(1)


def recreate_topic(arena: Arena, draw: Draw) -> None:
    """Delete the input, all of which is done, and create it anew; sometimes under workers that run.

    Workers that run hold on to offsets of the old topic, and stop where the new one has none of them. What the runbook
    says is done by the operator: all are stopped, the group is set back to the beginning, and all are started.
    """
    arena.producer.pause()
    arena.drain()
    if draw.random() < 0.5:
        members = _stop_all(arena)
        arena.recreate_topic()
        _begin_anew(arena, members)
        arena.producer.resume()
        return
    furthest = max(arena.cluster.ends(arena.topic, arena.partitions).values())
    arena.recreate_topic()
    if draw.random() < 0.5:  # the new topic soon has the offsets at which the workers stand in the old one
        arena.producer.hurry(2 * furthest * arena.partitions)
    arena.producer.resume()
    arena.wait_for(lambda: _has_stopped(arena) or arena.is_committed(), "sign of a topic created anew")
    if _has_stopped(arena):
        _begin_anew(arena, _stop_all(arena))


def be_slow(arena: Arena, draw: Draw) -> None:
    """Let one batch of one worker take longer than the poll interval: it is put out, and publishes all the same."""
    worker = draw.choice(arena.workers)
    time.sleep(draw.uniform(0, 1))
    os.kill(worker.process.pid, signal.SIGUSR1)
    time.sleep(MAX_POLL_INTERVAL_S + 3)


def spoil_models(arena: Arena, draw: Draw) -> None:
    """Take the models away, fill their disk, or promote a broken version; sometimes a worker has to start meanwhile."""
    spoil = draw.choice([_without_models, _with_a_full_disk, _with_a_broken_version])
    spoil(arena, draw)


def jump_clock(arena: Arena, draw: Draw) -> None:
    """Let the wall clocks of all workers jump: by seconds, by hours, forwards and back, then right again."""
    for seconds in draw.sample(_JUMPS_S, 2):
        arena.set_clock(seconds)
        time.sleep(draw.uniform(0.5, 2))
    arena.set_clock(0.0)
    time.sleep(0.5)


def reset_connections(arena: Arena, draw: Draw) -> None:
    """Reset every connection of the workers, a few times in a row."""
    for _ in range(draw.randrange(1, 4)):
        time.sleep(draw.uniform(0, 0.7))
        for proxy in arena.cluster.proxies:
            proxy.reset()


def stall_connections(arena: Arena, draw: Draw) -> None:
    """Hold back every byte between workers and broker, for a moment or for longer than a session lasts."""
    time.sleep(draw.uniform(0, 1))
    for proxy in arena.cluster.proxies:
        proxy.stall()
    time.sleep(draw.choice([draw.uniform(0.5, 3), arena.session_timeout_s + draw.uniform(0.5, 2)]))
    for proxy in arena.cluster.proxies:
        proxy.resume()


def malform(arena: Arena, draw: Draw) -> None:
    """Let every second message be malformed bytes for a while."""
    arena.producer.malformed = True
    time.sleep(draw.uniform(2, 4))
    arena.producer.malformed = False


def malform_until_stopped(arena: Arena, draw: Draw) -> None:
    """The same under the limits as they are: the workers stop, are started with higher ones, and then as before."""
    arena.producer.malformed = True
    _until_one_is_poisoned(arena)
    time.sleep(draw.uniform(0, 1))
    arena.producer.malformed = False
    arena.overrides = dict(RAISED)
    for worker in list(arena.workers):
        if worker.process.exit_code is None:
            arena.stop_worker(worker)
            arena.start_worker()
    arena.recover()
    arena.overrides = {}
    for worker in list(arena.workers):
        arena.stop_worker(worker)
        arena.start_worker()


RAISED: dict[str, Any] = {"poison__max_ratio": 1.0, "poison__max_consecutive": 1_000_000}

FAULTS: dict[str, Fault] = {
    "worker_killed": Fault(kill_worker, 9),
    "worker_frozen": Fault(freeze_worker, 12),
    "workers_join_and_leave": Fault(join_and_leave, 9),
    "broker_killed": Fault(kill_broker, 12),
    "broker_frozen": Fault(freeze_broker, 12),
    "leader_killed": Fault(kill_leader, 14, brokers=3),
    "partition_added": Fault(add_partition, 5),
    "topic_recreated": Fault(recreate_topic, 16, workers=2, allowed_exits=frozenset({EXIT_OPERATOR})),
    "slow_batch": Fault(be_slow, 17, is_launched=True),
    "models_spoiled": Fault(spoil_models, 6),
    "clock_jumps": Fault(jump_clock, 4, is_launched=True),
    "connections_reset": Fault(reset_connections, 4, is_proxied=True),
    "connections_stalled": Fault(stall_connections, 10, is_proxied=True),
    "malformed": Fault(malform, 5, settings=RAISED),
    "malformed_until_stopped": Fault(
        malform_until_stopped, 20, workers=1, settings={"poison__window": 200, "poison__max_ratio": 0.3},
        allowed_exits=frozenset({EXIT_POISON}),
    ),
}  # fmt: skip
"""Every fault by name, in the order in which they are injected."""


def _has_stopped(arena: Arena) -> bool:
    return any(worker.process.exit_code is not None for worker in arena.workers)


def _stop_all(arena: Arena) -> int:
    """How many workers were stopped, or had stopped already."""
    members = len(arena.workers)
    for worker in list(arena.workers):
        arena.stop_worker(worker)
    return members


def _begin_anew(arena: Arena, members: int) -> None:
    """Set the group back to the beginning, where it has offsets, and start workers."""
    if arena.cluster.committed(arena.group, arena.topic):
        arena.cluster.reset_offsets(arena.group, arena.topic, arena.partitions)
    for _ in range(members):
        arena.start_worker()


def _until_member(arena: Arena, worker: WorkerProcess) -> None:
    arena.wait_for(lambda: worker.get("/readyz")[0] == 200, "member that joined")


def _until_one_is_poisoned(arena: Arena) -> None:
    arena.wait_for(
        lambda: any(worker.process.exit_code == EXIT_POISON for worker in arena.workers), "stop of a poison stream"
    )


def _without_models(arena: Arena, draw: Draw) -> None:
    """The directory is away; a worker that starts meanwhile waits for it."""
    away = arena.models.with_name("away")
    arena.models.rename(away)
    worker = draw.choice(arena.workers)
    if draw.random() < 0.5:
        worker.kill()
        arena.replace(worker)
    time.sleep(draw.uniform(1, 4))
    away.rename(arena.models)


def _with_a_full_disk(arena: Arena, draw: Draw) -> None:
    """A new version does not fit the disk, a small one of its own; where none can be mounted, it is away."""
    if not can_mount():
        _without_models(arena, draw)
        return
    small, kept = arena.models.with_name("small"), arena.models.with_name("kept")
    with _mounted(small):
        shutil.copytree(arena.models, small / "models")
        (small / "ballast").write_bytes(b"\0" * max(shutil.disk_usage(small).free - 8192, 0))
        arena.models.rename(kept)
        arena.models.symlink_to(small / "models")
        try:
            _publish_in_vain(arena.models / NAME)
            time.sleep(draw.uniform(1, 3))
        finally:
            arena.models.unlink()
            kept.rename(arena.models)
            time.sleep(0.5)  # nobody reads there any more


def _with_a_broken_version(arena: Arena, draw: Draw) -> None:
    """A version whose weights are damaged is promoted, by somebody who does not verify it; then it is rolled back."""
    root = arena.models / NAME
    good = ModelDirectory(root).current()
    assert good is not None
    broken = f"20990101T{draw.randrange(10**6):06d}Z-{draw.getrandbits(32):08x}"
    shutil.copytree(root / good, root / broken)
    weights = root / broken / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[draw.randrange(len(content))] ^= 0xFF
    weights.write_bytes(content)
    before = (root / "aliases.json").read_bytes()
    _write_aliases(root, before.replace(good.encode(), broken.encode()))
    time.sleep(draw.uniform(1, 3))
    _write_aliases(root, before)
    time.sleep(0.5)  # nobody reads there any more
    shutil.rmtree(root / broken)


def _write_aliases(root: Path, content: bytes) -> None:
    beside = root / "aliases.new"
    beside.write_bytes(content)
    beside.replace(root / "aliases.json")


def _publish_in_vain(root: Path) -> None:
    """Publish and promote another version where there is no room for it."""
    directory = ModelDirectory(root)
    current = directory.current()
    assert current is not None
    detector = directory.load(current)
    another = Detector(
        detector.stream, detector.encoder, detector.scorer, detector.threshold, detector.normal_scores,
        history=detector.history, reference=detector.reference, facts=detector.facts | {"remark": "does not fit"},
    )  # fmt: skip
    try:
        directory.publish(another, promote=True)
    except OSError:
        return
    raise RuntimeError(f"a version was published to {root}, where there was no room for it")


@cache
def can_mount() -> bool:
    """Whether this user may mount a small disk of its own."""
    with tempfile.TemporaryDirectory() as place:
        try:
            with _mounted(Path(place) / "small"):
                return True
        except subprocess.CalledProcessError:
            return False


@contextmanager
def _mounted(place: Path) -> Iterator[None]:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)
    finally:
        place.rmdir()
