"""The first process of a keep: `python -m garrison.keep FD`, or in an enclave a path.

`FD` is an open descriptor to read the launch request from; an enclave has none but the streams.
Standard streams are the workload's, as its configuration says; the keep logs to standard error.
"""

from __future__ import annotations

import os
import sys

from garrison.formats.launch_request import MAX_SIZE, LaunchRequest
from garrison.keep.start import start


def main() -> int:
    """Run the keep, and return the exit code of its workload."""
    return start(_live, os.environ.get("GARRISON_LOG", "info"))


def _live() -> int:
    source = sys.argv[1]
    with open(source if source.startswith("/") else int(source), "rb") as pipe:  # noqa: PTH123
        request = LaunchRequest.from_json(pipe.read(MAX_SIZE + 1))
    # Late: an unreadable request should fail before half a second of imports.
    from garrison.keep.life import live

    return live(request)


if __name__ == "__main__":
    sys.exit(main())
