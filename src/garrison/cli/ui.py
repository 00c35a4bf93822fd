"""Terminal manners of the commands: what goes where, and in which form.

Results go to standard output, all else to standard error. Colour and progress bars appear on
a terminal only; in a pipe the text is plain. Commands hold no exit codes: they raise an error
of `garrison.errors`, and `garrison.terminal` knows what it means.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from garrison.terminal import paint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def out(text: str) -> None:
    """Print a result."""
    print(text)


def success(text: str) -> None:
    """Say on standard error that something was done."""
    print(f"{paint('✔', 'green', sys.stderr)} {text}", file=sys.stderr)


def step(text: str) -> None:
    """Say on standard error what is being done."""
    print(f"  {text}", file=sys.stderr)


def note(text: str) -> None:
    """Tell the user something on standard error."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Warn on standard error."""
    print(f"{paint('warning:', 'yellow', sys.stderr)} {text}", file=sys.stderr)


def emit_json(value: Any) -> None:
    """Print a result as JSON, for a program to read; in ASCII, which cannot steer a terminal."""
    print(json.dumps(value, indent=2))


@dataclass(frozen=True, slots=True)
class Progress:
    """To be called with every further number of bytes; `expect` with their number in all."""

    advance: Callable[[int], None]
    expect: Callable[[int], None]

    def __call__(self, count: int) -> None:
        """Show that `count` bytes more are through; fewer, if it is negative."""
        self.advance(count)


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Progress]:
    """Show how many of `total` bytes (None: unknown) are through, if standard error is a terminal.

    Yields:
        What is to be told of every further number of bytes.
    """
    if not sys.stderr.isatty():
        yield Progress(lambda _count: None, lambda _total: None)
        return
    # Late: it costs 60 ms, and most commands show no bar.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield Progress(
            lambda count: bar.update(task, advance=count),
            lambda known: bar.update(task, total=known),
        )
