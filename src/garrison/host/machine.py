"""A keep in a machine, for its keeper: `python -m garrison.host.machine FD BACKEND IMAGE [...]`.

What `garrison.keep` is for a keep in a process. `FD` is an open descriptor to read the launch
request from; `IMAGE` is the folder of the keep image, `MEMORY` the machine's in MiB or `-`; and,
for development only, a directory whose keys answer for a TEE may follow.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from garrison.formats.launch_request import MAX_SIZE, LaunchRequest
from garrison.host.spec import NO_MEMORY
from garrison.image.folder import load
from garrison.launch.backends import DEFAULT_MEMORY, MachineOptions, run_in_machine
from garrison.launch.predicted import simulated_insecure
from garrison.terminal import log_to_stderr, report

# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the machine, and return the exit code of its workload."""
    # No machine outlives its keeper.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    log_to_stderr("INFO")
    try:
        return _run(*sys.argv[1:])
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (the last door)
        return report(error)


def _run(descriptor: str, backend: str, image: str, memory: str, *simulator: str) -> int:
    with os.fdopen(int(descriptor), "rb") as pipe:
        request = LaunchRequest.from_json(pipe.read(MAX_SIZE + 1))
    folder = load(Path(image))
    options = MachineOptions(
        folder,
        memory=DEFAULT_MEMORY if memory == NO_MEMORY else int(memory),
        insecure_simulated=(
            simulated_insecure(request.attester["tee"], Path(simulator[0]), folder)
            if simulator and "tee" in request.attester
            else None
        ),
    )
    return run_in_machine(backend, request, options)


if __name__ == "__main__":
    sys.exit(main())
