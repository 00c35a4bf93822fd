"""How a guest's run can end other than by its own exit."""

from garrison.errors import GarrisonError


class Trap(GarrisonError):
    """The guest did what WebAssembly forbids; the message holds its backtrace.

    Attributes:
        exit_code: what a command ends with, 128 + SIGABRT as a native program would.
    """

    exit_code = 134


class Ended(GarrisonError):
    """Somebody else ends the guest, wherever it is: no call of it may take this for its own.

    Attributes:
        exit_code: what a command ends with.
    """

    exit_code: int


class Interrupted(Ended):
    """A signal asked us to end.

    Args:
        number: the signal's number.

    Attributes:
        exit_code: what a command ends with, 128 + the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__({2: "interrupted", 15: "terminated"}.get(number, f"signal {number}"))
        self.exit_code = 128 + number


class OutOfTime(Ended):
    """The guest ran for longer than it may.

    Args:
        seconds: how long it may.

    Attributes:
        exit_code: what a command ends with, as timeout(1).
    """

    exit_code = 124

    def __init__(self, seconds: int) -> None:
        super().__init__(
            "the workload's time is over",
            field="limits.run_seconds",
            found="still running",
            expected=f"an end within {seconds} seconds",
        )
