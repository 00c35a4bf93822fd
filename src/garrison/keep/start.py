"""How a keep's process begins and ends, wherever its request comes from."""

from __future__ import annotations

import ctypes
import logging
import sys

from garrison.terminal import hear_interrupts, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal  # its wrapper makes enumerations, which costs a start 3 ms

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def start(live: Callable[[], int], log: str) -> int:
    """Live a keep's life, tell a person of what fails, and return the exit code.

    Args:
        live: reads what is to run, and runs it.
        log: how much to log, to standard error.
    """
    hear_interrupts()
    # No keep outlives the command that supervises it, and none leaves its key in a core dump.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    logging.basicConfig(level=log.upper(), format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        return live()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (the last door)
        return report(error)
