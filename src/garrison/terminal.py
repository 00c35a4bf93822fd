"""How an error is told to a person, and which exit code it means.

Shared by the command line and by the first process of a keep, which has no command line.
Colour appears on a terminal only, and `NO_COLOR` (no-color.org) is honoured.
"""

from __future__ import annotations

import os
import sys
from enum import IntEnum

from garrison import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
    from types import FrameType
    from typing import Any, NoReturn, TextIO
else:
    import _signal as signal  # its wrapper makes enumerations, which costs a start 3 ms


class ExitCode(IntEnum):
    """What `garrison` ends with where no guest's code stands; sysexits.h where it has a number."""

    OK = 0
    MISUSE = 2
    MALFORMED = 65
    UNAVAILABLE = 69
    INTERNAL = 70
    CANNOT_WRITE = 73
    UNVERIFIED = 76
    REJECTED = 77
    OUT_OF_TIME = 124
    INTERRUPTED = 130
    TRAP = 134
    TERMINATED = 143


_FAMILIES: tuple[tuple[type[errors.GarrisonError], ExitCode], ...] = (
    (errors.Misuse, ExitCode.MISUSE),
    (errors.Malformed, ExitCode.MALFORMED),
    (errors.Unavailable, ExitCode.UNAVAILABLE),
    (errors.Unverified, ExitCode.UNVERIFIED),
    (errors.Rejected, ExitCode.REJECTED),
)

# ECMA-48, Select Graphic Rendition.
_COLOURS = {"red": "1;31", "green": "1;32", "yellow": "1;33", "cyan": "36", "bold": "1"}


def paint(text: str, colour: str, stream: TextIO) -> str:
    """Give `text` a colour, if `stream` is a terminal that wants one."""
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def plain(text: object) -> str:
    """Make `text`, which may hold another party's words, unable to steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in str(text))


def log_to_stderr(level: str, form: str = "%(name)s: %(message)s") -> None:
    """Have all that is logged go to standard error, unless that is settled already.

    Others' words are in it, a workload's and a peer's: none of them steers a terminal, or looks
    like a line of its own.

    Args:
        level: how much, by the name of a level of `logging`.
        form: of each line, as `logging` has it.
    """
    import logging  # late: it takes the shortest start of a keep 5 ms

    class Plainly(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return plain(super().format(record)).replace("\n", "\n  ")

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Plainly(form))
    logging.basicConfig(level=level, handlers=[handler])


def exit_code(error: BaseException) -> int:
    """The exit code that `error` means."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    # The engine's own endings say their code: a trap, a signal.
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return code
    for family, of_family in _FAMILIES:
        if isinstance(error, family):
            return of_family
    return ExitCode.CANNOT_WRITE if isinstance(error, OSError) else ExitCode.INTERNAL


_heard = False


def hear_interrupts() -> None:
    """From here on, remember that an interrupt came, for it can come out as another error.

    An extension module that is interrupted while it is loaded fails with an ImportError.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    global _heard  # noqa: PLW0603  (a signal is the process's)
    _heard = True
    signal.default_int_handler(number, frame)


def report(error: BaseException) -> int:
    """Print `error` to standard error for a person, and return the exit code that it means.

    Where standard error takes nothing the code is all there is to tell.
    """
    if _heard and exit_code(error) == ExitCode.INTERNAL:
        error = KeyboardInterrupt()
    try:  # noqa: SIM105  (contextlib costs a start 2 ms)
        print(*_lines(error), sep="\n", file=sys.stderr)
    except OSError:
        pass
    if os.environ.get("GARRISON_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    return exit_code(error)


def ended(code: int) -> int:
    """`code`, for a process to end with: nothing is left that standard output or error refuses.

    Python writes what is left at its end, and where that fails ends with a code of its own.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            setattr(sys, name, None)
    return code


def _lines(error: BaseException) -> list[str]:
    label = paint("error:", "red", sys.stderr)
    hint = paint("hint:", "cyan", sys.stderr)
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted"]
    if isinstance(error, errors.GarrisonError):
        lines = [f"{label} {_indented(error)}"]
        for check in getattr(error, "checks", ()):
            lines += _check_lines(check)
        return [*lines, f"{hint} {_indented(error.hint)}"] if error.hint else lines
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return [f"{label} {plain(name)}{plain(error.strerror or error)}"]
    return [
        f"{label} internal error: {type(error).__name__}: {plain(error)}",
        f"{hint} this is a defect of Garrison; set GARRISON_TRACEBACK=1 to see where it is",
    ]


def _indented(text: object) -> str:
    """Another party's words may be in it, and none of them looks like a line of its own."""
    return plain(text).replace("\n", "\n  ")


def _check_lines(check: Mapping[str, Any]) -> list[str]:
    cross = paint("✗", "red", sys.stderr)
    text = f"  {cross} {plain(check.get('check'))}: found {plain(check.get('found'))}"
    if check.get("expected") is not None:
        text += f", expected {plain(check['expected'])}"
    return [text, f"    {plain(check['remedy'])}"] if check.get("remedy") else [text]
