"""What the demonstration prints: a check mark and the facts of each step."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from garrison.terminal import paint

if TYPE_CHECKING:
    from collections.abc import Iterator


class StepError(Exception):
    """A step did not show what it must show."""


class Transcript:
    """Prints a check mark and the facts of each step, once it has worked."""

    def __init__(self) -> None:
        self.current = "start"
        self._facts: list[str] = []

    @contextmanager
    def step(self, title: str) -> Iterator[Transcript]:
        """Do a step: print its facts if it works; else the error says which it was."""
        self.current, self._facts = title, []
        yield self
        print(f"{paint('✔', 'green', sys.stdout)} {paint(title, 'bold', sys.stdout)}")
        for fact in self._facts:
            print(f"    {fact}")
        sys.stdout.flush()

    def fact(self, text: str) -> None:
        """Note a fact of the current step."""
        self._facts.append(text)


def require(condition: object, what: str) -> None:
    """Fail the step unless `condition` holds."""
    if not condition:
        raise StepError(what)


def said(line: str) -> str:
    """A keep's log line without its prefix."""
    return line.partition(": ")[2]


def error_of(stderr: str) -> str:
    """The error of a failed command, without its label."""
    lines = [line for line in stderr.splitlines() if line.startswith("error:")]
    return lines[0].removeprefix("error: ") if lines else stderr.strip()
