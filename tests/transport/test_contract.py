"""The client's contract on a fake cluster."""

from __future__ import annotations

from tests.transport.contract import TransportContract


class TestKafkaPython(TransportContract):
    """kafka-python's methods, played by a fake."""
