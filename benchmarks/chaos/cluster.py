"""A Kafka cluster of one broker or three, each with a direct way in and one through a proxy that can be disturbed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import NoError

from benchmarks.chaos.proxy import Proxy
from demo.processes import free_port
from tests.kafka.broker import KafkaBroker
from transport import KafkaSettings, Partition, bounds

_HEAP_MB = 384
_ANSWER_S = 20.0


class Cluster:
    """Brokers that run, and what the harness asks of them as an operator would. Use as a context manager.

    Attributes:
        brokers: The brokers; node 1 is the first.
        proxies: One in front of each broker.
    """

    def __init__(self, brokers: int = 1) -> None:
        ports = _distinct_ports(3 * brokers)
        voters = ",".join(f"{node + 1}@127.0.0.1:{ports[3 * node + 1]}" for node in range(brokers))
        self.brokers: list[KafkaBroker] = []
        self.proxies: list[Proxy] = []
        for node in range(brokers):
            direct, controller, behind = ports[3 * node : 3 * node + 3]
            proxy = Proxy(("127.0.0.1", behind))
            self.proxies.append(proxy)
            properties = {
                "node.id": str(node + 1),
                "controller.quorum.voters": voters,
                "listeners": f"PLAINTEXT://127.0.0.1:{direct},PROXIED://127.0.0.1:{behind},"
                f"CONTROLLER://127.0.0.1:{controller}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{direct},PROXIED://127.0.0.1:{proxy.port}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "inter.broker.listener.name": "PLAINTEXT",
            }
            if brokers > 1:
                properties |= _replicated(brokers)
            self.brokers.append(KafkaBroker(heap_mb=_HEAP_MB, properties=properties, ports=(direct, controller)))

    @property
    def settings(self) -> KafkaSettings:
        """How the harness reaches it: directly."""
        servers = ",".join(broker.bootstrap_servers for broker in self.brokers)
        return self.brokers[0].settings.model_copy(update={"bootstrap_servers": servers})

    @property
    def proxied_servers(self) -> str:
        """Where clients reach it through the proxies."""
        return ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The group's committed offset of each partition that has one."""
        with _Admin(self.settings) as admin:
            offsets = admin.list_group_offsets(group)[group]
            return {where.partition: each.offset for where, each in offsets.items() if where.topic == topic}

    def reset_offsets(self, group: str, topic: str, partitions: int) -> None:
        """Set a group without members back to the beginning of a topic, as kafka-consumer-groups.sh does."""
        with _Admin(self.settings) as admin:
            done = admin.reset_group_offsets(
                group, {TopicPartition(topic, number): OffsetSpec.EARLIEST for number in range(partitions)}
            )
        if refused := {where: error for where, error in done.items() if _error(error) is not NoError}:
            raise RuntimeError(f"the offsets of group {group} were not set back: {refused}")

    def ends(self, topic: str, partitions: int) -> dict[int, int]:
        """The offset behind the last message of each partition."""
        found = bounds(self.settings, [Partition(topic, number) for number in range(partitions)], _ANSWER_S)
        return {partition.number: end for partition, (_, end) in found.items()}

    def add_partitions(self, topic: str, count: int) -> None:
        """Let a topic have so many partitions."""
        with _Admin(self.settings) as admin:
            admin.create_partitions({topic: count})

    def delete_topic(self, topic: str) -> None:
        """Delete a topic."""
        with _Admin(self.settings) as admin:
            admin.delete_topics([topic])

    def exists(self, topic: str) -> bool:
        """Whether there is a topic of that name."""
        with _Admin(self.settings) as admin:
            return topic in set(admin.list_topics())

    def leader_of(self, topic: str, partition: int) -> KafkaBroker:
        """The broker that leads a partition now."""
        with _Admin(self.settings) as admin:
            (described,) = admin.describe_topics([topic])
        leaders = {each["partition_index"]: int(each["leader_id"]) for each in described["partitions"]}
        return self.brokers[leaders[partition] - 1]

    def is_in_sync(self, topic: str) -> bool:
        """Whether every partition has a leader and all its copies."""
        with _Admin(self.settings) as admin:
            (described,) = admin.describe_topics([topic])
        return all(
            each["leader_id"] >= 0 and len(each["isr_nodes"]) == len(each["replica_nodes"])
            for each in described["partitions"]
        )

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor(len(self.brokers)) as starters:
                list(starters.map(lambda broker: broker.start(), self.brokers))
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Kill the brokers and remove their data."""
        for broker in self.brokers:
            broker.close()
        for proxy in self.proxies:
            proxy.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Admin:
    """An admin client for the length of one question."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._client = KafkaAdminClient(
            bootstrap_servers=settings.bootstrap_servers.split(","), request_timeout_ms=round(_ANSWER_S * 1000)
        )

    def __enter__(self) -> KafkaAdminClient:
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()


def _error(answer: object) -> object:
    """The error in an answer about one partition, alone or beside the offset."""
    return answer.get("error", answer) if isinstance(answer, dict) else answer


def _replicated(brokers: int) -> dict[str, str]:
    copies, in_sync = str(brokers), str(brokers - 1)
    return {
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "replica.lag.time.max.ms": "2000",
    }


def _distinct_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return sorted(ports)
