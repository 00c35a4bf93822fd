"""How a keep's process begins and ends, wherever its request comes from."""

from __future__ import annotations

import ctypes

from garrison.keep import logs
from garrison.terminal import ended, hear_interrupts, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal  # its wrapper makes enumerations, which costs a start 3 ms

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def start(live: Callable[[], int], log: str, *, logs_late: bool = False) -> int:
    """Live a keep's life, tell a person of what fails, and return the exit code.

    Args:
        live: reads what is to run, and runs it.
        log: how much to log, to standard error.
        logs_late: whether all that logs asks `garrison.keep.logs` first.
    """
    logs.set_level(log)
    hear_interrupts()
    # No keep outlives the command that supervises it, and none leaves its key in a core dump.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if not logs_late:
        logs.set_up()
    try:
        return ended(live())
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (the last door)
        return ended(report(error))
