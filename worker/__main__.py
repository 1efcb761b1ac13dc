"""`python -m worker` is `offbeat work`."""

from __future__ import annotations

import sys

from worker.commands import work_command

if __name__ == "__main__":
    sys.exit(work_command(sys.argv[1:]))
