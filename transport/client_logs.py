"""What kafka-python's own log may say: at level debug it writes every request and message, passwords and tokens too."""

from __future__ import annotations

import logging

_TELLING = ("kafka.net.connection", "kafka.producer.kafka", "kafka.protocol.parser")
"""Loggers that write what requests, answers and messages hold."""


def keep_contents_out_of_logs() -> None:
    """Let these loggers say nothing at level debug, and no bytes at any, whatever levels and handlers somebody sets."""
    for name in _TELLING:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _NoContents) for known in logger.filters):
            logger.addFilter(_NoContents())


class _NoContents(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:
            return False
        if isinstance(record.args, tuple):
            record.args = tuple(
                f"<{len(said)} bytes>" if isinstance(said, (bytes, bytearray, memoryview)) else said
                for said in record.args
            )
        return True
