"""What kafka-python's own log may say: at level debug it writes requests and messages, passwords among them."""

from __future__ import annotations

import logging
import re
from typing import Any

# Passwords, tokens, keys and values all travel as bytes, and so do requests and answers that hold them.
_BYTES = re.compile(r"""(?<![A-Za-z0-9_'"])b['"]|bytearray\(|<memory at""")


def keep_contents_out_of_logs() -> None:
    """Let no logger of kafka-python write bytes, whatever levels and handlers somebody sets.

    A filter of a logger does not hold for those below it, so each gets one; call it again when there may be more.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "kafka":
            logger = logging.getLogger(name)
            if _FILTER not in logger.filters:
                logger.addFilter(_FILTER)


class _NoContents(logging.Filter):
    """In the place of what holds bytes stands what it is."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_without_contents, record.args))
        elif record.args:
            record.args = {name: _without_contents(said) for name, said in record.args.items()}
        return True


_FILTER = _NoContents()


def _without_contents(said: object) -> Any:
    return f"<{type(said).__name__}>" if _BYTES.search(repr(said)) or _BYTES.search(str(said)) else said
