"""The `nil` backend: a keep as a child process, supervised.

The child has this command's standard streams. A signal that asks this command to end is
passed on, and the child's exit code is this command's. The child also ends with us however we
end (it asks the kernel for that), so no stray keep is left.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from garrison.formats.launch_request import LaunchRequest

# A terminal sends SIGINT to the keep too. Only a keep that does not end by that is told again.
_PATIENCE_SECONDS = 1.0
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class _AskedToEnd(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _ask(number: int, _frame: FrameType | None) -> NoReturn:
    raise _AskedToEnd(number)


def run_process(request: LaunchRequest) -> int:
    """Run a keep as a child process, and return its exit code (128 + n for a signal n)."""
    receive, send = os.pipe()
    command = [sys.executable, "-I", "-m", "garrison.keep", str(receive)]

    def feed() -> None:
        os.close(receive)
        _write(send, request.to_json())

    return supervised(command, pass_fds=(receive,), feed=feed)


def supervised(
    command: list[str],
    *,
    pass_fds: tuple[int, ...] = (),
    folder: Path | None = None,
    feed: Callable[[], None] = lambda: None,
    before: Callable[[], None] | None = None,
) -> int:
    """Run a keep as the child process of `command`, and return its exit code.

    Args:
        command: the child, which has this command's standard streams.
        pass_fds: descriptors that it has besides.
        folder: where it runs.
        feed: gives it what it reads, once it has started.
        before: what the child does first; a keep itself asks to end with us, other programs do not.
    """
    previous = {number: signal.signal(number, _ask) for number in (signal.SIGINT, signal.SIGTERM)}
    keep: subprocess.Popen[bytes] | None = None
    try:
        keep = subprocess.Popen(command, pass_fds=pass_fds, cwd=folder, preexec_fn=before)  # noqa: PLW1509
        feed()
        code = _wait(keep)
    except _AskedToEnd as asked:
        code = -asked.number
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if keep is not None and keep.poll() is None:
            keep.kill()
            keep.wait()
    return code if code >= 0 else 128 - code


def die_with_us() -> None:
    """Have the kernel end this process when its parent ends, however that is."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _write(descriptor: int, data: bytes) -> None:
    try:
        with os.fdopen(descriptor, "wb") as pipe:
            pipe.write(data)
    except BrokenPipeError:
        # The keep ended before it read the request; it has said why, and its code follows.
        return


def _wait(keep: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return keep.wait()
        except _AskedToEnd as asked:
            if asked.number == signal.SIGINT:
                try:
                    return keep.wait(_PATIENCE_SECONDS)
                except subprocess.TimeoutExpired:
                    keep.send_signal(signal.SIGINT)
            else:
                keep.send_signal(asked.number)
