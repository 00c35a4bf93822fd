"""The first process of a keep: `python -m garrison.keep FD`.

`FD` is an open descriptor to read the launch request from. Standard streams are the
workload's, as its configuration says; the keep logs to standard error.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys

from garrison.formats.launch_request import MAX_SIZE, LaunchRequest
from garrison.terminal import report

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def main() -> int:
    """Run the keep, and return the exit code of its workload."""
    # No keep outlives the command that supervises it, and none leaves its key in a core dump.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    logging.basicConfig(
        level=os.environ.get("GARRISON_LOG", "info").upper(),
        format="%(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        with os.fdopen(int(sys.argv[1]), "rb") as pipe:
            request = LaunchRequest.from_json(pipe.read(MAX_SIZE + 1))
        # Late: an unreadable request should fail before half a second of imports.
        from garrison.keep.life import live

        return live(request)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (the last door)
        return report(error)


if __name__ == "__main__":
    sys.exit(main())
